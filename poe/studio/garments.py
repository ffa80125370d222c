"""The shipped energy of clothes, walked to from the Gaussian of their moments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch

import experts
import poe
from poe.density.closed_forms import exact_sample
from poe.density.expert import experts_in
from poe.studio.offer import Approach, Choice, Family, Offer, Recipe

NAME = "fashion-energy"
NUM_CHAINS = 9
STEP_SIZE = 0.01
"""The one of its training, over its exponent where that makes it sharper."""
NUM_STEPS = 300
STEPS_A_FRAME = 10


@cache
def load() -> poe.Product:
    """The shipped energy: a Gaussian of the moments times a network."""
    return experts.load(NAME)


def factors(choices: Sequence[Choice]) -> dict[str, poe.Expert]:
    """The Gaussian and the network, each to the exponent.

    Raises ImproperError for a negative one.
    """
    [one] = choices
    if one.exponent < 0:
        raise poe.ImproperError(
            f"expected a positive exponent of {NAME}, the only expert on its space, got "
            f"{one.exponent:g}: one over a density has infinite mass far from every garment"
        )
    parts = zip(load().names, experts_in(load().experts), strict=True)
    return {f"fashion {name}": expert**one.exponent for name, expert in parts}


def recipe(product: poe.Product, choices: Sequence[Choice]) -> Recipe:
    """Langevin chains from draws of the Gaussian."""
    step_size = STEP_SIZE / max(1.0, choices[0].exponent)
    kernel = poe.samplers.MALA(step_size)

    def approach(generator: torch.Generator) -> Iterator[Approach]:
        x = exact_sample(experts_in(load().experts)[0], NUM_CHAINS, generator)
        yield Approach("draws of the Gaussian of the moments", x)
        for done in range(STEPS_A_FRAME, NUM_STEPS + 1, STEPS_A_FRAME):
            x = poe.advance(product, kernel, x, STEPS_A_FRAME, generator=generator).positions
            yield Approach(f"on the way: {done} of {NUM_STEPS} Langevin steps", x, done)

    return Recipe(
        approach,
        corrected=kernel,
        unadjusted=poe.samplers.ULA(step_size),
        num_chains=NUM_CHAINS,
        num_steps=NUM_STEPS,
        draws_a_frame=5,
    )


def offers() -> tuple[Offer, ...]:
    """The one that there is."""
    return (Offer(NAME, "a neural energy of clothes"),)


GARMENTS = Family("Garments", offers, factors, recipe)
