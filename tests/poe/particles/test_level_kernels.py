"""Block Gibbs on the levels of a path: their own conditionals, and log Z by it."""

from __future__ import annotations

import pytest
import torch

import poe
from experts import RBM, Bernoulli, Ising
from poe import normalizers
from poe.density.adapt import Uniform
from poe.density.capabilities import conditionals
from poe.normalizers.enumeration import states
from poe.samplers import MALA, BlockGibbs, Gibbs, SwendsenWang
from poe.samplers.path import geometric_path
from poe.samplers.questions import at_level

GRID = Ising.grid((3, 3), coupling=0.7, field=0.2)
MIXED = Ising.grid((3, 3), 0.7, 0.3 * torch.tensor([1.0, -1.0, 1.0]).expand(3, 3))


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def start_and_target(name: str) -> tuple[poe.Expert, poe.Expert]:
    if name == "uniform":
        return Uniform(GRID.space), GRID
    field = Bernoulli(randn(3, 3, seed=0))
    return field, (field * GRID if name == "a factor" else GRID)


@pytest.mark.parametrize("name", ["uniform", "a factor", "another"])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_the_log_odds_are_those_of_the_level(name: str, temperature: float) -> None:
    start, target = start_and_target(name)
    path = geometric_path(start, target)
    kernel = at_level(BlockGibbs(conditionals(GRID)), path.at(temperature))
    assert isinstance(kernel, BlockGibbs)
    x = (randn(20, 3, 3, seed=1) > 0).float()
    found = kernel.conditionals.given(x, torch.zeros(20, 0))(x)

    def level(x: torch.Tensor) -> torch.Tensor:
        return path.log_density(path.evaluate(x, with_score=False), temperature)

    for site in range(9):
        on, off = x.flatten(1).clone(), x.flatten(1).clone()
        on[:, site], off[:, site] = 1.0, 0.0
        expected = level(on.reshape_as(x)) - level(off.reshape_as(x))
        torch.testing.assert_close(found.flatten(1)[:, site], expected, rtol=0, atol=1e-5)


def test_where_they_are_not_known_it_goes_site_by_site() -> None:
    rbm = RBM(randn(4, 2, seed=0), randn(4, seed=1), randn(2, seed=2))
    path, kernel = geometric_path(Uniform(rbm.space), rbm), BlockGibbs(conditionals(rbm))
    assert isinstance(at_level(kernel, path.at(0.5)), Gibbs)
    at_the_end = at_level(kernel, path.at(1.0))
    assert isinstance(at_the_end, BlockGibbs)
    assert at_the_end.conditionals.num_hidden == 2
    other = MALA(0.1)
    assert at_level(other, path.at(0.5)) is other


@pytest.mark.parametrize(("target", "kernel"), [(GRID, SwendsenWang), (MIXED, BlockGibbs)])
def test_weighted_draws_are_of_the_target(target: poe.Expert, kernel: type) -> None:
    # Islands are independent: their weighted means of every state's indicator have a spread.
    draws = poe.smc(
        target,
        16_000,
        start=Uniform(target.space),
        num_islands=64,
        generator=torch.Generator().manual_seed(0),
        progress=False,
    )
    assert isinstance(draws.kernel, kernel)
    table = states(poe.Binary(9)).reshape(-1, 3, 3)
    exact = torch.softmax(target(table).double(), 0)
    magnet = table.sum((1, 2)).double()
    weights = torch.softmax(draws.log_weights[:, 0], 0)
    for values, sums in (
        (magnet, draws.samples.sum((-2, -1)).double()),
        (magnet**2, draws.samples.sum((-2, -1)).double() ** 2),
        (target(table).double(), draws.log_density.double()),
    ):
        means = sums.mean(1)
        mean = weights @ means
        error = (weights**2 @ (means - mean) ** 2).sqrt()
        assert (mean - exact @ values).abs() < 4 * error


@pytest.mark.law
@pytest.mark.parametrize("method", [normalizers.MBAR(512), normalizers.AIS(512)])
def test_log_z_is_within_its_error(method: normalizers.Method) -> None:
    target = Ising.grid((4, 4), coupling=0.3, field=0.1)
    truth = poe.log_partition(target).value
    z = []
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        found = poe.log_partition(target, method=method, start=Uniform(target.space), generator=g)
        z.append((found.value - truth) / found.std_error)
        assert found.num_evaluations < 200_000  # site by site it would be ten times as many
    assert torch.stack(z).abs().max() < 4
    assert torch.stack(z).mean().abs() < 4 / 12**0.5
