"""The shipped digit experts: class, slant and thickness over their prior, as in the demo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

import experts
import poe
from poe.demo import conjunction
from poe.demo.attributes import Combination
from poe.demo.conjunction import (
    GUIDE,
    LADDER,
    LEAPFROG_STEP_SIZE,
    LEAPFROG_STEPS,
    NOISE_LEVEL,
    STEP_SIZE,
)
from poe.density.closed_forms import exact_sample
from poe.studio.offer import Approach, Choice, Family, Offer, Recipe
from poe.studio.plane import resample

PRIOR = "digits-prior"
ATTRIBUTES = {"digits-class": "digit", "digits-slant": "slant", "digits-thickness": "thickness"}
"""Names of the experts, and those of their attributes in the demo."""
OWN_SHARE = {"digit": 0.0, "slant": 0.5, "thickness": 0.5}
"""The shipped prior is (p_slant(x) p_thickness(x))^(1/2)."""
NUM_CHAINS = 9
TRAJECTORIES = 2
"""Of Hamiltonian Monte Carlo on each level of noise."""
BURN_IN = 10
POOL = 24
"""Draws of one expert, of which the others choose the starts."""

load = cache(conjunction.load_experts)


def offers() -> tuple[Offer, ...]:
    """Those with labels, and the prior."""
    about = ("which digit", "how it leans", "how thick its stroke is")
    labels = [getattr(load(), attribute).labels for attribute in ATTRIBUTES.values()]
    return (
        *(Offer(*parts) for parts in zip(ATTRIBUTES, about, labels, strict=True)),
        Offer(PRIOR, "digits of any kind"),
    )


def bayes_exponent(names: Sequence[str]) -> float:
    """Of the prior, by Bayes' rule, for attributes that are independent given x: 1 − n.

    >>> bayes_exponent(["digits-class", "digits-slant", "digits-thickness", "digits-prior"])
    -2.0
    """
    return 1.0 - max(1, sum(name in ATTRIBUTES for name in names))


def factors(choices: Sequence[Choice]) -> dict[str, poe.Expert]:
    r"""The density of the chosen experts, with an expert and its own prior as one ratio.

    .. math:: \tilde p(x) = \prod_a p_a(x \mid y_a)^{w_a} \, p(x)^d,
       \qquad p(x) = (p_{slant}(x)\, p_{thickness}(x))^{1/2}

    Raises ImproperError where the exponents do not add up to more than 0.
    """
    _require_mass(choices)
    chosen = {ATTRIBUTES[one.name]: one for one in choices if one.name in ATTRIBUTES}
    prior = sum(one.exponent for one in choices if one.name == PRIOR)
    found: dict[str, poe.Expert] = {}
    for attribute, share in OWN_SHARE.items():
        one = chosen.get(attribute, Choice("", 0.0))
        own = share * prior
        together = max(0.0, min(one.exponent, -own))
        if together:
            found[f"{one} / prior"] = load().ratio(attribute, one.label) ** together
        if one.exponent != together:
            found[str(one)] = load().given(attribute, one.label) ** (one.exponent - together)
        if own != -together:
            found[f"prior of {attribute}"] = load().own_prior(attribute) ** (own + together)
    return found


def _require_mass(choices: Sequence[Choice]) -> None:
    total = sum(one.exponent for one in choices)
    if total <= 0:
        said = ", ".join(f"{one.name} ** {one.exponent:g}" for one in choices)
        raise poe.ImproperError(
            "expected exponents of the digit experts that add up to more than 0, since all of "
            f"them fall off alike far from every digit; got {total:g} ({said}), so that there is "
            "infinite mass out there: raise an exponent, or divide by less of the prior"
        )


def guide(choices: Sequence[Choice], num_chains: int) -> poe.Expert:
    """What the chains walk down the ladder of noise by: the demo's, as loud as was chosen.

    An attribute that is to be avoided keeps its own exponent.
    """
    exponents = {ATTRIBUTES[one.name]: one for one in choices if one.name in ATTRIBUTES}
    density = GUIDE.density * sum(one.exponent for one in choices)
    if not exponents:
        return poe.Product(load().prior ** density)
    loud = {"digit": 0.0, "slant": 0.0, "thickness": 0.0}
    labels = dict.fromkeys(loud, 0)
    for attribute, one in exponents.items():
        factor = getattr(GUIDE, attribute) if one.exponent > 0 else 1.0
        loud[attribute] = factor * one.exponent
        labels[attribute] = getattr(load(), attribute).index(one.label)
    return conjunction.compose(
        load(),
        [Combination(**labels)] * num_chains,
        tuple(exponents),
        exponents=conjunction.Exponents(**loud, density=density),
    )


def start(
    product: poe.Product, choices: Sequence[Choice], generator: torch.Generator
) -> tuple[str, Tensor]:
    """Draws of an expert that can be sampled, resampled by what the others say, and its name."""
    for name in ("digits-class", "digits-slant"):
        chosen = [one for one in choices if one.name == name and one.exponent > 0]
        if chosen:
            words, first = str(chosen[0]), load().given(ATTRIBUTES[name], chosen[0].label)
            break
    else:
        words, first = "the prior", load().own_prior("slant")
    pool = exact_sample(first, POOL, generator)
    with torch.no_grad():
        return words, resample(pool, product(pool) - first(pool), NUM_CHAINS, generator)


def ladder(choices: Sequence[Choice]) -> poe.samplers.AnnealedLangevin:
    """Down the levels of noise at the guide, as the demo does, and to the product at the end."""
    total = sum(one.exponent for one in choices)
    # A density to the power e has 1 / e of the noise variance.
    levels = tuple(level / max(1.0, GUIDE.density * total) ** 0.5 for level in LADDER)
    last = NOISE_LEVEL / max(1.0, total) ** 0.5
    walk = (
        poe.samplers.HMC(LEAPFROG_STEP_SIZE * level, LEAPFROG_STEPS, jitter=0.0) for level in levels
    )
    return poe.samplers.AnnealedLangevin(
        experts.noised.noise_ladder(guide(choices, NUM_CHAINS), LADDER),
        (*walk, poe.samplers.MALA(STEP_SIZE * last**2)),
        TRAJECTORIES,
        noise_levels=(*levels, last),
    )


def recipe(product: poe.Product, choices: Sequence[Choice]) -> Recipe:
    """Chains from draws of one expert, chosen by the others, that walk down a ladder of noise."""
    kernel = ladder(choices)
    assert kernel.noise_levels is not None
    first_level, last_level = kernel.noise_levels[0], kernel.noise_levels[-1]

    def approach(generator: torch.Generator) -> Iterator[Approach]:
        words, x = start(product, choices, generator)
        yield Approach(f"draws of \u201c{words}\u201d that the others like", x)
        extra = max(0.0, first_level**2 - NOISE_LEVEL**2) ** 0.5
        state = kernel.init(product, x + extra * torch.randn(x.shape, generator=generator))
        for step in range(1, kernel.num_ladder_steps + BURN_IN + 1):
            level = kernel.level(state)
            state, _ = kernel.step(product, state, generator=generator)
            at = f"noise {LADDER[level]:g}" if level < len(LADDER) else "burn-in at the product"
            yield Approach(f"down a ladder of noise: {at}", state.position, step)

    step_size = STEP_SIZE * last_level**2
    return Recipe(
        approach,
        corrected=poe.samplers.MALA(step_size),
        unadjusted=poe.samplers.ULA(step_size),
        num_chains=NUM_CHAINS,
        num_steps=kernel.num_ladder_steps + BURN_IN,
        draws_a_frame=2,
    )


DIGITS = Family("Digits", offers, factors, recipe)
