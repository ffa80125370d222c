"""Potts models against sums over all their states, and against the Ising model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import poe
from experts import Categorical, Ising, Potts
from poe.normalizers.enumeration import states
from poe.samplers import Gibbs
from tests.laws.kernels import check_kernel

DOUBLE = torch.float64


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def _graph() -> Potts:
    return Potts([[0, 1, 2, 3, 1], [1, 2, 0, 1, 0]], _normal(5), _normal(5, 3, seed=1), 5, 3)


def test_log_density_by_definition() -> None:
    model = _graph()
    x = states(model.space)
    expected = model.fields[torch.arange(5), x].sum(1)
    for (i, j), strength in zip(model.edges.T.tolist(), model.couplings, strict=True):
        expected = expected + strength * (x[:, i] == x[:, j])
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("periodic", [False, True])
def test_grid_log_density(periodic: bool) -> None:
    coupling, field = _normal(2, 3, 4), _normal(3, 4, 5, seed=1)
    model = Potts.grid((3, 4), coupling, 5, field, periodic=periodic)
    x = torch.randint(5, (7, 3, 4), generator=torch.Generator().manual_seed(0))
    expected = torch.gather(field.expand(7, 3, 4, 5), 3, x[..., None]).sum((1, 2, 3))
    for axis in (0, 1):
        agree = coupling[axis] * (x == x.roll(-1, axis + 1))
        kept = agree if periodic else agree.narrow(axis + 1, 0, (3, 4)[axis] - 1)
        expected = expected + kept.sum((1, 2))
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


def test_two_labels_are_an_ising_model() -> None:
    coupling, field = _normal(2, 3, 3), _normal(3, 3, 2, seed=1)
    potts = Potts.grid((3, 3), coupling, 2, field)
    ising = Ising.grid((3, 3), coupling / 2, (field[..., 1] - field[..., 0]) / 2)
    x = states(poe.Categorical((3, 3), 2))
    gap = potts(x) - ising(x)
    torch.testing.assert_close(gap, gap[:1].expand_as(gap), rtol=0, atol=1e-12)
    difference = poe.log_partition(potts).value - poe.log_partition(ising).value
    assert abs(difference - gap[0]) < 1e-10


def test_numbers_and_rows_fill_the_fields() -> None:
    x = torch.tensor([[0, 2], [1, 1]])
    model = Potts([[0], [1]], 0.5, [1.0, 2.0, 3.0], 2, 3)
    assert model(x).tolist() == [4.0, 4.5]
    assert Potts([[0], [1]], 0.5, 0.0, 2, 3)(x).tolist() == [0.0, 0.5]


def test_batches_and_dtypes_of_x() -> None:
    model = _graph()
    x = states(model.space)[:6]
    torch.testing.assert_close(model(x.reshape(2, 3, 5)), model(x).reshape(2, 3))
    torch.testing.assert_close(model(x[3].double()), model(x)[3])


def test_log_partition_of_a_ring_of_labels() -> None:
    """Z = (e^J + k − 1)^n + (k − 1) (e^J − 1)^n."""
    n, k, coupling = 9, 4, 0.7
    ring = Potts([[*range(n)], [*range(1, n), 0]], torch.tensor(coupling, dtype=DOUBLE), 0.0, n, k)
    e = torch.tensor(coupling, dtype=DOUBLE).exp()
    truth = ((e + k - 1) ** n + (k - 1) * (e - 1) ** n).log()
    found = poe.log_partition(ring)
    assert found.is_exact
    assert abs(found.value - truth) < 1e-9


def test_log_partition_beyond_enumeration_is_estimated() -> None:
    n, k, coupling = 16, 3, 0.7
    ring = Potts([[*range(n)], [*range(1, n), 0]], coupling, 0.0, n, k)
    e = torch.tensor(coupling, dtype=DOUBLE).exp()
    truth = ((e + k - 1) ** n + (k - 1) * (e - 1) ** n).log()
    found = poe.log_partition(ring, generator=torch.Generator().manual_seed(0), progress=False)
    assert not found.is_exact
    assert abs(found.value - truth) < 4 * found.std_error


def test_products_merge() -> None:
    field = Categorical(_normal(5, 3, seed=5))
    product = _graph() ** 2 * field**0.7 / _graph() ** 0.5
    simple, log_constant = poe.simplify(product)
    assert isinstance(simple, Potts)
    assert len(simple.couplings) == 4  # one pair was there twice
    x = states(product.space)
    torch.testing.assert_close(simple(x) + log_constant, product(x), rtol=0, atol=1e-10)
    expected = torch.logsumexp(product(x), 0)
    torch.testing.assert_close(poe.log_partition(product).value, expected, rtol=0, atol=1e-10)


@pytest.mark.law
def test_gibbs_leaves_it_invariant() -> None:
    model, g = Potts.grid((2, 3), 0.8, 3, [0.3, 0.0, -0.2], periodic=True), torch.Generator()
    x = states(model.space)
    chosen = torch.multinomial(model(x).double().softmax(0), 40_000, True, generator=g)
    check_kernel(Gibbs(model.space), model, x[chosen], num_steps=4, generator=g)


def test_learned_couplings_have_a_gradient() -> None:
    couplings = nn.Parameter(torch.zeros(2))
    model = Potts([[0, 1], [1, 2]], couplings, 0.0, 3, 4)
    assert model.couplings is couplings
    model(torch.tensor([[0, 0, 1]])).sum().backward()
    assert couplings.grad is not None
    assert couplings.grad.tolist() == [1.0, 0.0]


def test_save_and_load(tmp_path: Path) -> None:
    model = _graph()
    poe.save(model, tmp_path)
    loaded = poe.load(tmp_path)
    assert loaded.space == model.space
    assert torch.equal(loaded(states(model.space)), model(states(model.space)))


def test_refusals() -> None:
    with pytest.raises(
        poe.ShapeError, match=r"fields must be of shape \(3, 2\), or a number for all"
    ):
        Potts([[0], [1]], 0.5, [1.0, 2.0, 3.0], 3, 2)
    with pytest.raises(poe.PoeError, match=r"between sites 0 ... 2 of Categorical\(3, 2\)"):
        Potts([[0], [3]], 0.5, 0.0, 3, 2)
    with pytest.raises(poe.ShapeError, match=r"use Potts\(edges"):
        Potts.grid((2, 2, 2), 0.5, 2)
