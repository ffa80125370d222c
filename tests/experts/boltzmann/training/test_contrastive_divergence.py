"""Gradients against the exact one, chains against enumeration, and training that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import experts
import poe
from experts import RBM
from experts.boltzmann import sweep
from experts.boltzmann.training import (
    CD,
    PCD,
    TemperedPCD,
    contrast,
    fit_rbm,
)
from experts.boltzmann.training.contrastive_divergence import Centre, Particles
from experts.families import data_log_odds
from poe.normalizers.enumeration import states

BITS = states(poe.Binary(4))
CHAINS = 40_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rbm(seed: int = 0, scale: float = 1.0) -> RBM:
    g = generator(seed)
    return RBM(*(scale * torch.randn(shape, generator=g) for shape in ((4, 3), (4,), (3,))))


def exact_draws(expert: RBM, seed: int) -> Tensor:
    return expert.sample(CHAINS, generator=generator(seed))


def z_scores(x: Tensor, expert: RBM) -> Tensor:
    """Of the means of all states' shares."""
    truth = expert(BITS).softmax(0)
    place = (x @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    share = torch.bincount(place, minlength=16) / len(x)
    return (share - truth) / (truth * (1 - truth) / len(x)).sqrt()


def exact_gradient(expert: RBM, data: Tensor) -> list[Tensor]:
    learned = RBM(*(torch.nn.Parameter(t.clone()) for t in (expert.W, expert.b, expert.c)))
    likelihood = learned(data).mean() - learned(BITS).logsumexp(0)
    return list(torch.autograd.grad(likelihood, [learned.W, learned.b, learned.c]))


def test_the_contrast_with_all_states_is_the_gradient_of_the_log_likelihood() -> None:
    expert, data = rbm(), BITS[[3, 5, 5, 12]]
    truth = expert(BITS).softmax(0)
    parts = [contrast(expert, data, x[None]) for x in BITS]
    for number, expected in enumerate(exact_gradient(expert, data)):
        found = sum(p * part[number] for p, part in zip(truth, parts, strict=True))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_centre_changes_the_direction_as_the_centred_parametrisation_does() -> None:
    """Its gradient there, taken through the change of parameters: b = b' − Wλ, c = c' − W'μ."""
    expert, data, particles = rbm(), BITS[[3, 5, 5, 12]], BITS[[1, 9]]
    centre = Centre(torch.tensor([0.2, 0.5, 0.9, 0.1]), torch.tensor([0.3, 0.6, 0.8]))

    def centred(W: Tensor, b: Tensor, c: Tensor) -> Tensor:
        plain = RBM(W, b - W @ centre.hidden, c - centre.visible @ W)
        return plain(data).mean() - plain(particles).mean()

    start = expert.W, expert.b + expert.W @ centre.hidden, expert.c + centre.visible @ expert.W
    W, b, c = torch.func.grad(centred, (0, 1, 2))(*start)
    found = contrast(expert, data, particles, centre)
    expected = W, b - W @ centre.hidden, c - centre.visible @ W
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_a_sweep_leaves_the_rbm_invariant(exponent: float) -> None:
    expert = rbm(scale=2.0)
    tempered = RBM(*(exponent * t for t in (expert.W, expert.b, expert.c)))
    x = exact_draws(tempered, 1)
    moved = sweep(expert, x, num_steps=3, exponent=exponent, generator=generator(2))
    assert (z_scores(moved, tempered).abs() < 4).all()
    wrong = sweep(expert, x, num_steps=3, exponent=0.8, generator=generator(2))
    assert (z_scores(wrong, tempered).abs() > 4).any()


@pytest.mark.parametrize("particles", [PCD(CHAINS, 2), TemperedPCD(CHAINS, 4)], ids=repr)
def test_persistent_particles_come_to_the_model(particles: Particles) -> None:
    expert, g = rbm(scale=1.5), generator()
    state = particles.init(expert, torch.ones(1, 4), generator=g)
    for _ in range(40):
        state = particles.step(expert, torch.ones(1, 4), state, generator=g)
    assert (z_scores(particles.at_model(state), expert).abs() < 4).all()
    if isinstance(particles, TemperedPCD):
        for level, exponent in zip(state, particles.exponents, strict=True):
            tempered = RBM(*(exponent * t for t in (expert.W, expert.b, expert.c)))
            assert (z_scores(level, tempered).abs() < 4).all()


def test_swaps_carry_chains_over_what_sweeps_do_not_cross() -> None:
    expert = RBM(torch.full((4, 3), 8.0), torch.full((4,), -12.0), torch.full((3,), -16.0))
    g, particles = generator(), TemperedPCD(2000, 6)
    state = particles.init(expert, torch.ones(1, 4), generator=g)
    for _ in range(60):
        state = particles.step(expert, torch.ones(1, 4), state, generator=g)
    stuck = sweep(expert, torch.ones(2000, 4), num_steps=60, generator=g)
    truth = (expert(BITS).softmax(0) @ BITS)[0].item()
    error = (truth * (1 - truth) / 2000) ** 0.5
    assert abs(particles.at_model(state)[:, 0].mean().item() - truth) < 4 * error
    assert abs(stuck[:, 0].mean().item() - truth) > 0.3


def test_cd_begins_at_the_data() -> None:
    expert, data = rbm(), BITS[[3, 5]]
    cd = CD(2)
    found = cd.step(expert, data, torch.zeros(9, 4), generator=generator())
    assert torch.equal(found, sweep(expert, data, num_steps=2, generator=generator()))
    assert torch.equal(cd.init(expert, data, generator=generator()), data)


def two_patterns(n: int) -> Tensor:
    """One of two patterns, each bit turned with probability 0.1."""
    g = generator(7)
    pattern = torch.tensor([[1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 1]])
    chosen = pattern[torch.randint(2, (n,), generator=g)]
    return (chosen.float() - (torch.rand(n, 6, generator=g) < 0.1).float()).abs()


@pytest.mark.parametrize("particles", [CD(5), PCD(), TemperedPCD(50, 4)], ids=repr)
def test_training_comes_near_to_the_source(particles: Particles) -> None:
    data, x = two_patterns(2000), states(poe.Binary(6))
    fitted = fit_rbm(
        data, 3, particles=particles, num_epochs=30, batch_size=50, learning_rate=0.3,
        weight_decay=0.0, generator=generator(), progress=False,
    )  # fmt: skip
    pattern = torch.tensor([1.0, 1, 0, 0, 1, 0])
    turned = torch.stack([(x - pattern).abs().sum(1), (x - 1 + pattern).abs().sum(1)])
    log_p = (turned * torch.tensor(0.1).log() + (6 - turned) * torch.tensor(0.9).log()).double()
    source = log_p.logsumexp(0) - torch.tensor(2.0, dtype=torch.float64).log()
    model = fitted(x).double().log_softmax(0)
    independent = experts.Bernoulli(data_log_odds(data))(x).double()
    divergence = (source.exp() * (source - model)).sum()
    # Of 2000 rows alone: of the likeliest model 2 n KL is chi-squared, of 27 parameters at most.
    assert divergence < (27 + 4 * (2 * 27) ** 0.5) / 4000
    assert (source.exp() * (source - independent)).sum() > 1.0


@pytest.mark.parametrize("particles", [CD(), PCD(20), TemperedPCD(20, 3)], ids=repr)
def test_training_resumes_to_the_same_bits(particles: Particles, tmp_path: Path) -> None:
    data, path = two_patterns(130), tmp_path / "training.safetensors"

    def fitted(checkpoint: Path | None, stop: int | None = None, seed: int = 3) -> RBM:
        def report(epoch: int, _: RBM) -> None:
            if epoch == stop:
                raise KeyboardInterrupt

        return fit_rbm(
            data, 3, particles=particles, num_epochs=6, averaged=0.5, generator=generator(seed),
            batch_size=10, checkpoint=checkpoint, report=report, progress=False,
        )  # fmt: skip

    whole = fitted(None)
    with pytest.raises(KeyboardInterrupt):
        fitted(path, stop=4)
    with pytest.raises(poe.StorageError, match="differs in the state of the generator"):
        fitted(path, seed=99)
    resumed = fitted(path)
    for name in ("W", "b", "c"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with pytest.raises(poe.PoeError, match="of another run, which differs in schedule"):
        fit_rbm(data, 3, particles=particles, num_epochs=7, checkpoint=path, progress=False)


def test_what_batches_are_changed_to_is_what_is_learned() -> None:
    """Blank rows of which bits are turned to 1: the model's means are their rates."""
    rates, x = torch.tensor([0.9, 0.9, 0.5, 0.5, 0.1, 0.1]), states(poe.Binary(6))

    def augment(batch: Tensor, g: torch.Generator) -> Tensor:
        return batch + torch.bernoulli(rates.expand_as(batch), generator=g)

    fitted = fit_rbm(
        torch.zeros(1000, 6, dtype=torch.uint8), 2, num_epochs=50, learning_rate=0.2,
        averaged=0.5, augment=augment, generator=generator(), progress=False,
    )  # fmt: skip
    means = fitted(x).softmax(0) @ x
    draws = 25_000  # that the mean of the parameters has seen: the last half of the epochs
    assert ((means - rates).abs() < 4 * (rates * (1 - rates) / draws).sqrt()).all()


def test_biases_begin_at_the_datas_log_odds() -> None:
    data = two_patterns(100)
    fitted = fit_rbm(data, 2, num_epochs=1, batch_size=100, learning_rate=0.0, progress=False)
    torch.testing.assert_close(fitted.b, data_log_odds(data))
    share = (data.sum(0) + 0.5) / 101
    torch.testing.assert_close(fitted.b, share.logit(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "settings", "words"),
    [
        (torch.full((3, 2), 0.5), {}, r"expected bits, 0 or 1, got 0.5 .*\(data > 0.5\)"),
        (torch.full((3, 2), torch.nan), {}, "expected bits"),
        (torch.ones(3), {}, r"data of shape \(n, visible\), got \(3,\)"),
        (torch.ones(3, 2), {"num_epochs": 0}, "num_epochs of at least 1, got 0"),
        (torch.ones(3, 2), {"momentum": 1.5}, "momentum from 0 to 1, got 1.5"),
    ],
)
def test_what_cannot_be_fitted_is_refused(data: Tensor, settings: dict, words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        fit_rbm(data, 2, progress=False, **settings)


def test_particles_out_of_range_are_refused() -> None:
    for build in (lambda: CD(0), lambda: PCD(0), lambda: TemperedPCD(5, 1)):
        with pytest.raises(poe.PoeError, match="of at least"):
            build()
