"""What a finished run noticed, in words."""

from __future__ import annotations

from itertools import pairwise

from poe.draws import Draws
from poe.expert import Expert, Tempered
from poe.loop import Run
from poe.samplers.kernel import BIASED
from poe.samplers.questions import way_out

ABSURD_GROWTH = 1e6


def negative_factors(target: Expert) -> list[str]:
    """The factors whose exponent is negative: they can make a product improper."""
    return [
        name
        for name, factor in target._factors()
        if any(isinstance(m, Tempered) and m.exponent.item() < 0 for m in factor.modules())
    ]


def chain_remarks(draws: Draws) -> list[str]:
    """What the counts of a run say, in words."""
    remarks = []
    assert draws.num_undefined is not None
    undefined, chains = int(draws.num_undefined.sum()), int((draws.num_undefined > 0).sum())
    if undefined and draws.guarantee == BIASED:
        remarks.append(
            f"{chains} of {len(draws.samples)} chains exploded: {undefined} of their positions "
            "have a non-finite log-density or score. Use a smaller step size, or MALA."
        )
    elif undefined:
        remarks.append(
            f"{undefined} proposals of {chains} chains had a NaN or +inf log-density or a NaN "
            "score, and were rejected: the target is not defined there."
        )
    if stuck := draws.stuck_chains:
        remarks.append(
            f"{len(stuck)} of {len(draws.samples)} chains never moved while sampling (chain "
            f"{stuck[0]} is one): {way_out(draws.kernel)}."
        )
    return remarks


def compile_remarks(run: Run) -> list[str]:
    """Why steps that should have been compiled were not."""
    if run.block is None or not run.block.failure:
        return []
    return [
        "the steps could not be compiled in one graph, and the same draws were made without "
        f"compiling ({run.block.failure})"
    ]


def escape_remarks(target: Expert, run: Run, draws: Draws) -> list[str]:
    """Whether the chains of a possibly improper target were on their way to infinity."""
    spread = run.moment.spread
    if spread is None:
        return []
    history = spread.means(run.moment.num_steps)
    means = history[-3:].tolist()
    is_growing = len(means) == 3 and all(b > 1.3 * a for a, b in pairwise(means))
    # Chains that ran away may end where rounding freezes them, or in NaN (hence the `not`).
    is_far = not history[-1] <= ABSURD_GROWTH * history[0]
    is_stuck = bool(draws.stuck_chains)  # MALA can resist a runaway only by rejecting
    if not (is_growing or is_far or is_stuck):
        return []
    distances = ", ".join(f"{mean**0.5:.3g}" for mean in means)
    blamed = ", ".join(repr(name) for name in negative_factors(target))
    return [
        f"the chains {'got stuck' if is_stuck else 'were still moving outward at the end'} "
        f"(root-mean-square distance from the start {distances} over successive doublings of the "
        "run): the product may be improper, or not yet converged. It has a negative exponent on "
        f"{blamed}."
    ]
