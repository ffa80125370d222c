"""log Z of counts as it is told: exact by tables, by particles beyond, and with doubts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, distributions as D

import experts
import poe
from poe.normalizers import MBAR, Truncation
from poe.tuning.counts import mode_doubts


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(log_density: Callable[[Tensor], Tensor], size: int) -> poe.Expert:
    return poe.FromLogDensity(log_density, space=poe.Count(size))


def coupled(x: Tensor) -> Tensor:
    return -0.05 * x.diff().square().sum(-1)


def test_the_product_of_two_poissons_is_exact_and_can_be_normalised() -> None:
    target = experts.Poisson([3.0]) * experts.Poisson([5.0])
    found = poe.log_partition(target)
    assert found.value.item() == pytest.approx(-2.179199, abs=1e-6)
    assert found.is_exact
    assert found.is_trusted
    assert "beyond which is at most" in found.method
    x = torch.arange(60.0)[:, None]
    assert poe.normalize(target).log_prob(x).logsumexp(0).abs() < 1e-5


def test_a_heavy_tail_has_an_error_and_bounds() -> None:
    target = plain(lambda x: -1.5 * torch.log1p(x.double()).sum(-1), 1)
    found = poe.log_partition(target)
    truth = math.log(2.6123753487)
    assert 0 < found.std_error < 1e-3
    assert found.lower - 1e-6 <= truth <= found.upper + 1e-6
    assert not found.is_exact


def test_what_a_table_cannot_hold_is_refused_by_it_and_goes_to_particles() -> None:
    target = experts.Poisson([3.0, 5.0, 4.0, 2.0]) * plain(coupled, 4)
    with pytest.raises(poe.NormalizationError, match="leave `method` out"):
        poe.log_partition(target, method=Truncation())
    x = torch.cartesian_prod(*[torch.arange(22.0)] * 4)
    truth = target(x).double().logsumexp(0)
    found = poe.log_partition(target, generator=g(), progress=False)
    assert found.method.startswith("multistate Bennett")
    assert (found.value - truth).abs() < 4.5 * found.std_error
    with pytest.raises(poe.NormalizationError, match="counts"):
        Truncation()(experts.Gaussian([0.0], 1.0), None, g(), lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_without_a_factor_to_start_from_a_fit_to_particles_is_near(seed: int) -> None:
    target = plain(lambda x: -(x - 50).square().sum(-1) / 50, 8)
    found = poe.log_partition(target, method=MBAR(), generator=g(seed), progress=False)
    truth = 4 * math.log(50 * math.pi)
    assert (found.value - truth).abs() < 4.5 * found.std_error
    assert found.std_error < 0.1


def far_apart(x: Tensor) -> Tensor:
    low, high = (D.Poisson(rate).log_prob(x).sum(-1) for rate in (2.0, 40.0))
    return torch.logaddexp(low, high)


@pytest.mark.parametrize(
    ("target", "has_modes"),
    [
        (plain(far_apart, 12), True),
        (plain(lambda x: -(x - 30).square().sum(-1) / 30, 12), False),
        (plain(lambda x: -0.01 * x.sum(-1) - 1e-3 * x.diff().abs().sum(-1), 6), False),
        (plain(lambda x: D.Poisson(3.0).log_prob(x).sum(-1) + 2 * coupled(x), 12), False),
    ],
)
def test_chains_from_several_sizes_tell_modes_and_do_not_invent_them(
    target: poe.Expert, has_modes: bool
) -> None:
    assert bool(mode_doubts(target, g())) == has_modes


@pytest.mark.parametrize(
    ("second", "is_doubted"), [([20000.0, 15000.0], True), ([50.0, 3.0], False)]
)
def test_summits_that_no_table_holds_are_said(second: list[float], is_doubted: bool) -> None:
    centres = torch.tensor([[3.0, 3.0], second])

    def two_needles(x: Tensor) -> Tensor:
        return (-0.5 * (x[..., None, :] - centres).square().sum(-1)).logsumexp(-1)

    target = plain(two_needles, 2)
    found = poe.log_partition(target, generator=g(), progress=False)
    draws = poe.sample(target, 40, generator=g(), progress=False)
    for told in (found, draws):
        assert any("farther apart" in doubt.text for doubt in told.doubts) == is_doubted
