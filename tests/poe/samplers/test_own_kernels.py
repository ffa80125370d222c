"""Kernels of a user's own, of ``init`` and ``step`` alone: they work everywhere, or are refused in
words that name what they do not say."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.core.no_gradient import without_gradient
from poe.density.adapt import Uniform
from poe.density.capabilities import conditionals, label_pairs, spin_pairs
from poe.files.fingerprint import fingerprint
from poe.normalizers.annealed import Step, _one_way, both_ways, estimate
from poe.samplers import (
    DMALA,
    HMC,
    MALA,
    ULA,
    Alternating,
    AnnealedLangevin,
    BlockGibbs,
    Checkerboard,
    ChromaticGibbs,
    DelayedAcceptance,
    GaussianGibbs,
    GeneralizedHMC,
    Gibbs,
    Info,
    LabelClusters,
    MetropolisHastings,
    ParallelTempering,
    Preconditioned,
    RandomScanGibbs,
    SingleSiteMetropolis,
    SwendsenWang,
    TunableKernel,
)
from poe.samplers.discrete.block_gibbs import mixed_log_odds
from poe.samplers.kernel import Corrected, DrawnAsItGoes, Noise, accept, where_accepted
from poe.samplers.questions import (
    Learned,
    Setting,
    at_level,
    between,
    draws_beforehand,
    ends_where_it_asked,
    filled,
    gradients_per_step,
    guarantee,
    is_reversible,
    is_tunable,
    missing,
    needs_score,
)
from poe.testing import check_kernel

CHAINS = 40_000
EXACT = "asymptotically exact"
TARGET = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
MODES = poe.FromLogDensity(lambda x: -8 * (x.abs() - 3).square().sum(-1), space=poe.Real(1))
BROAD = experts.Gaussian([0.0], scale=[3.0])


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Walked(NamedTuple):
    """A position, its log-density, and how often the chain moved: more than a kernel must keep."""

    position: Tensor
    log_density: Tensor
    num_moves: Tensor


class Walk:
    """A random walk with two methods, and no word of itself."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def init(self, target: Any, x: Tensor) -> Walked:
        with torch.no_grad():
            return Walked(x, target.log_density(x), torch.zeros(len(x), dtype=torch.int64))

    @torch.no_grad()
    def step(self, target: Any, state: Walked, *, generator: torch.Generator) -> tuple[Any, Info]:
        y = state.position + self.scale * torch.randn(state.position.shape, generator=generator)
        found = target.log_density(y)
        info = accept(found - state.log_density, found, torch.rand(len(y), generator=generator))
        position = where_accepted(info.is_accepted, y, state.position)
        log_density = where_accepted(info.is_accepted, found, state.log_density)
        return Walked(position, log_density, state.num_moves + info.is_accepted), info


class SaidWalk(Walk):
    """The same, with what it can say."""

    guarantee = EXACT
    is_reversible = True
    needs_score = False


class Drift(Walk):
    """Unadjusted Langevin, which asks for scores without a word."""

    def step(self, target: Any, state: Walked, *, generator: torch.Generator) -> tuple[Any, Info]:
        noise = torch.randn(state.position.shape, generator=generator)
        _, score = target.log_density_and_score(state.position)
        y = state.position + self.scale * score + (2 * self.scale) ** 0.5 * noise
        found = target.log_density(y)
        yes = torch.ones(len(y), dtype=torch.bool)
        return Walked(y, found, state.num_moves + 1), Info(yes.double(), yes, ~yes, ~yes, ~yes)


@dataclass(frozen=True)
class Elsewhere(Corrected[Any]):
    """A random walk that asks for the density at 0 last, wherever it ends."""

    scale: float = 0.3

    def transition(self, target: Any, state: Any, noise: Noise) -> tuple[Any, Info]:
        y = state.position + self.scale * noise.normal
        with torch.no_grad():
            found = target.log_density(y)
            info = accept(found - state.log_density, found, noise.uniform)
            target.log_density(torch.zeros_like(y))
        keep = [
            where_accepted(info.is_accepted, a, b) for a, b in zip((y, found), state, strict=True)
        ]
        return type(state)(*keep), info


@dataclass(frozen=True)
class FlipOne:
    """Flips one of a few bits drawn by chance: a discrete walk of a user's own, frozen."""

    guarantee: str = EXACT
    is_reversible: bool = True

    def init(self, target: Any, x: Tensor) -> Walked:
        with torch.no_grad():
            return Walked(x, target.log_density(x), torch.zeros(len(x)))

    @torch.no_grad()
    def step(self, target: Any, state: Walked, *, generator: torch.Generator) -> tuple[Any, Info]:
        x = state.position.flatten(1)
        site = torch.randint(x.shape[1], (len(x), 1), generator=generator)
        y = x.scatter(1, site, 1 - x.gather(1, site)).reshape(state.position.shape)
        found = target.log_density(y)
        info = accept(found - state.log_density, found, torch.rand(len(y), generator=generator))
        position = where_accepted(info.is_accepted, y, state.position)
        log_density = where_accepted(info.is_accepted, found, state.log_density)
        return Walked(position, log_density, state.num_moves), info


# What is taken where a kernel is silent


def test_a_silent_kernel_gets_the_safe_answers() -> None:
    kernel = Walk()
    assert guarantee(kernel) == "biased"
    assert not is_reversible(kernel)
    assert needs_score(kernel)
    assert not ends_where_it_asked(kernel)
    assert not draws_beforehand(kernel)
    assert missing(kernel) == frozenset()
    assert filled(kernel, Learned(scale=0.3, num_steps=2)) is kernel
    assert at_level(kernel, TARGET) is kernel
    assert between(kernel, TARGET) is None
    assert gradients_per_step(kernel) == 1


def test_a_claim_about_a_step_does_not_pass_on_to_another_step() -> None:
    @dataclass(frozen=True)
    class Mine(MALA):
        def transition(self, target, state, noise):  # type: ignore[no-untyped-def]
            return super().transition(target, state, noise)

    @dataclass(frozen=True)
    class Renamed(MALA):
        pass

    assert is_reversible(Renamed(0.1))
    assert ends_where_it_asked(Renamed(0.1))
    assert not is_reversible(Mine(0.1))
    assert not ends_where_it_asked(Mine(0.1))
    said = Walk()
    said.is_reversible = True  # type: ignore[attr-defined]
    assert is_reversible(said)


def test_what_is_left_out_is_said_and_filled_in() -> None:
    affine = poe.samplers.Diagonal(torch.zeros(2), torch.ones(2))
    learned = Learned(scale=0.3, affine=affine, num_steps=4)
    kernel = Preconditioned(HMC(num_steps=None))
    assert missing(kernel) == set(Setting) - {Setting.INTEGRATOR}
    assert filled(kernel, learned) == Preconditioned(HMC(0.3, num_steps=4), affine)
    assert filled(HMC(1.0, num_steps=None), learned) == HMC(1.0, num_steps=2)  # 1.65 radians
    assert missing(HMC(1.0, num_steps=None)) == {Setting.NUM_STEPS}
    assert filled(kernel, Learned()) == kernel
    ladder = AnnealedLangevin((TARGET**0.1,), MALA())
    assert missing(ladder) == {Setting.SCALE}
    assert missing(filled(ladder, learned)) == frozenset()


# They are sampled, and moved by particles


@pytest.mark.parametrize("kernel", [Walk(), SaidWalk(), Drift(0.05)])
def test_they_are_sampled(kernel: Any, g: torch.Generator) -> None:
    draws = poe.sample(
        TARGET, 4000, kernel=kernel, num_chains=4, warmup=50, generator=g, progress=False
    )
    assert draws.kernel is kernel
    assert draws.guarantee == guarantee(kernel)
    assert draws.samples.shape == (4, 1000, 2)


def by_numpy(x: Tensor) -> Tensor:
    """−½ |x − 1|², of a function that autograd cannot follow, and says so."""
    return without_gradient(-0.5 * (x.detach() - 1).square().sum(-1), x, "NumPy")


@pytest.mark.parametrize("kernel", [Walk(), SaidWalk()])
def test_score_free_particles_need_no_gradient(kernel: Any, g: torch.Generator) -> None:
    """−½ |x − 1|² times N(0, 3²): a normal of mean 0.9 and variance 0.9."""
    target = BROAD * poe.FromLogDensity(by_numpy, space=poe.Real(1))
    draws = poe.smc(target, 4000, kernel=kernel, generator=g, progress=False)
    weights = draws.log_weights[:, 0].softmax(0)
    means = draws.samples.mean((1, 2)).double()
    mean = weights @ means
    error = (weights.square() @ (means - mean).square()).sqrt()
    assert abs(mean - 0.9) < 4 * error


def test_particles_are_moved_by_a_silent_kernel_that_asks_for_scores(g: torch.Generator) -> None:
    draws = poe.smc(BROAD * MODES, 2000, kernel=Drift(0.01), generator=g, progress=False)
    assert draws.guarantee == "biased"
    target = BROAD * poe.FromLogDensity(by_numpy, space=poe.Real(1))
    with pytest.raises(poe.GradientError):
        poe.smc(target, 2000, kernel=Drift(0.01), generator=g, progress=False)


def test_particles_on_a_discrete_space(g: torch.Generator) -> None:
    target = experts.Ising.grid((2, 3), coupling=0.5, field=0.2)
    start = Uniform(target.space)
    draws = poe.smc(target, 4000, kernel=FlipOne(), start=start, generator=g, progress=False)
    truth = poe.log_partition(target).value
    assert draws.log_partition is not None
    assert abs(draws.log_partition.value - truth) < 4 * draws.log_partition.std_error


@pytest.mark.parametrize(
    "kernel",
    [AnnealedLangevin((TARGET,), MALA(0.1)), ParallelTempering(BROAD, MALA(0.1), (0.0, 1.0))],
)
def test_what_cannot_begin_anew_moves_no_particles(kernel: Any) -> None:
    with pytest.raises(poe.PoeError, match="can begin anew at each level"):
        poe.smc(BROAD * MODES, 100, kernel=kernel, progress=False)


def test_what_is_built_for_one_density_is_not_used_at_another(g: torch.Generator) -> None:
    """Gaussian factors are those of the target alone: on the way they would be wrong."""
    factors = poe.gaussian_factors(BROAD)
    assert factors is not None
    kernel = GaussianGibbs(factors, num_steps=2)
    with pytest.raises(poe.PoeError, match="Gaussian factors are known"):
        poe.smc(BROAD * MODES, 100, kernel=kernel, generator=g, progress=False)
    with pytest.raises(poe.PoeError, match="built for one density"):
        ParallelTempering(BROAD, kernel, (0.0, 1.0))
    with pytest.raises(poe.PoeError, match="built for densities in x"):
        Preconditioned(kernel)


@dataclass
class Plain:
    """A state that is no NamedTuple."""

    position: Tensor
    log_density: Tensor


class PlainWalk(SaidWalk):
    """Keeps a plain state."""

    def init(self, target: Any, x: Tensor) -> Any:
        return Plain(*super().init(target, x)[:2])

    def step(self, target: Any, state: Any, *, generator: torch.Generator) -> tuple[Any, Info]:
        walked = Walked(state.position, state.log_density, torch.zeros(len(state.position)))
        moved, info = super().step(target, walked, generator=generator)
        return Plain(*moved[:2]), info


def test_a_plain_state_is_moved_on_and_not_taken_apart(tmp_path: Path, g: torch.Generator) -> None:
    settings: dict[str, Any] = {"generator": g, "progress": False}
    for kernel in (PlainWalk(), Preconditioned(PlainWalk())):
        draws = poe.sample(TARGET, 40, kernel=kernel, warmup=20, **settings)
        assert draws.samples.isfinite().all()
        draws = poe.smc(BROAD * MODES, 400, kernel=kernel, **settings)
        assert draws.guarantee == EXACT
    with pytest.raises(poe.PoeError, match=r"checkpoint, got Plain"):
        poe.sample(TARGET, 40, kernel=PlainWalk(), checkpoint=tmp_path / "kept", **settings)
    with pytest.raises(poe.PoeError, match="got Plain"):
        ParallelTempering(BROAD, PlainWalk(), (0.0, 1.0)).init(MODES, torch.ones(3, 1))


# They are tempered


@pytest.mark.parametrize("kernel", [Elsewhere(0.3), SaidWalk(0.3), Walk(0.3)])
def test_their_replicas_are_swapped(kernel: Any, g: torch.Generator) -> None:
    tempering = ParallelTempering(BROAD, kernel, (0.0, 0.2, 1.0))
    state = tempering.init(MODES, torch.full((400, 1), 3.0))
    for _ in range(150):
        state, _ = tempering.step(MODES, state, generator=g)
    assert (poe.samplers.swap_rates(state) > 0.1).all()
    share = (state.position > 0).double().mean()
    assert abs(share - 0.5) < 4 * 0.5 / 400**0.5
    torch.testing.assert_close(state.log_density, MODES(state.position))


class Counted(NamedTuple):
    """A state with a number in it."""

    position: Tensor
    log_density: Tensor
    num_steps: int


class Counting(Walk):
    """Counts its steps in its state."""

    def init(self, target: Any, x: Tensor) -> Any:
        return Counted(x, target.log_density(x), 0)


def test_states_that_cannot_be_put_together_are_refused(g: torch.Generator) -> None:
    with pytest.raises(poe.PoeError, match="a row for each of 20 chains"):
        ParallelTempering(BROAD, Counting(), (0.0, 1.0)).init(MODES, torch.zeros(10, 1))
    kernel = Counting()
    kernel.guarantee, kernel.is_reversible = EXACT, True  # type: ignore[attr-defined]
    with pytest.raises(poe.PoeError, match="a row for each of 10 chains"):
        DelayedAcceptance(kernel, TARGET).init(TARGET, torch.zeros(10, 2))


@pytest.mark.parametrize("kernel", [None, Walk, object()])
@pytest.mark.parametrize("make", [
    lambda kernel: DelayedAcceptance(kernel, TARGET),
    lambda kernel: ParallelTempering(BROAD, kernel, (0.0, 1.0)),
    lambda kernel: Preconditioned(kernel),
    lambda kernel: poe.advance(TARGET, kernel, torch.zeros(3, 2), 1),
    lambda kernel: poe.sample(TARGET, 4, kernel=kernel or 3, progress=False),
    lambda kernel: poe.smc(BROAD * MODES, 4, kernel=kernel or 3, progress=False),
])  # fmt: skip
def test_what_is_no_kernel_is_refused(kernel: Any, make: Any) -> None:
    with pytest.raises(poe.PoeError, match="a kernel, with `init"):
        make(kernel)


# Parts of other kernels


def test_a_bare_kernel_is_part_of_others(g: torch.Generator) -> None:
    space = poe.Joint((poe.Real(1), poe.Binary(1)))
    target = poe.FromLogDensity(lambda x: -0.5 * (x[:, 0] - 4 * x[:, 1]).square(), space=space)
    label = (torch.rand(CHAINS, 1, generator=g) < 0.5).float()
    exact = torch.cat([4 * label + torch.randn(CHAINS, 1, generator=g), label], 1)
    kernel = Alternating(space, (SaidWalk(), Gibbs(poe.Binary(1))))
    assert kernel.guarantee == EXACT
    check_kernel(kernel, target, exact, num_steps=4, generator=g)
    affine = poe.samplers.Diagonal(torch.full((2,), 0.3), torch.tensor([2.0, 0.5]))
    exact = torch.randn(CHAINS, 2, generator=g)
    check_kernel(Preconditioned(SaidWalk(), affine), TARGET, exact, num_steps=4, generator=g)


def test_compiling_says_that_a_bare_kernel_draws_as_it_goes(g: torch.Generator) -> None:
    affine = poe.samplers.Diagonal(torch.zeros(2), torch.ones(2))
    for kernel in (SaidWalk(), Preconditioned(SaidWalk(), affine)):
        with pytest.warns(poe.TrustWarning, match="does not draw its random numbers beforehand"):
            poe.sample(
                TARGET, 8, kernel=kernel, warmup=1, generator=g, progress=False, compile=True
            )


# The ratio of delayed acceptance needs reversibility


SPINS = experts.Ising(
    torch.tensor([[0.0, 1.5, -1.0], [1.5, 0.0, 0.8], [-1.0, 0.8, 0.0]]),
    torch.tensor([0.5, -0.3, 0.2]),
)
HARD = poe.FromLogDensity(
    lambda x: SPINS(x) + 1.5 * x[..., 0] * x[..., 1] - x[..., 2] * (1 - x[..., 1]),
    space=SPINS.space,
)
GRID = experts.Ising.grid((4, 4), coupling=0.3)
LABELS = experts.Potts.grid((1, 2), coupling=0.7, num_labels=3)
HARD_LABELS = poe.FromLogDensity(
    lambda x: LABELS(x) + 0.8 * (x[..., 0, 0] == 2).to(torch.float32), space=LABELS.space
)
SWEEPS = {
    "Gibbs": (Gibbs(SPINS.space), SPINS),
    "BlockGibbs": (BlockGibbs(conditionals(SPINS)), SPINS),  # type: ignore[arg-type]
    "Checkerboard": (Checkerboard(spin_pairs(GRID), (4, 4)), GRID),  # type: ignore[arg-type]
    "ChromaticGibbs": (ChromaticGibbs(label_pairs(LABELS)), LABELS),  # type: ignore[arg-type]
    "GeneralizedHMC": (GeneralizedHMC(0.1), TARGET),
    "bare": (Walk(), TARGET),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_kernel_that_is_not_reversible_is_refused(name: str) -> None:
    kernel, surrogate = SWEEPS[name]
    word = "guarantee" if name == "bare" else "is_reversible"
    with pytest.raises(poe.PoeError, match=word):
        DelayedAcceptance(kernel, surrogate)


def test_alternating_parts_are_not_reversible() -> None:
    space = poe.Joint((poe.Binary(1), poe.Binary(1)))
    one = RandomScanGibbs(poe.Binary(1))
    target = poe.FromLogDensity(lambda x: x.sum(-1), space=space)
    with pytest.raises(poe.PoeError, match="is_reversible"):
        DelayedAcceptance(Alternating(space, (one, one)), target)


def states_of(space: poe.Space) -> Tensor:
    assert space.num_values is not None
    values = range(space.num_values)
    table = list(itertools.product(values, repeat=space.event_shape.numel()))
    return torch.tensor(table, dtype=torch.float32).reshape(-1, *space.event_shape)


REVERSIBLE = {
    "random scan": RandomScanGibbs,
    "single site": SingleSiteMetropolis,
    "clusters": lambda space: SwendsenWang(spin_pairs(SPINS)),  # type: ignore[arg-type]
    "along the score": lambda space: DMALA(space, 1.0),
    "own": lambda space: FlipOne(),
}


@pytest.mark.parametrize("name", REVERSIBLE)
def test_delayed_acceptance_keeps_spins(name: str, g: torch.Generator) -> None:
    kernel = DelayedAcceptance(REVERSIBLE[name](SPINS.space), SPINS, num_steps=2)
    assert frequencies_hold(kernel, HARD, states_of(SPINS.space), g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("name", ["random scan", "single site", "clusters"])
def test_delayed_acceptance_keeps_labels(name: str, dtype: torch.dtype, g: torch.Generator) -> None:
    pairs = label_pairs(LABELS)
    assert pairs is not None
    inner = LabelClusters(pairs) if name == "clusters" else REVERSIBLE[name](LABELS.space)
    kernel = DelayedAcceptance(inner, LABELS)
    assert frequencies_hold(
        kernel, HARD_LABELS, states_of(LABELS.space).reshape(-1, 1, 2).to(dtype), g
    )


def frequencies_hold(
    kernel: Any, target: poe.Expert, table: Tensor, g: torch.Generator, num_steps: int = 20
) -> bool:
    """Whether frequencies of all states after some steps from exact draws are those they had."""
    truth = target(table).double().softmax(0)
    state = kernel.init(target, table[torch.multinomial(truth, CHAINS, True, generator=g)])
    for _ in range(num_steps):
        state, _ = kernel.step(target, state, generator=g)
    is_at = (state.position[:, None] == table).flatten(2).all(2)
    error = (truth * (1 - truth) / CHAINS).sqrt()
    return bool(((is_at.double().mean(0) - truth).abs() < 4.5 * error).all())


# What a protocol finds


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (Preconditioned(ULA(0.1)), False),
        (Preconditioned(Walk()), False),
        (Preconditioned(MALA()), True),
        (Preconditioned(MALA(0.1)), True),
        (ULA(0.1), False),
        (MetropolisHastings(), True),
    ],
)
def test_a_static_look_finds_what_is_tunable(kernel: Any, expected: bool) -> None:
    """As ``isinstance`` looks from Python 3.12 on."""
    members = ("init", "step", "guarantee", "scale_setting", "target_acceptance", "with_scale")
    absent = object()
    found = all(inspect.getattr_static(kernel, name, absent) is not absent for name in members)
    assert found == isinstance(kernel, TunableKernel) == is_tunable(kernel) == expected


def test_a_map_keeps_the_scale_of_what_is_replaced() -> None:
    kernel = Preconditioned(MALA(), poe.samplers.Diagonal(torch.zeros(2), torch.ones(2)))
    assert kernel.scale_setting is None
    assert kernel.with_scale(0.3).scale_setting == 0.3
    assert not hasattr(replace(kernel, kernel=ULA(0.1)), "scale_setting")


def test_log_odds_between_two_levels_may_be_infinite() -> None:
    infinite, zero = torch.tensor(torch.inf), torch.tensor(0.0)
    beta = torch.tensor([0.0, 0.25, 1.0])
    for first, last, expected in (
        (infinite, infinite, [torch.inf] * 3),
        (-infinite, -infinite, [-torch.inf] * 3),
        (zero, infinite, [0.0, torch.inf, torch.inf]),
        (-infinite, zero, [-torch.inf, -torch.inf, 0.0]),
        (zero + 1, zero + 3, [1.0, 1.5, 3.0]),
    ):
        assert mixed_log_odds(first, last, beta).tolist() == expected


def test_both_ways_ask_the_kernel_of_every_level(g: torch.Generator) -> None:
    up = torch.randn(16, 50, generator=g).double()
    down = -torch.randn(16, 50, generator=g).double()
    scan, sweep = RandomScanGibbs(SPINS.space), Gibbs(SPINS.space)
    reversible = [Step(0.0, 0.5, scan), Step(0.5, 1.0, scan)]
    mixed = [Step(0.0, 0.5, sweep), Step(0.5, 1.0, scan)]
    assert estimate(reversible, up, down) == both_ways(up, down)
    assert estimate(mixed, up, down) == _one_way(up)
    assert _one_way(up) != both_ways(up, down)


def test_a_bare_kernel_in_two_parts_is_its_step(g: torch.Generator) -> None:
    kernel, x = Walk(), torch.zeros(5, 2)
    same = torch.Generator().manual_seed(0)
    expected, _ = kernel.step(TARGET, kernel.init(TARGET, x), generator=same)
    found, _ = DrawnAsItGoes(kernel).step(TARGET, kernel.init(TARGET, x), generator=g)
    assert all(map(torch.equal, found, expected))


class WithoutLogDensity(Walk):
    """A state that is the position alone."""

    def init(self, target: Any, x: Tensor) -> Any:
        return x


class WithoutInfo(Walk):
    def step(self, target: Any, state: Any, *, generator: torch.Generator) -> Any:
        return super().step(target, state, generator=generator)[0]


class OfOneChain(Walk):
    """A step that gives back the first chain alone."""

    def step(self, target: Any, state: Any, *, generator: torch.Generator) -> Any:
        state, info = super().step(target, state, generator=generator)
        return type(state)(*(part[:1] for part in state)), info


@pytest.mark.parametrize("wrong", [WithoutLogDensity, WithoutInfo, OfOneChain])
@pytest.mark.parametrize("use", ["sample", "smc", "advance", "warm_up", "preconditioned"])
def test_what_comes_from_a_users_kernel_is_checked(
    wrong: type[Walk], use: str, g: torch.Generator
) -> None:
    kernel, x = wrong(), torch.zeros(4, 2)
    affine = poe.samplers.Diagonal(torch.zeros(2), torch.ones(2))
    uses = {
        "sample": lambda: poe.sample(TARGET, 40, kernel=kernel, generator=g, progress=False),
        "smc": lambda: poe.smc(
            TARGET, 64, kernel=kernel, num_islands=4, generator=g, progress=False
        ),
        "advance": lambda: poe.advance(TARGET, kernel, x, 2, generator=g),
        "warm_up": lambda: poe.warm_up(TARGET, kernel, x, poe.Warmup(2), generator=g),
        "preconditioned": lambda: poe.advance(
            TARGET, Preconditioned(kernel, affine), x, 2, generator=g
        ),
    }
    with pytest.raises(poe.PoeError, match=rf"expected {wrong.__name__}\.(init|step) to return"):
        uses[use]()


def test_answers_that_are_none_are_refused(g: torch.Generator) -> None:
    class Asked(Walk):
        guarantee = EXACT

        def is_reversible(self) -> bool:  # a method is true, whatever it returns
            return False

    class Claims(Walk):
        guarantee = "exact"

    with pytest.raises(poe.PoeError, match=r"Asked\.is_reversible to be True or False"):
        is_reversible(Asked())
    with pytest.raises(poe.PoeError, match=r"Claims\.guarantee to be 'asymptotically exact' or"):
        poe.sample(TARGET, 10, kernel=Claims(), generator=g, progress=False)


@pytest.mark.parametrize("kernel", [MALA(0.5), Preconditioned(HMC(0.5)), MetropolisHastings(0.5)])
@pytest.mark.parametrize("use", ["sample", "smc", "advance"])
def test_kernels_that_leave_a_discrete_space_are_refused(
    kernel: Any, use: str, g: torch.Generator
) -> None:
    ising = experts.Ising([[0.0, 0.5], [0.5, 0.0]], [0.1, 0.2])
    if use == "advance":
        kernel = MALA(0.5)
    uses = {
        "sample": lambda: poe.sample(
            ising, 40, kernel=kernel, warmup=20, generator=g, progress=False
        ),
        "smc": lambda: poe.smc(
            ising, 64, kernel=kernel, num_islands=4, generator=g, progress=False
        ),
        "advance": lambda: poe.advance(ising, kernel, torch.zeros(4, 2), 5, generator=g),
    }
    with pytest.raises(poe.PoeError, match=r"expected a kernel that stays in Binary\(2\)"):
        uses[use]()


def test_a_users_kernel_of_other_settings_is_another_run() -> None:
    class Plain:
        def __init__(self, scale: float) -> None:
            self.scale = scale

    assert fingerprint(Plain(0.1)) != fingerprint(Plain(0.2))
    assert fingerprint(Plain(0.1)) == fingerprint(Plain(0.1))
