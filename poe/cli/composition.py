"""A composition read from a TOML file: named experts, their exponents, and the product."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import poe
from poe.cli import entries as pretrained
from poe.cli.entries import written_down
from poe.cli.toml_table import CompositionError as CompositionError, Table
from poe.density.capabilities import log_prob_of
from poe.density.expert import Expert, Product, shared_space
from poe.files.atomic import content_of

LARGEST = 16_000_000
"""Bytes of a composition: far more than anybody writes."""
DEEPEST = re.compile(r"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){60}""")
"""Keys of sixty parts, over which a reader of TOML takes the square of the time."""
WAYS = ("shipped", "saved", "kind", "and", "or")
"""How an entry may say what its expert is: exactly one of these."""


@dataclass(frozen=True, eq=False)
class Composition:
    """∏ᵢ pᵢ(x)^wᵢ: the experts by name, and the exponent of each.

    >>> wide, narrow = experts.Gaussian([0.0], scale=[2.0]), experts.Gaussian([0.0], scale=[1.0])
    >>> both = Composition({"wide": wide, "narrow": narrow}, {"wide": 1.0, "narrow": -0.5})
    >>> both.product().names
    ('wide', 'narrow')
    """

    experts: dict[str, Expert]
    exponents: dict[str, float]

    def product(self) -> Product:
        """The product as an expert, its factors named as here."""
        return Product(
            **{name: raised(one, self.exponents[name]) for name, one in self.experts.items()}
        )


def read(path: str | os.PathLike[str]) -> Composition:
    r"""The composition in a file, with its experts loaded.

    The file has one table ``[experts.NAME]`` for each expert, with an ``exponent`` (1 where it is
    left out; negative for NOT) and one of

    - ``shipped = "digits-class"``, one of ``experts.available()``;
    - ``saved = "folder"``, what ``poe.save`` wrote, relative to the file; both with ``given``, the
      label of a conditional, ``noise_level`` where it has such, and ``density_ratio = true`` for
      p(x | given) / p(x);
    - ``kind = "Gaussian"``, a family of ``experts`` or a distribution of ``torch.distributions``,
      with its parameters;
    - ``[experts.NAME.and.INNER]`` or ``[experts.NAME.or.INNER]``, tables of the same form. In an OR
      each may have a ``weight`` (together 1; equal where they are left out), and needs a
      ``log_partition`` where its normaliser is not known.

    Raises `CompositionError`, which names the file and the key.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> text = '[experts.a]\nkind = "Gaussian"\nloc = [0.0]\nscale = [1.0]\nexponent = 2'
    >>> _ = Path(folder, "toy.toml").write_text(text)
    >>> read(Path(folder, "toy.toml")).exponents
    {'a': 2.0}
    """
    top = _parsed(Path(path))
    top.require_only(("title", "experts"))
    entries = top.table("experts").tables()
    found = {name: expert(_alone(entry)) for name, entry in entries.items()}
    _require_one_space(top, "experts", found, "product")
    return Composition(found, {name: exponent(entry) for name, entry in entries.items()})


def expert(entry: Table) -> Expert:
    """The expert that an entry describes, without its exponent."""
    ways = [way for way in WAYS if way in entry.values]
    if len(ways) != 1:
        got = " and ".join(ways) or "none"
        raise entry.error("", f"expected one of {', '.join(WAYS)}, got {got} of them")
    [way] = ways
    if way == "kind":
        own = ("kind", "exponent", "weight", "log_partition")
        return written_down(entry, {k: v for k, v in entry.values.items() if k not in own})
    more = pretrained.KEYS if way in ("shipped", "saved") else ()
    entry.require_only((way, "exponent", "weight", "log_partition", *more))
    match way:
        case "shipped":
            return pretrained.shipped(entry)
        case "saved":
            return pretrained.saved(entry)
        case "and":
            return conjunction(entry)
    return disjunction(entry)


def conjunction(entry: Table) -> Expert:
    """∏ᵢ pᵢ(x)^wᵢ of the entries within."""
    parts = _powers(entry, "and")
    return Product(**parts)


def disjunction(entry: Table) -> Expert:
    """Σₖ αₖ pₖ(x)^wₖ / Zₖ of the entries within."""
    inner = entry.table("or").tables()
    parts = _powers(entry, "or")
    log_partitions = {
        name: one.number("log_partition", 0.0) if "log_partition" in one.values else None
        for name, one in inner.items()
    }
    for name, part in parts.items():
        if log_partitions[name] is None and log_prob_of(part) is None:
            raise inner[name].error(
                "log_partition",
                "an OR needs experts on one scale, and the normaliser of this one is not known: "
                "give its log Z, which `python -m poe partition` finds of a file that has it alone",
            )
    with entry.blame("or"):
        return poe.Mixture(
            list(parts.values()),
            _weights(entry, inner),
            log_partitions=list(log_partitions.values()),
        )


def exponent(entry: Table) -> float:
    """The exponent of an entry."""
    return entry.number("exponent", 1.0)


def raised(one: Expert, weight: float) -> Expert:
    """The power; the expert itself where the exponent is 1."""
    return one if weight == 1.0 else one**weight


def _powers(entry: Table, key: str) -> dict[str, Expert]:
    inner = entry.table(key).tables()
    found = {name: expert(one if key == "or" else _alone(one)) for name, one in inner.items()}
    _require_one_space(entry, key, found, "product" if key == "and" else "mixture")
    return {name: raised(found[name], exponent(one)) for name, one in inner.items()}


def _alone(entry: Table) -> Table:
    """The entry itself; one outside an OR has no share of a whole."""
    for name in ("weight", "log_partition"):
        if name in entry.values:
            raise entry.error(
                name, "expected it inside an OR alone, where shares are told: use exponent here"
            )
    return entry


def _weights(entry: Table, inner: dict[str, Table]) -> list[float] | None:
    said = [name for name, one in inner.items() if "weight" in one.values]
    if not said:
        return None
    if len(said) < len(inner):
        silent = ", ".join(name for name in inner if name not in said)
        raise entry.error("or", f"expected a weight for each or for none, got none for {silent}")
    return [one.number("weight", 1.0) for one in inner.values()]


def _require_one_space(table: Table, key: str, found: dict[str, Expert], kind: str) -> None:
    with table.blame(key):
        shared_space(tuple(found), list(found.values()), kind)


def _parsed(path: Path) -> Table:
    try:
        content = content_of(path)
        if len(content) > LARGEST:
            raise ValueError(f"it has {len(content):,} bytes, and at most {LARGEST:,} are read")
        text = content.decode()
        if DEEPEST.search(text):
            raise ValueError("it has a key of sixty parts or more")
        return Table(path, "", tomllib.loads(text))
    except OSError as error:
        raise CompositionError(f"{path}: cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise CompositionError(f"{path}: is no TOML file: brackets too deep to be read") from error
    except ValueError as error:  # not TOML, not UTF-8, or without end
        raise CompositionError(f"{path}: is no TOML file: {error}") from error
