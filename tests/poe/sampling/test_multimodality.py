"""Looking for modes that no chain is in, and telling settled chains from slow ones."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.core.doubt import Kind
from poe.diagnostics.settled import FAR_APART, MANY_MODES, r_hat_of_settled
from poe.samplers import Dense, MetropolisHastings, ModeJumps, Preconditioned, SplitHMC
from poe.samplers.guarded import Guarded, Raised
from poe.sampling.multimodality import (
    Failed,
    Modes,
    Nothing,
    TooLong,
    look_elsewhere,
    r_hat_moved_on,
)

STANDARD = Dense(torch.zeros(2), torch.eye(2))
HERE = Preconditioned(SplitHMC(1.5, 1), STANDARD)
PLENTY = 10**9


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def modes(*centres: float, weights: tuple[float, ...] | None = None) -> poe.Expert:
    """Standard normals in two dimensions at places along the first axis."""
    at = torch.tensor(centres)
    shares = torch.full((len(at),), 1.0 / len(at)) if weights is None else torch.tensor(weights)

    def log_density(x: Tensor) -> Tensor:
        squares = (x[..., :1] - at).square() + x[..., 1:].square()
        return torch.logsumexp(shares.log() - 0.5 * squares, -1)

    return poe.FromLogDensity(log_density, space=poe.Real(2))


def look(target: poe.Expert, budget: int = PLENTY, num_chains: int = 8, seed: int = 0):  # type: ignore[no-untyped-def]
    u = torch.randn(num_chains, 2, generator=seeded(100))
    return look_elsewhere(
        target, target, HERE, u, STANDARD, has_score=True, budget=budget, generator=seeded(seed)
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_chains", [1, 8, 100])
def test_a_mode_without_a_chain_is_found(num_chains: int, seed: int) -> None:
    found = look(modes(0.0, 12.0), num_chains=num_chains, seed=seed)
    assert isinstance(found, Modes)
    assert found.said.startswith("mass was found where no chain was")
    far = (found.position[:, 0] > 6).double().mean().item()
    assert 0.1 < far < 0.9  # half the mass is there
    assert found.gaussians is not None
    centre = found.gaussians.loc[:, 0]
    assert len(centre) == 2
    assert 11.9 < centre.max() < 12.1


@pytest.mark.parametrize("seed", range(3))
def test_where_chains_are_in_every_mode_nothing_is_found(seed: int) -> None:
    found = look(modes(0.0), seed=seed)
    assert isinstance(found, Nothing)
    assert found.said == "particles from a broad Gaussian found no other modes"


def test_heavy_tails_are_no_other_mode() -> None:
    def student(x: Tensor) -> Tensor:
        return -2.5 * (x.square() / 4).log1p().sum(-1)

    target = poe.FromLogDensity(student, space=poe.Real(2))
    assert all(isinstance(look(target, seed=seed), Nothing) for seed in range(5))


@pytest.mark.parametrize(("num_far", "are_apart"), [(1, False), (2, True)])
def test_one_alone_far_out_is_no_mode_and_two_are(num_far: int, are_apart: bool) -> None:
    u = torch.randn(16, 2, generator=seeded())
    u[:num_far, 0] += 12.0
    r_hat = r_hat_moved_on(modes(0.0, 12.0), HERE, u, 30, seeded())
    assert (r_hat > MANY_MODES) == are_apart


def test_a_density_without_a_score_is_looked_at_by_a_random_walk() -> None:
    def cells(x: Tensor) -> Tensor:
        assert not x.requires_grad
        return modes(0.0, 12.0)((4 * x).round() / 4)

    target = poe.FromLogDensity(cells, space=poe.Real(2))
    kernel = Preconditioned(MetropolisHastings(1.5), STANDARD)
    u = torch.randn(8, 2, generator=seeded())
    found = look_elsewhere(
        target, target, kernel, u, STANDARD, has_score=False, budget=PLENTY, generator=seeded()
    )
    assert "settled where no chain was" in found.said


def test_what_can_be_sampled_is_where_it_looks_from() -> None:
    prior = experts.Gaussian([0.0, 0.0], scale=[12.0, 12.0])
    found = look(poe.Product(prior=prior, seen=modes(0.0, 12.0)))
    assert isinstance(found, Modes)
    assert "particles from expert 'prior'" in found.said


@pytest.mark.parametrize("budget", [0, 600, 1000])
def test_no_more_is_spent_than_the_budget(budget: int) -> None:
    num_rows = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal num_rows
        num_rows += len(x)
        return -0.5 * x.square().sum(-1)

    found = look(poe.FromLogDensity(counted, space=poe.Real(2)), budget=budget)
    assert isinstance(found, TooLong)
    assert [doubt.kind for doubt in found.doubts] == [Kind.TOO_LONG_TO_LOOK]
    assert num_rows == found.num_evaluations
    assert num_rows <= budget + 700  # it stops after a level, and the start is one


def test_all_that_is_spent_is_counted() -> None:
    num_rows = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal num_rows
        num_rows += len(x)
        return -0.5 * x.square().sum(-1)

    found = look(poe.FromLogDensity(counted, space=poe.Real(2)))
    assert abs(num_rows - found.num_evaluations) <= 16 + 8  # those moved on begin somewhere


def far_out(error: Exception) -> poe.Expert:
    """A normal density that raises an error beyond 8."""

    def narrow(x: Tensor) -> Tensor:
        if bool((x.abs() > 8).any()):
            raise error
        return -0.5 * x.square().sum(-1)

    return poe.FromLogDensity(narrow, space=poe.Real(2))


def test_a_target_that_is_not_defined_far_out_has_no_mass_there() -> None:
    target, raised = far_out(ValueError("a table ends at 8")), Raised()
    u = torch.randn(8, 2, generator=seeded(100))
    density = Guarded(target, raised)
    found = look_elsewhere(
        target,
        density,
        HERE,
        u,
        STANDARD,
        has_score=True,
        budget=PLENTY,
        generator=seeded(0),
        raised=raised,
    )
    assert isinstance(found, Nothing)
    [doubt] = raised.doubts()
    assert "ValueError: a table ends at 8" in doubt.text


def test_that_there_is_no_memory_for_it_is_said_to_be_so() -> None:
    found = look(far_out(MemoryError("nothing left")))
    assert isinstance(found, Failed)
    [doubt] = found.doubts
    assert doubt.kind is Kind.NOT_LOOKED
    assert found.said == "could not look for other modes: MemoryError out there: nothing left"


# In poe.sample


@pytest.mark.law
@pytest.mark.parametrize("num_chains", [4, 64])
def test_chains_that_all_begin_in_one_mode_find_the_others(num_chains: int) -> None:
    target, weights = modes(-20.0, 0.0, 20.0, weights=(0.2, 0.3, 0.5)), (0.2, 0.3, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)
        draws = poe.sample(
            target,
            8_000,
            num_chains=num_chains,
            initial=torch.randn(num_chains, 2, generator=seeded()),
            generator=seeded(),
            progress=False,
        )
    assert isinstance(draws.kernel, ModeJumps)
    assert "mass was found where no chain was" in draws.choice
    summary = draws.summary()
    mean = torch.tensor([20.0 * (weights[2] - weights[0]), 0.0], dtype=torch.float64)
    assert ((summary.mean - mean) / summary.mcse).abs().max() < 4


@pytest.mark.law
def test_looking_around_does_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its random numbers are its own."""

    def run() -> poe.Draws:
        return poe.sample(modes(0.0), 4_000, warmup=100, generator=seeded(), progress=False)

    looked = run()
    monkeypatch.setattr(poe.sampling.multimodality, "SHARE", 0.0)
    unlooked = run()
    assert torch.equal(looked.samples, unlooked.samples)
    assert looked.warmup_gradients > unlooked.warmup_gradients


# Settled or slow


def test_a_few_crossings_do_not_hide_that_chains_are_apart() -> None:
    g = seeded()
    settled = torch.randn(60, 16, 1, generator=g) + 20.0 * torch.arange(16).remainder(4)[:, None]
    assert r_hat_of_settled(settled) > FAR_APART
    crossed = settled.clone()
    crossed[30:, 3] -= 20.0
    crossed[45:, 5] += 20.0
    assert r_hat_of_settled(crossed) > FAR_APART


@pytest.mark.parametrize("spread", [0.0, 3.0, 300.0])
def test_a_walk_is_not_settled(spread: float) -> None:
    g = seeded()
    walk = torch.randn(60, 64, 1, generator=g).cumsum(0)
    r_hat = r_hat_of_settled(walk + spread * torch.randn(64, 1, generator=g))
    assert math.isnan(r_hat)


def test_chains_in_one_place_are_not_apart() -> None:
    assert r_hat_of_settled(torch.randn(60, 64, 3, generator=seeded())) < 0.8 * MANY_MODES
