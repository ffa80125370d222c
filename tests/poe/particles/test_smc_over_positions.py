"""SMC over positions, and moves that rewrite a suffix: against enumeration."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from poe.diagnostics.weights import normalized_weights
from poe.normalizers.enumeration import states
from poe.samplers import SuffixMetropolisHastings, WeighedState
from poe.samplers.discrete.suffix import SuffixNoise
from poe.structure.autoregressive import Autoregressive, PrefixState
from poe.structure.twists import twists
from poe.testing import LawError
from tests.laws.kernels import MAX_Z, check_kernel, check_reaches_all
from tests.seeds import seeded

CHAINS = 40_000
LOUDNESS = 0.5


def loud(model: Autoregressive, seed: int) -> Autoregressive:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(LOUDNESS * torch.randn(parameter.shape, generator=g))
    return model


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@seeded()
def transformer(seed: int) -> Autoregressive:
    return loud(experts.CausalTransformer(3, 5, width=4, num_heads=1, num_layers=1), seed)


@seeded()
def classifier(space: poe.Space, seed: int) -> poe.Expert:
    net = nn.Sequential(nn.Flatten(), nn.Linear(15, 2))
    with torch.no_grad():
        net[1].weight.copy_(2 * randn(2, 15, seed=seed))
        net[1].bias.zero_()
    return experts.Classifier(net, space).given(1)


def rises(x: Tensor) -> Tensor:
    """A constraint that no prefix is asked about: the last token is above the first."""
    return torch.where(x[:, -1] > x[:, 0], 0.0, -torch.inf)


TOKENS, BITS, CLASSES = poe.Sequence(3, 5), poe.Binary((2, 3)), poe.Categorical((4,), 3)
EQUAL = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -torch.inf]])
with seeded():
    TARGETS: dict[str, poe.Expert] = {
        "transformer x classifier": transformer(0) * classifier(TOKENS, 4),
        "two transformers": transformer(2) * transformer(3),
        "contrast of transformers": transformer(4) ** 1.5 / transformer(5) ** 0.5,
        "transformer x constraint": transformer(6) * poe.FromLogDensity(rises, space=TOKENS),
        "transformer x factor tables": transformer(7)
        * experts.FactorGraph(TOKENS, [((0, 4), EQUAL), ((1, 2), EQUAL)]),
        "MADE x RBM x constraint": loud(experts.MADE((2, 3)), 8)
        * poe.FromLogDensity(
            lambda x: experts.RBM(randn(6, 3, seed=9), randn(6, seed=10), randn(3, seed=11))(
                x.flatten(1)
            ),
            space=BITS,
        )
        * experts.graphs.at_most(3, (2, 3)),
        "NADE x parity": loud(experts.NADE((2, 3)), 12) * experts.graphs.parity((2, 3), odd=True),
        "no autoregressive expert": experts.Categorical(randn(4, 3, seed=13))
        * experts.FactorGraph(CLASSES, [((0, 3), EQUAL)]),
    }
SEEN: dict[str, tuple[Any, ...]] = {
    "transformer x constraint": (
        poe.OnPrefixes(
            lambda prefix: torch.where(prefix[:, 0] < 2, 0.0, -torch.inf),  # 2 is never below
            TOKENS,
        ),
    ),
    "transformer x classifier": (
        poe.OnPrefixes(lambda p: 0.7 * (p == 1).float().sum(1), TOKENS, looks_ahead=False),
    ),
}


def table_of(target: poe.Expert) -> tuple[Tensor, Tensor, float]:
    """All states, their probabilities, log Z."""
    x = states(target.space)
    with torch.no_grad():
        values = target(x).double()
    return x, values.softmax(0), values.logsumexp(0).item()


def places_of(target: poe.Expert, x: Tensor) -> Tensor:
    k, n = target.space.num_values, target.space.event_shape.numel()
    assert k is not None
    return (x.reshape(-1, n).long() * k ** torch.arange(n - 1, -1, -1)).sum(1)


def frequencies(target: poe.Expert, x: Tensor, weights: Tensor | None = None) -> Tensor:
    count = len(states(target.space))
    weights = torch.full((len(x),), 1 / len(x)).double() if weights is None else weights.flatten()
    return torch.zeros(count).double().index_add(0, places_of(target, x), weights)


def run(target: poe.Expert, num_samples: int, seed: int, **settings: Any) -> poe.Draws:
    g = torch.Generator().manual_seed(seed)
    return poe.smc_over_positions(target, num_samples, generator=g, progress=False, **settings)


def check_weighted_table(target: poe.Expert, draws: poe.Draws) -> None:
    """Every state's share, in standard errors by the islands, which are independent.

    States of an expected count below 25 are looked at as one.
    """
    _, truth, _ = table_of(target)
    assert draws.log_weights is not None
    weights = normalized_weights(draws.log_weights).reshape(draws.samples.shape[:2])
    by_island = torch.stack(
        [frequencies(target, x, w) for x, w in zip(draws.samples, weights, strict=True)]
    )
    assert by_island[:, truth == 0].sum() == 0
    is_rare = truth * weights.numel() < 25
    by_island = torch.cat([by_island[:, ~is_rare], by_island[:, is_rare].sum(1, keepdim=True)], 1)
    truth = torch.cat([truth[~is_rare], truth[is_rare].sum()[None]])
    # Shares are ratios to the islands' own weight: Σ (share − truth · weight), of mean about 0.
    gap = by_island - truth * by_island.sum(1, keepdim=True)
    z = gap.mean(0) / (gap.std(0) / len(gap) ** 0.5)
    assert z[gap.std(0) > 0].abs().max() < MAX_Z


@pytest.mark.law
@pytest.mark.parametrize("name", TARGETS)
def test_weighted_draws_come_to_the_enumerated_table(name: str) -> None:
    target = TARGETS[name]
    draws = run(target, 40_000, 0, twists=SEEN.get(name, ()), num_islands=100)
    check_weighted_table(target, draws)
    torch.testing.assert_close(
        draws.log_density.flatten(), target(draws.samples.flatten(0, 1)).detach()
    )


@pytest.mark.law
@pytest.mark.parametrize("name", TARGETS)
def test_log_z_is_within_three_standard_errors_and_unbiased(name: str) -> None:
    """Of 100 seeds, 64 particles an island: 95 within three errors, and the mean of Ẑ / Z is 1."""
    target, (_, _, log_z) = TARGETS[name], table_of(TARGETS[name])
    within, ratios = 0, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)
        for seed in range(100):
            found = run(target, 16 * 64, seed, twists=SEEN.get(name, ())).log_partition
            assert found is not None
            within += bool((found.value - log_z).abs() < 3 * found.std_error + 1e-5)
            ratios.append((found.value - log_z).exp())
    assert within >= 95
    ratio = torch.stack(ratios)
    error = ratio.std() / math.sqrt(len(ratio))
    assert (ratio.mean() - 1).abs() < 4 * error + 1e-5


def test_log_z_is_exact_where_the_twists_say_all() -> None:
    """A single model, and tables along a prefix: every weight is Z."""
    model = transformer(0)
    draws = run(model, 64, 0)
    assert draws.log_weights is not None
    assert draws.log_weights.abs().max() < 1e-4
    tables = experts.FactorGraph(TOKENS, [((i,), randn(3, seed=i)) for i in range(5)])
    found = run(tables, 64, 0).log_partition
    assert found is not None
    torch.testing.assert_close(found.value.float(), poe.log_partition(tables).value)


@pytest.mark.law
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_moves_and_thresholds_leave_the_weights_right(threshold: float) -> None:
    target = TARGETS["MADE x RBM x constraint"]
    _, _, log_z = table_of(target)
    draws = run(target, 40_000, 1, ess_threshold=threshold, num_moves=3, num_islands=100)
    check_weighted_table(target, draws)
    assert draws.log_partition is not None
    assert abs(draws.log_partition.value - log_z) < 4 * draws.log_partition.std_error
    assert ("resampled [0, 0" in draws.choice) == (threshold == 0.0)
    assert isinstance(draws.kernel, SuffixMetropolisHastings)
    assert draws.acceptance_rate is not None
    assert (draws.acceptance_rate > 0.3).all()
    # Moved particles carry their own log-density.
    torch.testing.assert_close(
        draws.log_density.flatten(), target(draws.samples.flatten(0, 1)).detach()
    )


def test_twists_change_the_error_and_not_the_target() -> None:
    """A twist that pulls the wrong way, and one of the right way: both within their errors."""
    target, (_, _, log_z) = (
        TARGETS["transformer x classifier"],
        table_of(TARGETS["transformer x classifier"]),
    )
    for sign in (-1.0, 1.0):
        pull = poe.OnPrefixes(lambda p, s=sign: s * (p == 2).float().sum(1), TOKENS)  # type: ignore[misc]
        found = run(target, 4000, 0, twists=(pull,)).log_partition
        assert found is not None
        assert abs(found.value - log_z) < 4 * found.std_error


def test_locally_reweighted_draws_are_of_another_distribution() -> None:
    """What the weights are for: the product token by token is not the product."""
    target = TARGETS["two transformers"]
    _, truth, _ = table_of(target)
    local = poe.LocalProduct(target.space, twists(target))
    _, probabilities, _ = table_of(local)
    assert 0.5 * (probabilities - truth).abs().sum() > 0.05
    draws = local.sample(CHAINS, generator=torch.Generator().manual_seed(0))
    assert 0.5 * (frequencies(local, draws) - truth).abs().sum() > 0.05


KERNELS = {
    "model": lambda target: SuffixMetropolisHastings(
        next(t for t in twists(target) if isinstance(t, Autoregressive))
    ),
    "local product": lambda target: SuffixMetropolisHastings(
        poe.LocalProduct(target.space, twists(target))
    ),
}
WITH_MODEL = [name for name in TARGETS if name.split()[0] in ("transformer", "two", "MADE", "NADE")]


def exact_draws(target: poe.Expert, g: torch.Generator) -> Tensor:
    x, probability, _ = table_of(target)
    return x[torch.multinomial(probability, CHAINS, replacement=True, generator=g)]


@pytest.mark.law
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", WITH_MODEL)
def test_invariance_from_exact_draws(name: str, kernel: str) -> None:
    target, g = TARGETS[name], torch.Generator().manual_seed(0)
    exact = exact_draws(target, g)
    check_kernel(KERNELS[kernel](target), target, exact, num_steps=4, generator=g)


@pytest.mark.law
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", WITH_MODEL)
def test_every_state_is_reached_and_carries_its_numbers(name: str, kernel: str) -> None:
    target, g = TARGETS[name], torch.Generator().manual_seed(1)
    moves = KERNELS[kernel](target)
    check_reaches_all(moves, target, g)
    state = moves.init(target, exact_draws(target, g)[:1000])
    state, _ = moves.step(target, state, generator=g)
    torch.testing.assert_close(state.log_density, target(state.position).detach())
    torch.testing.assert_close(
        state.log_proposal, moves.model(state.position).detach(), atol=1e-4, rtol=1e-4
    )


@dataclass(frozen=True, eq=False)
class ForgottenProposal(SuffixMetropolisHastings):
    """The mistake: accepts by the whole target, as if the proposal were symmetric."""

    def _log_weight(self, state: WeighedState) -> Tensor:
        return state.log_density


@dataclass(frozen=True, eq=False)
class OneUniform(SuffixMetropolisHastings):
    """The mistake: one uniform accepts for all chains."""

    def transition(self, target: Any, state: WeighedState, noise: SuffixNoise) -> Any:
        shared = noise.accept[:1].expand_as(noise.accept)
        return super().transition(target, state, noise._replace(accept=shared))


@pytest.mark.law
@pytest.mark.parametrize("mistake", [ForgottenProposal, OneUniform])
def test_the_law_goes_red_on_mistakes(mistake: type[SuffixMetropolisHastings]) -> None:
    target, g = TARGETS["transformer x classifier"], torch.Generator().manual_seed(0)
    model = next(t for t in twists(target) if isinstance(t, Autoregressive))
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check_kernel(mistake(model), target, exact_draws(target, g), num_steps=4, generator=g)


def test_poe_sample_runs_it() -> None:
    target = TARGETS["transformer x classifier"]
    kernel = KERNELS["local product"](target)
    g = torch.Generator().manual_seed(0)
    draws = poe.sample(
        target, 20_000, kernel=kernel, num_chains=200, warmup=20, generator=g, progress=False
    )
    assert draws.guarantee == "asymptotically exact"
    x, truth, _ = table_of(target)
    is_value = nn.functional.one_hot(draws.samples, 3).double()
    by_chain, values = is_value.mean(1), nn.functional.one_hot(x, 3).double()
    std_error = by_chain.std(0) / math.sqrt(len(by_chain))
    marginals = (truth[:, None, None] * values).sum(0)
    assert ((by_chain.mean(0) - marginals).abs() <= 4 * std_error).all()


@seeded()
def test_a_transition_runs_on_the_meta_device() -> None:
    model = experts.CausalTransformer(3, 4, width=8, num_heads=2).to("meta")
    kernel = SuffixMetropolisHastings(model)
    x = torch.zeros(5, 4, dtype=torch.long, device="meta")
    noise = kernel.draw_noise(torch.zeros(5, 4), torch.Generator())
    noise = SuffixNoise(*(part.to("meta") for part in noise))
    state, info = kernel.transition(model, kernel.state_at(model, x), noise)
    assert all(part.device.type == "meta" for part in (*state, *info))
    assert state.position.shape == (5, 4)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_generator() -> None:
    before = torch.get_rng_state()
    target = TARGETS["two transformers"]
    one, two, three = (run(target, 200, seed, num_moves=1) for seed in (1, 1, 2))
    assert torch.equal(one.samples, two.samples)
    assert torch.equal(one.log_weights, two.log_weights)  # type: ignore[arg-type]
    assert not torch.equal(one.samples, three.samples)
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_done_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    g = torch.Generator().manual_seed(0)
    draws = poe.smc_over_positions(TARGETS["NADE x parity"], 64, generator=g)
    said = capsys.readouterr().err
    assert "16 islands x 4 particles" in said
    assert "local product of NADE, Feasible" in said
    assert "islands resampled" in draws.choice
    assert draws.log_partition is not None
    assert draws.log_partition.method == "sequential Monte Carlo over positions, 16 islands"
    assert draws.log_partition.num_evaluations == 64


def test_a_target_that_no_particle_reaches_is_an_error() -> None:
    never = poe.FromLogDensity(lambda x: torch.full((len(x),), -torch.inf), space=TOKENS)
    with pytest.raises(poe.NonFiniteError, match="give a twist that sees earlier"):
        run(transformer(0) * never, 64, 0)


def test_undefined_densities_are_counted_and_told() -> None:
    def undefined(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] == 1, torch.nan, 0.0)

    target = transformer(0) * poe.FromLogDensity(undefined, space=TOKENS)
    with pytest.warns(poe.TrustWarning, match="met a NaN or"):
        draws = run(target, 640, 0)
    assert draws.num_undefined is not None
    assert draws.num_undefined.sum() == (draws.samples[..., 0] == 1).sum()
    assert draws.log_partition is not None
    assert not draws.log_partition.is_trusted


def test_islands_that_disagree_are_told() -> None:
    rare = poe.FromLogDensity(lambda x: 40.0 * (x == 2).all(1).float(), space=TOKENS)
    with pytest.warns(poe.TrustWarning, match="islands disagree.*give a twist"):
        run(transformer(0) * rare, 320, 0)


@pytest.mark.parametrize(
    ("target", "settings", "words"),
    [
        (transformer(0), {"num_islands": 1}, "num_islands >= 2"),
        (transformer(0), {"ess_threshold": 1.5}, "ess_threshold <= 1"),
        (transformer(0), {"num_moves": -1}, "num_moves >= 0"),
        (experts.Gaussian([0.0], scale=[1.0]), {}, "finitely many values"),
    ],
)
def test_bad_settings_are_refused_in_words(
    target: poe.Expert, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(poe.PoeError, match=words):
        run(target, 64, 0, **settings)


def test_a_local_product_comes_back_with_its_twists(tmp_path: Path) -> None:
    target = TARGETS["NADE x parity"] * experts.FactorGraph(BITS, [((0, 5), randn(2, 2, seed=0))])
    target = target**0.5
    local = poe.LocalProduct(BITS, [*twists(target), poe.OnPrefixes(SumOfPrefix(), BITS)])
    poe.save(local, tmp_path / "local")
    x = states(BITS)
    assert torch.equal(poe.load(tmp_path / "local")(x), local(x))


class SumOfPrefix(nn.Module):
    def forward(self, prefix: Tensor) -> Tensor:
        return prefix.sum(1).float()


poe.io.register_module(SumOfPrefix)


@seeded()
def test_kernels_want_an_autoregressive_model_on_their_space() -> None:
    with pytest.raises(poe.PoeError, match=r"expected a poe.Autoregressive .* got Bernoulli"):
        SuffixMetropolisHastings(experts.Bernoulli([0.0]))  # type: ignore[arg-type]
    kernel = SuffixMetropolisHastings(experts.MADE(3))
    with pytest.raises(poe.SpaceMismatchError, match=r"Binary\(3\)"):
        kernel.init(experts.MADE(4), torch.zeros(2, 4))


class Stubborn(Autoregressive):
    """Always says 0 after a 1, with certainty: conditionals of −inf."""

    space = poe.Binary(3)

    def begin(self, num_sequences: int) -> PrefixState:
        return PrefixState(torch.zeros(num_sequences))

    def log_next(self, state: PrefixState, place: int) -> Tensor:
        one = torch.where(state.values == 1, -torch.inf, math.log(0.5))
        zero = torch.where(state.values == 1, 0.0, math.log(0.5))
        return torch.stack([zero, one], 1)

    def append(self, state: PrefixState, place: int, values: Tensor) -> PrefixState:
        return PrefixState(values.float())


def test_impossible_values_have_no_density_and_are_not_drawn() -> None:
    model = Stubborn()
    x = states(model.space)
    assert model(x)[3].item() == -math.inf  # 011
    torch.testing.assert_close(model(x).logsumexp(0), torch.tensor(0.0))
    draws = run(model * experts.graphs.at_least(2, 3), 320, 0)  # 101 alone
    assert draws.log_partition is not None
    truth = model(x)[5]
    assert abs(draws.log_partition.value - truth) < 4 * draws.log_partition.std_error
    assert (draws.samples == torch.tensor([1.0, 0.0, 1.0]))[draws.log_weights > -math.inf].all()  # type: ignore[operator]
