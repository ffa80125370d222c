"""OR between experts of unknown normalisers."""

from __future__ import annotations

import math

import pytest
import torch

import poe
from experts import Gaussian
from poe.density.normalized import LogPartition, Normalized


def bell(scale: float, factor: float) -> poe.Expert:
    """A Gaussian density with a constant in front that nobody is told of."""
    return poe.FromLogDensity(
        lambda x: math.log(factor) - 0.5 * (x / scale).square().sum(-1), space=poe.Real(1)
    )


X = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]


def test_constants_in_front_have_no_say() -> None:
    found = poe.any_of(bell(1.0, 1000.0), bell(0.2, 0.001), weights=[0.25, 0.75])
    one, other = Gaussian([0.0], scale=[1.0]).double(), Gaussian([0.0], scale=[0.2]).double()
    torch.testing.assert_close(
        found(X), poe.Mixture([one, other], [0.25, 0.75])(X), rtol=0, atol=1e-6
    )


def test_the_error_of_each_weight_is_at_hand() -> None:
    def guess(target: poe.Expert) -> LogPartition:
        found = poe.log_partition(target)
        return found._replace(std_error=torch.tensor(0.1), ess=100.0)

    found = poe.any_of(bell(1.0, 2.0), Gaussian([0.0], scale=[1.0]), estimator=guess)
    estimated, exact = found.experts
    assert isinstance(estimated, Normalized)
    assert estimated.log_prob_error.item() == pytest.approx(0.1)
    assert isinstance(exact, Gaussian)  # known already, and left as it is
    torch.testing.assert_close(
        poe.log_density_error(found, X.float()), torch.full((7,), 0.05), rtol=1e-4, atol=0
    )
    assert not hasattr(found, "log_prob")


def test_where_all_are_exact_it_is_an_ordinary_mixture() -> None:
    a, b = Gaussian([0.0], scale=[1.0]), Gaussian([2.0], scale=[1.0])
    found = poe.any_of(a**2, b)
    assert hasattr(found, "log_prob")
    assert found.sample(5, generator=torch.Generator().manual_seed(0)).shape == (5, 1)
    assert poe.log_partition(found).method == "closed form"


def test_bar_stays_strict() -> None:
    with pytest.raises(poe.NormalizationError, match="no log_prob"):
        bell(1.0, 1.0) | bell(2.0, 1.0)
    mixture = poe.any_of(bell(1.0, 1.0), bell(2.0, 1.0))
    assert poe.log_partition(mixture).value.item() == pytest.approx(0.0, abs=1e-6)
