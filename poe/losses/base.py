"""What all losses share: the result, checked rows, and scores that can be differentiated."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.errors import PoeError, ShapeError
from poe.core.space import Real
from poe.density.expert import Expert
from poe.density.nonfinite import Rows


class Loss(NamedTuple):
    """A number to minimise, and what it is made of.

    Args:
        value: ``()``; carries the gradient in the expert's parameters.
        parts: Scalars ``()`` by name, detached, on the loss's device, for a log.
    """

    value: Tensor
    parts: dict[str, Tensor]


EXPLODED = 1e4
"""Nats for each element of an event: a Gaussian says as much at 140 standard deviations."""


def log_densities(expert: Expert, where: str, x: Tensor, values: Tensor) -> Rows:
    """Rows of log-densities, which explode beyond ``EXPLODED`` nats for each element."""
    return Rows(expert, where, x, values, EXPLODED * max(1, expert.space.event_shape.numel()))


def require_rows(expert: Expert, where: str, x: Tensor) -> None:
    """Refuse x that is not ``(n, *event)`` with n >= 1."""
    if len(expert.space.batch_shape(x)) != 1 or len(x) == 0:
        event = ", ".join(map(str, expert.space.event_shape))
        raise ShapeError(
            f"expected the rows of {where} in shape (n, {event}) with n >= 1, got {tuple(x.shape)}"
        )


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
    position = x.detach().clone().requires_grad_()
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
