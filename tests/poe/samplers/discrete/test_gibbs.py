"""Gibbs sampling of discrete spaces: against enumeration, exact draws and exact log Z."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.density.adapt import Uniform
from poe.normalizers.enumeration import states
from poe.samplers import Gibbs, Info, MetropolisState, ParallelTempering
from poe.samplers.discrete.gibbs import SweepNoise
from poe.samplers.kernel import Density
from poe.samplers.path import Level, geometric_path
from poe.testing import LawError
from tests.laws.kernels import check_kernel

CHAINS = 40_000
COUPLING = torch.tensor([[0.0, 1.2, -0.7], [1.2, 0.0, 0.9], [-0.7, 0.9, 0.0]])


def coupled(x: Tensor) -> Tensor:
    x = x.to(COUPLING.dtype)
    return 0.5 * torch.einsum("bi,ij,bj->b", x, COUPLING, x)


def no_two_neighbours(x: Tensor) -> Tensor:
    is_excluded = ((x[:, 1:] == 1) & (x[:, :-1] == 1)).any(1)
    return torch.zeros(len(x)).masked_fill(is_excluded, -torch.inf)


def product(space: poe.Space, logits: Tensor | None = None) -> poe.Expert:
    """A coupling and a constraint, and for Binary a field."""
    target = poe.FromLogDensity(coupled, space=space) * poe.FromLogDensity(
        no_two_neighbours, space=space
    )
    return target if logits is None else target * experts.Bernoulli(logits)


TARGETS = {
    "Binary": product(poe.Binary(3), torch.tensor([0.5, -1.0, 1.5])),
    "Categorical": product(poe.Categorical((3,), 3)),
    "Sequence": product(poe.Sequence(3, 3)),
}


def ising(n: int, beta: float) -> poe.Expert:
    """The n x n torus, every bond once, no field."""

    def log_density(x: Tensor) -> Tensor:
        spin = 2.0 * x - 1.0
        return beta * (spin * (spin.roll(1, -1) + spin.roll(1, -2))).sum((-1, -2))

    return poe.FromLogDensity(log_density, space=poe.Binary((n, n)))


def table_of(target: poe.Expert) -> tuple[Tensor, Tensor]:
    """All states and their probabilities."""
    x = states(target.space)
    return x, torch.softmax(target(x).double(), 0)


def exact_draws(target: poe.Expert, g: torch.Generator) -> Tensor:
    x, probability = table_of(target)
    return x[torch.multinomial(probability, CHAINS, replacement=True, generator=g)]


def frequencies(target: poe.Expert, x: Tensor) -> Tensor:
    k = target.space.num_values
    assert k is not None
    powers = k ** torch.arange(x[0].numel() - 1, -1, -1)
    places = (x.reshape(len(x), -1).long() * powers).sum(1)
    return torch.bincount(places, minlength=k ** x[0].numel()).double() / len(x)


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.law
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_chains_come_to_the_enumerated_table(target: poe.Expert, g: torch.Generator) -> None:
    """From one state: by their total variation, and state by state in standard errors."""
    kernel, x = Gibbs(target.space), torch.zeros_like(states(target.space)[:1])
    state = kernel.init(target, x.expand(CHAINS, 3))
    for _ in range(40):
        state, _ = kernel.step(target, state, generator=g)
    found, (_, truth) = frequencies(target, state.position), table_of(target)
    std_error = (truth * (1 - truth) / CHAINS).sqrt()
    assert (found[truth == 0] == 0).all()  # the constraint holds
    assert ((found - truth).abs() <= 4 * std_error).all()
    # Of independent draws |found - truth| is half-normal: mean and variance of the distance.
    floor = 0.5 * math.sqrt(2 / math.pi) * std_error.sum()
    spread = 0.5 * math.sqrt(1 - 2 / math.pi) * std_error.square().sum().sqrt()
    assert 0.5 * (found - truth).abs().sum() < floor + 4 * spread


@pytest.mark.law
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_invariance_from_exact_draws(target: poe.Expert, g: torch.Generator) -> None:
    check_kernel(Gibbs(target.space), target, exact_draws(target, g), num_steps=10, generator=g)


@dataclass(frozen=True)
class AllAtOnce(Gibbs):
    """The mistake: every site from its conditional given where all the others were."""

    def transition(
        self, target: Density, state: MetropolisState, noise: SweepNoise
    ) -> tuple[MetropolisState, Info]:
        x, columns = state.position, []
        for site, gumbel in enumerate(noise.gumbel.unbind(1)):
            others = self._evaluate_others(target, x, site)
            values = torch.cat([state.log_density[:, None], others], 1)
            columns.append((x[:, site] + (values + gumbel).argmax(1)) % self.num_values)
        moved = self.state_at(target, torch.stack(columns, 1))
        yes = torch.ones(len(x), dtype=torch.bool)
        return moved, Info(yes.float(), yes, ~yes, ~yes, ~yes)


@dataclass(frozen=True)
class StaleDensity(Gibbs):
    """The mistake: the present value is weighed by the log-density of the sweep's beginning."""

    def _evaluate_others(self, target: Density, x: Tensor, site: int) -> Tensor:
        found = super()._evaluate_others(target, x, site)
        first = super()._evaluate_others(target, torch.zeros_like(x), site)
        return torch.where(found > -torch.inf, first, found)


@pytest.mark.law
@pytest.mark.parametrize("mistake", [AllAtOnce, StaleDensity])
def test_the_law_goes_red_on_mistakes(mistake: type[Gibbs], g: torch.Generator) -> None:
    target = poe.FromLogDensity(coupled, space=poe.Binary(3))
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check_kernel(
            mistake(target.space), target, exact_draws(target, g), num_steps=10, generator=g
        )


def test_a_site_is_drawn_by_the_formula(g: torch.Generator) -> None:
    """argmax of log p̃ + Gumbel over the values, on one site of three values."""
    logits = torch.tensor([0.3, -1.0, 0.8])
    target = poe.FromLogDensity(lambda x: logits[x[:, 0]], space=poe.Categorical((1,), 3))
    kernel, x = Gibbs(target.space), torch.tensor([[0], [1], [2], [1]])
    noise = kernel.draw_noise(x, g)
    moved, _ = kernel.transition(target, kernel.init(target, x), noise)
    values = (x + torch.arange(3)) % 3  # the present one comes first
    best = (logits[values] + noise.gumbel[:, 0]).argmax(1, keepdim=True)
    assert torch.equal(moved.position, values.gather(1, best))
    assert torch.equal(moved.log_density, logits[moved.position[:, 0]])


@pytest.mark.parametrize(
    "space",
    [poe.Binary(()), poe.Binary(4), poe.Categorical((2, 2), 3), poe.Sequence(5, 2)],
    ids=str,
)
def test_shapes_evaluations_and_dtypes(space: poe.Space, g: torch.Generator) -> None:
    rows = 0

    def log_density(x: Tensor) -> Tensor:
        nonlocal rows
        rows += len(x)
        assert x.shape[1:] == space.event_shape
        return x.reshape(len(x), -1).float().sum(1)

    target, kernel = poe.FromLogDensity(log_density, space=space), Gibbs(space)
    x = Uniform(space).sample(7, generator=g)
    state, before = kernel.init(target, x), x.clone()
    rows = 0
    moved, info = kernel.step(target, state, generator=g)
    assert rows == 7 * kernel.gradients_per_step
    assert moved.position.shape == x.shape
    assert moved.position.dtype == x.dtype
    assert bool(space.contains(moved.position).all())
    assert torch.equal(state.position, before)  # not written to
    assert all(field.shape == (7,) for field in info)


@pytest.mark.parametrize("space", [poe.Binary((2, 2)), poe.Categorical((2, 2), 3)], ids=str)
def test_transition_runs_on_the_meta_device(space: poe.Space) -> None:
    target = poe.FromLogDensity(lambda x: x.flatten(1).float().sum(1), space=space)
    kernel, x = Gibbs(space), torch.zeros(4, 2, 2, device="meta")
    # Drawn elsewhere: on meta there are no exponential variables of a generator.
    noise = kernel.draw_noise(torch.zeros(4, 2, 2), torch.Generator())
    noise = SweepNoise(noise.gumbel.to("meta"))
    state, info = kernel.transition(target, kernel.init(target, x), noise)
    assert all(part.device.type == "meta" for part in (*state, *info))
    assert state.position.shape == (4, 2, 2)


def test_same_seed_same_bits_and_the_global_generator_is_left_alone() -> None:
    def run() -> poe.Draws:
        return poe.sample(
            ising(3, 0.3), 80, warmup=5, generator=torch.Generator().manual_seed(3), progress=False
        )

    before = torch.get_rng_state()
    assert torch.equal(run().samples, run().samples)
    assert torch.equal(before, torch.get_rng_state())


def test_values_that_have_no_density_are_not_drawn_but_counted(g: torch.Generator) -> None:
    """0 and 1 are equally likely; 2 is outside, 3 NaN, 4 +inf."""
    values = torch.tensor([0.0, 0.0, -torch.inf, torch.nan, torch.inf])
    target = poe.FromLogDensity(lambda x: values[x[:, 0]], space=poe.Categorical((1,), 5))
    kernel = Gibbs(target.space)
    state, info = kernel.step(target, kernel.init(target, torch.zeros(99, 1).long()), generator=g)
    assert set(state.position.flatten().tolist()) == {0, 1}
    assert bool((info.is_outside & info.is_undefined & info.is_accepted).all())
    assert not bool(info.is_divergent.any())


@pytest.mark.parametrize("nothing", [-torch.inf, torch.nan])
def test_a_chain_without_another_value_stays_and_is_not_accepted(
    nothing: float, g: torch.Generator
) -> None:
    """x = 0 alone has a density; the last chain is where there is none either."""
    target = poe.FromLogDensity(
        lambda x: torch.where(x[:, 0] == 0, 0.0, nothing), space=poe.Categorical((1,), 3)
    )
    kernel, x = Gibbs(target.space), torch.tensor([[0], [0]])
    state, info = kernel.step(target, kernel.init(target, x), generator=g)
    assert torch.equal(state.position, x)
    assert not bool(info.is_accepted.any())
    nowhere = poe.FromLogDensity(lambda x: torch.full((len(x),), nothing), space=target.space)
    state, info = kernel.step(nowhere, kernel.state_at(nowhere, x), generator=g)
    assert torch.equal(state.position, x)
    assert bool((info.is_undefined if nothing != -torch.inf else info.is_outside).all())


@pytest.mark.parametrize("space", [poe.Real(2), poe.Count(2)], ids=str)
def test_a_space_of_infinitely_many_values_is_refused(space: poe.Space) -> None:
    with pytest.raises(poe.PoeError, match="finitely many values"):
        Gibbs(space)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_a_level_knows_its_parts_where_a_sweep_ends(target: poe.Expert, g: torch.Generator) -> None:
    """Nothing is evaluated beside the sweep, and what is known is what is there."""
    path = geometric_path(Uniform(target.space), target)
    level, kernel = Level(path, 0.5), Gibbs(target.space)
    parts = path.evaluate(exact_draws(target, g)[:500], False)
    state = kernel.init(level.known(parts), parts.position)
    for _ in range(5):
        level.num_evaluations = 0
        state, info = kernel.step(level, state, generator=g)
        parts = level.follow_or_evaluate(parts, info.is_accepted, state.position)
        assert level.num_evaluations == 500 * kernel.gradients_per_step
    there = path.evaluate(state.position, False)
    assert torch.equal(parts.log_density, there.log_density)
    assert torch.equal(state.log_density, path.log_density(there, 0.5))


@pytest.mark.law
def test_it_moves_the_replicas_of_parallel_tempering(g: torch.Generator) -> None:
    """From one of two modes, which single sites do not leave, to both by their weights."""
    target = poe.FromLogDensity(
        lambda x: 60.0 * (x.mean(-1) - 0.5).square() + 0.5 * x[:, 0], space=poe.Binary(4)
    )
    kernel = ParallelTempering(Uniform(target.space), Gibbs(target.space), (0.0, 0.3, 0.6, 1.0))
    state = kernel.init(target, torch.zeros(CHAINS // 4, 4))
    for _ in range(100):
        state, _ = kernel.step(target, state, generator=g)
    found, (_, truth) = frequencies(target, state.position), table_of(target)
    assert ((found - truth).abs() <= 4 * (4 * truth * (1 - truth) / CHAINS).sqrt()).all()


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
def test_sample_without_a_kernel(target: poe.Expert) -> None:
    g = torch.Generator().manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draws = poe.sample(target, 32_000, num_chains=400, warmup=20, generator=g, progress=False)
    assert draws.kernel == Gibbs(target.space)
    assert draws.guarantee == "asymptotically exact"
    assert not draws.summary().warnings
    x, truth = table_of(target)
    by_chain = (draws.samples[:, :, None] == x.to(draws.samples.dtype)).all(-1).double().mean(1)
    std_error = by_chain.std(0) / math.sqrt(len(by_chain))
    assert ((by_chain.mean(0) - truth).abs() <= 4 * std_error).all()


def binary_of_eight() -> poe.Expert:
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(5))
    return poe.FromLogDensity(
        lambda x: torch.einsum("bi,ij,bj->b", x, weight, x), space=poe.Binary(8)
    )


ENUMERATED: dict[str, Callable[[], poe.Expert]] = {
    "eight bits": binary_of_eight,
    **{name: lambda target=target: target for name, target in TARGETS.items()},  # type: ignore[misc]
}


@pytest.mark.parametrize("build", ENUMERATED.values(), ids=ENUMERATED.keys())
def test_smc_without_a_kernel_against_enumeration(build: Callable[[], poe.Expert]) -> None:
    target = build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draws = poe.smc(target, 4000, generator=torch.Generator().manual_seed(0), progress=False)
    assert draws.kernel == Gibbs(target.space)
    found, truth = draws.log_partition, poe.log_partition(target)
    assert found is not None
    assert truth.method == "enumeration"
    assert abs(found.value - truth.value) < 4 * found.std_error
    assert found.std_error < 0.05


# Kaufman 1949: log Z of the periodic n x n Ising model.
KAUFMAN = [
    (3, 0.2, 6.669745),
    (3, 0.4406868, 9.020213),
    (3, 0.6, 11.587695),
    (4, 0.2, 11.771470),
    (4, 0.4406868, 15.521916),
    (4, 0.6, 20.056533),
]


@pytest.mark.parametrize(("n", "beta", "log_z"), KAUFMAN)
def test_log_partition_of_the_ising_torus(n: int, beta: float, log_z: float) -> None:
    g = torch.Generator().manual_seed(0)
    draws = poe.smc(ising(n, beta), 2048, generator=g, progress=False)
    found = draws.log_partition
    assert found is not None
    assert abs(found.value - log_z) < 4 * found.std_error
    assert found.std_error < 0.06


def test_a_sharp_density_is_not_called_stuck_and_an_isolated_state_is() -> None:
    def run(log_density: Callable[[Tensor], Tensor]) -> poe.Draws:
        target = poe.FromLogDensity(log_density, space=poe.Binary(3))
        g = torch.Generator().manual_seed(0)
        return poe.sample(target, 120, warmup=10, generator=g, progress=False)

    sharp = run(lambda x: 12.0 * x.sum(-1))
    assert not sharp.stuck_chains
    assert not sharp.still_chains
    with pytest.warns(poe.TrustWarning, match="No single element can change"):
        isolated = run(lambda x: torch.where(x.sum(-1) % 3 == 0, 0.0, -torch.inf))
    assert isolated.stuck_chains == [0, 1, 2, 3]


def test_a_uniform_start_is_normalised_and_every_state_is_drawn(g: torch.Generator) -> None:
    for space in (poe.Binary((2, 2)), poe.Categorical((2,), 3), poe.Sequence(3, 2)):
        uniform, table = Uniform(space), states(space)
        assert uniform.log_prob(table).double().exp().sum().item() == pytest.approx(1.0, abs=1e-6)
        x = uniform.sample(CHAINS, generator=g)
        assert x.dtype == table.dtype
        found, share = frequencies(uniform, x), 1 / len(table)
        assert ((found - share).abs() < 4 * math.sqrt(share * (1 - share) / CHAINS)).all()


def test_a_uniform_start_has_the_dtype_of_the_target() -> None:
    like = torch.zeros(2, dtype=torch.float64)
    uniform, g = Uniform(poe.Binary(2), like), torch.Generator().manual_seed(0)
    assert uniform.sample(3, generator=g).dtype == torch.float64
    assert uniform(torch.zeros(3, 2)).dtype == torch.float64
