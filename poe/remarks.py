"""What a finished run noticed, and what of it is doubtful."""

from __future__ import annotations

from itertools import pairwise

from poe.core.doubt import Doubt, Kind
from poe.density.expert import Expert, Tempered
from poe.draws import Draws
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


def chain_doubts(draws: Draws) -> list[Doubt]:
    """What the counts of a run say."""
    doubts = []
    assert draws.num_undefined is not None
    undefined, total = int(draws.num_undefined.sum()), len(draws.samples)
    chains = tuple(draws.num_undefined.nonzero().flatten().tolist())
    if undefined and draws.guarantee == BIASED:
        text = (
            f"{len(chains)} of {total} chains exploded: {undefined} of their positions "
            "have a non-finite log-density or score. Use a smaller step size, or MALA."
        )
        doubts.append(Doubt(Kind.EXPLODED, text, chains))
    elif undefined:
        text = (
            f"{undefined} proposals of {len(chains)} chains had a NaN or +inf log-density or a NaN "
            "score, and were rejected: the target is not defined there."
        )
        doubts.append(Doubt(Kind.UNDEFINED, text, chains))
    if stuck := draws.stuck_chains:
        text = (
            f"{len(stuck)} of {total} chains never moved while sampling (chain "
            f"{stuck[0]} is one): {way_out(draws.kernel)}."
        )
        doubts.append(Doubt(Kind.STUCK, text, tuple(stuck)))
    return doubts


def compile_doubts(run: Run) -> list[Doubt]:
    """Why steps that should have been compiled were not."""
    if run.block is None or not run.block.failure:
        return []
    text = (
        "the steps could not be compiled in one graph, and the same draws were made without "
        f"compiling ({run.block.failure})"
    )
    return [Doubt(Kind.NOT_COMPILED, text)]


def escape_doubts(target: Expert, run: Run, draws: Draws) -> list[Doubt]:
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
    text = (
        f"the chains {'got stuck' if is_stuck else 'were still moving outward at the end'} "
        f"(root-mean-square distance from the start {distances} over successive doublings of the "
        "run): the product may be improper, or not yet converged. It has a negative exponent on "
        f"{blamed}."
    )
    return [Doubt(Kind.GROWING, text)]
