"""What a run is, so that a checkpoint is taken up by that run alone.

A run is known by what it was called with (its functions by their code and data, part by part), by
what its functions say at recorded points, and by the state that its generator began in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from poe.core.doubt import Doubt, Kind
from poe.core.errors import StorageError
from poe.files.fingerprint import fingerprint, fingerprints
from poe.files.tensor_file import facts_of

SHOWN = 3
"""So many parts that differ are named."""
PREFIX = "signature."


@dataclass(frozen=True)
class Start:
    """Where the random numbers of a run began.

    Args:
        state: A hash of the generator's state.
        seed: The seed that it was given last.
        is_given: Whether the caller gave it: a fresh one is another at each call.
    """

    state: str
    seed: int
    is_given: bool

    @classmethod
    def of(cls, generator: torch.Generator, *, is_given: bool) -> Start:
        """The present state of a generator."""
        return cls(fingerprint(generator.get_state()), generator.initial_seed(), is_given)


@dataclass(frozen=True)
class Signature:
    """What tells a run from all others.

    Args:
        start: Where its random numbers began.
        parts: A hash of each part of what it was called with, by the path to it.
        moving: The parts that its functions change themselves, as counters and caches, which tell
            nothing.
        points: Where its functions were tried.
        said: What they said there, of those that say the same twice.
    """

    start: Start
    parts: Mapping[str, str]
    moving: frozenset[str] = frozenset()
    points: Tensor = field(default_factory=lambda: torch.zeros(0))
    said: Mapping[str, Tensor] = field(default_factory=dict)

    def beside(self, **more: object) -> Signature:
        """The signature of a run that is called with more, the rest the same."""
        return replace(self, parts={**self.parts, **fingerprints(more)})

    def since(self, facts: Mapping[str, Any]) -> Signature:
        """The signature of the run that a checkpoint holds, which began where that says."""
        return replace(self, start=Start(**facts["start"]))

    def facts(self) -> dict[str, Any]:
        """As a checkpoint has them."""
        settled = {path: one for path, one in self.parts.items() if path not in self.moving}
        return {"parts": settled, "start": vars(self.start)}

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint has them, beside the run's own."""
        said = {f"{PREFIX}said.{name}": value for name, value in self.said.items()}
        return {f"{PREFIX}points": self.points, **said}

    def require(
        self,
        path: str | os.PathLike[str],
        facts: Mapping[str, Any],
        *,
        is_finished: bool,
    ) -> None:
        """See that a checkpoint is of this run.

        Args:
            path: The checkpoint.
            facts: What `facts` gave when it was written.
            is_finished: Whether nothing is left of its run.

        Raises:
            StorageError: Where it is of another, and where it is finished and the call, without a
                generator, asks for a new run.
        """
        if not isinstance(is_finished, bool):
            raise ValueError(f"is_finished is {is_finished}")
        start = Start(**facts["start"])
        differ = [name for name, one in facts["parts"].items() if self._is_other(name, one)]
        if self.start.is_given and self.start.state != start.state:
            differ.append("the state of the generator")
        if not self.start.is_given and start.is_given:
            differ.append("the generator, which is left out")
        if differ:
            raise _is_of_another(path, differ)
        if is_finished and not self.start.is_given:
            raise StorageError(
                f"expected a checkpoint of a run to go on with at {path}, got one that is finished:"
                " for its result give generator=torch.Generator(device)"
                f".manual_seed({start.seed}); for a new run delete it, or give another path"
            )

    def require_alone(self, path: str | os.PathLike[str]) -> None:
        """See that no other run has come to keep itself at ``path`` since this one began.

        Args:
            path: The checkpoint, which need not be there.

        Raises:
            StorageError: Where another run's is there.
        """
        found = facts_of(path) or {}
        if "start" in found and found["start"] != vars(self.start):
            raise StorageError(
                f"expected at {path} the checkpoint of this run alone, got that of another, which "
                "was begun beside it: give each run a path of its own"
            )

    def require_said(
        self,
        path: str | os.PathLike[str],
        tensors: Mapping[str, Tensor],
        functions: Mapping[str, Callable[[Tensor], Tensor]],
    ) -> None:
        """See that the functions say at a checkpoint's points what they said then.

        Args:
            path: The checkpoint.
            tensors: What `tensors` gave when it was written.
            functions: By name, of the points.

        Raises:
            StorageError: Where one says something else.
        """
        points, head = tensors.get(f"{PREFIX}points"), f"{PREFIX}said."
        before = {n.removeprefix(head): value for n, value in tensors.items() if n.startswith(head)}
        if points is None or points.shape != self.points.shape or points.dtype != self.points.dtype:
            raise _is_of_another(path, ["where its functions were tried"])
        for name, function in functions.items():
            points = points.to(self.points.device)
            is_known = (name in before) == (name in self.said)
            if not is_known or (
                name in before and not is_same(function(points.clone()), before[name])
            ):
                raise _is_of_another(path, [f"what {name} says at the recorded points"])

    def _is_other(self, path: str, digest: str) -> bool:
        return path not in self.moving and self.parts.get(path, digest) != digest


def sign(
    start: Start,
    called_with: Mapping[str, object],
    functions: Mapping[str, Callable[[Tensor], Tensor]],
    points: Tensor,
) -> Signature:
    """The signature of a run, of which each function is tried twice.

    Args:
        start: Where its random numbers begin.
        called_with: All that it depends on, by name.
        functions: Those among it, to be tried, by name.
        points: Where.

    Returns:
        The signature.

    Example:
        >>> start = Start.of(torch.Generator().manual_seed(0), is_given=True)
        >>> double = lambda x: 2 * x
        >>> known = sign(start, {"collect": double}, {"collect": double}, torch.ones(2))
        >>> known.said
        {'collect': tensor([2., 2.])}
    """
    before = fingerprints(called_with)
    said = {name: function(points.clone()).detach() for name, function in functions.items()}
    again = {name: function(points.clone()).detach() for name, function in functions.items()}
    after = fingerprints(called_with)
    moving = {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    told = {name: value.clone() for name, value in said.items() if is_same(value, again[name])}
    return Signature(start, before, frozenset(moving), points, told)


def is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same up to half of the digits of their dtype.

    Args:
        one: Of any shape.
        other: Likewise.

    Returns:
        Whether shapes, dtypes and numbers are; NaN is NaN.

    >>> is_same(torch.ones(2), torch.ones(2) + 1e-6), is_same(torch.ones(2), torch.ones(1))
    (True, False)
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() and not one.is_complex():
        return torch.equal(one.cpu(), other.cpu())
    near = torch.finfo(one.dtype).eps ** 0.5
    return torch.allclose(one.cpu(), other.cpu(), rtol=near, atol=near, equal_nan=True)


def not_kept(path: str | os.PathLike[str], error: Exception) -> Doubt:
    """The doubt that a run could not be kept.

    Args:
        path: Its checkpoint.
        error: Why it could not be written.

    Returns:
        The doubt, which says so.
    """
    text = (
        f"the checkpoint {path} could not be written ({type(error).__name__}: {error}): the run "
        "went on without, and cannot be taken up from where it ended"
    )
    return Doubt(Kind.NOT_KEPT, text)


def _is_of_another(path: str | os.PathLike[str], differ: list[str]) -> StorageError:
    named = ", ".join(differ[:SHOWN]) + (", ..." if len(differ) > SHOWN else "")
    return StorageError(
        f"expected a checkpoint of this run at {path}, got one of another run, which differs in "
        f"{named}: call with the same arguments and a generator in the same state, or delete it to "
        "start afresh"
    )
