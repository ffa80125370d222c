"""The alternative to composition: what the pool holds, what is kept, what chains start from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from poe.demo import rejection
from poe.demo.attributes import Combination
from poe.demo.conjunction import Evidence, Experts
from poe.demo.rejection import Pool, best_of, draw_pool, resample

SIZE = 4


class Digits:
    """Stands for the class expert: every "sample" is filled with its number in the pool."""

    def given(self, label: Tensor) -> Digits:
        self.label = label
        return self

    def sample(self, num_samples: int, *, generator: torch.Generator) -> Tensor:
        return torch.arange(num_samples).float()[:, None, None].expand(num_samples, 2, 2)


def make_parts() -> Experts:
    return cast(Experts, SimpleNamespace(digit=Digits()))


@pytest.fixture
def pool() -> Pool:
    return draw_pool(make_parts(), SIZE, torch.Generator())


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Evidence:
    """Fixed evidence about the pool's samples: (40, 3) twice."""
    generator = torch.Generator().manual_seed(0)
    values = Evidence(*(torch.randn(10 * SIZE, 3, generator=generator) for _ in range(2)))
    monkeypatch.setattr(rejection, "evidence", lambda parts, x: values)
    return values


def number(images: Tensor) -> list[int]:
    return [int(value) for value in images[:, 0, 0]]


def test_the_pool_has_as_many_samples_of_each_class() -> None:
    parts = make_parts()
    pool = draw_pool(parts, SIZE, torch.Generator())
    label = cast(Digits, parts.digit).label
    assert len(pool.images) == len(label) == 10 * SIZE
    for digit in range(10):
        assert (label[pool.rows(digit)] == digit).all()
        assert (label == digit).sum() == SIZE


def test_some_samples_are_of_the_class_and_another_one_each_time(pool: Pool) -> None:
    combinations = [Combination(7, 0, 0), Combination(2, 1, 1)] * 2
    found = number(pool.some(combinations))
    assert [value // SIZE for value in found] == [7, 2, 7, 2]
    assert len(set(found)) == 4


@pytest.mark.parametrize(("size", "count"), [(1, 4), (2, 2), (3, 1), (4, 1), (9, 1)])
def test_a_split_pool_has_every_sample_once_and_in_its_class(
    pool: Pool, size: int, count: int
) -> None:
    parts = pool.split(size)
    assert len(parts) == count
    found = [number(part.images[part.rows(digit)]) for part in parts for digit in range(10)]
    assert all(len(values) == min(size, SIZE) for values in found)
    assert [value // SIZE for values in found for value in values] == [
        digit for _ in parts for digit in range(10) for _ in range(min(size, SIZE))
    ]
    everything = [value for values in found for value in values]
    assert len(set(everything)) == len(everything) == 10 * count * min(size, SIZE)


def test_the_best_of_a_class_is_what_the_others_rate_highest(pool: Pool, said: Evidence) -> None:
    combinations = [Combination(7, 2, 0), Combination(2, 0, 1), Combination(7, 1, 1)]
    found = number(best_of(make_parts(), pool, combinations))
    for one, kept in zip(combinations, found, strict=True):
        score = said.slant[:, one.slant] + said.thickness[:, one.thickness]
        rivals = range(one.digit * SIZE, (one.digit + 1) * SIZE)
        assert kept == max(rivals, key=lambda row: score[row].item())


@pytest.mark.usefixtures("said")
def test_chains_start_at_different_samples_of_their_class(pool: Pool) -> None:
    combinations = [Combination(7, 2, 0), Combination(2, 0, 1)] * SIZE
    start = resample(make_parts(), pool, combinations, torch.Generator())
    found = number(start)
    assert sorted(found[::2]) == list(range(7 * SIZE, 8 * SIZE))
    assert sorted(found[1::2]) == list(range(2 * SIZE, 3 * SIZE))


@pytest.mark.usefixtures("said")
def test_more_chains_than_samples_use_every_sample_before_any_comes_again(pool: Pool) -> None:
    combinations = [Combination(7, 2, 0)] * (SIZE + 1)
    found = number(resample(make_parts(), pool, combinations, torch.Generator()))
    assert sorted(found[:SIZE]) == list(range(7 * SIZE, 8 * SIZE))
    assert found[SIZE] == found[0]


def test_a_start_is_drawn_with_its_weight(pool: Pool, said: Evidence) -> None:
    one, n = Combination(5, 2, 0), 4000
    generator = torch.Generator().manual_seed(0)
    found = [number(resample(make_parts(), pool, [one], generator)) for _ in range(n)]
    counts = torch.tensor(found).flatten().sub(5 * SIZE).bincount(minlength=SIZE)
    weight = said.of(one)[pool.rows(5)].softmax(0)
    z = (counts / n - weight) / (weight * (1 - weight) / n).sqrt()
    assert z.abs().max() < 4, z


@pytest.mark.usefixtures("said")
def test_the_same_seed_gives_the_same_starts(pool: Pool) -> None:
    combinations = [Combination(digit, 2, 0) for digit in range(10)]

    def start(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return resample(make_parts(), pool, combinations, generator)

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))
