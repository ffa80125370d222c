"""Every space takes a plain energy through every entry point, or refuses it in words.

A space enters by one line: an energy on it, and log Z in closed form. Entry points and kernels are
tables of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import poe
from poe.samplers import (
    HMC,
    MALA,
    MCLMC,
    ULA,
    AdaptiveStepHMC,
    AdjustedMCLMC,
    GeneralizedHMC,
    Gibbs,
    Kernel,
    MetropolisHastings,
    Preconditioned,
    SplitHMC,
    UnderdampedLangevin,
)

pytestmark = pytest.mark.filterwarnings("ignore::poe.TrustWarning")


class Case(NamedTuple):
    """An energy on a space, log Z, and E f of one event for a statistic f ``(*batch,)``."""

    space: poe.Space
    energy: Callable[[Tensor], Tensor]
    log_z: float
    statistic: Callable[[Tensor], Tensor]
    truth: float


def _of_elements(space: poe.Space, log_z: float, second_moment: float) -> Case:
    """E(x) = |x|² / 2, by log Z and E x² of one element."""

    def half_square(x: Tensor) -> Tensor:
        return 0.5 * space.as_vector(x).to(torch.get_default_dtype()).square().sum(-1)

    def mean_square(x: Tensor) -> Tensor:
        return space.as_vector(x).double().square().mean(-1)

    count = space.event_shape.numel()
    return Case(space, half_square, count * log_z, mean_square, second_moment)


def _on_labels(space: poe.Space, k: int) -> Case:
    weights = [math.exp(-0.5 * label**2) for label in range(k)]
    second = sum(weight * label**2 for label, weight in enumerate(weights)) / sum(weights)
    return _of_elements(space, math.log(sum(weights)), second)


def _mixed(space: poe.Joint, log_z: float, squares: float) -> Case:
    """The same on a mixed state, by log Z and E |x|² of all of it."""
    case = _of_elements(space, 0.0, squares / space.event_shape.numel())
    return case._replace(log_z=log_z)


def _between(space: poe.Interval) -> Case:
    """The normal cut off at the bounds, by the error function."""
    low, high = space.low, space.high
    mass = 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))
    ends = [end * math.exp(-0.5 * end**2) / math.sqrt(2 * math.pi) for end in (low, high)]
    log_z = math.log(mass) + 0.5 * math.log(2 * math.pi)
    return _of_elements(space, log_z, 1 + (ends[0] - ends[1]) / mass)


def _dirichlet(k: int) -> Case:
    """Dirichlet(2, ..., 2)."""
    return Case(
        poe.Simplex(k),
        lambda x: -x.log().sum(-1),
        k * math.lgamma(2.0) - math.lgamma(2.0 * k),
        lambda x: x[..., 0].double(),
        1 / k,
    )


def _wishart(k: int, degrees: float) -> Case:
    """exp(-tr X) |X|^((n - k - 1) / 2): Wishart of scale I / 2, with E X = n I / 2."""

    def energy(x: Tensor) -> Tensor:
        trace = x.diagonal(dim1=-2, dim2=-1).sum(-1)
        return trace - 0.5 * (degrees - k - 1) * torch.logdet(x)

    of_gammas = torch.special.multigammaln(torch.tensor(degrees / 2, dtype=torch.float64), k)
    return Case(
        poe.PositiveDefinite(k),
        energy,
        of_gammas.item(),
        lambda x: x.diagonal(dim1=-2, dim2=-1).double().mean(-1),
        degrees / 2,
    )


NORMAL, HALF_NORMAL = 0.5 * math.log(2 * math.pi), 0.5 * math.log(math.pi / 2)
CASES: list[Case] = [
    _of_elements(poe.Real(()), NORMAL, 1.0),
    _of_elements(poe.Real(1), NORMAL, 1.0),
    _of_elements(poe.Real((2, 3)), NORMAL, 1.0),
    _between(poe.Interval((), 0, 1)),
    _between(poe.Interval(2, -1, 3)),
    _of_elements(poe.Positive(()), HALF_NORMAL, 1.0),
    _of_elements(poe.Positive((1, 2)), HALF_NORMAL, 1.0),
    _dirichlet(2),
    _dirichlet(4),
    _wishart(1, 3.0),
    _wishart(2, 5.0),
    _on_labels(poe.Binary(()), 2),
    _on_labels(poe.Binary((2, 2)), 2),
    _on_labels(poe.Categorical((), 3), 3),
    _on_labels(poe.Categorical(2, 3), 3),
    _on_labels(poe.Sequence(3, 4), 3),
    _mixed(
        poe.Joint((poe.Real(2), poe.Binary(1))),
        2 * NORMAL + math.log(1 + math.exp(-0.5)),
        2 + 1 / (1 + math.exp(0.5)),
    ),
    _mixed(
        poe.Joint((poe.Real(()), poe.Binary((1, 2)))),
        NORMAL + 2 * math.log(1 + math.exp(-0.5)),
        1 + 2 / (1 + math.exp(0.5)),
    ),
]
of_spaces = pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.space))
CONTINUOUS = [case for case in CASES if not case.space.is_discrete]
DISCRETE = [case for case in CASES if case.space.num_values]

KERNELS: list[Kernel] = [
    ULA(0.05),
    MALA(0.05),
    MALA(),
    HMC(0.1, 3),
    HMC(),
    SplitHMC(0.1),
    AdaptiveStepHMC(0.1),
    MetropolisHastings(0.3),
    UnderdampedLangevin(0.05),
    GeneralizedHMC(0.1),
    MCLMC(0.1),
    AdjustedMCLMC(0.1),
    Preconditioned(MALA()),
    Preconditioned(MetropolisHastings()),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _target(case: Case) -> poe.Expert:
    return poe.FromEnergy(case.energy, space=case.space)


def _drawn(case: Case, kernel: Kernel | None = None) -> poe.Draws:
    return poe.sample(
        _target(case), 80, kernel=kernel, warmup=60, generator=seeded(), progress=False
    )


# --- Entry points


@of_spaces
def test_draws_are_of_the_space_and_are_shown_stored_and_exported(
    case: Case, tmp_path: Path
) -> None:
    draws = _drawn(case)
    assert draws.samples.shape[2:] == case.space.event_shape
    assert bool(case.space.contains(draws.samples).all())
    count = case.space.event_shape.numel()
    assert str(draws.summary()).count("x") >= count
    poe.save_draws(draws, tmp_path / "draws")
    assert torch.equal(poe.load_draws(tmp_path / "draws").samples, draws.samples)
    assert len(draws.to_pandas()) == draws.log_density.numel()
    assert draws.to_xarray()["x"].shape == draws.samples.shape
    poe.plot.trace(draws)
    poe.plot.pairs(draws)


@pytest.mark.parametrize(
    "case",
    [
        case if index % 4 == 0 else pytest.param(case, marks=pytest.mark.law)
        for index, case in enumerate(CONTINUOUS)
    ],
    ids=lambda case: str(case.space),
)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_every_kernel_moves_on_every_continuous_space(case: Case, kernel: Kernel) -> None:
    draws = _drawn(case, kernel)
    assert bool(case.space.contains(draws.samples).all())
    assert draws.samples.reshape(len(draws.samples), draws.samples.shape[1], -1).std(1).max() > 0


@pytest.mark.parametrize("case", DISCRETE, ids=lambda case: str(case.space))
@pytest.mark.parametrize("kernel", [MALA(0.1), MetropolisHastings(0.3), MALA()], ids=str)
def test_a_kernel_that_does_not_fit_is_refused_in_words(case: Case, kernel: Kernel) -> None:
    with pytest.raises(poe.PoeError, match=r"Gibbs|one-hot"):
        _drawn(case, kernel)


@pytest.mark.parametrize("case", DISCRETE, ids=lambda case: str(case.space))
def test_gibbs_moves_on_every_finite_space(case: Case) -> None:
    assert bool(case.space.contains(_drawn(case, Gibbs(case.space)).samples).all())


@pytest.mark.law
@of_spaces
def test_draws_have_the_moments_of_the_density(case: Case) -> None:
    draws = poe.sample(_target(case), 4000, generator=seeded(1), progress=False)
    value = case.statistic(draws.samples)
    error = poe.diagnostics.mcse_mean(value)
    assert abs(value.mean() - case.truth) < 4.5 * error


@pytest.mark.law
@of_spaces
def test_particles_have_the_moments_and_the_normaliser(case: Case) -> None:
    draws = poe.smc(_target(case), 4000, generator=seeded(2), progress=False)
    assert draws.log_weights is not None
    assert draws.log_partition is not None
    weights = torch.softmax(draws.log_weights[:, 0], 0)
    means = case.statistic(draws.samples).mean(1)
    mean = (weights * means).sum()
    error = (weights * (means - mean)).square().sum().sqrt()
    assert abs(mean - case.truth) < 5 * error  # of 16 islands: Student's t
    found = draws.log_partition
    assert abs(found.value - case.log_z) < 5 * found.std_error + 1e-6


@pytest.mark.law
@of_spaces
def test_the_normaliser_is_right(case: Case) -> None:
    found = poe.log_partition(_target(case), generator=seeded(3), progress=False)
    assert abs(found.value - case.log_z) < 4.5 * found.std_error + 1e-5
    normalized = poe.normalize(_target(case), generator=seeded(3))
    x = _drawn(case).samples[:, 0]
    expected = -case.energy(x).double() - found.value
    torch.testing.assert_close(normalized.log_prob(x).double(), expected, atol=1e-4, rtol=1e-5)


# --- What is refused, and how


@pytest.mark.parametrize("shape", [(0,), 0, (2, 0)])
@pytest.mark.parametrize("kind", [poe.Real, poe.Interval, poe.Positive, poe.Binary, poe.Count])
def test_events_without_elements_are_refused(kind: Callable[..., poe.Space], shape: object) -> None:
    with pytest.raises(poe.ShapeError, match="at least one element"):
        kind(shape)


def test_counts_are_sampled_and_normalised_as_other_spaces_are() -> None:
    target = poe.FromEnergy(lambda x: x.float().sum(-1), space=poe.Count(2))
    truth = -2 * math.log1p(-math.exp(-1))
    draws = poe.sample(target, 40, generator=seeded(), progress=False)
    assert draws.guarantee == "exact"
    particles = poe.smc(target, 400, generator=seeded(), progress=False)
    found = particles.log_partition
    assert found is not None
    assert (found.value - truth).abs() < 5 * found.std_error
    assert poe.log_partition(target).value.item() == pytest.approx(truth, rel=1e-6)
    assert poe.log_partition(target).is_exact
