"""How loudly experts speak: against closed forms, and what is said of it."""

from __future__ import annotations

import pytest
import torch

import poe
from experts import Gaussian


def linear(slope: float, axis: int = 0) -> poe.Expert:
    return poe.FromLogDensity(lambda x: slope * x[..., axis], space=poe.Real(2))


def grid() -> torch.Tensor:
    """Two uncorrelated coordinates, each -1 or 1 in four points."""
    return torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])


def test_figures_of_independent_experts_are_exact() -> None:
    product = poe.Product(loud=linear(3.0) ** 2, soft=linear(1.0, axis=1))
    found = poe.calibrate(product, grid())
    sd = (4 / 3) ** 0.5
    expected = torch.tensor([6 * sd / 2, sd / 2], dtype=torch.float64)
    torch.testing.assert_close(found.spread, expected)
    torch.testing.assert_close(found.mean, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(found.share, torch.tensor([36 / 37, 1 / 37], dtype=torch.float64))
    torch.testing.assert_close(found.correlation, torch.eye(2, dtype=torch.float64))


def test_rescaled_experts_have_equal_spreads_and_the_product_is_left_alone() -> None:
    product = poe.Product(loud=linear(3.0) ** 2, soft=linear(1.0, axis=1))
    before = product(grid())
    rescaled = poe.calibrate(product, grid()).rescaled(product)
    spread = poe.calibrate(rescaled, grid()).spread
    torch.testing.assert_close(spread[0], spread[1], rtol=1e-6, atol=0)
    assert rescaled.names == product.names
    assert torch.equal(product(grid()), before)


def test_the_silenced_and_the_contrary_are_named() -> None:
    product = poe.Product(loud=linear(30.0), soft=linear(1.0, axis=1), against=linear(-5.0))
    text = str(poe.calibrate(product, grid()))
    assert "soft is silenced" in text
    assert "against speaks against the rest" in text
    assert "loud is" not in text


def test_a_constant_expert_keeps_its_exponent() -> None:
    flat = poe.FromLogDensity(lambda x: 0 * x[..., 0] + 3, space=poe.Real(2))
    found = poe.calibrate(poe.Product(loud=linear(3.0), flat=flat), grid())
    torch.testing.assert_close(found.suggested, torch.ones(2, dtype=torch.float64))
    assert found.correlation[1].isnan().all()
    assert "flat says the same at every point" in str(found)


def test_bad_input_is_refused() -> None:
    product = poe.Product(a=Gaussian([0.0], scale=1.0), b=Gaussian([0.0], scale=2.0))
    with pytest.raises(poe.ShapeError, match="n >= 2"):
        poe.calibrate(product, torch.zeros(1, 1))
    with pytest.raises(poe.NonFiniteError, match="got 1 NaN of 2 under a, 1 NaN of 2 under b"):
        poe.calibrate(product, torch.tensor([[0.0], [torch.nan]]))
    found = poe.calibrate(product, torch.tensor([[0.0], [1.0]]))
    with pytest.raises(poe.PoeError, match=r"call poe\.calibrate"):
        found.rescaled(poe.Product(c=Gaussian([0.0], scale=1.0)))
