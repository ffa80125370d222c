"""Uniforms: as fine and as even as torch.rand's, from half as many words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.core.randomness import uniforms

COUNT = 4_000_001  # odd: half of the last word is left over


def drawn(like: Tensor | None = None, seed: int = 0, count: int = COUNT) -> Tensor:
    like = torch.zeros(()) if like is None else like
    return uniforms((count,), like=like, generator=torch.Generator().manual_seed(seed))


def test_they_are_multiples_of_2_to_the_minus_24_below_one() -> None:
    u = drawn()
    steps = u * 2**24
    assert torch.equal(steps, steps.floor())
    assert 0 <= u.min() < 4e-6
    assert 1 - 4e-6 < u.max() < 1
    assert bool((steps % 2 == 1).any())  # not a coarser grid


def test_every_bit_of_24_is_fair_and_so_is_every_pair() -> None:
    steps = (drawn(count=400_000) * 2**24).long()
    bits = (steps[:, None] >> torch.arange(24)) & 1
    signs = (2 * bits - 1).float()
    both = torch.cat([signs[:-1], signs[1:]], 1)  # of one number and of the next
    correlation = both.T @ both / len(both) - torch.eye(48)
    assert (signs.mean(0).abs() * len(signs) ** 0.5 < 4.5).all()
    assert correlation.abs().max() * len(both) ** 0.5 < 5.0


def test_a_small_probability_is_met() -> None:
    p = 1e-4
    found = (drawn() < p).double().mean().item()
    assert abs(found - p) < 4 * (p / COUNT) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_are_drawn_by_torch(dtype: torch.dtype) -> None:
    like = torch.zeros((), dtype=dtype)
    g = torch.Generator().manual_seed(0)
    expected = torch.empty(9, dtype=dtype).uniform_(generator=g)
    assert torch.equal(drawn(like, count=9), expected)


def test_the_same_seed_gives_the_same_bits_and_no_global_generator_is_touched() -> None:
    before = torch.get_rng_state()
    assert torch.equal(drawn(count=9), drawn(count=9))
    assert not torch.equal(drawn(count=9), drawn(seed=1, count=9))
    assert torch.equal(torch.get_rng_state(), before)


def test_on_meta_there_are_none() -> None:
    like = torch.empty((), device="meta")
    assert uniforms((3, 2), like=like, generator=torch.Generator()).shape == (3, 2)


def test_what_has_no_numbers_cannot_be_drawn_from() -> None:
    empty = experts.Gaussian(torch.zeros(2, device="meta"), torch.ones(2, device="meta"))
    for call in (poe.sample, poe.smc):
        with pytest.raises(poe.PoeError, match="meta device: load the weights"):
            call(empty, 10, progress=False)
