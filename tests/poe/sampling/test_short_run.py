"""Chains moved on for a few steps, and short runs, which are labelled biased."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import poe
from experts import Exponential, Gaussian, Ising
from poe.samplers import MALA, ULA


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_short_run_is_labelled_biased() -> None:
    target, start = Gaussian([0.0, 1.0], scale=1.0), torch.full((6, 2), 3.0)
    draws = poe.short_run(target, start, 10, 0.1, generator=seeded())
    assert draws.guarantee == "biased"
    assert draws.kernel == ULA(0.1)
    assert draws.num_gradients == 10
    assert draws.samples.shape == (6, 1, 2)
    torch.testing.assert_close(draws.log_density, target(draws.samples))
    again = poe.short_run(target, start, 10, 0.1, generator=seeded())
    assert torch.equal(draws.samples, again.samples)


@pytest.mark.parametrize("noise", [None, 0.1, 0.6])
def test_a_short_run_has_the_moments_of_its_recursion(noise: float | None) -> None:
    # For log p̃ = −x²/2: x ← (1 − ε) x + τ z, whose mean and variance after k steps are known.
    epsilon, k, n, x = 0.2, 7, 40_000, 3.0
    tau = (2 * epsilon) ** 0.5 if noise is None else noise
    start = torch.full((n, 1), x, dtype=torch.float64)
    target = Gaussian([0.0], scale=1.0).double()
    draws = poe.short_run(target, start, k, epsilon, noise=noise, generator=seeded())
    a = 1 - epsilon
    mean, variance = a**k * x, tau**2 * (1 - a ** (2 * k)) / (1 - a**2)
    found = draws.samples.flatten()
    assert abs(found.mean() - mean) < 4 * (variance / n) ** 0.5
    assert abs(found.var() - variance) < 4 * variance * (2 / n) ** 0.5
    torch.testing.assert_close(draws.log_density, target(draws.samples))


def test_chains_at_exact_draws_stay_there() -> None:
    target, n = Gaussian([1.0], scale=0.5).double(), 40_000
    x = target.sample(n, generator=seeded())
    found = poe.advance(target, MALA(0.3), x, 5, generator=seeded(1))
    assert abs(found.positions.mean() - 1.0) < 4 * 0.5 / n**0.5
    assert abs(found.positions.var() - 0.25) < 4 * 0.25 * (2 / n) ** 0.5
    torch.testing.assert_close(found.log_density, target(found.positions))
    assert (found.tally.accepted <= 5).all()
    assert found.tally.accepted.sum() > 0


def test_it_is_the_kernels_own_steps() -> None:
    target, x, kernel = Gaussian([1.0], scale=0.5), torch.zeros(4, 1), ULA(0.05)
    g = seeded()
    state = kernel.init(target, x)
    for _ in range(3):
        state, _ = kernel.step(target, state, generator=g)
    found = poe.advance(target, kernel, x, 3, generator=seeded())
    assert torch.equal(found.positions, state.position)


def test_on_spaces_with_a_border_and_on_bits() -> None:
    positive = Exponential([2.0])
    found = poe.advance(positive, MALA(0.3), torch.ones(5, 1), 20, generator=seeded())
    assert (found.positions > 0).all()
    torch.testing.assert_close(found.log_density, positive(found.positions))
    bits = Ising.grid((2, 2), coupling=0.3)
    kernel = poe.samplers.Gibbs(bits.space)
    found = poe.advance(bits, kernel, torch.zeros(5, 2, 2), 3, generator=seeded())
    assert ((found.positions == 0) | (found.positions == 1)).all()


def _cubic(x: Tensor) -> Tensor:
    return -x.pow(4).sum(-1)


def test_chains_that_explode_are_refused_with_the_expert() -> None:
    target = poe.Product(
        steep=poe.FromLogDensity(_cubic, space=poe.Real(1)), wide=Gaussian([0.0], scale=9.0)
    )
    start = torch.tensor([[0.0], [50.0], [60.0]])
    with pytest.raises(poe.NonFiniteError, match=r"2 of 3 rows of chains .* expert 'steep'"):
        poe.advance(target, ULA(0.01), start, 20, generator=seeded())
    with pytest.raises(poe.NonFiniteError, match="smaller step size"):
        poe.short_run(target, start, 20, 0.01, generator=seeded())


def test_bad_arguments_are_refused_in_words() -> None:
    target, start = Gaussian([0.0], scale=1.0), torch.zeros(2, 1)
    with pytest.raises(poe.PoeError, match="at least one step, got 0"):
        poe.advance(target, ULA(0.1), start, 0)
    for step_size, noise in ((0.0, None), (0.1, 0.0), (float("inf"), None)):
        with pytest.raises(poe.PoeError, match="positive finite step_size and noise"):
            poe.short_run(target, start, 3, step_size, noise=noise)
