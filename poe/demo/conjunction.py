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
LADDER = (0.36, 0.28, 0.22, 0.17)

STEP_SIZE = 0.2
"""Langevin step size at the target, in units of the variance of the noise."""

LEAPFROG_STEPS = 5
LEAPFROG_STEP_SIZE = 0.63
"""On the ladder, in units of the noise: five such steps turn the noise half around (Lh = pi), so
that they keep its energy, while the digit goes on in one direction."""

PRIOR_EXPONENT = 2.0
"""k = 2 is Bayes' rule for three attributes that are independent given x."""


class Exponents(NamedTuple):
    """How loudly each attribute speaks, and how sharp the density is as a whole."""

    digit: float
    slant: float
    thickness: float
    density: float


BAYES = Exponents(1.0, 1.0, 1.0, 1.0)
GUIDE = Exponents(digit=3.0, slant=5.0, thickness=5.0, density=2.0)
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
            experts.noised.at_noise_level(self.prior, noise_level),
        )

    def given(self, attribute: str, label: int | str | Tensor) -> poe.Expert:
        """p(x | label) of one attribute."""
        part: experts.NoisyConditional = getattr(self, attribute)
        return part.given(label)

    def ratio(self, attribute: str, label: int | str | Tensor) -> poe.Expert:
        """What an image says of one attribute: p(x | label) / p(x)."""
        return experts.DensityRatio(getattr(self, attribute)).given(label)

    def own_prior(self, attribute: str) -> poe.Expert:
        """The unconditional density of one expert's own kind."""
        part: experts.NoisyConditional = getattr(self, attribute)
        return part.marginal()


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
    is Bayes' rule. An expert and its own prior are one factor, their ratio.

    Exponents of a guide raise each ratio p(x | y) / p(x) to its attribute's, and the density of
    whole digits to ``density``: the first attribute brings p(x | y_1)^e / p(x)^(e - density).
    """
    names = ("digit", "slant", "thickness")
    wanted = dict(zip(names, torch.tensor(combinations).unbind(-1), strict=True))
    first, *others = (name for name in ATTRIBUTES if name in attributes)
    loud = exponents._asdict()
    factors: dict[str, poe.Expert] = {first: parts.given(first, wanted[first]) ** loud[first]}
    if loud[first] != exponents.density:
        share = exponents.density - loud[first]
        factors[f"prior of {first}"] = parts.own_prior(first) ** share
    for name in others:
        factors[name] = parts.ratio(name, wanted[name]) ** loud[name]
        if prior_exponent != 2:
            share = loud[name] * (1 - prior_exponent / 2)
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
        return torch.stack([parts.ratio(name, label)(x) for label in labels], -1)

    return Evidence(of("slant", SLANTS), of("thickness", THICKNESSES))


class Schedule(NamedTuple):
    """How long to anneal, to burn in at the target, and to sample there."""

    trajectories_per_level: int
    warmup: int
    draws: int

    @property
    def gradients(self) -> int:
        """Gradients of the product for each chain."""
        return self.ladder_gradients + self.warmup + self.draws

    @property
    def ladder_gradients(self) -> int:
        """Those before the target."""
        return self.trajectories_per_level * LEAPFROG_STEPS * len(LADDER)

    @property
    def evaluations(self) -> int:
        """Density evaluations of the first expert: on the ladder its prior is asked as well."""
        return self.gradients + self.ladder_gradients


def sample(
    parts: Experts,
    combinations: Sequence[Combination],
    attributes: Sequence[str],
    start: Tensor,
    schedule: Schedule,
    generator: torch.Generator,
    prior_exponent: float = PRIOR_EXPONENT,
) -> tuple[poe.Product, poe.Draws]:
    """A composition, and corrected Langevin chains at it, which first walk down the ladder.

    ``start`` (chains, 16, 16) are images with the noise of the target.
    """
    target = compose(parts, combinations, attributes, prior_exponent)
    guide = compose(parts, combinations, attributes, exponents=GUIDE)
    # A density to the power e has 1 / e of the noise variance.
    power = 1 + (len(attributes) - 1) * (1 - prior_exponent / 2)
    last = NOISE_LEVEL / max(power, 1) ** 0.5
    levels = tuple(level / GUIDE.density**0.5 for level in LADDER)
    walk = (
        poe.samplers.HMC(LEAPFROG_STEP_SIZE * level, LEAPFROG_STEPS, jitter=0.0) for level in levels
    )
    kernel = poe.samplers.AnnealedLangevin(
        experts.noised.noise_ladder(guide, LADDER),
        (*walk, poe.samplers.MALA(STEP_SIZE * last**2)),
        schedule.trajectories_per_level,
        noise_levels=(*levels, last),
    )
    extra = (levels[0] ** 2 - NOISE_LEVEL**2) ** 0.5
    noise = torch.randn(start.shape, generator=generator)
    draws = poe.sample(
        target,
        schedule.draws * len(start),
        kernel=kernel,
        warmup=schedule.warmup,
        initial=start + extra * noise,
        generator=generator,
    )
    return target, draws
