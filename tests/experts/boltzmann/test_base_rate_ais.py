"""Annealing from base rates against enumeration, where it can be had."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import poe
from experts import DBM, RBM, Bernoulli, Gaussian, Ising
from experts.boltzmann import BaseRateAIS
from experts.boltzmann.base_rate_ais import Path, _climb, _descend
from poe.normalizers.choose import own_method
from poe.normalizers.enumeration import states


def rbm(visible: int = 12, hidden: int = 6, scale: float = 1.0) -> RBM:
    g = torch.Generator().manual_seed(0)
    shapes = (visible, hidden), (visible,), (hidden,)
    return RBM(*(scale * torch.randn(shape, generator=g) for shape in shapes))


def field(size: int = 12) -> Bernoulli:
    return Bernoulli(torch.linspace(-1, 1, size))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TARGETS = {
    "RBM": rbm(),
    "RBMs and a field": rbm() * rbm(scale=0.5) ** 2 * field() ** 0.5,
    "float64": rbm().double(),
}


@pytest.mark.parametrize("start", [None, field()], ids=["own rates", "given rates"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_it_agrees_with_enumeration(target: poe.Expert, start: Bernoulli | None) -> None:
    truth = poe.log_partition(target).value
    found = poe.log_partition(
        target, start=start, method=BaseRateAIS(640, 100), generator=generator(), progress=False
    )
    assert found.is_trusted
    assert 0 < found.std_error < 0.05
    assert abs(found.value - truth) < 4 * found.std_error
    beyond = 2 * found.std_error  # the bounds leave 5 % out
    assert found.lower - beyond <= truth <= found.upper + beyond
    assert found.upper - found.lower < 0.3


@pytest.mark.law
def test_standard_errors_are_those_of_repeated_runs() -> None:
    expert = rbm(scale=1.5)
    truth = poe.log_partition(expert).value
    runs = [
        poe.log_partition(
            expert, method=BaseRateAIS(64, 20), generator=generator(seed), progress=False
        )
        for seed in range(60)
    ]
    z = torch.stack([(run.value - truth) / run.std_error for run in runs])
    # Of 16 groups Student's t has a standard deviation of 1.07; 60 of them know it to 9 %.
    assert 0.7 < z.std() < 1.5
    assert abs(z.mean()) < 4 * z.std() / 60**0.5


@pytest.mark.parametrize("levels", [1, 3])
def test_weights_average_to_the_ratio_both_ways(levels: int) -> None:
    """Even where levels are so few that no two weights are alike: E w = Z / Z₀, E 1/w = Z₀ / Z."""
    expert, g = rbm(scale=0.5), generator()
    path = Path(expert, field().natural)
    betas, count = torch.linspace(0, 1, levels + 1).tolist(), 40_000
    ratio = poe.log_partition(expert).value.double() - path.log_start
    up, _ = _climb(path, betas, path.draw(count, g), g, lambda t, a: None)
    draws = expert.sample(count, generator=g)
    down = _descend(path, betas, draws, g, lambda t, a: None)
    for weights, expected in ((up, ratio), (down, -ratio)):
        relative = (weights - expected).exp()
        assert abs(relative.mean() - 1) < 4 * relative.std() / count**0.5


def test_the_ends_of_the_path_are_the_field_and_the_rbm() -> None:
    expert, x = rbm(), states(poe.Binary(12))
    path = Path(expert, field().natural)
    difference = path.difference(x, path.log_odds(x), 0.0, 1.0)
    start = x @ path.base + 6 * torch.tensor(2.0).log()
    torch.testing.assert_close(difference, (expert(x) - start).double(), rtol=0, atol=1e-4)
    assert start.logsumexp(0).item() == pytest.approx(path.log_start.item(), abs=1e-4)


def test_a_large_layer_is_annealed_from_settled_chains() -> None:
    g = generator()
    expert = RBM(0.2 * torch.randn(30, 26, generator=g), torch.zeros(30), torch.zeros(26))
    found = poe.log_partition(expert, method=BaseRateAIS(64, 200), generator=g, progress=False)
    assert "settled" in found.rests_on
    again = poe.log_partition(
        expert, method=BaseRateAIS(64, 200), start=field(30), generator=g, progress=False
    )
    error = torch.hypot(found.std_error, again.std_error)
    assert abs(found.value - again.value) < 4 * error


def test_too_few_levels_are_doubted() -> None:
    expert = rbm(30, 12, scale=3.0)
    with pytest.warns(poe.TrustWarning, match="bounds|independent groups"):
        poe.log_partition(expert, method=BaseRateAIS(32, 1), generator=generator())


def refused(target: poe.Expert, start: poe.Expert | None, words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        poe.log_partition(target, start=start, method=BaseRateAIS())


def test_what_cannot_be_annealed_is_refused() -> None:
    other = poe.FromLogDensity(lambda x: x.sum(-1), space=poe.Binary(12))
    refused(other, None, "expected an RBM or a product of RBMs, got FromLogDensity")
    refused(rbm(), field(5), r"expected a start Bernoulli\(log_odds\) on Binary\(12\)")
    refused(rbm(), Gaussian(torch.zeros(12), scale=1.0), "got Gaussian")
    with pytest.raises(poe.PoeError, match="num_chains of at least 32"):
        BaseRateAIS(8)


def test_the_same_seed_gives_the_same_bits() -> None:
    def run() -> Tensor:
        return poe.log_partition(rbm(), method=BaseRateAIS(32, 9), generator=generator(5)).value

    assert torch.equal(run(), run())


def one_unit(num_visible: int, num_hidden: int) -> tuple[RBM, float]:
    """An RBM of which one hidden unit has weights, and log Z by the two states of that."""
    weights = torch.zeros(num_visible, num_hidden)
    weights[:, 0] = torch.randn(num_visible, generator=generator(1))
    biases = torch.randn(num_visible, generator=generator(2)) - 1
    off = F.softplus(biases.double()).sum()
    on = F.softplus((biases + weights[:, 0]).double()).sum()
    truth = torch.logaddexp(off, on) + (num_hidden - 1) * math.log(2)
    return RBM(weights, biases, torch.zeros(num_hidden)), truth.item()


def test_log_z_of_an_rbm_too_large_to_enumerate_takes_this_way_by_itself() -> None:
    expert, truth = one_unit(40, 30)
    dbm = DBM([expert.W, torch.zeros(30, 1)], [expert.b, expert.c, torch.zeros(1)])
    for target, constant in ((expert, 0.0), (dbm, math.log(2))):
        found = poe.log_partition(target, generator=generator(), progress=False)
        assert "from base rates" in found.method
        assert abs(found.value.item() - truth - constant) < 4 * found.std_error.item() + 1e-5
        assert found.lower - 1e-4 < truth + constant < found.upper + 1e-4
        assert found.is_trusted


def test_a_start_that_is_no_field_of_base_rates_begins_at_that_start() -> None:
    expert, _ = one_unit(40, 30)
    assert own_method(expert, Ising.grid((5, 8), coupling=0.1)) is None
    assert own_method(expert, Bernoulli([0.0] * 40)) == BaseRateAIS()
