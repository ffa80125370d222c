"""The noise channel, the posterior as a product of two experts, and what is learned of both."""

from __future__ import annotations

import math

import pytest
import torch

import poe
from experts import Bernoulli, Ising
from experts.spins import binary_channel, learn_denoiser
from experts.spins.denoiser import posterior, pseudo_likelihood
from poe.density.closed_forms import exact_sample
from poe.normalizers.enumeration import states


def test_the_channel_is_the_likelihood_of_the_noisy_picture() -> None:
    noisy, p = torch.tensor([[1, 0], [1, 1]]), 0.2
    channel = binary_channel(noisy, p)
    assert isinstance(channel, Bernoulli)
    x = states(channel.space)
    flips = (x != noisy).sum((1, 2))
    expected = flips * math.log(p) + (4 - flips) * math.log(1 - p)
    torch.testing.assert_close(channel(x), expected)


def test_the_posterior_is_by_bayes() -> None:
    """p(x | y) against the joint table of x and y."""
    noisy, p = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]), 0.15
    target = posterior(noisy, 0.4, -0.1, p)
    x = states(target.space)
    prior = Ising.grid((2, 3), 0.4, -0.1)(x).softmax(0)
    flips = (x != noisy).sum((1, 2))
    joint = prior * p**flips * (1 - p) ** (6 - flips)
    torch.testing.assert_close(target(x).softmax(0), joint / joint.sum())


@pytest.mark.parametrize(("coupling", "field"), [(0.3, 0.1), (0.5, 0.0), (-0.2, 0.3)])
def test_pseudo_likelihood_of_exact_draws(coupling: float, field: float) -> None:
    """Within the spread over twenty groups of draws."""
    model = Ising.grid((16, 8), coupling, field)
    draws = exact_sample(model, 20 * 40, torch.Generator().manual_seed(0))
    found = torch.tensor([pseudo_likelihood(group) for group in draws.split(40)])
    error = found.std(0) / math.sqrt(len(found))
    truth = torch.tensor([coupling, field])
    assert ((found.mean(0) - truth).abs() < 4 * error).all(), (found.mean(0), error)
    assert (error < 0.01).all()


def test_a_picture_of_one_colour_has_bounded_numbers() -> None:
    assert all(abs(number) <= 2 for number in pseudo_likelihood(torch.ones(1, 8, 8)))


@pytest.mark.law
def test_learning_from_noisy_draws_of_the_model() -> None:
    """Eight pictures of 12 x 200, each learned by itself: their mean within its standard error."""
    coupling, p = 0.45, 0.1
    model, g = Ising.grid((200, 12), coupling), torch.Generator().manual_seed(0)
    clean = exact_sample(model, 8, g)
    noisy = (clean - (torch.rand(clean.shape, generator=g) < p).float()).abs()
    learned = [learn_denoiser(y, generator=g) for y in noisy]
    for truth, values in (
        (coupling, [found.coupling for found in learned]),
        (p, [found.flip_probability for found in learned]),
    ):
        found = torch.tensor(values)
        error = found.std() / math.sqrt(len(found))
        assert abs(found.mean() - truth) < 4 * error, (found.mean(), error)
        assert error < 0.03


def test_learning_repeats_and_keeps_its_history() -> None:
    noisy = (torch.rand(16, 10, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    one, other = (
        learn_denoiser(noisy, num_steps=8, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert torch.equal(one.history, other.history)
    assert one.history.shape == (8, 3)
    assert one.coupling == pytest.approx(one.history[4:, 0].mean().item())
    assert one.posterior(noisy).names == ("prior", "channel")


def test_sides_that_are_odd() -> None:
    noisy = (torch.rand(9, 7, generator=torch.Generator().manual_seed(0)) < 0.3).long()
    found = learn_denoiser(noisy, num_steps=4, generator=torch.Generator().manual_seed(1))
    assert 0 < found.flip_probability < 1


def test_refusals() -> None:
    with pytest.raises(poe.PoeError, match="flip_probability must be between 0 and 1, got 0"):
        binary_channel(torch.ones(2), 0.0)
    with pytest.raises(poe.PoeError, match=r"of 0 and 1, got values from 0 to 0.5: compare"):
        binary_channel(torch.tensor([0.0, 0.5]), 0.1)
    with pytest.raises(poe.ShapeError, match=r"a picture \(rows, cols\), got \(2, 2, 2\)"):
        learn_denoiser(torch.zeros(2, 2, 2))


@pytest.mark.parametrize("settings", [{"num_steps": 0}, {"num_steps": -3}, {"num_chains": 0}])
def test_settings_that_learn_nothing_are_refused(settings: dict[str, int]) -> None:
    (name, value), *_ = settings.items()
    with pytest.raises(poe.PoeError, match=f"{name} must be a whole number >= 1, got {value}"):
        learn_denoiser(torch.zeros(4, 4), **settings)


@pytest.mark.parametrize("settings", [{"num_steps": 2.5}, {"num_chains": math.nan}])
def test_settings_that_are_no_whole_numbers_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(poe.PoeError, match="to be a whole number"):
        learn_denoiser(torch.zeros(4, 4), **settings)


@pytest.mark.parametrize("shape", [(), (4,), (2, 4, 4), (0, 4), (0, 0)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(poe.ShapeError, match=r"expected a picture \(rows, cols\)"):
        learn_denoiser(torch.zeros(shape))


def test_a_picture_of_one_step_and_one_chain_is_enough() -> None:
    g = torch.Generator().manual_seed(0)
    found = learn_denoiser(torch.eye(4).bool(), num_steps=1, num_chains=1, generator=g)
    assert found.history.shape == (1, 3)
