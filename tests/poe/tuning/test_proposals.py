"""Whether draws of a factor are proposed, and what is said of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.samplers import (
    Gibbs,
    IndependenceMetropolisHastings,
    Preconditioned,
    SuffixMetropolisHastings,
)
from poe.samplers.adaptive_step import FittedHMC
from poe.structure.discrete import structure_of
from poe.tuning.proposals import Chosen, chosen


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def choice(target: poe.Expert, u: Tensor | None = None, seed: int = 0) -> Chosen:
    if u is None:
        u = torch.randn(8, *target.space.event_shape, generator=generator(100))
    return chosen(structure_of(target), target, target, u, generator(seed))


def times(log_density: object, space: poe.Space, prior: poe.Expert) -> poe.Product:
    return poe.Product(
        prior=prior,
        other=poe.FromLogDensity(log_density, space=space),  # type: ignore[arg-type]
    )


NORMAL = experts.Gaussian([0.0, 0.0], scale=1.0)


def test_draws_that_are_nearly_the_target_are_proposed() -> None:
    found, has_score = choice(times(lambda x: -0.1 * x.abs().sum(-1), poe.Real(2), NORMAL))
    assert isinstance(found.kernel, IndependenceMetropolisHastings)
    assert has_score
    assert found.why.startswith("by importance weights 512 draws of expert 'prior' are worth 50")


def test_else_a_score_is_followed_and_it_is_said_what_they_are_worth() -> None:
    found, _ = choice(times(lambda x: -20 * (x - 1).square().sum(-1), poe.Real(2), NORMAL))
    assert found.kernel == Preconditioned(FittedHMC())
    assert found.why.startswith("a score in 2 dimensions")
    _, _, said = found.why.partition("; by importance weights 64 draws of expert 'prior'")
    worth = int(said.removeprefix(" are worth "))
    # By hand: (E w)^2 / E w^2 = (9 / 41 exp(40 / 81 - 40 / 41))^2 = 0.0184 in two dimensions.
    assert 1 <= worth <= 4


def test_what_they_are_worth_is_right() -> None:
    """By hand: (E w)^2 / E w^2 for w = exp(-x^2 / 2) under N(0, 1) is sqrt(3) / 2."""
    prior, space = experts.Gaussian([0.0], scale=1.0), poe.Real(1)
    found, _ = choice(times(lambda x: -0.5 * x.square().sum(-1), space, prior))
    worth = int(found.why.split("are worth ")[1].split(";")[0])
    assert worth == pytest.approx(512 * 3**0.5 / 2, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_weights_of_infinite_variance_are_not_proposed(seed: int) -> None:
    """w = exp(.4 x^2): E w^2 is infinite under N(0, 1)."""
    found, _ = choice(
        times(lambda x: 0.4 * x.square().sum(-1), poe.Real(1), experts.Gaussian([0.0], scale=1.0)),
        seed=seed,
    )
    assert found.kernel == Preconditioned(FittedHMC())


def test_nothing_is_said_where_no_factor_can_be_sampled() -> None:
    target = poe.FromLogDensity(lambda x: -x.square().sum(-1), space=poe.Real(2))
    assert "importance weights" not in choice(target).choice.why


def model(length: int, num_values: int) -> experts.CausalTransformer:
    before = torch.get_rng_state()
    torch.manual_seed(0)
    found = experts.CausalTransformer(num_values, length, width=8, num_heads=2)
    torch.set_rng_state(before)
    return found.requires_grad_(False)


def tokens(count: int, length: int, num_values: int) -> Tensor:
    return torch.randint(num_values, (count, length), generator=generator(100))


def test_ends_of_sequences_are_proposed_where_a_factor_is_a_model_of_them() -> None:
    space = poe.Sequence(16, 6)
    target = times(lambda x: 0.1 * (x == 2).double().sum(-1).float(), space, model(6, 16))
    found, _ = choice(target, tokens(8, 6, 16))
    assert isinstance(found.kernel, SuffixMetropolisHastings)
    assert "draws of what the experts say of each next element are worth" in found.why


def test_few_changes_are_all_weighed_instead() -> None:
    target = times(lambda x: 0.1 * (x == 2).float().sum(-1), poe.Sequence(4, 3), model(3, 4))
    assert isinstance(choice(target, tokens(8, 3, 4)).choice.kernel, Gibbs)


def test_no_sweep_over_a_large_vocabulary_is_chosen_however_bad_proposals_are() -> None:
    def rare(x: Tensor) -> Tensor:
        return 30.0 * (x == 7).float().mean(-1).round()

    target = times(rare, poe.Sequence(1000, 5), model(5, 1000))
    found, _ = choice(target, tokens(8, 5, 1000))
    assert isinstance(found.kernel, SuffixMetropolisHastings)


def test_a_run_with_them_is_right_and_checkpoints() -> None:
    """x1 + x2 given N(0, 1)^2 times exp(-.1 |x1 + x2|): its mean is 0, by symmetry."""
    target = times(lambda x: 0.2 * x[..., 0] - 0.1 * x[..., 1], poe.Real(2), NORMAL)
    draws = poe.sample(target, 8000, generator=generator(), progress=False)
    assert isinstance(draws.kernel, IndependenceMetropolisHastings)
    assert draws.guarantee == "asymptotically exact"
    assert not draws.remarks
    x = draws.samples
    error = (x.mean((0, 1)) - torch.tensor([0.2, -0.1])) / poe.diagnostics.mcse_mean(x)
    assert error.abs().max() < 4
    spread = (x.flatten(0, 1).std(0) - 1.0) / poe.diagnostics.mcse_sd(x)
    assert spread.abs().max() < 4


def far_mode(at: float) -> poe.Product:
    """N(0, I) times 1 + a peak beyond its draws, which has e^(3 - at^2 / 17) / 17 of its mass."""

    def log_density(x: Tensor) -> Tensor:
        peak = at * at + 3.0 - 8.0 * (x - at).square().sum(-1)
        return torch.logaddexp(torch.zeros_like(peak), peak)

    return times(log_density, poe.Real(2), NORMAL)


def log_z_of(at: float) -> float:
    """By completing the square: exp(at^2 + 3 - 8 |x - at|^2) N(x; 0, I), integrated, and 1."""
    peak = at * at + 3.0 - at * at * 16 / 17 - torch.tensor(17.0).log()
    return float(torch.logaddexp(torch.zeros(()), peak))


@pytest.mark.parametrize("at", [4.0, 6.0])
def test_modes_of_others_beyond_a_factor_are_found_by_sample(at: float) -> None:
    draws = poe.sample(far_mode(at), 4000, generator=generator(), progress=False)
    share = (draws.samples[..., 0] > at / 2).double()
    truth = 1.0 - torch.tensor(-log_z_of(at)).exp()
    error = poe.diagnostics.mcse_mean(share[..., None])
    assert abs(share.mean() - truth) < 4 * error
    assert not draws.remarks


@pytest.mark.parametrize("at", [3.0, 5.0])
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_and_by_log_partition(at: float, seed: int) -> None:
    method = poe.normalizers.MBAR()
    found = poe.log_partition(
        far_mode(at), method=method, generator=generator(seed), progress=False
    )
    assert abs(found.value - log_z_of(at)) < 4 * found.std_error + 1e-3


def test_and_said_by_smc() -> None:
    with pytest.warns(poe.TrustWarning, match="climbing reaches"):
        poe.smc(far_mode(5.0), 20_000, generator=generator(), progress=False)
