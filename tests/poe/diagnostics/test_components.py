"""Every component by itself: blocks, what has no number, and the ranks beneath it all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import poe
from poe import diagnostics
from poe.diagnostics import components, ess as ranks

FUNCTIONS = [
    diagnostics.ess_bulk, diagnostics.ess_tail, diagnostics.ess_mean, diagnostics.r_hat,
    diagnostics.mcse_mean, diagnostics.mcse_sd,
]  # fmt: skip
each_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)


def normals(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@each_function
def test_no_number_where_there_is_none(function: Callable[[Tensor], Tensor]) -> None:
    samples = normals(4, 50, 5)
    samples[:, :, 0] = 3.0
    samples[2, 7, 1] = torch.nan
    samples[2, 7, 2] = torch.inf
    assert function(samples).isnan().tolist() == [True, True, True, False, False]


@each_function
def test_too_few_draws_have_no_number(function: Callable[[Tensor], Tensor]) -> None:
    assert function(normals(4, 3, 2)).isnan().all()
    assert function(normals(4, 4, 2)).isfinite().all()


@each_function
def test_blocks_change_nothing(
    function: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = normals(4, 25, 7)
    whole = function(samples)
    for numbers in (1, 200, 350):  # one, two and three components at a time
        monkeypatch.setattr(components, "NUMBERS_AT_ONCE", numbers)
        torch.testing.assert_close(function(samples), whole, rtol=1e-12, atol=0.0)


@each_function
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_any_dtype_is_taken_at_its_value(
    function: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    samples = normals(4, 50, 2).mul(3).round().clamp(min=0).to(dtype)
    value = function(samples)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, function(samples.double()), rtol=1e-12, atol=0.0)


def test_no_components_have_no_numbers() -> None:
    assert diagnostics.ess_bulk(torch.zeros(4, 50, 0)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_argsort_sorts_values_of_every_size(dtype: torch.dtype) -> None:
    magnitudes = torch.exp(20 * normals(3, 1000)).to(dtype)
    rows = magnitudes * normals(3, 1000).to(dtype).sign()
    rows[0, :4] = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0])
    torch.testing.assert_close(rows.gather(1, ranks.argsort(rows)), rows.sort(1).values)


def test_argsort_tells_neighbours_apart() -> None:
    """Values that differ in their last bit only."""
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([[1.0, -1.0]], dtype=dtype)
        rows = torch.cat([torch.nextafter(x, x + 1), x], 1)
        assert ranks.argsort(rows).tolist() == [[3, 1, 2, 0]]


def test_ties_share_the_average_of_their_ranks() -> None:
    x = torch.tensor([[[2.0, 1.0, 2.0, 0.0, 2.0, 1.0]], [[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]]])
    average = torch.tensor([[5.0, 2.5, 5.0, 1.0, 5.0, 2.5], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
    expected = torch.special.ndtri((average.double() - 0.375) / 6.25)
    scores = ranks.normal_scores(x, ranks.scores_of_half_ranks(6, x.device))
    torch.testing.assert_close(scores[:, 0], expected)


@each_function
def test_draws_on_meta_have_no_values_to_compare(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(poe.PoeError, match="expected samples with values, got one on meta"):
        function(torch.zeros(4, 100, 2, device="meta"))
