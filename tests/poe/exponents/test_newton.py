"""Newton's steps, where the maximum is known, where f is flat, and where it is not defined."""

from __future__ import annotations

import torch
from torch import Tensor

import poe
from poe.exponents.newton import derivatives, maximise


def test_the_maximum_of_a_log_likelihood() -> None:
    # Of w mean − log Z(w), with Z(w) = Gamma(w): where digamma(w) is the mean.
    means = torch.tensor([-3.0, 0.0, 2.5], dtype=torch.float64)
    found = maximise(lambda w: (w * means - torch.lgamma(w)).sum(), torch.ones_like(means))
    torch.testing.assert_close(torch.digamma(found), means, rtol=0, atol=1e-5)


def test_a_flat_direction_is_left_alone() -> None:
    found = maximise(lambda w: -((w.sum() - 5) ** 2), torch.tensor([1.0, 2.0]).double())
    torch.testing.assert_close(found, torch.tensor([2.0, 3.0]).double())


def test_what_is_improper_is_not_stepped_to() -> None:
    def objective(w: Tensor) -> Tensor:
        if bool(w <= 0):
            raise poe.ImproperError("no normaliser")
        return (w.log() - w).sum()

    found = maximise(objective, torch.tensor([5.0]).double())
    torch.testing.assert_close(found, torch.tensor([1.0]).double(), rtol=0, atol=1e-4)


def test_derivatives() -> None:
    w = torch.tensor([1.0, 2.0]).double()
    gradient, curvature = derivatives(lambda w: -(w[0] ** 2) * w[1] - w[1], w)
    torch.testing.assert_close(gradient, torch.tensor([-4.0, -2.0]).double())
    torch.testing.assert_close(curvature, torch.tensor([[4.0, 2.0], [2.0, 0.0]]).double())
