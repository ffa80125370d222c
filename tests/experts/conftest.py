"""Shared by the tests of the families: networks that say something, and exact moments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import poe

Randomize = Callable[[nn.Module], None]
Statistics = Callable[[Tensor], Tensor]


@pytest.fixture
def randomize() -> Randomize:
    """Gives every parameter a value large enough for the network to depend on its input."""

    def fill(module: nn.Module) -> None:
        generator = torch.Generator().manual_seed(1)
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            with torch.no_grad():
                parameter.normal_(0, fan_in**-0.5, generator=generator)

    return fill


def statistics(x: Tensor) -> Tensor:
    """Moments that tell two pixels and their dependence: (n, 1, 2) -> (n, 6)."""
    a, b = x.flatten(1).unbind(-1)
    return torch.stack([a, b, a**2, b**2, a * b, (2 * a).cos() * b], -1)


def integrate(expert: poe.Expert) -> tuple[Tensor, Tensor]:
    """The integral of p, and its moments, over the plane of two pixels by the trapezoidal rule."""
    axis = torch.linspace(-16, 16, 161, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis).reshape(-1, 1, 2)
    with torch.no_grad():
        mass = expert(points).exp() * (axis[1] - axis[0]) ** 2
    return mass.sum(), mass @ statistics(points)


@pytest.fixture
def check_two_pixels() -> Callable[[poe.Expert], None]:
    """Integral 1, and 10,000 exact samples whose moments are those of the density."""

    def check(expert: poe.Expert) -> None:
        total, moments = integrate(expert)
        torch.testing.assert_close(total.item(), 1.0, rtol=0, atol=1e-6)
        draws = expert.sample(10_000, generator=torch.Generator().manual_seed(0))
        values = statistics(draws)
        z = (values.mean(0) - moments) / (values.std(0) / len(values) ** 0.5)
        assert z.abs().max() < 4, z

    return check
