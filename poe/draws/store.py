"""Draws in one safetensors file: every figure of theirs, bit for bit, and no pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from poe.core.arguments import checked
from poe.core.doubt import Doubt, Kind, as_facts, from_facts
from poe.core.errors import PoeError, StorageError
from poe.density.normalized import LogPartition
from poe.draws.draws import Draws
from poe.draws.verdict import Verdict
from poe.files.atomic import write_bytes
from poe.files.tensor_file import packed, read, require_own, understanding
from poe.samplers.kernel import ASYMPTOTICALLY_EXACT, BIASED, EXACT, Kernel

FORMAT = "product-of-experts draws"
KIND, REMEDY = "file of draws", "write it again with poe.save_draws"


@dataclass(frozen=True)
class Described:
    """The kernel of loaded draws: what it was, in words, and no longer one to sample with."""

    words: str
    guarantee: str

    def __repr__(self) -> str:
        return self.words

    def init(self, target: object, x: Tensor) -> NoReturn:
        """Raises PoeError: there is nothing to run."""
        raise PoeError(
            f"expected a kernel to sample with, got the description of one that was stored with "
            f"draws: build it again, as {self.words}"
        )

    def step(self, target: object, state: object, *, generator: object) -> NoReturn:
        """Raises PoeError: there is nothing to run."""
        self.init(target, Tensor())


GUARANTEES = (EXACT, ASYMPTOTICALLY_EXACT, BIASED)
KINDS: dict[str, type] = {
    "guarantee": str, "choice": str, "doubts": tuple, "seed": int, "kernel": Described,
    "log_partition": LogPartition, "tuned": tuple, "is_batch": bool,
}  # fmt: skip
"""Of the figures that are neither numbers nor tensors."""


@checked
def save_draws(draws: Draws, path: str | os.PathLike[str]) -> None:
    """Write draws to one safetensors file at ``path``, whole or not at all, with a hash.

    All figures are kept bit for bit, and the verdict; of the kernel its description (``repr``).

    Args:
        draws: What a sampler gave.
        path: The file; draws that were there are replaced.

    Raises:
        StorageError: Where ``samples`` are no tensor, where another file is there, or none can be.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "draws.safetensors"
    >>> x = torch.zeros(4, 5, 2)
    >>> save_draws(poe.Draws(x, x[..., 0], "exact", seed=3), path)
    >>> load_draws(path)
    Draws(4 chains x 5 draws of shape (2,), exact)
    """
    content = packed_draws(draws)
    require_own(path, FORMAT)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        raise StorageError(
            f"expected to write draws to {path}, got {error}: give another path, they are not lost"
        ) from error


def packed_draws(draws: Draws, about: Mapping[str, Any] | None = None) -> bytes:
    """What `save_draws` puts in the file, for who sends it elsewhere.

    Args:
        draws: As of `save_draws`.
        about: What else the header says, as JSON can hold it: where the draws are from, say.

    Returns:
        The content of a safetensors file.

    Raises:
        StorageError: As `save_draws`.

    >>> x = torch.zeros(4, 5, 2)
    >>> len(packed_draws(poe.Draws(x, x[..., 0], "exact"))) > 4 * 4 * 5 * 3
    True
    """
    if not isinstance(draws.samples, Tensor):
        raise StorageError(
            f"expected draws whose samples are one tensor, got {type(draws.samples).__name__}: "
            "store each of its tensors as draws of its own"
        )
    values = {field.name: getattr(draws, field.name) for field in fields(draws)}
    found: LogPartition | None = values.pop("log_partition")
    facts, tensors = _parted(values)
    facts["doubts"] = as_facts(draws.doubts)
    facts["verdict"] = _told(draws.verdict)
    facts["kernel"] = None if draws.kernel is None else repr(draws.kernel)
    facts["log_partition"] = None
    if found is not None:
        facts["log_partition"], numbers = _parted(found._asdict())
        facts["log_partition"]["doubts"] = as_facts(found.doubts)
        tensors |= {f"log_partition.{name}": number for name, number in numbers.items()}
    return packed({"format": FORMAT, "draws": facts, "about": dict(about or {})}, tensors)


@checked
def load_draws(path: str | os.PathLike[str]) -> Draws:
    """The draws that ``save_draws`` wrote to ``path``, on the CPU.

    ``draws.kernel`` prints as the kernel did and has its guarantee; it samples no more.

    Args:
        path: The file.

    Returns:
        The draws.

    Raises:
        StorageError: Where the file is missing, truncated, altered, of another kind, or of a newer
            version.
    """
    facts, tensors = read(path, form=FORMAT, kind=KIND, remedy=REMEDY, oldest=1)
    with understanding(path, KIND, REMEDY):
        draws = _draws_of(facts, tensors)
        _require_consistent(draws)
    return draws


def _draws_of(facts: dict[str, Any], tensors: dict[str, Tensor]) -> Draws:
    known: dict[str, Any] = facts["draws"]
    known["doubts"] = _doubts(known)
    known["tuned"] = _names(known.get("tuned", []))
    verdict = known.pop("verdict", None)
    if known["kernel"] is not None:
        known["kernel"] = Described(_words(known["kernel"]), known["guarantee"])
    if (found := known["log_partition"]) is not None:
        found["doubts"] = _doubts(found)
        names = [name for name in tensors if name.startswith("log_partition.")]
        found |= {name.removeprefix("log_partition."): tensors.pop(name) for name in names}
        known["log_partition"] = LogPartition(**found)
    draws = Draws(**(known | tensors))
    if verdict is not None:  # else of an earlier version: judged anew
        vars(draws)["verdict"] = _verdict(verdict)
    return draws


FIGURES = ("r_hat", "ess", "limit")
"""Of a verdict, in words: JSON has no NaN and no infinity."""


def _told(verdict: Verdict) -> dict[str, Any]:
    figures = {name: repr(float(getattr(verdict, name))) for name in FIGURES}
    return {"doubts": as_facts(verdict.doubts), "compared": verdict.compared, **figures}


def _verdict(told: dict[str, Any]) -> Verdict:
    figures = {name: float(_words(told[name])) for name in FIGURES}
    return Verdict(_doubts(told), compared=_words(told["compared"]), **figures)


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"names are {value!r}")
    return tuple(map(_words, value))


def _words(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"words are {value!r}")
    return value


def _require_consistent(draws: Draws) -> None:
    """Raise ValueError where the figures cannot be those of one run."""
    if draws.guarantee not in GUARANTEES:
        raise ValueError(f"a guarantee of {draws.guarantee!r}")
    for field in fields(draws):
        value, plain = getattr(draws, field.name), type(field.default)
        is_number = plain in (int, float) and isinstance(value, int | float)
        is_tensor = "Tensor" in str(field.type) and isinstance(value, Tensor)
        is_absent = value is None and field.default is None
        if not (
            is_number or is_tensor or is_absent or isinstance(value, KINDS.get(field.name, ()))
        ):
            raise ValueError(f"{field.name} is {value!r}")
    chains_and_draws = draws.samples.shape[:2]
    per_draw = {"log_density": draws.log_density, "log_weights": draws.log_weights}
    for name, values in per_draw.items():
        if values is not None and (len(chains_and_draws) < 2 or values.shape != chains_and_draws):
            raise ValueError(f"{name} {tuple(values.shape)} of {tuple(draws.samples.shape)}")


def _doubts(facts: dict[str, Any]) -> tuple[Doubt, ...]:
    """Taken out of ``facts``; files of before there were kinds have remarks, which are words."""
    words = [Doubt(Kind.OTHER, text) for text in facts.pop("remarks", ())]
    return (*words, *from_facts(facts.pop("doubts", ())))


def _parted(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What goes in the header as JSON, and the tensors; a kernel is neither."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in values.items() if name not in tensors}
    return {n: v for n, v in rest.items() if not isinstance(v, Kernel)}, tensors
