"""Whether a run has arrived at its target, as far as its draws can show."""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from poe import diagnostics
from poe.core.doubt import ASIDE, Doubt, Kind, kinds, texts, warn
from poe.diagnostics.agreement import agreement, series
from poe.draws.doubts import (
    chain_doubts,
    convergence_doubts,
    divergence_doubts,
    draw_doubts,
    escape_doubts,
    weight_doubts,
)
from poe.draws.record import MIN_DRAWS_TO_BE_STUCK, Record
from poe.samplers.kernel import BIASED, EXACT

TELLING = 1.1
"""Where chance explains more than this R-hat, chains are too short to show that they agree."""


class Verdict(NamedTuple):
    """Whether a run has arrived, which its guarantee does not say: that is of the method.

    Args:
        doubts: All that speaks against the draws, first what the run noticed on its way.
        r_hat: The largest of what was compared; NaN where nothing was.
        ess: The smallest one; of weighted draws that of their weights; NaN where none is defined.
        compared: Which series these are of, in words.
        limit: The R-hat that chance explains.

    Example:
        >>> x = torch.randn(4, 500, 1, generator=torch.Generator().manual_seed(0))
        >>> x[3] += 2
        >>> verdict = poe.Draws(x, x[..., 0], "asymptotically exact").verdict
        >>> verdict.is_trusted, str(verdict).split("; ")[0]
        (False, 'not arrived: chains disagree with each other')
    """

    doubts: tuple[Doubt, ...]
    r_hat: float = math.nan
    ess: float = math.nan
    compared: str = ""
    limit: float = math.nan

    @property
    def remarks(self) -> tuple[str, ...]:
        """The doubts, in words."""
        return texts(self.doubts)

    @property
    def is_trusted(self) -> bool:
        """Whether nothing speaks against the draws, beside their guarantee."""
        return all(doubt.kind.is_aside for doubt in self.doubts)

    def __str__(self) -> str:
        """Arrived, or not and why, or too short to tell; empty where nothing was compared."""
        if kinds(self.doubts) - set(ASIDE) == {Kind.NOT_COMPARED}:
            return "nothing shows whether it has arrived"
        if not self.is_trusted:
            against = [doubt.kind.value for doubt in self.doubts if not doubt.kind.is_aside]
            return f"not arrived: {'; '.join(dict.fromkeys(against))}"
        if math.isnan(self.ess):
            return ""
        return "too short to tell" if self.limit > TELLING else "arrived"

    @property
    def figures(self) -> str:
        """What it rests on, in words; empty where there was nothing to compare."""
        if not self.compared or math.isnan(self.ess):
            return ""
        return f"R-hat at most {self.r_hat:.3f}, ESS at least {self.ess:.0f} of {self.compared}"


def judged(draws: Record) -> Verdict:
    """The verdict on draws, made by hand or by a run.

    Independent, exact draws have no chains to compare; of weighted draws the weights count; a
    single draw of each chain of an uncorrected kernel, whose guarantee says it all, shows nothing,
    and so do draws on meta.
    """
    if draws.samples.numel() == 0 or draws.samples.is_meta:
        return Verdict(draws.doubts)
    own = (*draws.doubts, *draw_doubts(draws))
    if draws.log_weights is not None:
        return _of_weighted(draws, draws.log_weights, own)
    is_short = draws.guarantee == BIASED and draws.samples.shape[1] < diagnostics.MIN_DRAWS
    if draws.guarantee == EXACT or is_short:
        return Verdict(own)
    chosen = series(draws.samples, draws.log_density)
    found = agreement(chosen, is_batch=draws.is_batch)
    apart = _far_apart(draws, chosen.values)
    doubts = [*own, *chain_doubts(draws), *apart, *convergence_doubts(draws, found)]
    is_doubted = not Verdict(tuple(doubts)).is_trusted
    doubts += divergence_doubts(draws, is_doubted)
    return Verdict(tuple(doubts), found.largest_r_hat, found.smallest_ess, found.said, found.limit)


def _far_apart(draws: Record, values: Tensor) -> list[Doubt]:
    """Chains of one density that are far from the others: values ``(chains, draws, series)``."""
    if draws.is_batch or draws.samples.shape[1] < MIN_DRAWS_TO_BE_STUCK:
        return []
    return escape_doubts(values[..., 1:], values[..., 0])


def _of_weighted(draws: Record, log_weights: Tensor, own: tuple[Doubt, ...]) -> Verdict:
    """Islands that disagree have told already that their weights are uneven."""
    ess = diagnostics.kish_ess(log_weights).item()
    is_told = Kind.DISAGREEING in kinds(own)
    more = [] if is_told else weight_doubts(log_weights, ess)
    return Verdict((*own, *chain_doubts(draws), *more), ess=ess)


class Judged(Record):
    """A record and its verdict, which is computed once, when it is first asked for."""

    @cached_property
    def verdict(self) -> Verdict:
        """Whether this run has arrived, as far as its draws can show."""
        return judged(self)

    @property
    def is_trusted(self) -> bool:
        """Whether nothing speaks against these draws, beside their guarantee."""
        return self.verdict.is_trusted

    @property
    def remarks(self) -> tuple[str, ...]:
        """What there is to doubt, in words: of the run, and of what the draws show."""
        return self.verdict.remarks

    def __repr__(self) -> str:
        chains, draws, *event = self.samples.shape
        parts = [f"{chains} chains x {draws} draws of shape {tuple(event)}", self.guarantee]
        parts += ["weighted"] * (self.log_weights is not None)
        kernel = "" if self.kernel is None else repr(self.kernel)
        return f"Draws({', '.join(filter(None, [*parts, str(self.verdict), kernel]))})"


def tell(draws: Judged) -> None:
    """One `TrustWarning` for all that there is to doubt, at the line of the caller."""
    if all(kind.is_known for kind in kinds(draws.verdict.doubts)):
        return
    heading = [] if draws.is_trusted else ["the run has not arrived:"]
    warn([Doubt(draws.verdict.doubts[0].kind, "\n- ".join([*heading, *draws.remarks]))])
