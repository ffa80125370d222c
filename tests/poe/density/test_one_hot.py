"""Scores on finite spaces."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import experts
import poe
from poe.density.adapt import Uniform
from poe.density.capabilities import log_density_of_one_hot
from poe.density.one_hot import one_hot
from tests.seeds import seeded

SPACE = poe.Categorical((2, 2), 3)
LOGITS = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
X = torch.tensor([[[0, 1], [2, 2]], [[1, 1], [0, 2]]])


def weighted(z: torch.Tensor) -> torch.Tensor:
    return (z * LOGITS).sum((-3, -2, -1))


def test_the_encoding_has_a_one_at_the_value() -> None:
    for x in (X, X.float(), X.to(torch.uint8)):
        z = one_hot(x, 3)
        assert z.shape == (2, 2, 2, 3)
        assert torch.equal(z.argmax(-1), X)
        assert torch.equal(z.sum(-1), torch.ones(2, 2, 2))


def test_a_binary_score_is_the_gradient_of_the_formula() -> None:
    ising = experts.Ising.grid((2, 2), coupling=0.5, field=0.1)
    x = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])
    torch.testing.assert_close(ising.score(x), 2 * ising.local_fields(x))
    torch.testing.assert_close(ising.score(x.long()), 2 * ising.local_fields(x))
    flat = poe.FromLogDensity(lambda x: (x.sum((1, 2)) > 2).float(), space=ising.space)
    assert torch.equal(flat.score(x), torch.zeros_like(x))


def test_a_one_hot_score_is_that_of_each_value() -> None:
    score = poe.FromOneHot(weighted, space=SPACE).score(X)
    torch.testing.assert_close(score, LOGITS.expand(2, 2, 2, 3))


def test_compositions_offer_what_their_parts_do() -> None:
    classes, other = experts.Categorical(LOGITS), poe.FromOneHot(weighted, space=SPACE)
    product = classes**0.5 * other * Uniform(SPACE)
    found = log_density_of_one_hot(product)
    assert found is not None
    torch.testing.assert_close(found(one_hot(X, 3)), product(X))
    value, score = product.log_density_and_score(X)
    torch.testing.assert_close(value, product(X))
    torch.testing.assert_close(score, 1.5 * LOGITS.expand_as(score))
    merged = poe.density.wrappers.merged(classes * classes * other)
    found = log_density_of_one_hot(merged)
    assert found is not None
    torch.testing.assert_close(found(one_hot(X, 3)), (classes * classes * other)(X))
    torch.testing.assert_close(poe.Chunked(product, 1).score(X), score)


def test_one_part_without_a_gradient_is_named() -> None:
    plain = poe.FromLogDensity(lambda x: x.flatten(1).sum(1).float(), space=SPACE)
    product = poe.Product(good=experts.Categorical(LOGITS), bad=plain)
    assert log_density_of_one_hot(product) is None
    with pytest.raises(poe.PoeError, match=r"got bad, which has none.*FromOneHot.*Gibbs"):
        product.score(X)


def test_a_score_of_counts_is_that_of_the_formula_at_real_numbers() -> None:
    rate, x = torch.tensor([1.0, 4.0]), torch.tensor([[0.0, 3.0], [7.0, 1.0]])
    expected = rate.log() - torch.digamma(x + 1)
    torch.testing.assert_close(experts.Poisson(rate).score(x), expected)
    torch.testing.assert_close(experts.Poisson(rate).score(x.long()), expected)


def test_the_space_must_have_one_hot_values() -> None:
    for space in (poe.Binary(2), poe.Real(2), poe.Count(2)):
        with pytest.raises(poe.PoeError, match=r"poe\.Categorical or poe\.Sequence"):
            poe.FromOneHot(weighted, space=space)


def test_a_wrong_shape_is_refused() -> None:
    wrong = poe.FromOneHot(lambda z: z.sum(-1), space=SPACE)
    for call in (wrong, wrong.score):
        with pytest.raises(poe.ShapeError, match=r"expected a log-density of shape \(2,\)"):
            call(X)


@seeded()
def test_a_network_moves_learns_and_is_saved(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(1), nn.Linear(12, 1), nn.Flatten(0)).double()
    expert = poe.FromOneHot(net, space=SPACE)
    assert expert(X).dtype == torch.float64
    poe.save(expert, tmp_path / "expert")
    again = poe.load(tmp_path / "expert")
    assert torch.equal(again(X), expert(X))
    assert torch.equal(again.score(X), expert.score(X))
    assert expert.to("meta")(X.to("meta")).device.type == "meta"
