"""What draws are worth, in plain words."""

from __future__ import annotations

import re

import poe

RAISED = str.maketrans("0123456789.", "⁰¹²³⁴⁵⁶⁷⁸⁹·")
MEANING = {
    "exact": "Independent draws of the product itself: there is nothing to converge.",
    "asymptotically exact": (
        "Every step is corrected by Metropolis' rule, so the product is what the chains settle to: "
        "averages become right as they grow longer."
    ),
    "biased": (
        "Steps are not corrected: the chains settle near the product, not at it, and more draws do "
        "not mend that."
    ),
}
"""Of each guarantee."""


def meaning(draws: poe.Draws) -> str:
    """What its guarantee says."""
    return MEANING[draws.guarantee]


def facts(draws: poe.Draws) -> str:
    """How many draws, by what, in one line.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(4, 50, 1, generator=g)
    >>> facts(poe.Draws(x, -0.5 * x.square().sum(-1), "exact"))
    '4 chains × 50 draws'
    """
    chains, length = draws.samples.shape[:2]
    parts = [f"{chains} chains × {length} draws"]
    if draws.kernel is not None:
        parts.append(type(draws.kernel).__name__)
    if draws.acceptance_rate is not None and draws.guarantee != "biased":
        parts.append(f"acceptance {draws.acceptance_rate.mean().item():.2f}")
    return " · ".join(parts)


def doubts(draws: poe.Draws) -> tuple[str, ...]:
    """Why not to trust the draws yet."""
    return draws.remarks


def verdict(draws: poe.Draws) -> str:
    """Whether this run has arrived, beside what its guarantee says; empty for exact draws.

    >>> x = torch.randn(4, 500, 1, generator=torch.Generator().manual_seed(0))
    >>> verdict(poe.Draws(x, -0.5 * x.square().sum(-1), "asymptotically exact"))
    'This run: arrived'
    """
    said = str(draws.verdict)
    return f"This run: {said}" if said else ""


def title(error: poe.PoeError) -> str:
    """What kind of refusal it is, in a few words.

    >>> title(poe.ImproperError("expected a finite integral"))
    'This product has infinite mass'
    """
    if isinstance(error, poe.SpaceMismatchError):
        return "These experts live on different spaces"
    if isinstance(error, poe.ImproperError):
        return "This product has infinite mass"
    return "This cannot be sampled"


def typeset(formula: str) -> str:
    """A formula with its exponents raised.

    >>> typeset("ring · bar^0.5 / spots^2")
    'ring · bar⁰·⁵ / spots²'
    """
    return re.sub(r"\^([\d.]+)", lambda found: found[1].translate(RAISED), formula)
