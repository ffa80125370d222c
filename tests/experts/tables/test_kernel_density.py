"""The normaliser of every kernel, in few dimensions and in many."""

from __future__ import annotations

import math

import pytest
import torch

import experts
from experts.tables.kernel_density import LOG_KERNELS, log_volume

NODES = 200_000


def log_volume_by_quadrature(kernel: str, size: int) -> float:
    """log of the sphere's surface times ∫ r^(d−1) K(r) dr, by the midpoint rule in float64."""
    reach = {"gaussian": math.sqrt(size) + 12, "exponential": size + 40 + 12 * math.sqrt(size)}
    end = reach.get(kernel, 1.0)
    r = (torch.arange(NODES, dtype=torch.float64) + 0.5) * (end / NODES)
    log_integral = ((size - 1) * r.log() + LOG_KERNELS[kernel](r)).logsumexp(0).item()
    log_surface = math.log(2) + 0.5 * size * math.log(math.pi) - math.lgamma(0.5 * size)
    return log_integral + math.log(end / NODES) + log_surface


@pytest.mark.parametrize("kernel", LOG_KERNELS)
def test_the_volume_is_that_of_quadrature_in_one_dimension_to_many(kernel: str) -> None:
    """The midpoint rule's own error: below 1e-5, as the kernels' slope at r = 1 is finite."""
    for size in (*range(1, 65), 100, 784):
        expected = log_volume_by_quadrature(kernel, size)
        assert math.isclose(log_volume(kernel, size), expected, rel_tol=1e-5, abs_tol=1e-5), size


@pytest.mark.parametrize("kernel", LOG_KERNELS)
def test_the_log_density_at_the_only_row_is_minus_the_log_volume(kernel: str) -> None:
    expert = experts.KernelDensity(torch.zeros(1, 30, dtype=torch.float64), 1.0, kernel)
    found = expert.log_prob(torch.zeros(1, 30, dtype=torch.float64)).item()
    assert math.isclose(found, -log_volume_by_quadrature(kernel, 30), rel_tol=1e-6)
