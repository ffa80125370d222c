"""Densities that bend and narrow, with their exact draws and scores."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

F64 = torch.float64
Density = Callable[[Tensor], Tensor]
Draw = Callable[[int, torch.Generator], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def funnel(x: Tensor) -> Tensor:
    v, rest = x[..., 0], x[..., 1:]
    necks = rest.square().sum(-1) * (-v).exp() + rest.shape[-1] * v
    return -0.5 * (v / 3).square() - 0.5 * necks


def draw_funnel(count: int, g: torch.Generator, d: int = 5) -> Tensor:
    v, rest = (torch.randn(count, n, generator=g, dtype=F64) for n in (1, d - 1))
    return torch.cat([3 * v, (1.5 * v).exp() * rest], 1)


def banana(x: Tensor) -> Tensor:
    bent = x[:, 1] - 0.02 * (x[:, 0].square() - 100.0)
    return -0.5 * (x[:, 0] / 10.0).square() - 0.5 * bent.square()


def draw_banana(n: int, generator: torch.Generator) -> Tensor:
    first, bent = torch.randn(2, n, generator=generator)
    return torch.stack([10.0 * first, bent + 2.0 * (first.square() - 1.0)], 1)


def rosenbrock(x: Tensor) -> Tensor:
    return -(1 - x[..., 0]).square() - 100 * (x[..., 1] - x[..., 0].square()).square()


def draw_rosenbrock(count: int, g: torch.Generator) -> Tensor:
    x, z = torch.randn(2, count, generator=g, dtype=F64)
    x = 1 + x / math.sqrt(2)
    return torch.stack([x, x.square() + z / math.sqrt(200)], 1)


def rotated(density: Density, draw: Draw, d: int) -> tuple[Density, Draw]:
    turn = torch.linalg.qr(torch.randn(d, d, generator=seeded(1), dtype=F64)).Q
    scale = torch.logspace(-2, 2, d, dtype=F64)
    return lambda x: density((x / scale) @ turn), lambda n, g: (draw(n, g) @ turn.mT) * scale


def score_of(density: Density, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(density(leaf).sum(), leaf)[0]


ESTIMATE = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=F64)
ERROR = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=F64)


def schools(x: Tensor) -> Tensor:
    """Eight effects by themselves: x is their mean, N(0, 5²), log τ of Cauchy(0, 5), and each."""
    mean, log_scale, effects = x[..., :1], x[..., 1:2], x[..., 2:]
    own = -0.5 * ((effects - mean) * (-log_scale).exp()).square() - log_scale
    seen = -0.5 * ((ESTIMATE - effects) / ERROR).square()
    prior = log_scale - (1 + (2 * log_scale).exp() / 25).log() - 0.5 * (mean / 5).square()
    return (own + seen).sum(-1) + prior.squeeze(-1)


def draw_schools(log_scale: Tensor, g: torch.Generator) -> Tensor:
    """Exactly, given log τ ``(n,)``: the mean, then each effect."""
    variance = (2 * log_scale).exp()[:, None]
    precision = (1 / (ERROR.square() + variance)).sum(1) + 1 / 25
    centre = (ESTIMATE / (ERROR.square() + variance)).sum(1) / precision
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=F64)  # noqa: E731
    mean = (centre + normal(len(log_scale)) / precision.sqrt())[:, None]
    precision = 1 / ERROR.square() + 1 / variance
    centre = (ESTIMATE / ERROR.square() + mean / variance) / precision
    effects = centre + normal(len(log_scale), 8) / precision.sqrt()
    return torch.cat([mean, log_scale[:, None], effects], 1)


FUNNEL, ROSENBROCK = (funnel, draw_funnel), (rosenbrock, draw_rosenbrock)
BENT: dict[str, tuple[Density, Draw]] = {
    "funnel": FUNNEL,
    "funnel, v last": (lambda x: funnel(x.flip(-1)), lambda n, g: draw_funnel(n, g).flip(-1)),
    "funnel, rotated and in raw units": rotated(*FUNNEL, 5),
    "Rosenbrock": ROSENBROCK,
    "Rosenbrock, rotated and in raw units": rotated(*ROSENBROCK, 2),
}


def gaussian(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)
