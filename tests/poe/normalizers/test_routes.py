"""Small runs to a target: which of them is believed, and where an estimate begins."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import poe
from poe import normalizers
from poe.particles.fitted import fit_mixture
from poe.particles.summits import Found, find_summits

MAX_Z = 4.0
LogDensity = Callable[[Tensor], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_z(target: poe.Expert, **options: object) -> poe.LogPartition:
    options = {"generator": seeded(), "progress": False, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)
        return poe.log_partition(target, **options)  # type: ignore[arg-type]


def narrow_in_broad(share: float, ratio: float, d: int) -> poe.Expert:
    def log_density(x: Tensor) -> Tensor:
        square = x.square().sum(-1)
        narrow = math.log(share) + d * math.log(ratio) - 0.5 * square * ratio**2
        broad = math.log(1 - share) - 0.5 * square
        return torch.logaddexp(narrow, broad) - 0.5 * d * math.log(2 * math.pi)

    return poe.FromLogDensity(log_density, space=poe.Real(d))


def regression(rows: int, d: int) -> tuple[poe.Expert, float]:
    """beta ~ N(0, 10²), its evidence in closed form; log sigma flat on (−2.5, 1.5), by a sum."""
    g = seeded(2)
    x = torch.randn(rows, d, generator=g)
    y = x @ torch.arange(1.0, d + 1) + torch.randn(rows, generator=g)

    def log_density(u: Tensor) -> Tensor:
        beta, log_sigma = u[..., :d], u[..., d]
        residual = (y - beta @ x.mT).square().sum(-1) * (-2 * log_sigma).exp()
        prior = -0.5 * (beta / 10).square().sum(-1) - d * math.log(10 * math.sqrt(2 * math.pi))
        value = prior - 0.5 * residual - rows * log_sigma
        return value.masked_fill((log_sigma + 0.5).abs() > 2.0, -torch.inf)

    rows_x, seen, step = x.double(), y.double(), 1e-3
    log_sigma = torch.arange(-2.5, 1.5, step, dtype=torch.float64)
    variance = (2 * log_sigma).exp()
    precision = rows_x.mT @ rows_x / variance[:, None, None] + torch.eye(d).double() / 100
    pull = (rows_x.mT @ seen) / variance[:, None]
    best = torch.linalg.solve(precision, pull[..., None])[..., 0]
    log_p = 0.5 * (best * pull).sum(-1) - 0.5 * torch.logdet(precision) - d * math.log(10)
    log_p = log_p - 0.5 * seen.square().sum() / variance - rows * log_sigma
    truth = (log_p.logsumexp(0) + math.log(step)).item()
    return poe.FromLogDensity(log_density, space=poe.Real(d + 1)), truth


def test_a_run_that_never_arrived_is_not_believed_over_one_that_did() -> None:
    target, truth = regression(100, 5)
    found = log_z(target, generator=seeded(1))
    assert abs(found.value.item() - truth) < MAX_Z * found.std_error.item() + 1e-3
    assert found.is_trusted, found.remarks


@pytest.mark.slow
@pytest.mark.parametrize(("share", "ratio"), [(0.1, 20.0), (0.5, 1000.0)])
def test_a_narrow_normal_and_the_broad_one_around_it_are_both_counted(
    share: float, ratio: float
) -> None:
    found = log_z(narrow_in_broad(share, ratio, 6))
    assert abs(found.value.item()) < MAX_Z * found.std_error.item()
    assert found.std_error < 0.2


def test_smc_says_that_it_missed_a_narrow_mode() -> None:
    with pytest.warns(poe.TrustWarning, match="modes were missed"):
        draws = poe.smc(narrow_in_broad(0.5, 20.0, 10), 4000, generator=seeded(), progress=False)
    assert draws.log_partition is not None
    assert not draws.log_partition.is_trusted


@pytest.mark.slow
def test_forty_gaussians_apart_are_found_or_said_to_be_more() -> None:
    means = 80 * torch.rand(40, 20, generator=seeded(1)) - 40

    def log_density(x: Tensor) -> Tensor:
        square = (x[..., None, :] - means).square().sum(-1)
        return (-0.5 * square).logsumexp(-1) - 10 * math.log(2 * math.pi) - math.log(40)

    found = log_z(poe.FromLogDensity(log_density, space=poe.Real(20)))
    is_right = abs(found.value.item()) < MAX_Z * found.std_error.item()
    assert is_right or not found.is_trusted
    assert found.value > -0.5


@pytest.mark.parametrize("method", [None, normalizers.AIS(), normalizers.MBAR()])
def test_no_energy_at_all_is_exact_and_beyond_doubt(method: normalizers.Method | None) -> None:
    bits = poe.FromLogDensity(lambda x: torch.zeros(x.shape[:-1]), space=poe.Binary(30))
    found = log_z(bits, method=method)
    assert abs(found.value.item() - 30 * math.log(2)) < 1e-5
    assert found.is_trusted, found.remarks


@pytest.mark.parametrize("df", [4.0, math.inf])
def test_a_mixture_of_any_tails_is_normalised(df: float) -> None:
    g = seeded()
    x = torch.cat([torch.randn(400, 2, generator=g), 5 + 0.5 * torch.randn(400, 2, generator=g)])
    mixture = fit_mixture(x, 2, poe.Real(2), g, df)
    axis = torch.linspace(-60, 60, 2401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    total = mixture.double().log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(total.item() - 1) < 5e-3  # what is beyond the grid
    drawn = mixture.float().sample(8000, generator=g)
    inside = (drawn.square().sum(1) < 1).double().mean().item()
    within = grid.square().sum(1) < 1
    truth = (mixture.double().log_prob(grid[within]).exp().sum() * 0.05**2).item()
    assert abs(inside - truth) < MAX_Z * math.sqrt(truth / 8000) + 2e-3  # the grid's own error


def test_one_hill_is_one_summit_though_climbs_end_beside_each_other() -> None:
    def ridge(x: Tensor) -> Tensor:  # a cusp, where no climb settles
        return -(x * torch.tensor([1.0, 30.0, 900.0])).abs().sum(-1)

    target, g = poe.FromLogDensity(ridge, space=poe.Real(3)), seeded()
    found = find_summits(target, 10 * torch.randn(64, 3, generator=g), g)
    assert isinstance(found, Found)
    assert len(found.summits) == 1


def neal(x: Tensor) -> Tensor:
    """v ~ N(0, 3²), the others ~ N(0, exp(v)), normalised."""
    v, rest = x[..., 0], x[..., 1:]
    d = rest.shape[-1]
    normal = -0.5 * v.square() / 9 - math.log(3.0) - 0.5 * math.log(2 * math.pi)
    others = -0.5 * rest.square().sum(-1) * (-v).exp() - 0.5 * d * v
    return normal + others - 0.5 * d * math.log(2 * math.pi)


def cauchys(x: Tensor) -> Tensor:
    return -(math.log(math.pi) + torch.log1p(x.square())).sum(-1)


@pytest.mark.slow
@pytest.mark.parametrize(("log_density", "d"), [(neal, 10), (neal, 20), (cauchys, 5), (cauchys, 8)])
@pytest.mark.parametrize("seed", [0, 1])
def test_necks_and_heavy_tails_are_counted(log_density: LogDensity, d: int, seed: int) -> None:
    found = log_z(poe.FromLogDensity(log_density, space=poe.Real(d)), generator=seeded(seed))
    assert abs(found.value.item()) < MAX_Z * found.std_error.item() + 1e-3
    assert found.std_error < 0.15


@pytest.mark.slow
def test_chains_that_never_come_to_rest_are_told_of() -> None:
    def chained_powers(x: Tensor) -> Tensor:
        links = (x[..., 1:] - x[..., :-1].abs() ** 2.5).square().sum(-1)
        return -(x[..., 0] - 1).square() - 10.0 * links

    found = log_z(poe.FromLogDensity(chained_powers, space=poe.Real(4)))
    assert not found.is_trusted


@pytest.mark.slow
def test_a_chain_of_squares_has_the_log_z_of_its_normals() -> None:
    def chained_squares(x: Tensor) -> Tensor:
        links = (x[..., 1:] - x[..., :-1].square()).square().sum(-1)
        return -(x[..., 0] - 1).square() - 100.0 * links

    found = log_z(poe.FromLogDensity(chained_squares, space=poe.Real(4)))
    truth = 0.5 * math.log(math.pi) + 1.5 * math.log(math.pi / 100)
    assert found.is_trusted
    assert found.std_error < 0.01
    assert abs(found.value - truth) < 4 * found.std_error
