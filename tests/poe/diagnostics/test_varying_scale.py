"""Whether the scale of the score varies: it does in funnels and valleys, not between modes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from poe.diagnostics.varying_scale import has_varying_scale
from tests.poe.core.bent import (
    BENT,
    Density,
    Draw,
    gaussian,
    rotated,
    score_of,
    seeded,
)

F64 = torch.float64
COUNT = 1000


def normal(count: int, d: int, g: torch.Generator) -> Tensor:
    return torch.randn(count, d, generator=g, dtype=F64)


def banana(x: Tensor) -> Tensor:
    ridge = x[..., 1] - 0.03 * (x[..., 0].square() - 100)
    return -0.5 * (x[..., 0] / 10).square() - 0.5 * ridge.square()


def draw_banana(count: int, g: torch.Generator) -> Tensor:
    z = normal(count, 2, g)
    x = 10 * z[:, 0]
    return torch.stack([x, z[:, 1] + 0.03 * (x.square() - 100)], 1)


def nested(ratio: float, d: int) -> tuple[Density, Draw]:
    """N(0, I) and N(0, ratio² I), of equal shares."""

    def density(x: Tensor) -> Tensor:
        broad, narrow = (-0.5 * (x / s).square().sum(-1) for s in (1.0, ratio))
        return torch.logaddexp(broad, narrow - d * math.log(ratio))

    def draw(count: int, g: torch.Generator) -> Tensor:
        is_narrow = torch.rand(count, 1, generator=g) < 0.5
        return normal(count, d, g) * torch.where(is_narrow, ratio, 1.0)

    return density, draw


def modes(centres: Tensor, sd: float) -> tuple[Density, Draw]:
    """Gaussians of equal widths and shares."""

    def density(x: Tensor) -> Tensor:
        return (-0.5 * ((x[:, None] - centres) / sd).square().sum(-1)).logsumexp(1)

    def draw(count: int, g: torch.Generator) -> Tensor:
        chosen = torch.randint(len(centres), (count,), generator=g)
        return centres[chosen] + sd * normal(count, centres.shape[1], g)

    return density, draw


def gumbel(x: Tensor) -> Tensor:
    return (-x - (-x).exp()).sum(-1)


def draw_gumbel(count: int, g: torch.Generator) -> Tensor:
    return -torch.empty(count, 10, dtype=F64).exponential_(generator=g).log()


def student(x: Tensor) -> Tensor:
    """Five degrees of freedom."""
    return -3.0 * torch.log1p(x.square() / 5).sum(-1)


def draw_student(count: int, g: torch.Generator) -> Tensor:
    chi2 = torch.randn(count, 6, 5, generator=g, dtype=F64).square().sum(-1)
    return normal(count, 6, g) / (chi2 / 5).sqrt()


def draw_normal(count: int, g: torch.Generator) -> Tensor:
    return normal(count, 6, g)


ANGLES = torch.arange(8, dtype=F64) * math.pi / 4
RING = 4 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
VARIES = BENT | {
    "banana": (banana, draw_banana),
    "narrow in broad": nested(0.05, 10),
    "narrow in broad, in one dimension": nested(1e-3, 1),
}
DOES_NOT = {
    "Gaussian": (gaussian, draw_normal),
    "Gaussian, in raw units": rotated(gaussian, draw_normal, 6),
    "ring": modes(RING, 0.35),
    "two modes": modes(torch.tensor([[0.0, 0, 0, 0], [10, 0, 0, 0]], dtype=F64), 1.0),
    "two near modes": modes(torch.tensor([[0.0, 0, 0, 0], [4, 0, 0, 0]], dtype=F64), 1.0),
    "five modes": modes(3 * normal(5, 6, seeded(2)), 1.0),
    "Gumbel": (gumbel, draw_gumbel),
    "Student": (student, draw_student),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIES)
def test_it_is_seen_where_it_varies(name: str) -> None:
    density, draw = VARIES[name]
    x = draw(COUNT, seeded())
    assert has_varying_scale(x, score_of(density, x))


@pytest.mark.slow
@pytest.mark.parametrize("name", DOES_NOT)
def test_it_is_not_seen_where_it_does_not(name: str) -> None:
    density, draw = DOES_NOT[name]
    x = draw(COUNT, seeded())
    assert not has_varying_scale(x, score_of(density, x))


def test_of_few_positions_and_of_broken_ones_nothing_is_said() -> None:
    x = torch.full((200, 2), torch.nan)
    x[:99] = normal(99, 2, seeded()).float()
    assert not has_varying_scale(x, -(x**9))
