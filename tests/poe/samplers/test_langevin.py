"""The kernels: one gradient a step, non-finite values, shapes, the meta device."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import poe
from poe.samplers import HMC, MALA, ULA, LangevinState, MetropolisHastings
from poe.samplers.hmc import TrajectoryNoise
from poe.samplers.kernel import Kernel, draw_noise
from tests.seeds import seeded

KERNELS: list[Kernel] = [MetropolisHastings(0.5), ULA(0.1), MALA(0.3), HMC(0.4, num_steps=3)]


def normal_density(x: Tensor) -> Tensor:
    return -0.5 * x.square().flatten(1).sum(-1)


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def target() -> poe.Expert:
    return poe.FromLogDensity(normal_density, space=poe.Real(2))


class Counting(poe.Expert):
    """A standard normal that counts its evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.space = poe.Real(2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return -0.5 * x.square().sum(-1)


class HalfLine(poe.Expert):
    """x ≥ 0 with log-density −x; below it −inf, and NaN below −5."""

    space = poe.Real(1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(-1)
        inside = torch.where(x >= 0, -x, -torch.inf)
        return torch.where(x < -5, torch.nan, inside)


@pytest.mark.parametrize("kernel", KERNELS[:3])
def test_one_evaluation_a_step(kernel: Kernel, g: torch.Generator) -> None:
    target = Counting()
    state = kernel.init(target, torch.zeros(3, 2))
    for _ in range(10):
        state, _ = kernel.step(target, state, generator=g)
    assert target.calls == 11


def test_hmc_takes_one_evaluation_a_leapfrog_step(g: torch.Generator) -> None:
    target, kernel = Counting(), HMC(0.1, num_steps=4)
    state = kernel.init(target, torch.zeros(3, 2))
    for _ in range(10):
        state, _ = kernel.step(target, state, generator=g)
    assert target.calls == 41


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("event", [(), (3,), (2, 4)])
def test_shapes(kernel: Kernel, event: tuple[int, ...], g: torch.Generator) -> None:
    target = poe.FromLogDensity(
        lambda x: -x.square().reshape(len(x), -1).sum(-1), space=poe.Real(event)
    )
    state, info = kernel.step(target, kernel.init(target, torch.ones(7, *event)), generator=g)
    assert state.position.shape == (7, *event)
    assert state.log_density.shape == (7,)
    assert all(field.shape == (7,) for field in info)


@pytest.mark.parametrize("kernel", KERNELS)
def test_same_seed_same_bits_and_the_global_generator_is_left_alone(
    kernel: Kernel, target: poe.Expert
) -> None:
    def run() -> Tensor:
        g = torch.Generator().manual_seed(3)
        state = kernel.init(target, torch.zeros(4, 2))
        for _ in range(5):
            state, _ = kernel.step(target, state, generator=g)
        return state.position

    before = torch.get_rng_state()
    first = run()
    with seeded(99):
        assert torch.equal(first, run())
    torch.set_rng_state(before)
    run()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kernel", KERNELS)
@seeded()
def test_transition_runs_on_the_meta_device(kernel: Kernel) -> None:
    """No host synchronisation and no branching on data: neither exists on ``meta``."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    smooth = poe.FromLogDensity(lambda x: net(x).squeeze(-1), space=poe.Real(3))
    target = (smooth**0.5 * smooth).to("meta")
    net.to("meta")
    x = torch.zeros(4, 3, device="meta")
    state = kernel.init(target, x)
    noise = kernel.draw_noise(x, torch.Generator())  # type: ignore[attr-defined]
    state, info = kernel.transition(target, state, noise)  # type: ignore[attr-defined]
    assert all(part.device.type == "meta" for part in (*state, *info))
    assert state.position.shape == (4, 3)


def test_mala_is_what_its_formula_says() -> None:
    """Against the proposal densities written out, in float64, for one step size a chain."""
    precision = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    target = poe.FromLogDensity(
        lambda x: -0.5 * torch.einsum("...i,ij,...j", x, precision, x), space=poe.Real(2)
    )
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 2, generator=g, dtype=torch.float64)
    step = torch.linspace(0.1, 2.0, 50, dtype=torch.float64)
    kernel = MALA(step)
    state, noise = kernel.init(target, x), draw_noise(x, g)
    _, info = kernel.transition(target, state, noise)

    def log_q(to: Tensor, at: Tensor) -> Tensor:
        mean = at - step[:, None] * at @ precision
        normal = torch.distributions.Normal(mean, (2 * step[:, None]).sqrt())
        return normal.log_prob(to).sum(-1)

    y = x - step[:, None] * x @ precision + (2 * step[:, None]).sqrt() * noise.normal
    log_ratio = target(y) + log_q(x, y) - target(x) - log_q(y, x)
    torch.testing.assert_close(info.acceptance_probability, log_ratio.exp().clamp(max=1))
    assert torch.equal(info.is_accepted, noise.uniform < info.acceptance_probability)


def test_hmc_of_one_step_is_mala() -> None:
    """The same noise gives the same proposal and acceptance, in float64, with ε = h²/2."""
    target = poe.FromLogDensity(lambda x: -x.square().square().sum(-1), space=poe.Real(2))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 2, generator=g, dtype=torch.float64)
    step, noise = torch.linspace(0.1, 0.8, 50, dtype=torch.float64), draw_noise(x, g)
    hmc, mala = HMC(step, num_steps=1, jitter=0.0), MALA(step**2 / 2)
    moved, info = hmc.transition(target, hmc.init(target, x), TrajectoryNoise(*noise, None))
    expected, expected_info = mala.transition(target, mala.init(target, x), noise)
    torch.testing.assert_close(moved, expected)
    torch.testing.assert_close(info, expected_info)
    assert 0.3 < info.acceptance_probability.mean() < 1


def test_leapfrog_is_reversible() -> None:
    target = poe.FromLogDensity(lambda x: -x.square().square().sum(-1), space=poe.Real(2))
    g = torch.Generator().manual_seed(0)
    x, momentum = torch.randn(2, 50, 2, generator=g, dtype=torch.float64)
    kernel = HMC(0.01, num_steps=50)
    end, p = kernel._trajectory(target, kernel.init(target, x), momentum, 0.01)
    back, q = kernel._trajectory(target, end, -p, 0.01)
    torch.testing.assert_close(back.position, x)
    torch.testing.assert_close(-q, momentum)
    assert (end.position - x).norm(dim=-1).median() > 0.3


def test_leapfrog_errs_in_the_energy_by_the_square_of_the_step() -> None:
    target = poe.FromLogDensity(lambda x: -x.square().square().sum(-1), space=poe.Real(2))
    g = torch.Generator().manual_seed(0)
    x, momentum = torch.randn(2, 50, 2, generator=g, dtype=torch.float64)

    def error(kernel: HMC) -> Tensor:
        state = kernel.init(target, x)
        end, p = kernel._trajectory(target, state, momentum, kernel.step_size)
        kinetic = 0.5 * (p.square() - momentum.square()).sum(-1)
        return (end.log_density - state.log_density - kinetic).norm()

    ratio = error(HMC(0.004, num_steps=50)) / error(HMC(0.002, num_steps=100))
    assert 3.8 < ratio < 4.2


def test_a_trajectory_that_leaves_the_support_on_its_way_is_rejected() -> None:
    """Out over a gap in the support and back onto it: no other point tells."""
    target = poe.FromLogDensity(
        lambda x: torch.where((x > 1) & (x < 2), -torch.inf, 0.0 * x).sum(-1), space=poe.Real(1)
    )
    kernel = HMC(1.0, num_steps=3)
    noise = TrajectoryNoise(torch.ones(1, 1), torch.zeros(1), None)
    state, info = kernel.transition(target, kernel.init(target, torch.full((1, 1), 0.5)), noise)
    assert info.is_outside.all()
    assert not info.is_accepted.any()
    assert not info.is_undefined.any()
    assert state.position.item() == 0.5


@pytest.mark.parametrize("kernel", [MALA(0.3), MetropolisHastings(1.0), HMC(0.3, num_steps=3)])
def test_the_state_stays_consistent(kernel: Kernel, g: torch.Generator) -> None:
    target = poe.FromLogDensity(lambda x: -x.square().square().sum(-1), space=poe.Real(2))
    state = kernel.init(target, torch.randn(200, 2, generator=g))
    for _ in range(5):
        state, _ = kernel.step(target, state, generator=g)
    log_density, score = target.log_density_and_score(state.position)
    assert torch.equal(state.log_density, log_density)
    if isinstance(state, LangevinState):
        assert torch.equal(state.score, score)


@pytest.mark.parametrize("kernel", [MALA(2.0), MetropolisHastings(4.0), HMC(3.0, num_steps=1)])
def test_infinite_and_nan_proposals_are_rejected_and_counted(
    kernel: Kernel, g: torch.Generator
) -> None:
    target = HalfLine()
    state = kernel.init(target, torch.full((2000, 1), 0.5))
    outside = undefined = 0
    for _ in range(10):
        state, info = kernel.step(target, state, generator=g)
        assert not (info.is_accepted & (info.is_outside | info.is_undefined)).any()
        assert (info.acceptance_probability[info.is_outside | info.is_undefined] == 0).all()
        outside += int(info.is_outside.sum())
        undefined += int(info.is_undefined.sum())
        assert (state.position >= 0).all()
        assert state.log_density.isfinite().all()
    assert outside > 100
    assert undefined > 10


@pytest.mark.parametrize("kernel", [MALA(0.5), MetropolisHastings(0.5), HMC(0.7, num_steps=2)])
def test_an_infinitely_dense_point_is_rejected_and_counted(
    kernel: Kernel, g: torch.Generator
) -> None:
    target = poe.FromLogDensity(
        lambda x: torch.where(x > 1, torch.inf, -x.square()).sum(-1), space=poe.Real(1)
    )
    state = kernel.init(target, torch.zeros(500, 1))
    _, info = kernel.step(target, state, generator=g)
    assert info.is_undefined.any()
    assert not info.is_accepted[info.is_undefined].any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_start_outside_the_support_names_the_expert(kernel: Kernel) -> None:
    fine = poe.FromLogDensity(normal_density, space=poe.Real(1))
    product = poe.Product(fine=fine, half_line=HalfLine())
    with pytest.raises(poe.NonFiniteError, match=r"1 of 2.*chain 1.*expert 'half_line': -inf"):
        kernel.init(product, torch.tensor([[1.0], [-1.0]]))


def test_a_start_with_a_nan_score_is_refused() -> None:
    target = poe.FromLogDensity(lambda x: -x.abs().sqrt().sum(-1), space=poe.Real(1))
    with pytest.raises(poe.NonFiniteError, match="score"):
        MALA(0.1).init(target, torch.zeros(1, 1))


def test_ula_counts_an_explosion(g: torch.Generator) -> None:
    target = poe.FromLogDensity(lambda x: -x.square().square().sum(-1), space=poe.Real(1))
    kernel = ULA(1.0)
    state = kernel.init(target, torch.full((10, 1), 3.0))
    for _ in range(10):
        state, info = kernel.step(target, state, generator=g)
    assert info.is_undefined.all()
    assert not state.position.isfinite().any()  # nothing is swept under the carpet


def test_guarantees() -> None:
    assert MALA(0.1).guarantee == MetropolisHastings(0.1).guarantee == "asymptotically exact"
    assert HMC(0.1).guarantee == "asymptotically exact"
    assert ULA(0.1).guarantee == "biased"


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [HMC, MALA, ULA, MetropolisHastings])
def test_a_step_size_must_be_positive(kind: type, value: float) -> None:
    with pytest.raises(poe.PoeError, match="positive finite"):
        kind(value)


def test_hmc_needs_a_step() -> None:
    with pytest.raises(poe.PoeError, match="num_steps >= 1"):
        HMC(0.1, num_steps=0)


def test_step_size_shapes_are_checked(target: poe.Expert, g: torch.Generator) -> None:
    for bad in (torch.ones(3), torch.ones(4, 1)):
        kernel = MALA(bad)
        state = kernel.init(target, torch.zeros(4, 2))
        with pytest.raises(poe.PoeError, match=r"shape \(\) or \(chains,\)"):
            kernel.step(target, state, generator=g)
    with pytest.raises(poe.PoeError, match="left out"):
        MALA().step(target, MALA().init(target, torch.zeros(4, 2)), generator=g)


def test_a_step_size_per_chain_is_each_chains_own(target: poe.Expert) -> None:
    x = torch.ones(3, 2)
    noise = draw_noise(x, torch.Generator().manual_seed(0))
    steps = torch.tensor([0.1, 0.2, 0.3])
    together, _ = ULA(steps).transition(target, ULA(steps).init(target, x), noise)
    for i, step in enumerate(steps.tolist()):
        alone, _ = ULA(step).transition(target, ULA(step).init(target, x), noise)
        torch.testing.assert_close(together.position[i], alone.position[i])


def test_kernels_are_frozen_and_compare_by_value() -> None:
    assert MALA(0.1) == MALA(0.1) != MALA(0.2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        MALA(0.1).step_size = 0.2  # type: ignore[misc]
