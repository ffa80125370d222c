"""Scores that can be differentiated again: in the expert's parameters, and along x."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.errors import PoeError
from poe.core.space import Real
from poe.density.expert import Expert


class Score(NamedTuple):
    """∇ log p̃ at ``x``, both ``(n, *event)``, with the graph that leads from one to the other."""

    x: Tensor
    value: Tensor

    def curvature(self, direction: Tensor) -> Tensor:
        """v'Hv with the Hessian H of log p̃, for a direction v ``(n, *event)``: ``(n,)``."""
        if not self.value.requires_grad:  # a linear log-density
            return torch.zeros_like(self.x).detach().flatten(1).sum(1)
        with torch.enable_grad():
            along = (self.value * direction).sum()
            slope = torch.autograd.grad(along, self.x, create_graph=True, materialize_grads=True)[0]
            return (slope * direction).flatten(1).sum(1)


def score_of(expert: Expert, x: Tensor) -> Score:
    """The score of each row, differentiable."""
    position = x.detach().requires_grad_()
    with torch.enable_grad():
        value = expert(position)
        if not value.requires_grad:  # a constant density
            return Score(position, torch.zeros_like(position))
        score = torch.autograd.grad(
            value.sum(), position, create_graph=True, materialize_grads=True
        )[0]
    return Score(position, score)


def square(x: Tensor) -> Tensor:
    """The sum of squares of each row: ``(n, *event) -> (n,)``."""
    return x.square().flatten(1).sum(1)


def square_of_score(expert: Expert, x: Tensor) -> Tensor:
    """|∇ log p̃|² of each row, detached: what is read again of a factor to blame."""
    return square(expert.score(x))


def require_real(expert: Expert) -> None:
    """Refuse a space with a border, or without gradients."""
    if not isinstance(expert.space, Real):
        raise PoeError(
            f"expected an expert on Real, got {type(expert).__name__} on {expert.space}: score "
            "matching needs densities that vanish smoothly at the border. Move a continuous expert "
            "with Transformed(expert, bijection); on discrete spaces use contrastive_divergence"
        )
