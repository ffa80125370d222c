"""Log-densities written in JAX, with their gradients, handed over through DLPack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

import poe
from poe.core.errors import AdaptationError
from poe.core.imports import require
from poe.core.no_gradient import without_gradient


class JaxLogDensity(poe.Expert):
    """log p̃(x) = fn(x) with a JAX function of **one** event: ``(*event) -> ()``.

    It is mapped over the batch, differentiated and compiled by JAX, once for each size of a batch;
    arrays go there and back through DLPack, without a copy where JAX and x share a device. Float64
    is computed in float64, whatever JAX's own setting. The score comes from JAX; a second
    derivative raises GradientError.

    Shapes: x ``(*batch, *event)``.

    It can be copied and pickled as its function can: one at the top level of a module, which is
    then imported where it is read.

    Args:
        fn: From one event ``(*event)`` to a number. What it closes over is constant: it does not
            learn here.
        space: Where x lives, continuous.

    Raises:
        AdaptationError: Where ``fn`` cannot be traced on an event or returns anything but one
            floating-point number, and for a discrete space.

    Example:
        >>> import jax.numpy as jnp
        >>> quartic = JaxLogDensity(lambda x: -jnp.sum(x**4), space=poe.Real(2))
        >>> quartic(torch.ones(3, 2)), quartic.score(torch.ones(1, 2))
        (tensor([-2., -2., -2.]), tensor([[-4., -4.]]))
    """

    def __init__(self, fn: Callable[[Any], Any], *, space: poe.Space) -> None:
        super().__init__()
        if not callable(fn) or space.is_discrete:
            raise AdaptationError(
                "expected a JAX function and a continuous space, got "
                f"{type(fn).__name__} and {space}: give fn(x) of one event x, and space=poe.Real(d)"
            )
        self.space = space
        self.fn = fn
        self._of_rows = _compiled(fn, space)

    def forward(self, x: Tensor) -> Tensor:
        """The log-density.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            ``(*batch,)``.
        """
        batch = self.space.batch_shape(x)
        if x.is_meta:
            return x.new_empty(batch)
        rows = x.reshape(-1, *self.space.event_shape)
        return _ThroughDLPack.apply(rows, self._of_rows).reshape(batch)

    def __getstate__(self) -> dict[str, Any]:
        """Without what JAX compiled, which is compiled again where it is needed."""
        return {**self.__dict__, "_of_rows": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._of_rows = _compiled(self.fn, self.space)

    def extra_repr(self) -> str:
        return f"{self.space}, {getattr(self.fn, '__qualname__', type(self.fn).__name__)}"


class _ThroughDLPack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, of_rows: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Any:
        value, gradient = of_rows(rows.detach())
        ctx.save_for_backward(rows, gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *of_value: Tensor) -> tuple[Tensor, None]:
        rows, gradient = ctx.saved_tensors
        gradient = without_gradient(gradient, rows, "the score of a JaxLogDensity")
        return of_value[0].reshape(-1, *[1] * (gradient.ndim - 1)) * gradient, None


def _compiled(
    fn: Callable[[Any], Any], space: poe.Space
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """fn and its gradient for each row of a tensor; refuses what gives no number."""
    jax = require("jax", "jax")
    event = jax.ShapeDtypeStruct(tuple(space.event_shape), "float32")
    try:
        value = jax.eval_shape(fn, event)
    except Exception as error:  # fn may raise anything
        raise AdaptationError(
            f"expected a JAX function of one event {tuple(space.event_shape)}, got one that fails "
            f"there ({type(error).__name__}: {str(error).splitlines()[0]}): it is mapped over "
            "the batch here, and may use jax.numpy only"
        ) from error
    if getattr(value, "shape", None) != () or value.dtype.kind != "f":
        got = (
            f"{value.dtype}{list(value.shape)}" if hasattr(value, "shape") else type(value).__name__
        )
        raise AdaptationError(
            f"expected a JAX function from one event {tuple(space.event_shape)} to one number, got "
            f"{got}: sum over the event, and leave the batch out"
        )
    mapped = jax.jit(jax.vmap(jax.value_and_grad(fn)))

    def of_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
        with jax.enable_x64(rows.dtype == torch.float64):
            value, gradient = mapped(jax.numpy.from_dlpack(rows.contiguous()))
            return from_dlpack(value).to(rows), from_dlpack(gradient).to(rows)

    return of_rows
