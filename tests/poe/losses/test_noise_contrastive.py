"""Noise-contrastive estimation: log Z, and what is learned with it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow as NFlow
from nflows.transforms import MaskedAffineAutoregressiveTransform
from torch import Tensor, nn

import poe
from experts import MADE, Flow, Gaussian, Ising
from poe.losses import negative_log_likelihood, noise_contrastive_estimation
from poe.normalizers.enumeration import states

LOG_Z = 0.5 * math.log(2 * math.pi) + math.log(0.8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bump(x: Tensor) -> Tensor:
    """A Gaussian of scale 0.8 without its normaliser."""
    return -0.5 * (x / 0.8).square().sum(-1)


def log_z_of(expert: poe.Expert, noise: poe.Expert, x: Tensor, nu: int, seed: int) -> Tensor:
    """The c of least loss by Newton's method, always on the same draws of the noise."""
    c = nn.Parameter(torch.zeros((), dtype=torch.float64))
    for _ in range(30):
        value, _ = noise_contrastive_estimation(
            expert, noise, x, c, noise_per_row=nu, generator=seeded(seed)
        )
        (slope,) = torch.autograd.grad(value, c, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, c)
        step = (slope / curvature).detach()
        with torch.no_grad():
            c -= step.clamp(-1, 1)
        if step.abs() < 1e-10:
            break
    return c.detach()


def predicted_std(log_p: Tensor, log_noise: Tensor, nu: int, n: int) -> Tensor:
    """√((1/I − (1 + 1/ν)) / n), with I = E_data (1 + p / (ν p_noise))⁻¹, from masses of all cells.

    Gutmann & Hyvarinen (2012), theorem 3.
    """
    ratio = (log_p - log_noise).exp() / nu
    information = (log_p.exp() / (1 + ratio)).sum()
    return ((1 / information - (1 + 1 / nu)) / n).sqrt()


@pytest.mark.parametrize("nu", [1, 4])
def test_log_z_of_a_gaussian_within_its_standard_error(nu: int) -> None:
    expert = poe.FromLogDensity(bump, space=poe.Real(1))
    noise, n, num_fits = Gaussian([0.3], scale=1.5).double(), 1000, 60
    found = torch.stack(
        [log_z_of(expert, noise, 0.8 * torch.randn(n, 1, generator=seeded(100 + seed),
                  dtype=torch.float64), nu, seed) for seed in range(num_fits)]
    )  # fmt: skip
    error = found.std() / num_fits**0.5
    assert abs(found.mean() - LOG_Z) < 4 * error
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]
    log_mass = bump(x) - LOG_Z + math.log(24 / 20_000)
    predicted = predicted_std(log_mass, noise.log_prob(x) + math.log(24 / 20_000), nu, n)
    assert abs(found.std() / predicted - 1) < 4 * (2 * num_fits) ** -0.5


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return bump(x * (-self.log_scale).exp())


@pytest.mark.law
def test_the_expert_is_learned_with_its_log_z() -> None:
    # From the wrong scale: data of 1.6, that is log 2, whose log Z is larger by log 2 too.
    def fit(seed: int) -> Tensor:
        net, c = Scale(), nn.Parameter(torch.zeros((), dtype=torch.float64))
        expert = poe.FromLogDensity(net, space=poe.Real(1))
        x = 1.6 * torch.randn(1000, 1, generator=seeded(seed), dtype=torch.float64)
        noise = Gaussian([0.0], scale=2.0).double()
        optimizer = torch.optim.LBFGS([*net.parameters(), c], line_search_fn="strong_wolfe")

        def closure() -> float:
            optimizer.zero_grad()
            value, _ = noise_contrastive_estimation(expert, noise, x, c, generator=seeded(seed))
            value.backward()
            return float(value.detach())

        optimizer.step(closure)
        return torch.stack([net.log_scale.detach(), c.detach()])

    found = torch.stack([fit(seed) for seed in range(30)])
    truth = torch.tensor([math.log(2), LOG_Z + math.log(2)], dtype=torch.float64)
    z = (found.mean(0) - truth) / (found.std(0) / len(found) ** 0.5)
    assert (z.abs() < 4).all()


def untrained(make: Callable[[], poe.Expert]) -> poe.Expert:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # networks draw their first weights from the global generator
        return make().double()


@pytest.mark.law
def test_an_autoregressive_expert_as_noise_on_bits() -> None:
    # log Z of an Ising model, from its draws and those of an untrained MADE.
    expert = Ising.grid((2, 3), coupling=0.3, field=0.1).double()
    noise = untrained(lambda: MADE((2, 3)))
    found = torch.stack(
        [log_z_of(expert, noise, expert.sample(1000, generator=seeded(50 + seed)).double(), 2, seed)
         for seed in range(30)]
    )  # fmt: skip
    exact = poe.log_partition(expert).value
    assert abs(found.mean() - exact) < 4 * found.std() / len(found) ** 0.5
    x = states(expert.space).double()
    predicted = predicted_std(expert(x) - exact, noise.log_prob(x), 2, 1000)
    assert abs(found.std() / predicted - 1) < 4 * (2 * len(found)) ** -0.5


def test_a_flow_as_noise() -> None:
    expert = poe.FromLogDensity(bump, space=poe.Real(2))
    noise = untrained(
        lambda: Flow(
            NFlow(
                MaskedAffineAutoregressiveTransform(2, 8, activation=torch.tanh),
                StandardNormal([2]),
            )
        )
    )
    draws = [0.8 * torch.randn(1000, 2, generator=seeded(50 + seed), dtype=torch.float64)
             for seed in range(30)]  # fmt: skip
    found = torch.stack([log_z_of(expert, noise, x, 2, i) for i, x in enumerate(draws)])
    assert abs(found.mean() - 2 * LOG_Z) < 4 * found.std() / len(found) ** 0.5
    line = torch.linspace(-6, 6, 201, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    log_area = 2 * math.log(12 / 200)
    log_noise = noise.log_prob(x).detach() + log_area
    predicted = predicted_std(bump(x) - 2 * LOG_Z + log_area, log_noise, 2, 1000)
    assert abs(found.std() / predicted - 1) < 4 * (2 * len(found)) ** -0.5


def test_the_noise_is_not_trained() -> None:
    noise = Gaussian(nn.Parameter(torch.zeros(1)), scale=[1.0])
    expert = Gaussian(nn.Parameter(torch.ones(1)), scale=[1.0])
    c = nn.Parameter(torch.zeros(()))
    value, parts = noise_contrastive_estimation(
        expert, noise, torch.ones(50, 1), c, generator=seeded()
    )
    value.backward()
    assert next(noise.parameters()).grad is None
    assert next(expert.parameters()).grad is not None
    assert c.grad is not None
    assert 0 <= parts["accuracy"] <= 1
    torch.testing.assert_close(value.detach(), parts["on_data"] + parts["on_noise"])


def test_what_is_no_number_is_refused_with_its_name() -> None:
    noise, data, c = Gaussian([0.0], scale=1.0), torch.tensor([[0.5], [-1.0]]), torch.zeros(())
    root = poe.FromLogDensity(lambda x: x.sqrt().sum(-1), space=poe.Real(1))
    expert = poe.Product(broad=Gaussian([0.0], scale=3.0), root=root)
    with pytest.raises(poe.NonFiniteError, match=r"1 of 2 rows of data .* expert 'root'"):
        noise_contrastive_estimation(expert, noise, data, c, generator=seeded())
    far = torch.tensor([[0.5], [1e4]])
    with pytest.raises(poe.NonFiniteError, match=r"data, by the noise .* expert 'Gaussian'"):
        noise_contrastive_estimation(noise**1e-4, noise, far, c, generator=seeded())
    with pytest.raises(poe.NonFiniteError):
        noise_contrastive_estimation(noise, noise, data, c * torch.nan, generator=seeded())


def test_bad_arguments_are_refused_in_words() -> None:
    noise, data, c = Gaussian([0.0], scale=1.0), torch.zeros(2, 1), torch.zeros(())
    with pytest.raises(poe.NormalizationError, match="noise with exact draws and log_prob"):
        noise_contrastive_estimation(noise, poe.FromLogDensity(bump, space=poe.Real(1)), data, c)
    with pytest.raises(poe.SpaceMismatchError, match=r"noise on the expert's space"):
        noise_contrastive_estimation(noise, Gaussian([0.0, 0.0], scale=1.0), data, c)
    with pytest.raises(poe.ShapeError, match=r"log_partition of shape \(\)"):
        noise_contrastive_estimation(noise, noise, data, torch.zeros(1))
    with pytest.raises(poe.PoeError, match="noise_per_row of at least 1"):
        noise_contrastive_estimation(noise, noise, data, c, noise_per_row=0)


def test_the_likelihood_of_normalised_experts_alone() -> None:
    expert, data = Gaussian(nn.Parameter(torch.zeros(2)), scale=[1.0, 2.0]), torch.ones(3, 2)
    value, parts = negative_log_likelihood(expert, data)
    torch.testing.assert_close(value, -expert.log_prob(data).mean())
    assert parts["log_likelihood"] == -value.detach()
    (gradient,) = torch.autograd.grad(value, list(expert.parameters()))
    torch.testing.assert_close(gradient, -torch.tensor([1.0, 0.25]))
    with pytest.raises(poe.NormalizationError, match="log_prob, got FromLogDensity"):
        negative_log_likelihood(poe.FromLogDensity(bump, space=poe.Real(1)), data[:, :1])
    outside = poe.as_expert(torch.distributions.Exponential(1.0))
    with pytest.raises(poe.NonFiniteError, match=r"1 of 2 rows of data \(1 -inf\)"):
        negative_log_likelihood(outside, torch.tensor([1.0, -1.0]))
