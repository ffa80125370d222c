"""Alternating kernels on mixed states: against a Gaussian mixture with its label."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import poe
from poe.core.doubt import Kind
from poe.samplers import (
    DMALA,
    HMC,
    MALA,
    ULA,
    Alternating,
    GeneralizedHMC,
    Gibbs,
    GibbsWithGradients,
    Info,
    Kernel,
    LatticeGibbs,
    MetropolisHastings,
    MetropolisState,
    ParallelTempering,
    PathAuxiliary,
    Preconditioned,
    RandomScanGibbs,
)
from poe.samplers.alternating import Part, _together
from poe.samplers.kernel import map_leaves
from poe.testing import LawError
from tests.laws.kernels import check_kernel

CHAINS = 40_000
WEIGHTS = torch.tensor([0.2, 0.5, 0.3])
MEANS = torch.tensor([[-2.0, 0.0], [0.5, 1.0], [2.0, -1.0]])
SCALES = torch.tensor([0.6, 1.0, 0.8])
LABEL = poe.Categorical((), 3)
SPACE = poe.Joint((poe.Real(2), LABEL))
SPINS = poe.Joint((poe.Real(2), poe.Binary(3)))
COUPLING = torch.tensor([[0.9, -0.5, 0.3], [0.2, 0.8, -0.7]])


def mixture(z: Tensor) -> Tensor:
    """log w_c + log N(x; μ_c, σ_c² I), z = (x, c)."""
    x, label = SPACE.split(z)
    c = label.long()
    square = ((x - MEANS[c]) / SCALES[c, None]).square().sum(-1)
    return WEIGHTS[c].log() - 2 * SCALES[c].log() - 0.5 * square


def with_spins(z: Tensor) -> Tensor:
    """−|x|² / 2 + x' C s, s in {0, 1}³: x given s is N(C s, I), p(s) ∝ exp(|C s|² / 2)."""
    x, s = SPINS.split(z)
    return -0.5 * x.square().sum(-1) + ((x @ COUPLING) * s).sum(-1)


TARGET = poe.FromLogDensity(mixture, space=SPACE)
SPIN_TARGET = poe.FromLogDensity(with_spins, space=SPINS)


def exact_mixture(g: torch.Generator, chains: int = CHAINS) -> Tensor:
    c = torch.multinomial(WEIGHTS, chains, replacement=True, generator=g)
    x = MEANS[c] + SCALES[c, None] * torch.randn(chains, 2, generator=g)
    return SPACE.join(x, c)


def exact_spins(g: torch.Generator) -> Tensor:
    table = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    p = (0.5 * (table @ COUPLING.T).square().sum(1)).softmax(0)
    s = table[torch.multinomial(p, CHAINS, replacement=True, generator=g)]
    return SPINS.join(s @ COUPLING.T + torch.randn(CHAINS, 2, generator=g), s)


PAIRS: dict[str, tuple[Kernel, Kernel]] = {
    "MALA and Gibbs": (MALA(0.3), Gibbs(LABEL)),
    "HMC and random scan": (HMC(0.4, num_steps=3), RandomScanGibbs(LABEL)),
    "random walk and Gibbs": (MetropolisHastings(0.8), Gibbs(LABEL)),
}
SPIN_PAIRS: dict[str, tuple[Kernel, Kernel]] = {
    "MALA and DMALA": (MALA(0.4), DMALA(poe.Binary(3), 1.0)),
    "MALA and GWG": (MALA(0.4), GibbsWithGradients(poe.Binary(3))),
    "HMC and paths": (HMC(0.5, num_steps=2), PathAuxiliary(poe.Binary(3), 2)),
}


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.law
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_invariance_of_a_mixture_with_its_label(
    pair: tuple[Kernel, Kernel], g: torch.Generator
) -> None:
    check_kernel(Alternating(SPACE, pair), TARGET, exact_mixture(g), num_steps=10, generator=g)


@pytest.mark.law
@pytest.mark.parametrize("pair", SPIN_PAIRS.values(), ids=SPIN_PAIRS.keys())
def test_invariance_of_spins_in_a_field_that_moves(
    pair: tuple[Kernel, Kernel], g: torch.Generator
) -> None:
    check_kernel(Alternating(SPINS, pair), SPIN_TARGET, exact_spins(g), num_steps=10, generator=g)


@pytest.mark.law
def test_chains_come_to_the_known_weights_and_moments(g: torch.Generator) -> None:
    """From one place and one label: weights, means and variances in standard errors."""
    kernel = Alternating(SPACE, (HMC(0.5, num_steps=4), Gibbs(LABEL)))
    state = kernel.init(TARGET, torch.zeros(CHAINS // 4, 3))
    for _ in range(150):
        state, _ = kernel.step(TARGET, state, generator=g)
    x, c = SPACE.split(state.position)
    found = torch.bincount(c.long(), minlength=3).double() / len(c)
    assert ((found - WEIGHTS).abs() < 4 * (WEIGHTS * (1 - WEIGHTS) / len(c)).sqrt()).all()
    for label in range(3):
        mine = x[c == label]
        error = SCALES[label] / math.sqrt(len(mine))
        assert ((mine.mean(0) - MEANS[label]).abs() < 4 * error).all()
        spread = SCALES[label] ** 2 * math.sqrt(2 / len(mine))
        assert ((mine.var(0) - SCALES[label] ** 2).abs() < 4 * spread).all()


class FromTheOldState(Alternating):
    """The mistake: each part given where the others were, not where they are."""

    def transition(self, target, state, noise):  # type: ignore[no-untyped-def]
        parts, infos = [], []
        for index, (kernel, drawn) in enumerate(zip(self._inner, noise.inner, strict=True)):
            density = Part(target, self.space, state.position, index)
            inner = kernel.state_at(density, self.space.split(state.position)[index])
            inner, info = kernel.transition(density, inner, drawn)
            parts.append(inner.position)
            infos.append(info)
        return self.state_at(target, self.space.join(*parts)), _together(infos)


@pytest.mark.law
def test_the_law_goes_red_on_a_mistake(g: torch.Generator) -> None:
    kernel = FromTheOldState(SPACE, PAIRS["MALA and Gibbs"])
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check_kernel(kernel, TARGET, exact_mixture(g), num_steps=10, generator=g)


def test_it_is_sampled_and_tempered(g: torch.Generator) -> None:
    kernel = Alternating(SPACE, PAIRS["MALA and Gibbs"])
    draws = poe.sample(
        TARGET, 400, kernel=kernel, initial=exact_mixture(g, 4), warmup=5, generator=g,
        progress=False,
    )  # fmt: skip
    assert draws.samples.shape == (4, 100, 3)
    assert draws.guarantee == "asymptotically exact"
    assert draws.num_gradients == 100 * kernel.gradients_per_step
    start = poe.FromLogDensity(lambda z: 0.3 * mixture(z), space=SPACE)
    tempering = ParallelTempering(start, kernel, (0.0, 1.0))
    x = exact_mixture(g, 100)
    state = tempering.init(TARGET, x)
    for _ in range(10):
        state, _ = tempering.step(TARGET, state, generator=g)
    torch.testing.assert_close(state.log_density, TARGET(state.position))


def test_evaluations_are_counted(g: torch.Generator) -> None:
    rows: list[int] = []

    def counted(z: Tensor) -> Tensor:
        rows.append(len(z))
        return mixture(z)

    target = poe.FromLogDensity(counted, space=SPACE)
    kernel = Alternating(SPACE, PAIRS["MALA and Gibbs"])
    state = kernel.init(target, exact_mixture(g, 6))
    rows.clear()
    kernel.step(target, state, generator=g)
    assert sum(rows) == 6 * kernel.gradients_per_step


def test_transition_runs_on_the_meta_device(g: torch.Generator) -> None:
    target = poe.FromLogDensity(
        lambda z: -(z[:, :2] - z[:, 2:]).square().sum(1), space=SPACE
    )  # its numbers are nowhere but in z
    kernel, x = Alternating(SPACE, PAIRS["MALA and Gibbs"]), exact_mixture(g, 4)
    noise = map_leaves_of(kernel.draw_noise(x, g))
    state, info = kernel.transition(target, kernel.init(target, x.to("meta")), noise)
    assert isinstance(state, MetropolisState)
    assert isinstance(info, Info)
    assert all(part.device.type == "meta" for part in (*state, *info))


def map_leaves_of(noise):  # type: ignore[no-untyped-def]
    moved = tuple(map_leaves(lambda part: part.to("meta"), one) for one in noise.inner)
    return type(noise)(moved)


def test_what_does_not_fit_is_refused(g: torch.Generator) -> None:
    for space, kernels, words in (
        (SPACE, (MALA(0.1),), "a kernel for each of its parts"),
        (poe.Real(3), (MALA(0.1), Gibbs(LABEL)), "expected a poe.Joint"),
        (SPACE, (Preconditioned(MALA()), Gibbs(LABEL)), "with its preconditioner"),
        (SPACE, (MALA(0.1), Gibbs(poe.Binary(1))), r"on its part Categorical\(\(\), 3\)"),
    ):
        with pytest.raises(poe.PoeError, match=words):
            Alternating(space, kernels)  # type: ignore[arg-type]
    with pytest.raises(poe.PoeError, match="GeneralizedHMC, whose state holds what"):
        Alternating(SPACE, (GeneralizedHMC(0.1), Gibbs(LABEL)))
    gradient = Alternating(SPACE, (MALA(0.1), GibbsWithGradients(LABEL)))
    state = MetropolisState(x := exact_mixture(g, 4), TARGET(x))
    with pytest.raises(poe.PoeError, match="without a gradient on the part"):
        gradient.step(TARGET, state, generator=g)
    assert Alternating(SPACE, (ULA(0.1), Gibbs(LABEL))).guarantee == "biased"


def test_a_step_size_left_out_is_tuned_on_the_parts_that_have_one(g: torch.Generator) -> None:
    draws = poe.sample(TARGET, 400, warmup=200, generator=g, progress=False)
    assert isinstance(draws.kernel, Alternating)
    kernel, labels = draws.kernel.kernels
    assert isinstance(kernel, MALA)
    assert isinstance(kernel.step_size, float)
    assert isinstance(labels, Gibbs)
    step = Alternating(SPACE, (kernel, Gibbs(LABEL)))
    state, accepted = step.init(TARGET, exact_mixture(g, 4000)), []
    for _ in range(4):
        state, info = step.step(TARGET, state, generator=g)
        accepted.append(info.acceptance_probability.mean())
    assert abs(torch.stack(accepted).mean() - MALA.target_acceptance) < 0.15  # of 4 chains
    with pytest.raises(poe.PoeError, match="step size was left out"):
        poe.advance(TARGET, Alternating(SPACE, (MALA(), Gibbs(LABEL))), exact_mixture(g, 4), 2)


def test_a_joint_space_holds_its_parts(tmp_path: Path) -> None:
    assert SPACE.event_shape == (3,)
    inside = torch.tensor([[0.5, -1.0, 2.0], [0.5, -1.0, 1.5], [math.inf, 0.0, 1.0]])
    assert SPACE.contains(inside).tolist() == [True, False, False]
    parts = SPACE.split(inside)
    assert [tuple(part.shape) for part in parts] == [(3, 2), (3,)]
    assert torch.equal(SPACE.join(*parts), inside)
    assert poe.Joint([poe.Real(2), LABEL]) == SPACE  # type: ignore[arg-type]
    with pytest.raises(poe.DtypeError, match="floating-point"):
        SPACE.batch_shape(torch.zeros(2, 3).long())
    with pytest.raises(poe.ShapeError, match="expected 2 parts"):
        SPACE.join(parts[0])
    for wrong in ((poe.Real(2),), (poe.Real(1), poe.Simplex(2)), (poe.Positive(1), LABEL)):
        with pytest.raises(poe.PoeError, match="at least two parts"):
            poe.Joint(wrong)
    poe.save(poe.FromLogDensity(torch.nn.Flatten(0), space=SPACE), tmp_path / "joint")
    assert poe.load(tmp_path / "joint").space == SPACE


def test_counts_of_a_joint_are_drawn_from_windows_given_their_rate() -> None:
    """n given m is Poisson of rate e^m, and m N(1, ½²): the mean of n is e^(9/8)."""

    def log_density(x: Tensor) -> Tensor:
        rate, n = x[:, :1], x[:, 1:]
        return -2 * (x[:, 0] - 1).square() + (n * rate - rate.exp() - (n + 1).lgamma()).sum(1)

    space, g = poe.Joint((poe.Real(1), poe.Count(2))), torch.Generator().manual_seed(0)
    kernel = Alternating(space, (MALA(0.1), LatticeGibbs(poe.Count(2))))
    m = 1 + 0.5 * torch.randn(40_000, 1, generator=g)
    exact = torch.cat([m, torch.poisson(m.exp().expand(-1, 2), generator=g)], 1)
    target = poe.FromLogDensity(log_density, space=space)
    check_kernel(kernel, target, exact, num_steps=3, generator=g)
    draws = poe.sample(target, 40, warmup=10, generator=g, progress=False)
    assert "counts and labels by Gibbs" in draws.choice
    assert space.contains(draws.samples).all()
    assert Kind.IMPROPER not in [doubt.kind for doubt in draws.doubts]
