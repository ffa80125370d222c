"""Kernels on finite spaces: their formulas, red laws on known mistakes, what they refuse."""

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
from poe.density.capabilities import conditionals
from poe.samplers import (
    DMALA,
    DULA,
    BlockGibbs,
    Gibbs,
    GibbsWithGradients,
    Kernel,
    ParallelTempering,
    PathAuxiliary,
    RandomScanGibbs,
    SingleSiteMetropolis,
)
from poe.samplers.discrete.finite import estimated_changes
from poe.samplers.kernel import OnDrawnNoise, map_leaves
from poe.testing import LawError
from tests.laws.discrete import (
    CHAINS,
    TARGETS,
    exact_draws,
    frequencies,
    potts,
    randn,
    table_of,
)
from tests.laws.kernels import check_kernel
from tests.tuned import check_tuned_rate

RBM, CLASSES = TARGETS["RBM x Ising x constraint"], TARGETS["Categorical"]
SPACES = [poe.Binary(()), poe.Binary((2, 2)), poe.Categorical((2, 2), 3), poe.Sequence(5, 2)]
BUILD: dict[str, Callable[[poe.Space], Kernel]] = {
    "SingleSiteMetropolis": SingleSiteMetropolis,
    "RandomScanGibbs": RandomScanGibbs,
    "GibbsWithGradients": GibbsWithGradients,
    "DULA": lambda space: DULA(space, 0.5),
    "DMALA": lambda space: DMALA(space, 0.5),
    "PathAuxiliary": lambda space: PathAuxiliary(space, 2),
}
kernels = pytest.mark.parametrize("build", BUILD.values(), ids=BUILD.keys())


def smooth(space: poe.Space) -> poe.Expert:
    """A target with a gradient, bare of any structure."""
    if isinstance(space, poe.Binary):
        return poe.FromLogDensity(lambda x: x.reshape(len(x), -1).sum(1).square(), space=space)
    return poe.FromOneHot(lambda z: z[..., 0].flatten(1).sum(1).square(), space=space)


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    "target",
    [TARGETS["Ising grid"], potts(poe.Categorical((4,), 3), 20), potts(poe.Sequence(4, 3), 21)],
    ids=["Ising", "Potts", "tokens"],
)
def test_estimated_changes_are_exact_of_pairwise_models(target: poe.Expert) -> None:
    x, _ = table_of(target)
    values = target(x)
    x, values = x[values > -torch.inf], values[values > -torch.inf]
    score, k = target.log_density_and_score(x)[1], target.space.num_values
    assert k is not None
    found = estimated_changes(x, score, k)
    for site in range(found.shape[1]):
        for shift in range(1, k):
            y = x.flatten(1).clone()
            y[:, site] = (y[:, site] + shift) % k
            change = target(y.reshape_as(x)) - values
            inside = change > -torch.inf
            torch.testing.assert_close(
                found[inside, site, shift - 1], change[inside], rtol=0, atol=1e-4
            )


def log_q_of_one_move(target: poe.Expert, x: Tensor) -> Tensor:
    """The GWG proposal from its definition: ``(rows, n, k − 1)``."""
    k = target.space.num_values
    assert k is not None
    changes = estimated_changes(x, target.log_density_and_score(x)[1], k)
    weights = (changes / 2).exp()
    return (weights / weights.sum((1, 2), keepdim=True)).log()


@pytest.mark.parametrize("target", [RBM, CLASSES], ids=["Binary", "Categorical"])
def test_gibbs_with_gradients_accepts_by_the_formula(target: poe.Expert) -> None:
    g, k = torch.Generator().manual_seed(1), target.space.num_values
    assert k is not None
    kernel, x = GibbsWithGradients(target.space), exact_draws(target, g, 200)
    state, noise = kernel.init(target, x), kernel.draw_noise(x, g)
    _, info = kernel.transition(target, state, noise)
    forth = log_q_of_one_move(target, x)
    best = (forth.flatten(1) + noise.gumbel).argmax(1)
    site, shift = best // (k - 1), best % (k - 1) + 1
    rows, y = torch.arange(len(x)), x.flatten(1).clone()
    y[rows, site] = (y[rows, site] + shift) % k
    y = y.reshape_as(x)
    inside = target(y) > -torch.inf
    back = log_q_of_one_move(target, y)[rows, site, k - shift - 1]
    ratio = (target(y) - target(x) + back - forth[rows, site, shift - 1]).exp().clamp(max=1)
    torch.testing.assert_close(info.acceptance_probability[inside], ratio[inside])
    assert not info.is_accepted[~inside].any()
    assert bool(info.is_outside[~inside].all())


def test_a_path_of_one_is_gibbs_with_gradients(g: torch.Generator) -> None:
    x = exact_draws(CLASSES, g, 500)
    path, single = PathAuxiliary(CLASSES.space, 1), GibbsWithGradients(CLASSES.space)
    noise = path.draw_noise(x, g)
    one, info = path.transition(CLASSES, path.init(CLASSES, x), noise)
    from poe.samplers.discrete.gradient_gibbs import MoveNoise

    drawn = MoveNoise(noise.gumbel, noise.uniform)
    other, other_info = single.transition(CLASSES, single.init(CLASSES, x), drawn)
    assert torch.equal(one.position, other.position)
    torch.testing.assert_close(info.acceptance_probability, other_info.acceptance_probability)


def test_the_probability_of_a_path_is_that_of_draws_without_replacement() -> None:
    """Three of four binary elements, one after the other, from plain numbers."""
    kernel = PathAuxiliary(poe.Binary(4), 2)
    from poe.samplers.discrete.gradient_gibbs import Path

    half = torch.tensor([[0.1, -0.5, 0.7, 0.3]]).unsqueeze(-1)
    path = Path(torch.tensor([[2, 0, 1]]), torch.ones(1, 3).long(), torch.ones(1, 3).bool())
    w = half.flatten().exp()
    forth = w[2] / w.sum() * w[0] / (w.sum() - w[2]) * w[1] / (w.sum() - w[2] - w[0])
    back = w[1] / w.sum() * w[0] / (w.sum() - w[1]) * w[2] / (w.sum() - w[1] - w[0])
    torch.testing.assert_close(kernel._log_forth(half, path), forth.log()[None])
    torch.testing.assert_close(kernel._log_back(half, path), back.log()[None])


@pytest.mark.parametrize(("mean_length", "longest"), [(1, 1), (2, 3), (1.3, 2), (50, 6)])
def test_lengths_are_uniform(mean_length: float, longest: int, g: torch.Generator) -> None:
    kernel, x = PathAuxiliary(RBM.space, mean_length), exact_draws(RBM, g)
    state, noise = kernel.init(RBM, x), kernel.draw_noise(x, g)
    path = kernel._draw(0.5 * kernel._changes(state), noise)
    length = path.is_on.sum(1)
    assert kernel.longest == longest
    assert length.min() == 1
    assert length.max() == longest
    if mean_length == int(mean_length):
        found = torch.bincount(length).double()[1:] / CHAINS
        share = 1 / longest
        error = math.sqrt(share * (1 - share) / CHAINS)
        assert ((found - share).abs() <= 4 * error).all()


def test_a_discrete_langevin_step_draws_each_site_by_the_formula(g: torch.Generator) -> None:
    """From one state: how often each site takes each value, in standard errors."""
    kernel = DULA(CLASSES.space, 0.7, torch.linspace(0.5, 2.0, 4).reshape(2, 2))
    x = exact_draws(CLASSES, g, 1)
    state = kernel.init(CLASSES, x.expand(CHAINS, 2, 2))
    moved, _ = kernel.step(CLASSES, state, generator=g)
    changes = estimated_changes(x, CLASSES.log_density_and_score(x)[1], 3)[0]
    for site in range(4):
        cost = 1 / (2 * 0.7 * torch.linspace(0.5, 2.0, 4)[site])
        weights = torch.cat([torch.ones(1), (changes[site] / 2 - cost).exp()])
        truth = weights / weights.sum()
        shift = (moved.position.flatten(1)[:, site] - x.flatten()[site]) % 3
        found = torch.bincount(shift, minlength=3) / CHAINS
        assert ((found - truth).abs() <= 4 * (truth * (1 - truth) / CHAINS).sqrt()).all()


@pytest.mark.law
def test_small_steps_of_dula_are_less_biased(g: torch.Generator) -> None:
    """The guarantee is "biased", and the bias is seen at a large step and not at a small one."""
    target = experts.Ising.grid((2, 3), coupling=0.15, field=0.4)
    exact = exact_draws(target, g)
    with pytest.raises(LawError):
        check_kernel(DULA(target.space, 3.0), target, exact, num_steps=10, generator=g)
    check_kernel(DULA(target.space, 0.08), target, exact, num_steps=3, generator=g)


class ForgottenProposal(GibbsWithGradients):
    """The mistake: accepts as if the proposal were symmetric."""

    def _log_probabilities(self, state):  # type: ignore[no-untyped-def]
        return _Symmetric(super()._log_probabilities(state))


class _Symmetric:
    """Adds the Gumbel variables as it should, and gives no ratio."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __add__(self, gumbel: Tensor) -> Tensor:
        return self.values + gumbel

    def gather(self, dim: int, index: Tensor) -> Tensor:
        return torch.zeros_like(self.values.gather(dim, index))


@dataclass(frozen=True)
class WithReplacement(PathAuxiliary):
    """The mistake: counts an element as left after it has changed."""

    def _log_forth(self, half, path):  # type: ignore[no-untyped-def]
        left = half.flatten(1).logsumexp(1, keepdim=True)
        return self._sum(half, path, path.shift - 1, left)

    def _log_back(self, half, path):  # type: ignore[no-untyped-def]
        left = half.flatten(1).logsumexp(1, keepdim=True)
        return self._sum(half, path, self.num_values - path.shift - 1, left)


@dataclass(frozen=True)
class SameShiftBack(PathAuxiliary):
    """The mistake: back by the same shift, which is right of two values only."""

    def _log_back(self, half, path):  # type: ignore[no-untyped-def]
        return super()._log_back(half, path._replace(shift=self.num_values - path.shift))


@dataclass(frozen=True, eq=False)
class StaleProposal(DMALA):
    """The mistake: the way back by the score at x."""

    def _proposal(self, state):  # type: ignore[no-untyped-def]
        if not hasattr(StaleProposal, "first"):
            StaleProposal.first = super()._proposal(state)  # type: ignore[attr-defined]
            return StaleProposal.first  # type: ignore[attr-defined]
        kept = StaleProposal.first  # type: ignore[attr-defined]
        del StaleProposal.first  # type: ignore[attr-defined]
        return kept


MISTAKES: dict[str, tuple[Kernel, poe.Expert]] = {
    "GWG without its proposal": (ForgottenProposal(RBM.space), RBM),
    "a path as if with replacement": (WithReplacement(RBM.space, 3.5), RBM),
    "path back by the same shift": (SameShiftBack(CLASSES.space, 2), CLASSES),
    "DMALA by a stale score": (StaleProposal(RBM.space, 1.0), RBM),
    "no correction": (DULA(RBM.space, 1.0), RBM),
}


@pytest.mark.law
@pytest.mark.parametrize(("kernel", "target"), MISTAKES.values(), ids=MISTAKES.keys())
def test_the_law_goes_red_on_mistakes(
    kernel: Kernel, target: poe.Expert, g: torch.Generator
) -> None:
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check_kernel(kernel, target, exact_draws(target, g), num_steps=10, generator=g)


@pytest.mark.parametrize("space", SPACES, ids=str)
@kernels
def test_shapes_evaluations_and_dtypes(
    build: Callable[[poe.Space], Kernel], space: poe.Space, g: torch.Generator
) -> None:
    target, kernel = smooth(space), build(space)
    assert isinstance(kernel, OnDrawnNoise)
    x = Uniform(space).sample(7, generator=g)
    state, before = kernel.init(target, x), x.clone()
    rows: list[int] = []
    target.register_forward_hook(lambda module, args, value: rows.append(len(args[0])))
    if not isinstance(space, poe.Binary):
        fn = target.fn
        target.fn = lambda z: rows.append(len(z)) or fn(z)
        target._forward_hooks.clear()
    moved, info = kernel.step(target, state, generator=g)
    assert sum(rows) == 7 * kernel.gradients_per_step
    assert moved.position.shape == x.shape
    assert moved.position.dtype == x.dtype
    assert bool(space.contains(moved.position).all())
    torch.testing.assert_close(moved.log_density, target(moved.position))
    assert torch.equal(state.position, before)  # not written to
    assert all(field.shape == (7,) for field in info)


@pytest.mark.parametrize("space", SPACES[1:3], ids=str)
@kernels
def test_transition_runs_on_the_meta_device(
    build: Callable[[poe.Space], Kernel], space: poe.Space
) -> None:
    target, kernel = smooth(space), build(space)
    assert isinstance(kernel, OnDrawnNoise)
    here = Uniform(space).sample(4, generator=torch.Generator())
    # Drawn elsewhere: on meta there are no exponential variables of a generator.
    noise = map_leaves(lambda part: part.to("meta"), kernel.draw_noise(here, torch.Generator()))
    state, info = kernel.transition(target, kernel.init(target, here.to("meta")), noise)
    assert all(part.device.type == "meta" for part in (*state, *info))
    assert state.position.shape == (4, 2, 2)


@kernels
def test_same_seed_same_bits_and_the_global_generator_is_left_alone(
    build: Callable[[poe.Space], Kernel],
) -> None:
    def run() -> Tensor:
        g, kernel = torch.Generator().manual_seed(3), build(RBM.space)
        return poe.sample(
            RBM, 80, kernel=kernel, warmup=5, num_chains=4, generator=g, progress=False,
            initial=exact_draws(RBM, g, 4),
        ).samples  # fmt: skip

    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)
        assert torch.equal(run(), run())
    assert torch.equal(before, torch.get_rng_state())


@kernels
@pytest.mark.parametrize("space", [poe.Real(2), poe.Count(2), poe.Categorical((2,), 1)], ids=str)
def test_a_space_without_another_value_is_refused(
    build: Callable[[poe.Space], Kernel], space: poe.Space
) -> None:
    with pytest.raises(poe.PoeError, match="finitely many values"):
        build(space)


@kernels
def test_values_outside_the_space_are_refused(build: Callable[[poe.Space], Kernel]) -> None:
    target = smooth(poe.Binary(2))
    with pytest.raises(poe.PoeError, match=r"0 or 1, got others in 1 of 2 chains"):
        build(target.space).init(target, torch.tensor([[0.0, 1.0], [0.5, 1.0]]))
    tokens = smooth(poe.Sequence(3, 2))
    with pytest.raises(poe.PoeError, match=r"0 … 2, got others in 1 of 1 chains"):
        build(tokens.space).init(tokens, torch.tensor([[0, 3]]))


@pytest.mark.parametrize("name", ["GibbsWithGradients", "DMALA", "PathAuxiliary"])
def test_a_target_without_a_gradient_is_refused_with_the_remedy(name: str) -> None:
    space = poe.Categorical((2,), 3)
    target = smooth(space) * poe.FromLogDensity(lambda x: x.sum(-1).float(), space=space)
    with pytest.raises(poe.PoeError, match=r"got FromLogDensity.*FromOneHot.*Gibbs\(space\)"):
        BUILD[name](space).init(target, torch.zeros(3, 2).long())


def test_settings_out_of_range_are_refused() -> None:
    space = poe.Binary(3)
    for build in (lambda: DMALA(space, 0.0), lambda: DULA(space, -1.0)):
        with pytest.raises(poe.PoeError, match="positive finite step_size"):
            build()
    with pytest.raises(poe.PoeError, match="positive finite mean_length"):
        PathAuxiliary(space, 0)
    with pytest.raises(poe.ShapeError, match=r"shape \(3,\)"):
        DMALA(space, 0.1, torch.ones(2))
    target, kernel = smooth(space), DMALA(space)
    state = kernel.init(target, torch.zeros(2, 3))
    with pytest.raises(poe.PoeError, match="step size was left out"):
        kernel.step(target, state, generator=torch.Generator())


@pytest.mark.law
@pytest.mark.parametrize("name", ["DMALA", "PathAuxiliary"])
@pytest.mark.parametrize("rows", [6, 12])
def test_warm_up_tunes_to_the_rate(name: str, rows: int) -> None:
    """On a magnet of some size; on a small one the largest scale still accepts more."""
    target = experts.Ising.grid((rows, rows), coupling=0.2, field=0.1, periodic=True)
    kernel = {"DMALA": DMALA, "PathAuxiliary": PathAuxiliary}[name](target.space)
    g = torch.Generator().manual_seed(0)
    draws = poe.sample(
        target, 16_000, kernel=kernel, num_chains=32, warmup=400, generator=g, progress=False
    )
    assert draws.acceptance_rate is not None
    check_tuned_rate(draws.acceptance_rate, 0.574, num_steps=500, num_updates=200)
    assert draws.guarantee == "asymptotically exact"


@pytest.mark.parametrize("kernel", [DMALA, PathAuxiliary, GibbsWithGradients])
@pytest.mark.parametrize("target", [RBM, CLASSES], ids=["Binary", "Categorical"])
def test_smc_gives_log_z(kernel: Callable[[poe.Space], Kernel], target: poe.Expert) -> None:
    g = torch.Generator().manual_seed(0)
    start = Uniform(target.space)
    draws = poe.smc(
        target, 8000, kernel=kernel(target.space), start=start, generator=g, progress=False
    )
    found, x = draws.log_partition, table_of(target)[0]
    assert found is not None
    truth = target(x).double().logsumexp(0)
    assert abs(found.value - truth) < 4 * found.std_error
    assert found.std_error < 0.05


@pytest.mark.law
def test_block_gibbs_moves_the_replicas_of_parallel_tempering(g: torch.Generator) -> None:
    """A magnet below its critical temperature, from one of its two states to both alike."""
    target = experts.Ising.grid((3, 3), coupling=0.9, field=0.02)
    found = conditionals(target)
    assert found is not None
    for start in (Uniform(target.space), experts.Bernoulli(0.3 * randn(3, 3, seed=30))):
        kernel = ParallelTempering(start, BlockGibbs(found), (0.0, 0.25, 0.5, 1.0))
        state = kernel.init(target, torch.zeros(CHAINS // 4, 3, 3))
        for _ in range(60):
            state, _ = kernel.step(target, state, generator=g)
        share, (_, truth) = frequencies(target, state.position), table_of(target)
        likely = truth > 0.002
        error = (4 * truth * (1 - truth) / CHAINS).sqrt()
        assert ((share - truth).abs() <= 4 * error)[likely].all()
    direct = ParallelTempering(start, BlockGibbs(found), (0.0, 1.0))
    check_kernel(direct, target, exact_draws(target, g), num_steps=8, generator=g)


def test_block_gibbs_with_hidden_units_has_no_levels() -> None:
    rbm = experts.RBM(randn(4, 2, seed=0), randn(4, seed=1), randn(2, seed=2))
    block = BlockGibbs(conditionals(rbm))
    with pytest.raises(poe.PoeError, match="without hidden units"):
        ParallelTempering(Uniform(rbm.space), block, (0.0, 1.0))
    ising = experts.Ising.grid((2, 2), coupling=0.5)
    unknown = poe.FromLogDensity(lambda x: x.sum((1, 2)), space=ising.space)
    with pytest.raises(poe.PoeError, match="conditionals are known"):
        ParallelTempering(unknown, BlockGibbs(conditionals(ising)), (0.1, 1.0))


@pytest.mark.law
def test_gibbs_of_many_values_moves_the_replicas(g: torch.Generator) -> None:
    """Each value is weighed at its own level: from one of two modes to both by their weights."""
    space = poe.Categorical((4,), 3)
    target = poe.FromLogDensity(
        lambda x: 8.0 * ((x == 0).all(1) | (x == 2).all(1)) + 0.3 * x[:, 0], space=space
    )
    kernel = ParallelTempering(Uniform(space), Gibbs(space), (0.0, 0.3, 0.6, 1.0))
    state = kernel.init(target, torch.zeros(CHAINS // 4, 4).long())
    for _ in range(120):
        state, _ = kernel.step(target, state, generator=g)
    found, (_, truth) = frequencies(target, state.position), table_of(target)
    likely = truth > 0.002
    error = (4 * truth * (1 - truth) / CHAINS).sqrt()
    assert ((found - truth).abs() <= 4 * error)[likely].all()


@pytest.mark.law
@pytest.mark.parametrize("kernel", [DMALA, PathAuxiliary])
def test_a_ladder_is_tuned_for_them(
    kernel: Callable[[poe.Space], Kernel], g: torch.Generator
) -> None:
    """Every level's own scale, on integers as on floats."""
    for target in (RBM, CLASSES):
        x = exact_draws(target, g, 50)
        tuned = poe.tune_tempering(
            target, Uniform(target.space), kernel(target.space), x, num_steps=150, generator=g
        )
        assert tuned.kernel.step_size is not None
        assert all(0 < size < 20 for size in tuned.kernel.step_size)
        assert bool(target.space.contains(tuned.replicas).all())
        assert tuned.replicas.dtype == x.dtype
