"""What to do about doubtful draws, in the options of the command line."""

from __future__ import annotations

from poe.core.doubt import Doubt, Kind

WARMUP_OR_KERNEL = "a longer warm-up (--warmup) or another kernel (--kernel)"
MORE = f"Draw more (--num), or use {WARMUP_OR_KERNEL}."
REMEDIES = {
    Kind.BUDGET: "Give it more (max_gradients, max_seconds in --until).",
    Kind.DEAD: "Use a corrected kernel, such as MALA (--kernel).",
    Kind.DIVERGED: f"Use {WARMUP_OR_KERNEL}.",
    Kind.ESCAPED: f"Use {WARMUP_OR_KERNEL}.",
    Kind.EXPLODED: "Use a smaller step size, or MALA (--kernel).",
    Kind.FEW: MORE,
    Kind.NOT_COMPARED: "Draw more (--num), in fewer chains (--chains).",
    Kind.NOT_CONVERGED: MORE,
    Kind.ONE_CHAIN: "Use four or more (--chains).",
    Kind.STILL: f"Use {WARMUP_OR_KERNEL}.",
    Kind.STUCK: f"Use {WARMUP_OR_KERNEL}, or another seed (--seed).",
    Kind.TOO_LONG_TO_LOOK: "Where the target may have some, draw more (--num).",
}
"""By what a doubt is about; of the others the remedy is its own."""
SMALLER_STEPS = "Use a smaller step size"


def in_options(doubt: Doubt) -> Doubt:
    """The doubt with what can be done from the command line.

    >>> in_options(Doubt(Kind.ONE_CHAIN, "There is one chain.", remedy="Use num_chains=4.")).remedy
    'Use four or more (--chains).'
    """
    remedy = REMEDIES.get(doubt.kind)
    if not doubt.remedy or remedy is None:
        return doubt
    if doubt.remedy.startswith(SMALLER_STEPS):  # said to who set one
        remedy = remedy.replace("Use", f"{SMALLER_STEPS} in --kernel,", 1)
    return doubt._replace(remedy=remedy)
