"""Log-densities that cannot be differentiated, and say so when they are asked."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from poe.core.errors import GradientError


def without_gradient(value: Tensor, x: Tensor, who: str) -> Tensor:
    """`value`, a function of x that was computed elsewhere: differentiating it is an error.

    A value that is merely detached counts as a constant, so that the score of a product would leave
    this expert out in silence.

    Args:
        value: What is returned, of any shape.
        x: What it is a function of, of any shape.
        who: In whose name the backward pass raises.

    Returns:
        The value, of which differentiating in x raises GradientError.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> without_gradient(x.detach().round(), x, "Rounding").sum().backward()
        Traceback (most recent call last):
        poe.GradientError: Rounding has no gradient: sample with a kernel that asks for none, ...
    """
    if not (x.requires_grad and torch.is_grad_enabled()):
        return value
    return _WithoutGradient.apply(x, value, who)


class _WithoutGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, who: str) -> Tensor:
        ctx.who = who
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> NoReturn:
        raise GradientError(
            f"{ctx.who} has no gradient: sample with a kernel that asks for none, such as "
            "MetropolisHastings, or SurrogateMALA and DelayedAcceptance along another expert's "
            "score; poe.sample without `kernel=` chooses one"
        )
