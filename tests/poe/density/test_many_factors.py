"""Products of many factors: built in linear time, under names that are unique."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

import experts
import poe
from poe.density.checks import unique_names

GAUSSIAN = experts.Gaussian([0.0], scale=[1.0])
QUARTIC = poe.FromEnergy(lambda x: x.pow(4).sum(-1), space=poe.Real(1))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ("a", "b")),
        (["a", "a", "a"], ("a", "a_2", "a_3")),
        (["a_2", "a", "a"], ("a_2", "a", "a_3")),
        (["a", "a_2", "a", "a_2"], ("a", "a_2", "a_3", "a_2_2")),
        (["a", "a", "a_2", "a_2", "a_2_2"], ("a", "a_2", "a_2_2", "a_2_3", "a_2_2_2")),
        ([], ()),
    ],
)
def test_a_suffix_that_is_taken_is_passed_over(names: list[str], expected: tuple[str, ...]) -> None:
    found = unique_names(names)
    assert found == expected
    assert len(set(found)) == len(names)


def test_a_name_of_the_user_that_looks_like_a_suffix_is_kept_apart() -> None:
    product = poe.Product(poe.Product(Gaussian_2=GAUSSIAN), GAUSSIAN, GAUSSIAN, GAUSSIAN)
    assert product.names == ("Gaussian_2", "Gaussian", "Gaussian_3", "Gaussian_4")


def _seconds(call: Callable[[], object]) -> float:
    runs = []
    for _ in range(3):
        began = time.process_time()
        call()
        runs.append(time.process_time() - began)
    return min(runs)


def _product(count: int, expert: poe.Expert = QUARTIC) -> poe.Product:
    return poe.Product(*[expert] * count)


@pytest.mark.parametrize(
    "call",
    [
        lambda product: poe.Product(product, product),
        lambda product: product**0.5,
        repr,
        poe.simplify,
        lambda product: product(torch.zeros(2, 1)),
        lambda product: product.score(torch.zeros(2, 1)),
        lambda product: dict(product.named_buffers()),
    ],
    ids=["product", "power", "repr", "simplify", "log_density", "score", "named_buffers"],
)
@pytest.mark.parametrize("expert", [GAUSSIAN, QUARTIC], ids=["Gaussian", "FromEnergy"])
def test_twice_the_factors_take_twice_the_time(
    expert: poe.Expert, call: Callable[[poe.Product], object]
) -> None:
    few, many = (_product(count, expert) for count in (100, 800))
    assert _seconds(lambda: call(many)) < 24 * _seconds(lambda: call(few)) + 0.01


def test_a_thousand_factors_are_one_density() -> None:
    product = _product(1000, GAUSSIAN)
    x = torch.tensor([[0.1]])
    torch.testing.assert_close(product(x), 1000 * GAUSSIAN(x))
    found = poe.log_partition(product)
    exact = 1000 * -0.9189385332 + 0.5 * torch.log(torch.tensor(2 * torch.pi / 1000))
    torch.testing.assert_close(found.value, exact, rtol=1e-5, atol=0)


@pytest.mark.slow
def test_a_thousand_factors_multiplied_one_by_one() -> None:
    product: poe.Expert = QUARTIC
    began = time.process_time()
    for _ in range(999):
        product = product * QUARTIC
    assert time.process_time() - began < 5
    assert isinstance(product, poe.Product)
    assert product.names[-1] == "FromEnergy_1000"
