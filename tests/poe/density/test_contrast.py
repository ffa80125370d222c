"""NOT, and where it has no normaliser."""

from __future__ import annotations

import pytest
import torch

import poe
from experts import Gaussian
from poe.density.capabilities import check_proper


def test_contrast_is_the_weighted_difference() -> None:
    q, r = Gaussian([1.0], scale=1.0), Gaussian([-1.0], scale=2.0)
    x = torch.linspace(-3, 3, 7)[:, None]
    torch.testing.assert_close(poe.contrast(q, r, 0.5)(x), 1.5 * q(x) - 0.5 * r(x))


def test_contrast_with_itself_is_itself() -> None:
    q = Gaussian([1.0], scale=0.5)
    x = torch.linspace(-3, 3, 7)[:, None]
    torch.testing.assert_close(poe.contrast(q, q, 2.0)(x), q(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("a", [2.0, 10.0])
def test_a_sharper_negative_is_refused_before_sampling(a: float) -> None:
    # Precision (1 + a) - 4 a is below zero from a = 1/3 on.
    target = poe.contrast(Gaussian([0.0], scale=1.0), Gaussian([0.0], scale=0.5), a)
    with pytest.raises(poe.ImproperError):
        check_proper(target)
    with pytest.raises(poe.ImproperError):
        poe.sample(target, 4)


def test_a_mild_contrast_with_a_sharper_expert_is_proper() -> None:
    target = poe.contrast(Gaussian([0.0], scale=1.0), Gaussian([0.0], scale=0.5), 0.25)
    check_proper(target)
    torch.testing.assert_close(poe.simplify(target).expert.scale, torch.tensor([2.0]))


@pytest.mark.parametrize("a", [-0.5, float("inf"), float("nan")])
def test_a_bad_strength_is_refused(a: float) -> None:
    g = Gaussian([0.0], scale=1.0)
    with pytest.raises(poe.PoeError, match="strength a >= 0"):
        poe.contrast(g, g, a)
