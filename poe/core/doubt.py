"""What is doubtful about a result: a kind, a text, and the one place that warns."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from enum import Enum
from types import FrameType
from typing import Any, NamedTuple

from poe.core.errors import TrustWarning

WITHIN = ("poe", "experts", "torch", "contextlib")
"""Packages whose frames call no one's attention: a warning points at the caller of them all."""


class Kind(Enum):
    """What a doubt is about; the value says it in general."""

    UNDEFINED = "the target is NaN or +inf at positions that were asked for"
    RAISED = "the target raised an error at positions that were asked for"
    NOT_FINITE = "a result, or a draw, is not finite"
    EXPLODED = "chains of an uncorrected kernel ran off to where nothing is finite"
    DIVERGED = "the discretisation of trajectories broke down"
    STUCK = "chains never moved"
    STILL = "chains hardly moved"
    ESCAPED = "chains are far from the others"
    IMPROPER = "mass seems to lie towards infinity, so the target may have no finite normaliser"
    DEAD = "draws lie where the log-density is -inf"
    GROWING = "chains were still moving outward, so the target may be improper"
    NOT_CONVERGED = "chains disagree with each other"
    NOT_SETTLED = "what is repeated until it settles has not"
    NOT_COMPARED = "nothing shows whether chains have converged"
    ONE_CHAIN = "there is one chain, compared with itself alone"
    FEW = "the draws are worth few independent ones"
    COLLAPSED = "a few weights outweigh all others"
    DISAGREEING = "independent groups of particles disagree with each other"
    INCONSISTENT = "two ways to the same number differ"
    ROUNDED = "draws lie closer together than their numbers can tell apart"
    UNSEEN = "mass seems to lie where no draw came to"
    LIGHT_TAILS = "what draws come from has lighter tails than the target"
    NOT_LOOKED = "other modes were not looked for to the end"
    TOO_LONG_TO_LOOK = "looking for other modes to the end would have taken too long"
    BUDGET = "a budget was spent before the draws were worth what was asked for"
    NOT_COMPILED = "steps were to be compiled, and could not be"
    NOT_KEPT = "a checkpoint could not be written, and the run went on without"
    UNEQUAL_WEIGHTS = "weighted draws are handed to what takes all draws alike"
    NOT_BETTER = "what was learned is not surely better than what was there"
    TOO_COARSE = "a grid is too coarse for what is drawn on it"
    SILENCED = "an expert hardly moves the product"
    OPPOSED = "an expert speaks against the rest"
    OTHER = "what only its words tell, as of a file of an earlier format"

    @property
    def is_aside(self) -> bool:
        """Whether it is told beside a result, and does not speak against it."""
        return self in ASIDE

    @property
    def is_known(self) -> bool:
        """Whether it follows from what was asked for: told beside a result, and not warned of."""
        return self in KNOWN


ASIDE = (
    Kind.ONE_CHAIN, Kind.TOO_LONG_TO_LOOK, Kind.BUDGET, Kind.NOT_COMPILED, Kind.NOT_KEPT,
    Kind.RAISED,
)  # fmt: skip
KNOWN = (Kind.ONE_CHAIN, Kind.TOO_LONG_TO_LOOK, Kind.NOT_COMPARED)


class Doubt(NamedTuple):
    """Why a result is not to be trusted.

    Args:
        kind: What it is about, to decide by.
        text: The doubt with its figures, to read.
        chains: The chains it is about, by number; empty where it is about all of them.
        remedy: What to do about it, where the text does not say so, for who calls this from Python:
            others have other means, and tell it by its kind.

    Example:
        >>> doubt = Doubt(Kind.STUCK, "1 of 4 chains never moved", chains=(2,))
        >>> doubt.kind is Kind.STUCK, str(doubt)
        (True, '1 of 4 chains never moved')
    """

    kind: Kind
    text: str
    chains: tuple[int, ...] = ()
    remedy: str = ""

    def about(self, what: str) -> Doubt:
        """The same, of one thing among several.

        Args:
            what: The thing's name, which is put before the text.

        Returns:
            A doubt of the same kind and chains.

        Example:
            >>> Doubt(Kind.FEW, "too few draws").about("denominator").text
            'denominator: too few draws'
        """
        return self._replace(text=f"{what}: {self.text}")

    def __str__(self) -> str:
        return f"{self.text} {self.remedy}".rstrip()


def as_facts(doubts: Iterable[Doubt]) -> list[dict[str, Any]]:
    """As JSON can hold them: a kind by its name, which lasts."""
    return [doubt._asdict() | {"kind": doubt.kind.name} for doubt in doubts]


def from_facts(facts: Iterable[dict[str, Any]]) -> tuple[Doubt, ...]:
    """Doubts that `as_facts` wrote; a kind of a later version is `Kind.OTHER`.

    >>> doubt = Doubt(Kind.STUCK, "chain 1 never moved", (1,))
    >>> from_facts(as_facts([doubt])) == (doubt,)
    True
    """
    return tuple(
        Doubt(
            Kind.__members__.get(d["kind"], Kind.OTHER),
            d["text"],
            tuple(d["chains"]),
            d.get("remedy", ""),
        )
        for d in facts
    )


def texts(doubts: Iterable[Doubt]) -> tuple[str, ...]:
    """What they say.

    >>> texts([Doubt(Kind.FEW, "too few draws")])
    ('too few draws',)
    """
    return tuple(map(str, doubts))


def kinds(doubts: Iterable[Doubt]) -> frozenset[Kind]:
    """What they are about.

    >>> Kind.STUCK in kinds([Doubt(Kind.FEW, "too few draws")])
    False
    """
    return frozenset(doubt.kind for doubt in doubts)


def together(heading: str, doubts: Sequence[Doubt]) -> list[Doubt]:
    """One doubt for all of them, of the kind of the first; none where there are none.

    >>> [one] = together("log Z", [Doubt(Kind.FEW, "few draws"), Doubt(Kind.UNSEEN, "lost modes")])
    >>> one.text
    'log Z: few draws; lost modes'
    """
    return [Doubt(doubts[0].kind, f"{heading}: {'; '.join(texts(doubts))}")] if doubts else []


def warn(doubts: Iterable[Doubt]) -> None:
    """A `TrustWarning` for each, at the line that called this package from outside.

    That is the innermost frame which is neither this package's nor torch's, whose decorators stand
    in between: the line a reader can change.
    """
    level = _level_of_caller(sys._getframe())
    for doubt in doubts:
        warnings.warn(str(doubt), TrustWarning, stacklevel=level)


def _level_of_caller(frame: FrameType | None) -> int:
    """How many frames up the first one outside is, counted as ``warnings.warn`` does."""
    level = 1
    while frame is not None and _is_within(frame):
        frame, level = frame.f_back, level + 1
    return level


def _is_within(frame: FrameType) -> bool:
    """Whether its code is of one of these packages' own files, or generated for one.

    Doctests run in a copy of their module's namespace, and are told apart by the file alone.
    """
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    own = (frame.f_globals.get("__file__"), "<string>")
    return package in WITHIN and frame.f_code.co_filename in own
