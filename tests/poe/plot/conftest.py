"""No plot may leave a trace in the global state of matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import matplotlib
import pytest
import torch
from matplotlib import pyplot

import experts
import poe


@pytest.fixture(autouse=True)
def _pyplot_stays_as_it_was() -> Iterator[None]:
    settings, figures = dict(matplotlib.rcParams), pyplot.get_fignums()  # an example's may be open
    yield
    assert pyplot.get_fignums() == figures
    assert dict(matplotlib.rcParams) == settings


@pytest.fixture
def line() -> poe.Product:
    """Two Gaussians, one of them with an exponent, and one that is divided by."""
    return poe.Product(
        wide=experts.Gaussian([-1.0], scale=[1.0]),
        sharp=experts.Gaussian([1.0], scale=[0.5]) ** 0.5,
        bump=experts.Gaussian([0.0], scale=[2.0]) ** -1,
    )


@pytest.fixture
def plane() -> poe.Product:
    return poe.Product(
        a=experts.Gaussian([-1.0, 0.0], scale=[1.0, 2.0]),
        b=experts.Gaussian([1.0, 1.0], covariance=[[1.0, 0.6], [0.6, 1.0]]),
    )


@pytest.fixture
def draws_of() -> Callable[..., poe.Draws]:
    """Given samples and log-weights, draws of a standard normal, or what is said to be such."""

    def build(samples: torch.Tensor, log_weights: torch.Tensor | None = None) -> poe.Draws:
        log_density = -0.5 * samples.flatten(2).double().square().sum(-1)
        return poe.Draws(samples, log_density, "exact", log_weights)

    return build
