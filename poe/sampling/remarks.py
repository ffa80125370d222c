"""What a finished run noticed, and what of it is doubtful."""

from __future__ import annotations

import torch

from poe.core.doubt import Doubt, Kind
from poe.draws import Draws
from poe.samplers.kernel import BIASED
from poe.sampling.run import Run


def chain_doubts(draws: Draws) -> list[Doubt]:
    """What the counts of a run say."""
    doubts = []
    assert draws.num_undefined is not None
    undefined, total = int(draws.num_undefined.sum()), len(draws.samples)
    chains = tuple(draws.num_undefined.nonzero().flatten().tolist())
    if undefined and draws.guarantee == BIASED:
        text = (
            f"{len(chains)} of {total} chains exploded: {undefined} of their positions "
            "have a non-finite log-density or score."
        )
        remedy = "Use a smaller step size, or MALA."
        doubts.append(Doubt(Kind.EXPLODED, text, chains, remedy))
    elif undefined:
        text = (
            f"{undefined} proposals of {len(chains)} chains had a NaN or +inf log-density or a NaN "
            "score, and were rejected: the target is not defined there."
        )
        doubts.append(Doubt(Kind.UNDEFINED, text, chains))
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


def escape_doubts(run: Run, draws: Draws) -> list[Doubt]:
    """Whether the chains of a possibly improper target were on their way to infinity."""
    spread = run.moment.spread
    if spread is None:
        return []
    num_steps, eps = run.moment.num_steps, torch.finfo(spread.start.dtype).eps
    is_stuck = bool(draws.stuck_chains)  # MALA can resist a runaway only by rejecting
    if not (is_stuck or spread.is_growing(num_steps) or spread.is_lost(num_steps, eps)):
        return []
    means = spread.means(num_steps)[-3:].tolist()
    distances = ", ".join(f"{mean**0.5:.3g}" for mean in means)
    blamed = ", ".join(repr(name) for name in run.plan.suspects)
    text = (
        f"the chains {'got stuck' if is_stuck else 'were still moving outward at the end'} "
        f"(root-mean-square distance from the start {distances} over successive doublings of the "
        "run): the product may be improper, or not yet converged. It has a negative exponent on "
        f"{blamed}."
    )
    return [Doubt(Kind.STUCK if is_stuck else Kind.GROWING, text, tuple(draws.stuck_chains))]
