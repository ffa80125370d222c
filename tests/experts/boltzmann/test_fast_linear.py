"""Products of matrices by either library, and what is remembered of the latest."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from experts.boltzmann.fast_linear import linear
from poe.core.last_call_cache import Latest


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(7,), (1, 7), (20, 7), (2, 3, 7), (0, 7)])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_it_is_as_exact_as_float32_allows(shape: tuple[int, ...], is_transposed: bool) -> None:
    x, bias = randn(*shape, seed=0), randn(5, seed=2)
    weight = randn(7, 5, seed=1).mT if is_transposed else randn(5, 7, seed=1)
    expected = F.linear(x.double(), weight.double(), bias.double())
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            found = linear(x, weight, bias)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_gradients_and_other_dtypes_go_through() -> None:
    weight = randn(5, 7, seed=1).requires_grad_()
    linear(randn(3, 7, seed=0), weight).sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        assert linear(randn(3, 7, seed=0).double(), weight.detach().double()).dtype == torch.float64
        assert linear(torch.empty(3, 7, device="meta"), weight.detach().to("meta")).shape == (3, 5)


@torch.no_grad()
def test_the_latest_answer_is_given_up_with_its_arguments() -> None:
    latest, x = Latest(), torch.ones(3)
    assert latest(torch.neg, x) is latest(torch.neg, x)
    del x
    gc.collect()
    assert latest._answer is None


@torch.no_grad()
def test_an_equal_tensor_is_another_one() -> None:
    latest, x = Latest(), torch.ones(3)
    assert latest(torch.neg, x) is not latest(torch.neg, x.clone())
    with torch.inference_mode():
        y = torch.ones(3)  # has no version to go by
        assert latest(torch.neg, y) is not latest(torch.neg, y)
