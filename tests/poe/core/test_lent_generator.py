"""Networks are built from a generator that is lent, and nobody else's draws are touched."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import distributions as D, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm

from poe.core import randomness
from poe.core.randomness import Lent
from poe.demo.judge import load_judge


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


DRAWN: dict[str, Callable[[], object]] = {
    "rand": lambda: torch.rand(3),
    "rand, double": lambda: torch.rand(3, dtype=torch.float64),
    "rand, into a tensor": lambda: torch.rand(3, out=torch.empty(3)),
    "randn": lambda: torch.randn(3),
    "randint": lambda: torch.randint(9, (3,)),
    "randint, from": lambda: torch.randint(1, 9, (3,)),
    "randperm": lambda: torch.randperm(9),
    "normal": lambda: torch.normal(0.0, 1.0, (3,)),
    "normal, of tensors": lambda: torch.normal(torch.zeros(3), torch.ones(3)),
    "bernoulli": lambda: torch.bernoulli(torch.full((9,), 0.5)),
    "multinomial": lambda: torch.multinomial(torch.ones(9), 5),
    "poisson": lambda: torch.poisson(torch.full((3,), 9.0)),
    "in place": lambda: torch.zeros(3).uniform_(-1, 1),
    "in place, normal": lambda: torch.zeros(3).normal_(),
    "in place, exponential": lambda: torch.zeros(3).exponential_(),
    "in place, random": lambda: torch.zeros(3).random_(9),
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(3, 3)),
    "truncated": lambda: nn.init.trunc_normal_(torch.empty(3)),
    "gamma": lambda: D.Gamma(torch.ones(3), 1.0).sample(),
    "rand_like": lambda: torch.rand_like(torch.zeros(3)),
    "randn_like": lambda: torch.randn_like(torch.zeros(3)),
    "dropout": lambda: nn.functional.dropout(torch.ones(9)),
    "binomial": lambda: D.Binomial(9, torch.full((3,), 0.5)).sample(),
    "dirichlet": lambda: D.Dirichlet(torch.ones(3)).sample(),
    "cauchy": lambda: D.Cauchy(torch.zeros(3), 1.0).sample(),
    "geometric": lambda: D.Geometric(torch.full((9,), 0.3)).sample(),
    "Linear": lambda: nn.Linear(2, 3).weight,
    "Conv2d": lambda: nn.Conv2d(2, 3, 3).bias,
    "LSTM": lambda: nn.LSTM(2, 3).weight_hh_l0,
    "attention": lambda: nn.MultiheadAttention(4, 2).in_proj_weight,
    "Embedding": lambda: nn.Embedding(3, 2).weight,
    "spectral norm": lambda: spectral_norm(nn.Linear(3, 3)).weight,
    "orthogonal weights": lambda: orthogonal(nn.Linear(3, 3)).weight,
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_is_drawn_from_it(name: str) -> None:
    state, found = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        with Lent(seeded(seed)):
            found.append(DRAWN[name]())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_dropout_keeps_as_many_as_it_says_and_scales_them() -> None:
    with Lent(seeded()):
        kept = nn.functional.dropout(torch.ones(10_000), 0.25)
    assert torch.equal(kept.unique(), torch.tensor([0.0, 4 / 3]))
    assert abs(kept.mean().item() - 1) < 4 * (0.25 / 0.75 / 10_000) ** 0.5


def test_what_knows_only_the_global_generator_puts_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomness, "_with_generator", lambda operation: None)
    state, found = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        with Lent(seeded(seed)):
            found.append(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_same_numbers_come_as_with_the_generator_itself() -> None:
    with Lent(seeded()):
        lent = torch.randn(3), torch.rand(2)
    g = seeded()
    assert torch.equal(lent[0], torch.randn(3, generator=g))
    assert torch.equal(lent[1], torch.rand(2, generator=g))


def test_a_generator_that_is_given_is_the_one_that_is_used() -> None:
    with Lent(seeded(1)):
        found = torch.rand(3, generator=seeded())
    assert torch.equal(found, torch.rand(3, generator=seeded()))


def test_nothing_is_drawn_on_the_meta_device() -> None:
    lent = seeded()
    with Lent(lent):
        assert nn.Linear(2, 2, device="meta").weight.is_meta
    assert torch.equal(lent.get_state(), seeded().get_state())


def test_another_threads_draws_are_its_own() -> None:
    """It draws from the global generator here, while a network is half built there."""
    half_built, go_on = threading.Event(), threading.Event()

    def build() -> None:
        with Lent(seeded()):
            nn.Linear(4, 4)
            half_built.set()
            go_on.wait(10)
            nn.Linear(4, 4)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = torch.rand(2)
        torch.manual_seed(0)
        builder = threading.Thread(target=build)
        builder.start()
        assert half_built.wait(10)
        first = torch.rand(1)
        go_on.set()
        builder.join()
        second = torch.rand(1)
    assert torch.equal(torch.cat([first, second]), expected)


def test_the_judge_of_the_demo_moves_nothing() -> None:
    state = torch.get_rng_state()
    load_judge()
    assert torch.equal(torch.get_rng_state(), state)
