"""Experts on the plane, in closed form: a ring, a bar, four spots, a stain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

import experts
import poe
from poe.density.capabilities import tails
from poe.studio.offer import Approach, Choice, Family, Offer, Recipe

HALF_WIDTH = 4.0
"""Pictures show the square [-4, 4]², and chains start in it."""
NUM_CHAINS = 256
POOL = 4096


class Ring(poe.Expert):
    """A ring around 0: log p̃(x) = −(‖x‖ − 2)² / (2 s²), s = 0.35.

    Shapes: x ``(*batch, 2)`` to ``(*batch,)``.

    >>> Ring()(torch.tensor([[2.0, 0.0], [0.0, 2.35]]))
    tensor([-0.0000, -0.5000])
    """

    space = poe.Real(2)
    radius, width = 2.0, 0.35

    def forward(self, x: Tensor) -> Tensor:
        return -0.5 * ((x.norm(dim=-1) - self.radius) / self.width).square()


@tails.register
def _(expert: Ring) -> Tensor:
    return torch.eye(2, dtype=torch.float64)[None] / expert.width**2


def bar() -> poe.Expert:
    """An elongated Gaussian that cuts the ring off centre."""
    cosine, sine = math.cos(math.pi / 3), math.sin(math.pi / 3)
    axes = torch.tensor([[cosine, -sine], [sine, cosine]])
    covariance = axes @ torch.diag(torch.tensor([1.2, 0.4]).square()) @ axes.T
    return experts.Gaussian(loc=[1.1, -0.6], covariance=covariance)


def spots() -> poe.Expert:
    """Four round Gaussians alike, one in each quadrant."""
    places = [(1.6, 1.6), (-1.6, 1.6), (-1.6, -1.6), (1.6, -1.6)]
    return poe.Mixture([experts.Gaussian(loc=list(at), scale=[0.6, 0.6]) for at in places])


def stain() -> poe.Expert:
    """The bar on a broad background, so that far from the bar, "not this" has no opinion."""
    return poe.Mixture([bar(), experts.Gaussian(loc=[0.0, 0.0], scale=[4.0, 4.0])])


BUILD = {"ring": Ring, "bar": bar, "spots": spots, "stain": stain}


@cache
def build(name: str) -> poe.Expert:
    """One of these experts."""
    return BUILD[name]()


def factors(choices: Sequence[Choice]) -> dict[str, poe.Expert]:
    """Each expert to its exponent."""
    return {str(one): build(one.name) ** one.exponent for one in choices}


def recipe(product: poe.Product, choices: Sequence[Choice]) -> Recipe:
    """Chains chosen from points all over the square, then moved on by Hamiltonian Monte Carlo."""

    def approach(generator: torch.Generator) -> Iterator[Approach]:
        pool = torch.rand(POOL, 2, generator=generator).mul_(2).sub_(1).mul_(HALF_WIDTH)
        yield Approach("scattered over the square", pool[:NUM_CHAINS])
        with torch.no_grad():
            x = resample(pool, product(pool), NUM_CHAINS, generator)
        yield Approach("those that the product likes best", x)

    return Recipe(
        approach,
        corrected=poe.samplers.HMC(num_steps=5),
        unadjusted=poe.samplers.ULA(0.05),
        num_chains=NUM_CHAINS,
        num_steps=0,
        draws_a_frame=10,
        warmup=60,
    )


def resample(
    pool: Tensor, log_weight: Tensor, num_samples: int, generator: torch.Generator
) -> Tensor:
    """Rows of a pool drawn by weight without replacement (Gumbel-top-k, Kool et al. 2019).

    Shapes: ``(n, *event)``, ``(n,)`` to ``(num_samples, *event)``.

    >>> pool, g = torch.arange(4.0), torch.Generator().manual_seed(0)
    >>> resample(pool, torch.tensor([0.0, -90.0, 0.0, -90.0]), 2, g).sort().values
    tensor([0., 2.])
    """
    gumbel = -torch.empty_like(log_weight).exponential_(generator=generator).log()
    return pool[(log_weight + gumbel).topk(num_samples).indices]


def offers() -> tuple[Offer, ...]:
    """All of them."""
    about = (
        "a ring around 0",
        "a long Gaussian, off centre",
        "four Gaussians",
        "the bar, on a broad background",
    )
    return tuple(Offer(*parts) for parts in zip(BUILD, about, strict=True))


PLANE = Family("Plane", offers, factors, recipe)
