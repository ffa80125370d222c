"""The deep Boltzmann machine against enumeration of all its layers."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import poe
from experts import DBM, RBM, Bernoulli, VisibleDBM
from experts.boltzmann import mean_field, variational_bound
from experts.boltzmann.training.dbm_gradient import sweeps
from poe.density.capabilities import can_sample_exactly, conditionals, exact_log_partition
from poe.normalizers.enumeration import states
from poe.samplers import BlockGibbs
from poe.samplers.discrete.block_gibbs import BlockNoise
from poe.testing import LawError
from tests.laws.discrete import check_table, table_of
from tests.laws.kernels import check_kernel

CHAINS = 40_000
SIZES = [(3, 2, 2), (2, 3, 1, 2), (4, 2), (2, 2, 2, 2, 1)]


def dbm(*sizes: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> DBM:
    g = torch.Generator().manual_seed(seed)
    pairs = pairwise(sizes)
    weights = [2 * torch.randn(pair, generator=g, dtype=dtype) for pair in pairs]
    return DBM(weights, [torch.randn(size, generator=g, dtype=dtype) for size in sizes])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def bits(size: int) -> Tensor:
    return states(poe.Binary(size)).double()


def joint(expert: DBM) -> tuple[list[Tensor], Tensor]:
    """Every state of all the layers, and log p̃ of it by the definition, state by state."""
    sizes = expert.layer_sizes
    layers = [*bits(sum(sizes)).split(list(sizes), 1)]
    total = torch.zeros(len(layers[0]), dtype=torch.float64)
    for layer, bias in zip(layers, expert.biases, strict=True):
        total += (layer * bias).sum(1)
    for k, weight in enumerate(expert.weights):
        for i, j in product(range(sizes[k]), range(sizes[k + 1])):
            total += layers[k][:, i] * weight[i, j] * layers[k + 1][:, j]
    return layers, total


def summed(table: Tensor, rows: Tensor, cases: Tensor) -> Tensor:
    """log Σ exp of the table over all rows that equal each case: ``(cases,)``."""
    is_equal = (rows[None] == cases[:, None]).all(-1)
    return torch.where(is_equal, table, -torch.inf).logsumexp(1)


def log_density_of_x(expert: DBM) -> Tensor:
    """log p̃(x) at every x, the truth that is bounded."""
    layers, table = joint(expert)
    return summed(table, layers[0], bits(expert.layer_sizes[0]))


@pytest.mark.parametrize("sizes", SIZES)
def test_log_density_and_log_z_against_enumeration(sizes: tuple[int, ...]) -> None:
    expert = dbm(*sizes)
    layers, table = joint(expert)
    even = bits(sum(sizes[::2]))
    close(expert(even), summed(table, torch.cat(layers[::2], 1), even))
    found = poe.log_partition(expert)
    assert found.method == "closed form"
    close(found.value, table.logsumexp(0))
    close(poe.log_partition(expert, method=poe.normalizers.Enumeration()).value, found.value)


@pytest.mark.parametrize("sizes", SIZES)
def test_conditionals_of_every_layer_against_enumeration(sizes: tuple[int, ...]) -> None:
    expert = dbm(*sizes)
    layers, table = joint(expert)
    for k, layer in enumerate(layers):
        others = torch.cat(layers[:k] + layers[k + 1 :], 1)
        cases = bits(others.shape[1])
        for unit in range(sizes[k]):
            logs = [
                summed(torch.where(layer[:, unit] == value, table, -torch.inf), others, cases)
                for value in (0, 1)
            ]
            given = [*cases.split([size for j, size in enumerate(sizes) if j != k], 1)]
            given.insert(k, torch.full((len(cases), sizes[k]), torch.nan, dtype=torch.float64))
            # The others of its own layer do not matter, so they may be summed out.
            close(expert.log_odds(given, k)[:, unit], logs[1] - logs[0])


@pytest.mark.parametrize("sizes", SIZES)
def test_it_is_an_rbm_of_even_and_odd_layers(sizes: tuple[int, ...]) -> None:
    expert, even = dbm(*sizes), bits(sum(sizes[::2]))
    rbm = expert.as_rbm()
    assert tuple(rbm.W.shape) == (sum(sizes[::2]), sum(sizes[1::2]))
    close(rbm(even), expert(even))
    for target in (expert, expert**2 * rbm, rbm * expert * RBM(rbm.W * 0, rbm.b, rbm.c)):
        simple = poe.simplify(target)
        assert isinstance(simple.expert, RBM)
        close(simple.expert(even), target(even))
    field = Bernoulli(torch.ones(sum(sizes[::2]), dtype=torch.float64))
    found = conditionals(expert * field)
    assert found is not None
    assert found.num_hidden == sum(sizes[1::2])


@pytest.mark.parametrize("sizes", SIZES)
def test_the_bound_is_below_the_truth_at_all_x_and_every_step_raises_it(
    sizes: tuple[int, ...],
) -> None:
    expert, x = dbm(*sizes), bits(sizes[0])
    truth, last = log_density_of_x(expert), torch.full((len(x),), -torch.inf).double()
    for num_steps in (1, 2, 3, 5, 10, 100, 1000):
        found = variational_bound(expert, mean_field(expert, x, num_steps))
        assert (found <= truth + 1e-10).all()
        assert (found >= last - 1e-10).all()
        last = found
    if len(sizes) == 2:
        close(found, truth)  # one hidden layer is independent given x
    else:
        assert (truth - found).max() > 1e-3
    close(VisibleDBM(expert, 1000)(x), found)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_gap_of_any_means_is_their_divergence_from_the_posterior(
    sizes: tuple[int, ...],
) -> None:
    """log p̃(x) − L = KL(q ‖ p(h | x)) ≥ 0, q enumerated."""
    expert, g = dbm(*sizes), torch.Generator().manual_seed(1)
    layers, table = joint(expert)
    x = bits(sizes[0])[-1]
    means = [x, *(torch.rand(n, generator=g, dtype=torch.float64) for n in sizes[1:])]
    is_x = (layers[0] == x).all(1)
    hidden, log_joint = torch.cat(layers[1:], 1)[is_x], table[is_x]
    q = torch.cat(means[1:])
    log_q = (hidden * q.log() + (1 - hidden) * (1 - q).log()).sum(1)
    divergence = (log_q.exp() * (log_q - log_joint.log_softmax(0))).sum()
    close(variational_bound(expert, means), log_joint.logsumexp(0) - divergence)


def test_mean_field_settles_at_its_equations() -> None:
    expert, x = dbm(3, 4, 3, 2), bits(3)
    means = mean_field(expert, x, 2000)
    for k in range(1, 4):
        close(means[k], expert.log_odds(means, k).sigmoid())


def test_means_of_zero_and_one_bound_too() -> None:
    expert = dbm(3, 2, 2)
    layers, table = joint(expert)
    close(variational_bound(expert, layers), table)


@pytest.mark.parametrize("sizes", SIZES[:2])
def test_bounds_on_the_log_density_of_x(sizes: tuple[int, ...]) -> None:
    expert = VisibleDBM(dbm(*sizes))
    x, truth = bits(sizes[0]), log_density_of_x(expert.dbm)
    found = poe.log_density_bounds(expert, x)
    close(found.lower, truth)
    close(found.upper, truth)
    assert found.confidence == 1.0
    assert found.is_trusted
    close(
        expert.dbm.posterior(x[1])(bits(sum(sizes[1::2]))).logsumexp(0) + x[1] @ expert.dbm.b0,
        truth[1],
    )
    assert poe.log_density_bounds(expert, x[:0]).lower.shape == (0,)
    halved = poe.log_density_bounds(expert**0.5, x.reshape(2, -1, sizes[0]))
    close(halved.upper, 0.5 * truth.reshape(2, -1))


def test_an_estimate_is_never_below_the_mean_field() -> None:
    expert, x, starts = VisibleDBM(dbm(3, 2, 2)), bits(3), []

    def rough(target, start, generator, report):  # type: ignore[no-untyped-def]
        starts.append(start)
        log_z = exact_log_partition(target)
        return poe.LogPartition(
            log_z, torch.ones(()), log_z - 9, log_z + 2, "rough", confidence=0.9, rests_on="a guess"
        )

    found = poe.log_density_bounds(expert, x, method=rough)
    close(found.lower, expert(x))
    close(found.upper, log_density_of_x(expert.dbm) + 2)
    assert (found.confidence, found.rests_on) == (0.9, "a guess")
    means = mean_field(expert.dbm, x, expert.num_steps)[1]
    close(torch.stack([start.logits for start in starts]).sigmoid(), means)


def test_bounds_of_one_hidden_layer_are_exact() -> None:
    expert = VisibleDBM(dbm(4, 2))
    found = poe.log_density_bounds(expert, bits(4))
    close(found.upper, expert.dbm(bits(4)))
    close(found.lower, found.upper)


def test_gradients() -> None:
    """∂ log p̃ / ∂W_l = E[h_l h_{l+1}' | even layers]; parameters stay parameters."""
    made = dbm(3, 2, 2)
    expert = DBM([nn.Parameter(made.W0), made.W1], [made.b0, nn.Parameter(made.b1), made.b2])
    assert [name for name, _ in expert.named_parameters()] == ["W0", "b1"]
    even = torch.tensor([1.0, 0, 1, 0, 1], dtype=torch.float64)
    by_weight, by_bias = torch.autograd.grad(expert(even), (expert.W0, expert.b1))
    odd = made.log_odds(made.split(even), 1).sigmoid()
    close(by_weight, torch.outer(even[:3], odd))
    close(by_bias, odd)


def exact_draws(expert: DBM, seed: int) -> Tensor:
    even, probability = table_of(expert)
    g = torch.Generator().manual_seed(seed)
    return even[torch.multinomial(probability, CHAINS, replacement=True, generator=g)]


def kernel_of(expert: poe.Expert) -> BlockGibbs:
    found = conditionals(expert)
    assert found is not None
    return BlockGibbs(found)


FLOATS = [dbm(4, 3, 2, dtype=torch.float32), dbm(3, 2, 3, 2, seed=3, dtype=torch.float32)]


@pytest.mark.law
@pytest.mark.parametrize("expert", FLOATS)
def test_block_gibbs_is_as_near_the_truth_as_independent_draws(expert: DBM) -> None:
    g = torch.Generator().manual_seed(0)
    zeros = torch.zeros(CHAINS, *expert.space.event_shape)
    kernel = kernel_of(expert)
    state = kernel.init(expert, zeros)
    for _ in range(100):
        state, _ = kernel.step(expert, state, generator=g)
    check_table(expert, state.position)
    check_table(expert, sweeps(expert, zeros, 100, g))


@pytest.mark.law
@pytest.mark.parametrize("expert", FLOATS)
def test_block_gibbs_leaves_the_density_invariant(expert: DBM) -> None:
    g = torch.Generator().manual_seed(2)
    exact = exact_draws(expert, seed=3)
    check_kernel(kernel_of(expert), expert, exact, num_steps=4, generator=g)
    field = Bernoulli(torch.full((exact.shape[1],), 0.4))
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check_kernel(kernel_of(expert * field), expert, exact, num_steps=4, generator=g)


@pytest.mark.parametrize("expert", FLOATS)
def test_training_sweeps_keep_exact_draws_exact(expert: DBM) -> None:
    """Means of all units, and of all pairs, within four standard errors after four sweeps."""
    g = torch.Generator().manual_seed(4)
    even, probability = table_of(expert)
    moved = sweeps(expert, exact_draws(expert, seed=5), 4, g).double()
    pairs = torch.triu_indices(even.shape[1], even.shape[1])
    table, found = ((part[:, pairs[0]] * part[:, pairs[1]]).double() for part in (even, moved))
    truth = probability @ table
    error = (truth * (1 - truth) / CHAINS).sqrt()
    assert ((found.mean(0) - truth).abs() < 4 * error).all()


@pytest.mark.parametrize("expert", FLOATS)
def test_draws_are_exact(expert: DBM) -> None:
    draws = poe.sample(expert, CHAINS, generator=torch.Generator().manual_seed(0), progress=False)
    assert draws.guarantee == "exact"
    check_table(expert, draws.samples.flatten(0, 1))


def test_log_z_and_draws_are_not_claimed_of_large_layers() -> None:
    large = dbm(20, 26, 6)
    assert exact_log_partition(large) is None
    assert not can_sample_exactly(large)
    assert can_sample_exactly(dbm(40, 10, 40, 10))
    assert not hasattr(large, "log_prob")


def test_save_and_load(tmp_path: Path) -> None:
    made = dbm(3, 2, 2)
    expert = DBM([nn.Parameter(made.W0), made.W1], made.biases)
    poe.save(expert**2, tmp_path / "dbm")
    poe.save(VisibleDBM(made, 7), tmp_path / "visible")
    loaded = poe.load(tmp_path / "dbm")
    assert torch.equal(loaded(bits(5)), (expert**2)(bits(5)))
    assert [name for name, _ in loaded.named_parameters()] == ["expert.W0"]
    visible = poe.load(tmp_path / "visible")
    assert torch.equal(visible(bits(3)), VisibleDBM(made, 7)(bits(3)))
    assert visible.num_steps == 7


def test_nothing_waits_for_the_host() -> None:
    """On "meta" there are no numbers to look at."""
    expert = dbm(4, 3, 2, dtype=torch.float32).to("meta")
    x, even = torch.empty(5, 4, device="meta"), torch.empty(5, 6, device="meta")
    assert VisibleDBM(expert)(x).shape == expert(even).shape == (5,)
    noise = BlockNoise(torch.empty(5, 3, device="meta"), torch.empty(5, 6, device="meta"))
    kernel = kernel_of(expert)
    state, info = kernel.transition(expert, kernel.init(expert, even), noise)
    assert state.position.device.type == info.is_undefined.device.type == "meta"


@pytest.mark.parametrize(
    ("weights", "biases", "words"),
    [
        ([], [[0.0]], "at least one matrix of weights"),
        ([[1.0]], [[0.0], [0.0]], r"expected weights \(n_0, n_1\).*got \[\(1,\)\]"),
        (
            [[[1.0]], [[1.0], [2.0]]],
            [[0.0], [0.0], [0.0]],
            r"got \[\(1, 1\), \(2, 1\)\].*lower layer's units in its rows",
        ),
        ([[[1.0]]], [[0.0]], r"expected biases of shapes \[\(1,\), \(1,\)\].*got \[\(1,\)\]"),
        ([[[1.0]]], [[0.0], [0.0, 1.0]], r"got \[\(1,\), \(2,\)\]"),
        ([[[float("inf")]]], [[0.0], [0.0]], r"weights\[0\] must be finite, got inf"),
    ],
)
def test_what_does_not_fit_is_refused(weights: list, biases: list, words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        DBM(weights, biases)


def test_bad_calls_are_refused() -> None:
    expert = dbm(3, 2, 2)
    with pytest.raises(poe.ShapeError, match=r"expected x of shape \(\*batch, 5\)"):
        expert(torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(poe.ShapeError, match=r"expected x of shape \(\*batch, 3\)"):
        mean_field(expert, torch.zeros(2, 5, dtype=torch.float64))
    with pytest.raises(poe.PoeError, match="num_steps must be a whole number >= 1, got 0"):
        mean_field(expert, bits(3), 0)
    with pytest.raises(poe.PoeError, match="num_steps must be a whole number >= 1, got 0"):
        VisibleDBM(expert, 0)
    with pytest.raises(poe.PoeError, match=r"expected an experts.DBM, got RBM"):
        VisibleDBM(expert.as_rbm())  # type: ignore[arg-type]
    with pytest.raises(poe.ShapeError, match=r"one x of shape \(3,\), got \(8, 3\)"):
        expert.posterior(bits(3))
    with pytest.raises(poe.PoeError, match=r"use experts\.RBM"):
        dbm(3, 2).posterior(bits(3)[0])
