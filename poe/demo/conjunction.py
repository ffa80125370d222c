"""The conjunction of the shipped experts: class AND slant AND thickness, over their prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import experts
import poe
from poe.demo.attributes import SLANTS, THICKNESSES, Combination

# The first attribute present brings the density of whole digits; every other one is a ratio.
ATTRIBUTES = ("digit", "thickness", "slant")

# The densities of data with noise 0.1 are the target; the broader ones only find good starts.
NOISE_LEVEL = 0.1
LADDER = (0.36, 0.3, 0.25, 0.2, 0.16, 0.125)
STEP_SIZE = 0.2
"""Langevin step size, in units of the variance of the noise: accepts about 57 % of the moves."""

PRIOR_EXPONENT = 2.0
"""k = 2 is Bayes' rule for three attributes that are independent given x."""


class Exponents(NamedTuple):
    """How loudly each attribute speaks."""

    digit: float
    slant: float
    thickness: float


BAYES = Exponents(1.0, 1.0, 1.0)
GUIDE = Exponents(3.0, 4.5, 4.0)
"""On the ladder the attributes speak louder: it finds good starts, the target corrects them."""


class Experts(NamedTuple):
    """The shipped experts: each knows one attribute; the prior knows none.

    The prior is (p_slant(x) p_thickness(x))^(1/2), with the unconditional density of each of those
    two experts' own kind, under the names "slant" and "thickness".
    """

    digit: experts.NoisyConditional
    slant: experts.NoisyConditional
    thickness: experts.NoisyConditional
    prior: poe.Expert

    def at_noise_level(self, noise_level: float) -> Experts:
        """All of them read at another noise level."""
        return Experts(
            self.digit.at_noise_level(noise_level),
            self.slant.at_noise_level(noise_level),
            self.thickness.at_noise_level(noise_level),
            experts.at_noise_level(self.prior, noise_level),
        )

    def own_prior(self, attribute: str) -> poe.Expert:
        """The unconditional density of one expert's own kind."""
        factors = dict(self.prior._factors())
        return factors[attribute] ** 2


def load_experts() -> Experts:
    """The shipped weights."""
    return Experts(
        experts.load("digits-class"),
        experts.load("digits-slant"),
        experts.load("digits-thickness"),
        experts.load("digits-prior"),
    )


def compose(
    parts: Experts,
    combinations: Sequence[Combination],
    attributes: Sequence[str] = ATTRIBUTES,
    prior_exponent: float = PRIOR_EXPONENT,
    exponents: Exponents = BAYES,
) -> poe.Product:
    r"""The joint density of the chosen attributes, one combination a chain.

    .. math:: \tilde p(x) = p(x \mid y_1) \prod_{a > 1} p(x \mid y_a) / p_a(x)^{k / 2}

    Each expert after the first is divided by the prior of its own kind, so that what remains of it
    is its attribute alone. For three attributes the denominator is p(x)^k, the shipped prior; k = 2
    is Bayes' rule.
    """
    names = ("digit", "slant", "thickness")
    wanted = dict(zip(names, torch.tensor(combinations).unbind(-1), strict=True))
    first, *others = (name for name in ATTRIBUTES if name in attributes)
    loud = exponents._asdict()
    factors = {first: getattr(parts, first).given(wanted[first]) ** loud[first]}
    for name in others:
        factors[name] = getattr(parts, name).given(wanted[name]) ** loud[name]
        share = -loud[name] * prior_exponent / 2
        factors[f"prior of {name}"] = parts.own_prior(name) ** share
    return poe.Product(**factors)


class Evidence(NamedTuple):
    """log p(x | y) / p(x) for every label y of two attributes, each (n, 3)."""

    slant: Tensor
    thickness: Tensor

    def of(self, combination: Combination) -> Tensor:
        """That of a combination: (n,)."""
        return self.slant[:, combination.slant] + self.thickness[:, combination.thickness]


@torch.no_grad()
def evidence(parts: Experts, x: Tensor) -> Evidence:
    """What the slant and the thickness expert say of images (n, 16, 16)."""

    def of(name: str, labels: Sequence[str]) -> Tensor:
        part: experts.NoisyConditional = getattr(parts, name)
        values = torch.stack([part.given(label)(x) for label in labels], -1)
        return values - parts.own_prior(name)(x)[:, None]

    return Evidence(of("slant", SLANTS), of("thickness", THICKNESSES))


class Schedule(NamedTuple):
    """How long to anneal, to burn in at the target, and to sample there."""

    steps_per_level: int
    warmup: int
    draws: int

    @property
    def steps(self) -> int:
        """Gradients of the product for each chain."""
        return self.steps_per_level * len(LADDER) + self.warmup + self.draws


def sample(
    parts: Experts,
    combinations: Sequence[Combination],
    attributes: Sequence[str],
    start: Tensor,
    schedule: Schedule,
    generator: torch.Generator,
    prior_exponent: float = PRIOR_EXPONENT,
) -> tuple[poe.Product, poe.Draws]:
    """A composition, and corrected Langevin chains that walk down the ladder to it.

    ``start`` (chains, 16, 16) are samples at the broadest noise level.
    """
    target = compose(parts, combinations, attributes, prior_exponent)
    guide = compose(parts, combinations, attributes, exponents=GUIDE)
    first = next(name for name in ATTRIBUTES if name in attributes)
    # A density to the power e has 1 / e of the noise variance.
    quieter = getattr(GUIDE, first) ** 0.5
    power = 1 + (len(attributes) - 1) * (1 - prior_exponent / 2)
    levels = (*(level / quieter for level in LADDER), NOISE_LEVEL / max(power, 1) ** 0.5)
    kernel = poe.samplers.AnnealedLangevin(
        experts.noise_ladder(guide, LADDER),
        tuple(poe.samplers.MALA(STEP_SIZE * level**2) for level in levels),
        schedule.steps_per_level,
        noise_levels=levels,
    )
    draws = poe.sample(
        target,
        schedule.draws * len(start),
        kernel=kernel,
        warmup=schedule.warmup,
        initial=start,
        generator=generator,
    )
    return target, draws
