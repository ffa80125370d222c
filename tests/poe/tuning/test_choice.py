"""What is chosen where nobody chooses, and the words for it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import poe
from poe.core.affine import MAX_DENSE_DIMENSION
from poe.density.conditional import is_batch
from poe.density.coordinates import Coordinates
from poe.samplers import (
    DMALA,
    MALA,
    Gibbs,
    Kernel,
    LatticeGibbs,
    LatticeMALA,
    MetropolisHastings,
    Preconditioned,
)
from poe.samplers.adaptive_step import FittedHMC
from poe.structure.discrete import structure_of
from poe.tuning.choice import choose, why_no_score


def normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().flatten(1).sum(-1)


def chosen(target: poe.Expert, chains: int = 8) -> tuple[object, str]:
    coordinates = Coordinates(target.space)
    g = torch.Generator().manual_seed(0)
    u = torch.randn(chains, *coordinates.u_space.event_shape, generator=g)
    return choose(structure_of(target), coordinates.pull(target), u)


def test_with_a_score_it_is_split_hmc_around_a_dense_gaussian() -> None:
    for dimension in (1, 5, MAX_DENSE_DIMENSION):
        kernel, why = chosen(poe.FromLogDensity(normal, space=poe.Real(dimension)))
        assert kernel == Preconditioned(FittedHMC())
        assert why == (
            f"a score in {dimension} dimensions: HMC around a Gaussian of full covariance fitted "
            "to all chains"
        )


def test_in_many_dimensions_the_gaussian_is_of_low_rank() -> None:
    kernel, why = chosen(poe.FromLogDensity(normal, space=poe.Real((3, 171))))
    assert kernel == Preconditioned(FittedHMC())
    assert why == (
        "a score in 513 dimensions: HMC around a Gaussian of diagonal plus low rank fitted to all "
        "chains"
    )


def test_a_constrained_space_counts_its_unconstrained_dimensions() -> None:
    target = poe.FromLogDensity(lambda x: x.log().sum(-1), space=poe.Simplex(3))
    _, why = chosen(target)
    assert why.startswith("a score in 2 dimensions")


WITHOUT_A_SCORE: dict[str, Callable[[Tensor], Tensor]] = {
    "rounded": lambda x: normal((10.0 * x).round() / 10.0),
    "detached": lambda x: normal(x.detach()),
    "counted": lambda x: -(x.abs() > 0.5).double().sum(-1),
}


@pytest.mark.parametrize("name", WITHOUT_A_SCORE)
def test_without_a_score_it_is_a_random_walk(name: str) -> None:
    target = poe.FromLogDensity(WITHOUT_A_SCORE[name], space=poe.Real(2))
    kernel, why = chosen(target)
    assert kernel == Preconditioned(MetropolisHastings())
    assert why.startswith("no score: a random walk shaped by the covariance of all chains; ")


def test_a_factor_without_a_score_leaves_the_others_theirs() -> None:
    rounded = poe.FromLogDensity(WITHOUT_A_SCORE["rounded"], space=poe.Real(2))
    smooth = poe.FromLogDensity(normal, space=poe.Real(2))
    kernel, _ = chosen(rounded * smooth)
    assert kernel == Preconditioned(FittedHMC())


def test_a_density_that_is_flat_where_the_chains_start_may_have_a_score_elsewhere() -> None:
    flat = poe.FromLogDensity(lambda x: -(x.abs() - 9).relu().sum(-1), space=poe.Real(2))
    assert why_no_score(flat, torch.zeros(4, 2)) is None
    assert isinstance(chosen(flat)[0], Preconditioned)
    assert chosen(flat)[0] == Preconditioned(FittedHMC())


def test_steps_that_are_wider_than_a_few_starts_are_apart_have_no_score() -> None:
    stairs = poe.FromLogDensity(lambda x: -x.abs().ceil().sum(-1), space=poe.Real(2))
    u = torch.tensor([[0.4, 0.6], [0.5, -0.9], [0.8, 0.3], [-0.2, 0.7]])  # all on one step
    assert why_no_score(stairs, u) == "its score is 0 where it varies"


class Shifted(poe.Conditional):
    """A normal around each condition."""

    space = poe.Real(2)

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        return normal(x - condition)


def test_a_batch_of_densities_gets_mala() -> None:
    target = Shifted().given(torch.zeros(8, 2))
    assert is_batch(target)
    assert not is_batch(Shifted().given(torch.tensor(0.0)))
    kernel, why = chosen(target)
    assert kernel == MALA()
    assert why == "a density of its own for each chain: MALA fits nothing to all"


@pytest.mark.parametrize(
    "space", [poe.Binary((2, 2)), poe.Categorical((2, 2), 3), poe.Sequence(3, 4)], ids=str
)
def test_a_finite_space_gets_gibbs(space: poe.Space) -> None:
    target = poe.FromLogDensity(lambda x: x.flatten(1).sum(-1), space=space)
    kernel, why = choose(structure_of(target), target, torch.zeros(4, *space.event_shape))
    assert kernel == Gibbs(space)
    assert why.startswith("a discrete space: each element in turn")


def test_many_elements_with_a_gradient_get_discrete_langevin() -> None:
    """On 64 changes or fewer a sweep is short; with no gradient, or a bad one, it is Gibbs."""

    def on(log_density: Callable[[Tensor], Tensor], size: int) -> tuple[Kernel, str]:
        target = poe.FromLogDensity(log_density, space=poe.Binary(size))
        x = (torch.rand(8, size, generator=torch.Generator().manual_seed(0)) < 0.5).float()
        return choose(structure_of(target), target, x)

    def coupled(x: Tensor) -> Tensor:
        return (x[:, 1:] * x[:, :-1]).sum(1) - 0.3 * x.sum(1)

    kernel, why = on(coupled, 65)
    assert isinstance(kernel, DMALA)
    assert why.startswith("a gradient that foretells what each of 65 changes brings")
    assert isinstance(on(coupled, 64)[0], Gibbs)
    assert isinstance(on(lambda x: coupled(x.detach()), 65)[0], Gibbs)
    assert isinstance(on(lambda x: coupled(3 * x**9 - 2 * x**3), 65)[0], Gibbs)
    space = poe.Categorical((40,), 3)
    x = torch.arange(160).reshape(4, 40) % 3
    plain = poe.FromLogDensity(lambda x: (x == 1).sum(1).float(), space=space)
    assert isinstance(choose(structure_of(plain), plain, x).kernel, Gibbs)
    smooth = poe.FromOneHot(lambda z: z[..., 1].sum(-1), space=space)
    assert isinstance(choose(structure_of(smooth), smooth, x).kernel, DMALA)


def test_an_error_of_the_target_is_not_taken_for_a_missing_gradient() -> None:
    def broken(z: Tensor) -> Tensor:
        raise poe.PoeError("expected the file of weights, got none")

    target = poe.FromOneHot(broken, space=poe.Categorical((40,), 3))
    with pytest.raises(poe.PoeError, match="expected the file of weights"):
        choose(structure_of(target), target, torch.zeros(4, 40, dtype=torch.long))


@pytest.mark.law
def test_a_long_default_run_on_bits_has_the_right_moments() -> None:
    """A chain of 80 bits with a field on its ends, whose means follow from transfer matrices."""
    g = torch.Generator().manual_seed(0)
    target = poe.FromLogDensity(
        lambda x: 0.8 * (x[:, 1:] * x[:, :-1]).sum(1) - 0.5 * x.sum(1), space=poe.Binary(80)
    )
    draws = poe.sample(target, 64_000, num_chains=64, warmup=400, generator=g, progress=False)
    assert isinstance(draws.kernel, DMALA)
    assert draws.guarantee == "asymptotically exact"
    pull = torch.tensor([[1.0, 1.0], [1.0, math.exp(0.8)]], dtype=torch.float64)
    field = torch.tensor([1.0, math.exp(-0.5)], dtype=torch.float64)
    left = [field]
    for _ in range(79):
        left.append(field * (left[-1] @ pull))
    ends = torch.ones(2, dtype=torch.float64)
    means = []
    for message in reversed(left):
        both = message * ends
        means.append((both[1] / both.sum()).item())
        ends = pull @ (ends * field)
        ends = ends / ends.sum()
    by_chain = draws.samples.double().mean(1)
    z = (by_chain.mean(0) - torch.tensor(means).flip(0)) / (by_chain.std(0) / 8)
    assert z.abs().max() < 4.5  # the largest of 80, by errors from 64 chains


@pytest.mark.parametrize(
    ("size", "energy", "kernel"),
    [
        (3, lambda x: x.sum(-1), LatticeGibbs),
        (40, lambda x: (x - 9).square().sum(-1) / 9, LatticeMALA),
        (40, lambda x: (x.long() - 9).abs().sum(-1).to(x), LatticeGibbs),  # without a gradient
        (40, lambda x: (x - 1e4).square().sum(-1) / 1e4, LatticeMALA),
    ],
)
def test_counts_move_by_windows_or_along_a_gradient_that_foretells(
    size: int, energy: Callable[[Tensor], Tensor], kernel: type
) -> None:
    target = poe.FromEnergy(energy, space=poe.Count(size))
    starts = torch.poisson(torch.full((8, size), 9.0), generator=torch.Generator().manual_seed(0))
    assert isinstance(choose(structure_of(target), target, starts).kernel, kernel)


def test_a_batch_of_densities_on_counts_is_refused() -> None:
    target = poe.FromLogDensity(lambda x: -x.sum(-1), space=poe.Count(3))
    known = structure_of(target)._replace(is_batch=True)
    with pytest.raises(poe.PoeError, match="one condition at a time"):
        choose(known, target, torch.zeros(4, 3))


class Biased(poe.Conditional):
    """A field for each chain."""

    def __init__(self, space: poe.Space) -> None:
        super().__init__()
        self.space = space

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        return (x * condition[:, None]).sum(-1)


def test_a_batch_of_densities_needs_binary_elements() -> None:
    field = torch.zeros(8)
    target = Biased(poe.Binary(2)).given(field)
    assert chosen_on(target) == Gibbs(poe.Binary(2))
    with pytest.raises(poe.PoeError, match="one condition at a time"):
        chosen_on(Biased(poe.Categorical((2,), 3)).given(field))


def chosen_on(target: poe.Expert) -> Kernel:
    return choose(structure_of(target), target, torch.zeros(8, 2)).kernel


def test_what_was_chosen_is_said_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    target = poe.FromLogDensity(normal, space=poe.Real(2))
    g = torch.Generator().manual_seed(0)
    draws = poe.sample(target, 40, warmup=20, generator=g)
    words = "a score in 2 dimensions: HMC around a Gaussian of full covariance fitted to all chains"
    assert draws.choice == words
    assert f"preconditioned FittedHMC ({words})" in capsys.readouterr().err
    kernel = MALA(0.5)
    assert poe.sample(target, 40, kernel=kernel, warmup=0, progress=False).choice == "as given"


def test_a_target_without_a_score_is_sampled_by_default() -> None:
    """A lattice-valued density: the share of each value, in standard errors of 1000 chains."""
    target = poe.FromLogDensity(
        lambda x: torch.where((x > 0) & (x < 3), x.floor(), -torch.inf).sum(-1), space=poe.Real(1)
    )
    g = torch.Generator().manual_seed(0)
    draws = poe.sample(
        target, 1000, num_chains=1000, warmup=300, generator=g, progress=False,
        initial=3.0 * torch.rand(1000, 1, generator=g),
    )  # fmt: skip
    assert isinstance(draws.kernel, Preconditioned)
    assert isinstance(draws.kernel.kernel, MetropolisHastings)
    shares = torch.arange(3.0).softmax(0)
    for value, share in enumerate(shares.tolist()):
        found = (draws.samples[:, -1].floor() == value).double().mean().item()
        assert abs(found - share) < 4 * (share * (1 - share) / 1000) ** 0.5
