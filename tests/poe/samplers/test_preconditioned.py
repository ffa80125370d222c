"""Preconditioned kernels: the plain kernel on the pulled density, and MALA written out in x."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import poe
from poe.density.coordinates import Coordinates
from poe.samplers import (
    HMC,
    MALA,
    ULA,
    Affine,
    Dense,
    Diagonal,
    GeneralizedHMC,
    LowRank,
    MetropolisHastings,
    Preconditioned,
    SplitHMC,
)
from poe.samplers.kernel import draw_noise
from tests.seeds import seeded

F64 = torch.float64
AFFINES: list[Affine] = [
    Diagonal(torch.tensor([1.0, -1.0], dtype=F64), torch.tensor([0.5, 3.0], dtype=F64)),
    Dense(torch.tensor([1.0, -1.0], dtype=F64), torch.tensor([[0.5, 0.0], [2.0, 0.7]], dtype=F64)),
    LowRank(
        torch.tensor([1.0, -1.0], dtype=F64),
        torch.tensor([0.5, 2.0], dtype=F64),
        torch.tensor([[0.6], [0.8]], dtype=F64),
        torch.tensor([3.0], dtype=F64),
    ),
]
KERNELS: list[Any] = [
    MALA(0.3),
    ULA(0.1),
    HMC(0.4, num_steps=3),
    SplitHMC(0.8, num_steps=2, jitter=0.3),
    MetropolisHastings(0.7),
    GeneralizedHMC(0.5),
]


def density(x: Tensor) -> Tensor:
    return -0.1 * x.square().square().sum(-1) + x.sin().sum(-1)


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def target() -> poe.Expert:
    return poe.FromLogDensity(density, space=poe.Real(2))


class Counting(poe.Expert):
    """A density that counts its evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.space = poe.Real(2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return density(x)


@pytest.mark.parametrize("affine", AFFINES, ids=lambda affine: type(affine).__name__)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
def test_it_is_the_plain_kernel_on_the_density_of_u(
    kernel: Any, affine: Affine, target: poe.Expert, g: torch.Generator
) -> None:
    """Step after step with the same noise; the density of u has the Jacobian, which cancels."""
    x = torch.randn(50, 2, generator=g, dtype=F64)
    pulled = Coordinates(target.space, affine).pull(target)
    whitened = Preconditioned(kernel, affine)
    state, plain = whitened.init(target, x), kernel.init(pulled, affine.to_u(x))
    for _ in range(3):
        noise = kernel.draw_noise(x, g)
        state, info = whitened.transition(target, state, noise)
        plain, expected = kernel.transition(pulled, plain, noise)
        torch.testing.assert_close(state.position, affine.to_x(plain.position))
        torch.testing.assert_close(state.log_density, target(state.position))
        torch.testing.assert_close(state.log_density + affine.log_abs_det(), plain.log_density)
        torch.testing.assert_close(info, expected)
    assert not torch.equal(state.position, x)


@pytest.mark.parametrize("affine", AFFINES, ids=lambda affine: type(affine).__name__)
def test_mala_in_u_is_what_its_formula_says_in_x(
    affine: Affine, target: poe.Expert, g: torch.Generator
) -> None:
    """y ~ N(x + ε M ∇log p̃(x), 2ε M) with M = L Lᵀ, the proposal densities written out in x."""
    x, step = torch.randn(50, 2, generator=g, dtype=F64), 0.2
    noise = draw_noise(x, g)
    kernel = Preconditioned(MALA(step), affine)
    moved, info = kernel.transition(target, kernel.init(target, x), noise)
    factor = affine.to_x(torch.eye(2, dtype=F64)) - affine.to_x(torch.zeros(1, 2, dtype=F64))
    factor = factor.mT  # L: its columns are what the map does to the unit vectors
    mass = factor @ factor.mT

    def mean(at: Tensor) -> Tensor:
        return at + step * target.score(at) @ mass

    def log_q(to: Tensor, at: Tensor) -> Tensor:
        normal = torch.distributions.MultivariateNormal(mean(at), 2 * step * mass)
        return normal.log_prob(to)

    y = mean(x) + (2 * step) ** 0.5 * noise.normal @ factor.mT
    log_ratio = target(y) + log_q(x, y) - target(x) - log_q(y, x)
    torch.testing.assert_close(info.acceptance_probability, log_ratio.exp().clamp(max=1))
    taken = noise.uniform < log_ratio.exp()
    assert 0 < taken.sum() < 50
    torch.testing.assert_close(moved.position, torch.where(taken[:, None], y, x))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
def test_it_costs_what_the_plain_kernel_costs(kernel: Any, g: torch.Generator) -> None:
    target, whitened = Counting(), Preconditioned(kernel, AFFINES[1])
    state = whitened.init(target, torch.zeros(3, 2, dtype=F64))
    for _ in range(10):
        state, _ = whitened.step(target, state, generator=g)
    assert target.calls == 1 + 10 * whitened.gradients_per_step
    assert whitened.gradients_per_step == kernel.gradients_per_step


@pytest.mark.parametrize("event", [(), (3,), (2, 4)])
def test_shapes(event: tuple[int, ...], g: torch.Generator) -> None:
    target = poe.FromLogDensity(
        lambda x: -x.square().reshape(len(x), -1).sum(-1), space=poe.Real(event)
    )
    d = torch.Size(event).numel()
    kernel = Preconditioned(MALA(0.1), Dense(torch.zeros(d), torch.eye(d)))
    state, info = kernel.step(target, kernel.init(target, torch.ones(7, *event)), generator=g)
    assert state.position.shape == (7, *event)
    assert state.log_density.shape == (7,)
    assert all(field.shape == (7,) for field in info)


@pytest.mark.parametrize("affine", AFFINES, ids=lambda affine: type(affine).__name__)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
@seeded()
def test_transition_runs_on_the_meta_device(kernel: Any, affine: Affine) -> None:
    """No host synchronisation and no branching on data: neither exists on ``meta``."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    target = poe.FromLogDensity(lambda x: net(x).squeeze(-1), space=poe.Real(2))
    net.to("meta")
    there = type(affine)(*(part.float().to("meta") for part in vars(affine).values()))
    x, whitened = torch.zeros(4, 2, device="meta"), Preconditioned(kernel, there)
    state = whitened.init(target, x)
    noise = kernel.draw_noise(torch.zeros(4, 2), torch.Generator())
    noise = type(noise)(*(part if part is None else part.to("meta") for part in noise))
    state, info = whitened.transition(target, state, noise)
    assert all(part.device.type == "meta" for part in (state.position, *state.inner, *info))


def test_a_map_that_was_left_out_is_asked_for(target: poe.Expert) -> None:
    with pytest.raises(poe.PoeError, match=r"preconditioner was left out.*fit_affine"):
        Preconditioned(MALA(0.1)).init(target, torch.zeros(4, 2))


def test_settings_are_the_inner_kernels() -> None:
    kernel = Preconditioned(MALA(), AFFINES[0])
    assert kernel.scale_setting is None
    assert kernel.target_acceptance == 0.574
    assert kernel.with_scale(0.3) == Preconditioned(MALA(0.3), AFFINES[0])
    assert kernel.guarantee == "asymptotically exact"
    assert Preconditioned(ULA(0.1), AFFINES[0]).guarantee == "biased"


def test_a_start_outside_the_support_is_refused() -> None:
    target = poe.FromLogDensity(
        lambda x: torch.where(x > 0, -x, -torch.inf).sum(-1), space=poe.Real(2)
    )
    kernel = Preconditioned(MALA(0.1), Diagonal(torch.ones(2), torch.ones(2)))
    with pytest.raises(poe.NonFiniteError, match="1 of 2"):
        kernel.init(target, torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
