"""Linear operators: adjoints, diagonals and gradients against their dense matrices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.signal import convolve2d
from torch import Tensor

import poe
from experts import GaussianLikelihood
from experts.images import (
    BlockMean,
    Blur,
    FilterBank,
    Identity,
    LinearOperator,
    Mask,
    Window,
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


KERNEL = randn(3, 5, seed=1)
OPERATORS: dict[str, LinearOperator] = {
    "identity": Identity((6, 8)),
    "mask": Mask((randn(6, 8, seed=2) > 0).double()),
    "filters": FilterBank(randn(4, 3, 2, seed=3), (6, 8)),
    "window": Window((6, 8), (3, 4), (2, 1)),
    "blur": Blur(KERNEL, (6, 8)),
    "blur, periodic": Blur(KERNEL, (6, 8), "periodic"),
    "block mean": BlockMean((6, 8), 2),
}


def matrix(operator: LinearOperator) -> Tensor:
    """Dense: (out, in), column by column."""
    size = operator.in_shape.numel()
    return (
        operator(torch.eye(size, dtype=torch.float64).view(size, *operator.in_shape)).flatten(1).T
    )


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_adjoint_and_diagonal_are_those_of_the_matrix(operator: LinearOperator) -> None:
    dense, weights = matrix(operator), randn(3, *operator.out_shape, seed=4).square()
    x, y = randn(3, *operator.in_shape, seed=5), randn(3, *operator.out_shape, seed=6)
    assert operator(x).shape == y.shape
    torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum())
    torch.testing.assert_close(operator(x).flatten(1), x.flatten(1) @ dense.T)
    torch.testing.assert_close(operator.adjoint(y).flatten(1), y.flatten(1) @ dense)
    expected = weights.flatten(1) @ dense.square()
    torch.testing.assert_close(operator.column_squares(weights).flatten(1), expected)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_gradient_is_the_adjoint(operator: LinearOperator) -> None:
    x, y = randn(2, *operator.in_shape).requires_grad_(), randn(2, *operator.out_shape, seed=6)
    (gradient,) = torch.autograd.grad((operator(x) * y).sum(), x)
    torch.testing.assert_close(gradient, operator.adjoint(y))


@pytest.mark.parametrize(("boundary", "scipy_s"), [("cut", "valid"), ("periodic", "same")])
def test_blur_is_a_convolution(boundary: str, scipy_s: str) -> None:
    x = randn(6, 8)
    expected = convolve2d(x, KERNEL, mode=scipy_s, boundary="wrap")
    found = Blur(KERNEL, (6, 8), boundary)(x[None])[0]
    torch.testing.assert_close(found, torch.from_numpy(expected))


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_survive_storage_and_the_meta_device(operator: LinearOperator, tmp_path: Path) -> None:
    seen = GaussianLikelihood(operator, randn(*operator.out_shape), 0.1)
    poe.save(seen, tmp_path / "seen")
    x = randn(2, *operator.in_shape)
    torch.testing.assert_close(poe.load(tmp_path / "seen")(x), seen(x), rtol=0, atol=0)
    there = poe.load(tmp_path / "seen").to("meta")
    assert there(x.to("meta")).device.type == "meta"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(poe.PoeError, match="mask of 0 and 1"):
        Mask(torch.tensor([0.5]))
    with pytest.raises(poe.ShapeError, match="no larger than the picture"):
        FilterBank(torch.ones(1, 3, 3), (2, 4))
    for stride in (1.5, 0, (1, 0.5)):
        with pytest.raises(poe.PoeError, match=r"stride\[.\] must be a whole number"):
            FilterBank(torch.ones(1, 2, 2), (5, 5), stride)  # type: ignore[arg-type]
    with pytest.raises(poe.ShapeError, match="odd sides"):
        Blur(torch.ones(2, 3), (6, 8))
    with pytest.raises(poe.PoeError, match="cut, periodic"):
        Blur(KERNEL, (6, 8), "mirror")
    with pytest.raises(poe.ShapeError, match="divides both sides"):
        BlockMean((6, 8), 4)
