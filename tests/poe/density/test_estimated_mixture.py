"""A mixture whose normalisers were given is sampled by what its density says, and says so."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.density.capabilities import can_sample_exactly

FAR = 20.0


def normal(loc: float) -> experts.Gaussian:
    return experts.Gaussian([loc], scale=[1.0])


class Cone(poe.Expert):
    """Exact draws, and a normaliser that nobody is told of: exp(−3 |x|)."""

    space = poe.Real(1)

    def forward(self, x: Tensor) -> Tensor:
        return -3 * x.abs().sum(-1)

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        uniform = torch.rand((num_samples, 1), generator=generator, dtype=torch.float64) - 0.5
        return (-uniform.sign() * (1 - 2 * uniform.abs()).log() / 3).float()


def share_by_density(mixture: poe.Mixture) -> float:
    """The mass beyond half way to the second component, over all of it, by a sum over a grid."""
    grid = torch.linspace(-FAR, 2 * FAR, 60001)[:, None]
    mass = mixture(grid).double().exp()
    return (mass[grid[:, 0] > FAR / 2].sum() / mass.sum()).item()


@pytest.mark.parametrize(
    ("components", "weights", "given"),
    [
        ([normal(0.0), normal(FAR)], [0.5, 0.5], [None, 3.0]),
        ([normal(0.0), normal(FAR)], [0.9, 0.1], [1.0, -1.0]),
        ([normal(0.0), normal(FAR) ** 2], [0.3, 0.7], [None, -1.0]),
        ([normal(0.0) * normal(1.0), normal(FAR)], [0.5, 0.5], [-2.0, None]),
    ],
)
def test_draws_have_the_shares_of_the_density(
    components: list[poe.Expert], weights: list[float], given: list[float | None]
) -> None:
    mixture = poe.Mixture(components, weights, log_partitions=given)
    share = share_by_density(mixture)
    draws = poe.sample(mixture, 8000, generator=torch.Generator().manual_seed(0), progress=False)
    found = (draws.samples > FAR / 2).double().mean().item()
    assert abs(found - share) < 4.5 * math.sqrt(share * (1 - share) / 8000)
    assert draws.guarantee == "asymptotically exact"
    assert not hasattr(mixture, "log_prob")
    total = poe.log_partition(mixture, progress=False)
    expected = mixture(torch.linspace(-FAR, 2 * FAR, 60001)[:, None]).double().logsumexp(0)
    assert total.method != "closed form"
    assert abs(total.value - expected - math.log(3 * FAR / 60000)) < 1e-3


def test_a_component_of_unknown_mass_is_not_drawn_as_if_it_were_known() -> None:
    def rough(expert: poe.Expert) -> poe.LogPartition:
        found = poe.log_partition(expert, progress=False)
        return found._replace(value=found.value + 0.5, std_error=torch.tensor(0.5))

    estimated = poe.any_of(Cone(), normal(0.0), estimator=rough)
    assert can_sample_exactly(Cone())
    assert not can_sample_exactly(estimated)
    assert not can_sample_exactly(poe.Mixture([Cone(), normal(0.0)], log_partitions=[0.0, None]))


def test_what_is_normalised_is_drawn_as_before() -> None:
    mixture = poe.Mixture([normal(0.0), normal(FAR)], [0.25, 0.75])
    draws = poe.sample(mixture, 4000, generator=torch.Generator().manual_seed(0), progress=False)
    assert draws.guarantee == "exact"
    assert abs((draws.samples > FAR / 2).double().mean() - 0.75) < 4.5 * (0.1875 / 4000) ** 0.5


@pytest.mark.parametrize("estimate", [torch.nan, torch.inf, -torch.inf])
def test_an_estimate_that_is_no_finite_number_is_refused(estimate: float) -> None:
    normal = experts.Gaussian([0.0], scale=[1.0])
    with pytest.raises(poe.NonFiniteError, match="finite log_partitions"):
        poe.Mixture([normal, normal], log_partitions=[None, estimate])
