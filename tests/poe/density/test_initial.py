"""Starts are looked at in every dimension, and for their dtype and values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import poe
from poe.samplers import MALA, ULA, Gibbs, Kernel


def _energy(space: poe.Space) -> poe.Expert:
    def half_square(x: Tensor) -> Tensor:
        return 0.5 * space.as_vector(x).float().square().sum(-1)

    return poe.FromEnergy(half_square, space=space)


def _sample(space: poe.Space, initial: Any, kernel: Kernel | None = None) -> poe.Draws:
    return poe.sample(
        _energy(space),
        8,
        initial=initial,
        kernel=kernel,
        warmup=4,
        generator=torch.Generator().manual_seed(0),
        progress=False,
    )


@pytest.mark.parametrize("kernel", [None, MALA(0.1), ULA(0.1)], ids=str)
@pytest.mark.parametrize("shape", [(2,), (4, 1, 2), (4, 5, 2), (4, 3), (2, 4), (0, 2), ()])
def test_another_shape_is_refused(kernel: Kernel | None, shape: tuple[int, ...]) -> None:
    with pytest.raises(poe.ShapeError):
        _sample(poe.Real(2), torch.zeros(shape), kernel)


@pytest.mark.parametrize(
    ("space", "initial", "words"),
    [
        (poe.Real(2), torch.zeros(4, 2, dtype=torch.int64), "floating-point"),
        (poe.Real(2), torch.zeros(4, 2, dtype=torch.bool), "floating-point"),
        (poe.Real(2), torch.zeros(4, 2, dtype=torch.complex64), "that is complex"),
        (poe.Real(2), torch.zeros(4, 2, dtype=torch.bfloat16), "float32 or float64"),
        (poe.Real(2), torch.zeros(4, 2, dtype=torch.float16), "float32 or float64"),
        (poe.Real(2), torch.zeros(4, 2, device="meta"), "in memory"),
        (poe.Real(2), torch.zeros(4, 2).to_sparse(), r"to_dense\(\)"),
        (poe.Categorical(2, 3), torch.zeros(4, 2, dtype=torch.int32), r"to\(torch.int64\)"),
        (poe.Sequence(3, 2), torch.zeros(4, 2, dtype=torch.uint8), r"to\(torch.int64\)"),
        (poe.Binary(2), torch.zeros(4, 2, dtype=torch.bool), r"x\.float\(\)"),
    ],
)
def test_another_dtype_is_refused(space: poe.Space, initial: Tensor, words: str) -> None:
    with pytest.raises(poe.DtypeError, match=words):
        _sample(space, initial)


@pytest.mark.parametrize(
    ("space", "initial"),
    [
        (poe.Real(2), torch.full((4, 2), torch.nan)),
        (poe.Real(2), torch.full((4, 2), torch.inf)),
        (poe.Positive(2), -torch.ones(4, 2)),
        (poe.Positive(2), torch.zeros(4, 2)),
        (poe.Interval(2, 0, 1), torch.full((4, 2), 1.5)),
        (poe.Simplex(3), torch.ones(4, 3)),
        (poe.PositiveDefinite(2), torch.zeros(4, 2, 2)),
        (poe.PositiveDefinite(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]).expand(4, 2, 2)),
        (poe.Binary(2), torch.full((4, 2), -1.0)),
        (poe.Categorical(2, 3), torch.full((4, 2), 3)),
        (poe.Sequence(3, 2), torch.full((4, 2), -1)),
    ],
)
def test_starts_outside_of_the_space_are_refused(space: poe.Space, initial: Tensor) -> None:
    with pytest.raises(poe.PoeError):
        _sample(space, initial)


@pytest.mark.parametrize("initial", [[[0.0, 0.0]], 0.0, "prior", poe.Real(2)])
def test_what_is_no_tensor_is_refused(initial: object) -> None:
    with pytest.raises(poe.PoeError):
        _sample(poe.Real(2), initial)


@pytest.mark.parametrize(
    "initial",
    [
        torch.zeros(4, 2, requires_grad=True),
        torch.nn.Parameter(torch.zeros(4, 2)),
        torch.zeros(1, 2).expand(4, 2),
        torch.zeros(2, 4).mT,
        torch.zeros(4, 2, dtype=torch.float64),
    ],
)
def test_what_is_a_start_is_taken_and_left_as_it_is(initial: Tensor) -> None:
    before = initial.detach().clone()
    draws = _sample(poe.Real(2), initial)
    assert draws.samples.dtype == initial.dtype
    assert not draws.samples.requires_grad
    assert torch.equal(initial, before)


def test_labels_may_be_floats_or_long() -> None:
    for dtype in (torch.float32, torch.float64, torch.int64):
        draws = _sample(
            poe.Categorical(2, 3), torch.ones(4, 2, dtype=dtype), Gibbs(poe.Categorical(2, 3))
        )
        assert draws.samples.dtype == dtype
