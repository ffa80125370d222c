"""The RBM against enumeration of the joint, alone and in products."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import poe
from experts import RBM, Bernoulli, Ising
from poe.density.capabilities import can_sample_exactly, conditionals, exact_log_partition
from poe.normalizers.enumeration import log_sum, states

SHAPES = [(5, 3), (3, 6), (4, 4), (1, 1)]


def rbm(visible: int, hidden: int, seed: int = 0) -> RBM:
    g = torch.Generator().manual_seed(seed)
    shapes = (visible, hidden), (visible,), (hidden,)
    return RBM(*(torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def bits(size: int) -> Tensor:
    return states(poe.Binary(size)).double()


def joint_table(expert: RBM) -> Tensor:
    """x'Wz + b'x + c'z over all x and z, by its definition: ``(2^v, 2^h)``."""
    x, z = bits(len(expert.b)), bits(len(expert.c))
    return x @ expert.W @ z.T + (x @ expert.b)[:, None] + (z @ expert.c)[None]


@pytest.mark.parametrize("shape", SHAPES)
def test_log_density_and_log_z_against_enumeration_of_the_joint(shape: tuple[int, int]) -> None:
    expert = rbm(*shape)
    table = joint_table(expert)
    close(expert(bits(shape[0])), table.logsumexp(1))
    close(expert.transposed()(bits(shape[1])), table.logsumexp(0))
    found = poe.log_partition(expert)
    assert found.method == "closed form"
    close(found.value, table.flatten().logsumexp(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_conditionals_against_enumeration_of_the_joint(shape: tuple[int, int]) -> None:
    expert = rbm(*shape)
    x, z, table = bits(shape[0]), bits(shape[1]), joint_table(expert)
    given_x, given_z = table.softmax(1) @ z, table.softmax(0).T @ x
    close(expert.hidden_probabilities(x), given_x)
    close(expert.hidden_log_odds(x), given_x.logit())
    close(expert.visible_log_odds(z).sigmoid(), given_z)


def test_log_z_of_many_visible_units_is_summed_over_the_hidden() -> None:
    """Units without weights are free: log Z = Σ log(1 + e^b) + Σ log(1 + e^c)."""
    g = torch.Generator().manual_seed(0)
    b, c = (torch.randn(size, generator=g, dtype=torch.float64) for size in (60, 9))
    expected = nn.functional.softplus(b).sum() + nn.functional.softplus(c).sum()
    weights = torch.zeros(60, 9, dtype=torch.float64)
    for expert in (RBM(weights, b, c), RBM(weights.T, c, b)):
        close(poe.log_partition(expert).value, expected)


def test_log_z_is_summed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    summed = []

    def log_sum(target: poe.Expert) -> Tensor:
        summed.append(target.space)
        return torch.zeros(())

    monkeypatch.setattr("experts.boltzmann.rbm.log_sum", log_sum)
    poe.log_partition(rbm(60, 25))
    assert summed == [poe.Binary(25)]


def test_log_z_and_draws_are_not_claimed_of_large_layers() -> None:
    large = rbm(26, 26)
    assert exact_log_partition(large) is None
    assert not can_sample_exactly(large)
    assert can_sample_exactly(rbm(26, 20))
    assert not hasattr(large, "log_prob")


def test_gradients() -> None:
    """∂ log p̃ / ∂W = x p(z = 1 | x)', ∂ log p̃ / ∂x = b + W p(z = 1 | x)."""
    made = rbm(4, 3)
    expert = RBM(nn.Parameter(made.W), made.b, nn.Parameter(made.c))
    assert [name for name, _ in expert.named_parameters()] == ["W", "c"]
    x = torch.tensor([1.0, 0, 1, 1], dtype=torch.float64, requires_grad=True)
    by_weight, by_x = torch.autograd.grad(expert(x), (expert.W, x))
    hidden = expert.hidden_probabilities(x)
    close(by_weight, torch.outer(x, hidden))
    close(by_x, expert.b + expert.W @ hidden)


@pytest.mark.parametrize("shape", [(4, 2), (2, 4)])
def test_draws_are_exact(shape: tuple[int, int]) -> None:
    expert, x, count = rbm(*shape), bits(shape[0]), 40_000
    truth = joint_table(expert).logsumexp(1).softmax(0)
    draws = poe.sample(expert, count, generator=torch.Generator().manual_seed(0), progress=False)
    assert draws.guarantee == "exact"
    drawn = draws.samples.flatten(0, 1)
    assert drawn.dtype == torch.float64
    found = (drawn[:, None] == x).all(-1).double().mean(0)
    assert ((found - truth).abs() < 4 * (truth * (1 - truth) / count).sqrt()).all()


def test_a_product_of_counts_is_one_rbm() -> None:
    a, b, c = rbm(4, 3), rbm(4, 2, seed=1), rbm(4, 5, seed=2)
    product = a * b**2 * c**0
    simple = poe.simplify(product)
    assert isinstance(simple.expert, RBM)
    assert simple.expert.W.shape == (4, 7)
    x = bits(4)
    close(simple.expert(x), a(x) + 2 * b(x))
    assert simple.log_constant == 0
    found = poe.log_partition(product)
    assert found.method == "closed form"
    close(found.value, product(x).logsumexp(0))


@pytest.mark.parametrize(
    "exponent", [0.5, -1.0, 9000.0, nn.Parameter(torch.tensor(2.0, dtype=torch.float64))]
)
def test_other_powers_stay_as_they_are(exponent: float | Tensor) -> None:
    product = rbm(4, 3) * rbm(4, 2, seed=1) ** exponent
    assert isinstance(poe.simplify(product).expert, poe.Product)
    found = poe.log_partition(product)
    assert found.method == "enumeration"
    close(found.value, product(bits(4)).logsumexp(0).detach())
    assert conditionals(product) is None


def test_an_rbm_that_has_no_say_at_all_is_no_rbm() -> None:
    assert poe.log_partition(rbm(4, 3) ** 0).value.item() == pytest.approx(4 * 0.6931471805599453)


def test_a_field_goes_into_the_visible_biases() -> None:
    field = Bernoulli(torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64))
    product = rbm(4, 3) * field**0.7 * rbm(4, 2, seed=1) * field
    simple, log_constant = poe.simplify(product)
    assert isinstance(simple, RBM)
    assert simple.W.shape == (4, 5)
    close(simple(bits(4)) + log_constant, product(bits(4)))
    found = poe.log_partition(product)
    assert found.method == "closed form"
    close(found.value, product(bits(4)).logsumexp(0))


def test_a_field_goes_into_the_biases_beside_what_stays_a_factor() -> None:
    grid = Ising(0.3 * (1 - torch.eye(4)), torch.zeros(4))
    product = rbm(4, 3) * Bernoulli(torch.ones(4, dtype=torch.float64)) * grid.double()
    simple, log_constant = poe.simplify(product)
    assert [type(e) for e in simple.experts] == [RBM, Ising]
    close(simple(bits(4)) + log_constant, product(bits(4)))


def test_log_z_is_kept_until_the_numbers_change(monkeypatch: pytest.MonkeyPatch) -> None:
    expert, summed = rbm(5, 3), []

    def counted(target: poe.Expert) -> Tensor:
        summed.append(target.space)
        return log_sum(target)

    monkeypatch.setattr("experts.boltzmann.rbm.log_sum", counted)
    first, again = (poe.log_partition(expert).value for _ in range(2))
    assert torch.equal(first, again)
    assert len(summed) == 1
    expert.c.add_(1.0)
    close(poe.log_partition(expert).value, expert(bits(5)).logsumexp(0))
    assert len(summed) == 2
    close(poe.log_partition(copy.deepcopy(expert)).value, expert(bits(5)).logsumexp(0))


def test_the_log_odds_that_are_remembered_are_those_of_x_and_the_weights_now() -> None:
    expert, x = rbm(5, 3), bits(5)[:4].clone()
    with torch.no_grad():
        assert expert.hidden_log_odds(x) is expert.hidden_log_odds(x)
        for change in (x.neg_, expert.W.mul_, expert.c.add_, expert.hidden_log_odds(x).zero_):
            change(*([] if change.__name__ in ("neg_", "zero_") else [2.0]))
            close(expert.hidden_log_odds(x), x @ expert.W + expert.c)
    first = expert.hidden_log_odds(x)
    assert first is not expert.hidden_log_odds(x)  # each with its own graph


def test_normalized_keeps_log_z() -> None:
    found = poe.normalize(rbm(4, 3))
    assert found.log_prob(bits(4)).exp().sum().item() == pytest.approx(1.0, abs=1e-10)


def test_save_and_load(tmp_path: Path) -> None:
    made = rbm(4, 3)
    expert = RBM(nn.Parameter(made.W), made.b, made.c)
    poe.save(expert * made**2, tmp_path / "rbm")
    loaded = poe.load(tmp_path / "rbm")
    x = bits(4)
    assert torch.equal(loaded(x), (expert * made**2)(x))
    assert [name for name, _ in loaded.named_parameters()] == ["experts.0.W"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0], [0.0], [0.0]), r"W of shape \(visible, hidden\), got \(1,\)"),
        (([[1.0], [2.0]], [0.0], [0.0]), r"b of shape \(2,\).*got \(1,\)"),
        (([[1.0], [2.0]], [0.0, 0.0], [0.0, 0.0]), r"c of shape \(1,\).*W.T swaps the layers"),
        (([[1.0], [float("nan")]], [0.0, 0.0], [0.0]), "W must be finite, got nan"),
        ((torch.zeros(2, 0), [0.0, 0.0], []), "a unit in each layer"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[Tensor, Tensor, Tensor], words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        RBM(*arguments)


def test_events_of_another_shape_are_refused() -> None:
    expert = rbm(4, 3)
    for call in (expert, expert.hidden_log_odds, expert.hidden_probabilities):
        with pytest.raises(poe.ShapeError, match=r"expected x of shape \(\*batch, 4\)"):
            call(torch.zeros(2, 5, dtype=torch.float64))
    with pytest.raises(poe.ShapeError, match=r"expected x of shape \(\*batch, 3\)"):
        expert.visible_log_odds(torch.zeros(2, 5, dtype=torch.float64))
