"""Modes that runs find and weigh, what is none, and what is said of those that are not weighed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.core.doubt import Kind, kinds
from poe.diagnostics import mcse_mean
from poe.samplers import ModeJumps, ParallelTempering
from poe.samplers.preconditioned import Gaussians
from poe.sampling.landscape import Occupied, contained, leads_to, occupied, places
from poe.tuning.modes import Mode


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(loc: Tensor, scale: Tensor, share: Tensor) -> poe.Expert:
    """Σ_k share_k N(loc_k, scale_k² I), as nobody can sample it exactly."""

    def log_density(x: Tensor) -> Tensor:
        squares = (x[..., None, :] - loc).square().sum(-1) / scale.square()
        return (share.log() - loc.shape[1] * scale.log() - 0.5 * squares).logsumexp(-1)

    return poe.FromLogDensity(log_density, space=poe.Real(loc.shape[1]))


def sampled(target: poe.Expert, num_samples: int, seed: int) -> poe.Draws:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)
        return poe.sample(target, num_samples, generator=seeded(seed), progress=False)


def off(draws: poe.Draws, is_there: Callable[[Tensor], Tensor], share: float) -> float:
    """By how many standard errors a mode's share is off."""
    inside = is_there(draws.samples).double()
    return ((inside.mean() - share).abs() / mcse_mean(inside)).item()


FAR = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
ONES, SHARES = torch.ones(2), torch.tensor([0.7, 0.3])


@pytest.mark.law
@pytest.mark.parametrize("distance", [10.0, 18.0, 26.0])
@pytest.mark.parametrize("seed", [101, 103])
def test_the_share_of_a_mode_far_away_is_right(distance: float, seed: int) -> None:
    draws = sampled(mixture(distance * FAR, ONES, SHARES), 8000, seed)
    assert off(draws, lambda x: x[..., 0] > distance / 2, 0.3) < 4
    assert draws.summary().r_hat.max() < 1.01


@pytest.mark.law
def test_a_factor_that_says_nothing_within_reach_does_not_end_the_look() -> None:
    two = mixture(14.0 * FAR[:, :2], ONES, SHARES)
    idle = poe.FromLogDensity(lambda x: -0.5 * (x / 1e4).square().sum(-1), space=poe.Real(2))
    draws = sampled(two / idle**0.01, 8000, 1)
    assert off(draws, lambda x: x[..., 0] > 7, 0.3) < 4


@pytest.mark.law
@pytest.mark.parametrize("seed", range(4))
def test_a_map_fitted_across_both_modes_hides_neither(seed: int) -> None:
    at = torch.tensor([[-4.0], [4.0]])
    two = mixture(at, torch.full((2,), 0.3), torch.full((2,), 0.5))
    draws = sampled(two * experts.Gaussian([0.0], scale=[3.0]), 4000, seed)
    assert off(draws, lambda x: x[..., 0] > 0, 0.5) < 4
    assert draws.summary().r_hat.max() < 1.01


@pytest.mark.law
def test_a_narrow_mode_within_a_broad_one_has_its_share_or_it_is_said() -> None:
    target = mixture(torch.zeros(2, 6), torch.tensor([1.0, 0.05]), torch.tensor([0.5, 0.5]))
    draws = sampled(target, 8000, 0)
    assert off(draws, lambda x: x.square().sum(-1) < 0.1, 0.5) < 4 or not draws.is_trusted


@pytest.mark.law
def test_forty_modes_are_all_found_or_it_is_said_that_there_may_be_more() -> None:
    loc = 80 * torch.rand(40, 50, generator=seeded(1)) - 40
    draws = sampled(mixture(loc, torch.ones(40), torch.full((40,), 1 / 40)), 4000, 0)
    label = torch.cdist(draws.samples.flatten(0, 1), loc).argmin(1)
    is_said = kinds(draws.doubts) & {Kind.UNSEEN, Kind.TOO_LONG_TO_LOOK}
    assert len(label.unique()) == 40 or is_said


@pytest.mark.law
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_chains_that_stand_still_are_brought_to_the_only_mode(seed: int) -> None:
    """A regression in raw units, from starts that lie far off."""
    g = seeded(4)
    size = 1.5 + torch.rand(40, 1, generator=g).double()
    columns = size * torch.tensor([1.0, 0.9, 0.5]) + 0.2 * torch.randn(40, 3, generator=g).double()
    x = torch.cat([torch.ones(40, 1).double(), columns], 1)
    y = x @ torch.tensor([-700.0, 100, 400, -100]).double()
    y = y + 270 * torch.randn(40, generator=g).double()

    def log_density(u: Tensor) -> Tensor:
        residual = (y - u[..., :4] @ x.mT) / u[..., 4:].exp()
        return -0.5 * residual.square().sum(-1) - 39 * u[..., 4]

    target = poe.FromLogDensity(log_density, space=poe.Real(5))
    start = torch.randn(20, 5, generator=seeded(seed), dtype=torch.float64)
    draws = poe.sample(target, 8000, initial=start, generator=seeded(seed), progress=False)
    assert draws.summary().r_hat.max() < 1.01


def banana(x: Tensor) -> Tensor:
    return -x[..., 0].square() / 200 - 0.5 * (x[..., 1] - 0.03 * x[..., 0].square()).square()


def student(x: Tensor) -> Tensor:
    return -1.5 * (x.square() / 2).log1p().sum(-1)


def funnel(x: Tensor) -> Tensor:
    v = x[..., 0]
    return -v.square() / 18 - 0.5 * x[..., 1:].square().sum(-1) * (-v).exp() - 2 * v


ONE_MODE = {"banana": (banana, 2), "student t": (student, 3), "funnel": (funnel, 5)}


@pytest.mark.law
@pytest.mark.parametrize(("log_density", "d"), ONE_MODE.values(), ids=ONE_MODE.keys())
def test_what_is_hard_but_of_one_mode_is_not_said_to_have_more(
    log_density: Callable[[Tensor], Tensor], d: int
) -> None:
    draws = sampled(poe.FromLogDensity(log_density, space=poe.Real(d)), 4000, 0)
    assert not isinstance(draws.kernel, ModeJumps)
    assert not kinds(draws.doubts) & {Kind.UNSEEN, Kind.NOT_LOOKED}


# The parts


def test_how_far_apart_chains_are_by_their_modes() -> None:
    mixed = torch.randint(0, 2, (1000, 8), generator=seeded())
    assert occupied(mixed, 2).apart < 0.05
    settled = torch.arange(8).remainder(2).expand(1000, 8)
    assert occupied(settled, 2).apart == pytest.approx(1.0)
    assert torch.allclose(occupied(settled, 2).share, torch.full((2,), 0.5).double())
    assert occupied(torch.full((10, 8), -1), 2).apart == 0.0  # in none


def test_positions_are_in_the_nearest_mode_or_in_none() -> None:
    eye = torch.eye(2)
    modes = [Mode(torch.zeros(2), eye, 0.0), Mode(torch.tensor([8.0, 0.0]), 2 * eye, 0.0)]
    x = torch.tensor([[[0.1, 0.0], [9.0, 0.0], [0.0, 50.0]]])
    assert places(modes, x).tolist() == [[0, 1, -1]]
    assert contained(modes, x).tolist() == [0.5, 1.0]  # the second reaches over the first


def test_what_leads_along_a_bend_is_one_and_what_a_valley_parts_is_not() -> None:
    bent = poe.FromLogDensity(banana, space=poe.Real(2))
    first = torch.linspace(-12, 0, 60)[:, None].expand(60, 2)
    second = torch.linspace(-1, 12, 60)[:, None].expand(60, 2)
    ridge = (torch.stack([t, 0.03 * t.square()], -1) for t in (first, second))
    own, others = ridge
    assert leads_to(bent, own[40:], [others])
    assert not leads_to(bent, own[:20], [others + torch.tensor([0.0, 40.0])])


def test_a_spike_does_not_lead_to_what_lies_around_it() -> None:
    target = mixture(torch.zeros(2, 6), torch.tensor([1.0, 0.05]), torch.tensor([0.5, 0.5]))
    around = torch.randn(60, 8, 6, generator=seeded())
    assert not leads_to(target, 0.05 * around, [around])
    assert leads_to(target, around.flip(0), [around + 0.1])


def test_log_shares_of_modes_sum_to_one() -> None:
    modes = Gaussians(torch.randn(3, 2, generator=seeded()), torch.eye(2).expand(3, 2, 2))
    u = modes.to_u(torch.randn(5, 2, generator=seeded(1)))
    assert torch.allclose(modes.log_shares(u).exp().sum(0), torch.ones(5))
    assert math.isclose(modes.log_abs_det.sum().item(), 0.0)


@pytest.mark.law
@pytest.mark.parametrize("does_temper", [True, False])
def test_where_no_chain_jumps_it_is_tempered_or_said(
    does_temper: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever chains do in the first trial, they are told to have stayed where they were."""
    trials = iter([Occupied(torch.tensor([0.7, 0.3]), 1.0)])

    def judged(label: Tensor, num_modes: int) -> Occupied:
        stayed = Occupied(torch.tensor([0.7, 0.3]), 1.0)
        return next(trials, occupied(label, num_modes) if does_temper else stayed)

    monkeypatch.setattr(poe.sampling.multimodality, "occupied", judged)
    monkeypatch.setattr(poe.sampling.multimodality, "DEAREST", 10**6)
    draws = sampled(mixture(9.0 * FAR[:, :2], ONES, SHARES), 2000, 0)
    assert isinstance(draws.kernel, ParallelTempering) == does_temper
    assert (Kind.UNSEEN in kinds(draws.doubts)) != does_temper
    if does_temper:
        assert off(draws, lambda x: x[..., 0] > 4.5, 0.3) < 4
