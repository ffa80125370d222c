"""What errors of normalisers come to at x, against many re-drawn normalisers."""

from __future__ import annotations

import pytest
import torch

import poe
from experts import Gaussian
from poe.density.normalized import Normalized

X = torch.linspace(-3, 7, 11)[:, None]


def rough(expert: poe.Expert, std_error: float) -> Normalized:
    found = poe.log_partition(expert)
    return poe.normalize(expert, found._replace(std_error=torch.tensor(std_error)))


A, B = Gaussian([0.0], scale=[1.0]), Gaussian([4.0], scale=[2.0])


def test_delta_method_is_the_spread_of_redrawn_normalisers() -> None:
    """The sd of log p(x) over normalisers drawn from their errors, of 20 000 draws.

    A sample's sd has a relative error of 1/√(2n) = 0.5 %; what is not linear is of relative order
    sd² (4e-4 here).
    """
    p, q = rough(A, 0.02), rough(B, 0.01)
    mixture = poe.Mixture([p, q], [0.3, 0.7])
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 20_000, 1, generator=g, dtype=torch.float64)
    noise = noise * torch.tensor([0.02, 0.01], dtype=torch.float64)[:, None, None]
    values = torch.stack([p(X), q(X)]).double()[:, None]
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64).log()[:, None, None]
    spread = (values + weights + noise).logsumexp(0).std(0)
    torch.testing.assert_close(
        poe.log_density_error(mixture, X).double(), spread, rtol=0.02, atol=0
    )


def test_exact_parts_have_no_error() -> None:
    assert poe.log_density_error(A | B, X).tolist() == [0.0] * 11
    assert poe.log_density_error(poe.normalize(A**2), X).tolist() == [0.0] * 11


def test_one_normaliser_in_two_components_counts_once() -> None:
    p = rough(A, 0.1)
    torch.testing.assert_close(
        poe.log_density_error(poe.Mixture([p, p], [0.5, 0.5]), X), torch.full((11,), 0.1)
    )


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(poe.NormalizationError, match="bare numbers"):
        poe.log_density_error(poe.Mixture([A, B**2], log_partitions=[None, 0.3]), X)
    with pytest.raises(poe.NormalizationError, match="inside Product act on"):
        poe.log_density_error(rough(A, 0.1) * B, X)


def test_no_error_where_the_density_is_zero() -> None:
    cube = torch.distributions.Uniform(torch.zeros(1), torch.ones(1))
    uniform = poe.as_expert(torch.distributions.Independent(cube, 1))
    mixture = poe.Mixture([rough(uniform, 0.1), uniform])
    assert poe.log_density_error(mixture, torch.tensor([[2.0]])).tolist() == [0.0]
