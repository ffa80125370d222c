"""``Chain``: p(x) p(y | x), one normalised expert by construction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from poe.conditional import Conditional, log_density_of_rows
from poe.core.errors import PoeError
from poe.core.randomness import resolve
from poe.core.space import Binary, Real, Space
from poe.density.capabilities import (
    check_proper,
    conditional_tails,
    exact_log_partition,
    is_normalized,
    is_small,
    tails,
)
from poe.density.expert import Expert, require_expert


class Chain(Expert):
    """The joint density of z = (x, y): log p̃(x) + log p(y | x), on the concatenated vectors.

    ``prior`` is an expert on vectors x, ``conditional`` a ``poe.Conditional`` on vectors y whose
    condition is the batch of x, ``(n, d_x)``. Both live on Real vectors, or both on Binary ones.
    The density is differentiable in x through the condition too. ``log_prob`` exists where both are
    normalised, ``sample`` (x first, then y given x: exact) where both have one.

    Raises PoeError for spaces not both Real or both Binary, or whose events are no vectors.

    >>> step = experts.LinearGaussian(weight=[[2.0]], bias=[1.0], scale=[0.5])
    >>> chain = Chain(experts.Gaussian([0.0], scale=[1.0]), step)
    >>> chain.log_prob(torch.tensor([[0.0, 1.0]]))  # N(0; 0, 1) N(1; 1, 0.5²)
    tensor([-1.1447])
    """

    def __init__(self, prior: Expert, conditional: Conditional) -> None:
        super().__init__()
        if not isinstance(conditional, Conditional):
            raise PoeError(
                f"expected a poe.Conditional p(y | x), got {type(conditional).__name__}; use "
                "prior * expert for densities on one space"
            )
        self.space = _joint_space(require_expert(prior).space, conditional.space)
        self.prior = prior
        self.conditional = conditional

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.split(x)
        return self.prior(first) + self._conditional_log_density(first, second)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z as its two parts: `(*batch, d_x + d_y) -> (*batch, d_x), (*batch, d_y)`."""
        size = self.prior.space.event_shape.numel()
        return z[..., :size], z[..., size:]

    def __getattr__(self, name: str) -> Any:
        if name == "log_prob" and is_normalized(self.prior) and self.conditional.is_normalized:
            return self._log_prob
        if name == "sample" and _can_sample(self.prior) and _can_sample(self.conditional):
            return self._sample
        return super().__getattr__(name)

    def _log_prob(self, z: Tensor) -> Tensor:
        first, second = self.split(z)
        value: Tensor = self.prior.log_prob(first)
        return value + self._conditional_log_density(first, second)

    def _conditional_log_density(self, x: Tensor, y: Tensor) -> Tensor:
        rows, conditions = y.reshape(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
        return log_density_of_rows(self.conditional, rows, conditions).reshape(x.shape[:-1])

    def _sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        device = next((t.device for t in (*self.parameters(), *self.buffers())), "cpu")
        generator = resolve(generator, device)
        x = self.prior.sample(num_samples, generator=generator)
        draw: Callable[..., Tensor] = self.conditional.sample  # type: ignore[assignment]
        return torch.cat([x, draw(x, num_samples, generator=generator).to(x)], -1)


@exact_log_partition.register
def _(expert: Chain) -> Tensor | None:
    return exact_log_partition(expert.prior) if expert.conditional.is_normalized else None


@check_proper.register
def _(expert: Chain) -> None:
    if expert.conditional.is_normalized:
        check_proper(expert.prior)


@tails.register
def _(expert: Chain) -> Tensor | None:
    if not is_small(expert.space):
        return None
    prior, joint = tails(expert.prior), conditional_tails(expert.conditional)
    if prior is None or joint is None:
        return None
    added = len(joint) - prior.shape[-1]
    return torch.nn.functional.pad(prior, (0, added, 0, added)) + joint


def _can_sample(part: object) -> bool:
    return hasattr(part, "sample")


def _joint_space(first: Space, second: Space) -> Space:
    for kind in (Real, Binary):
        is_pair = isinstance(first, kind) and isinstance(second, kind)
        if is_pair and len(first.event_shape) == len(second.event_shape) == 1:
            return kind(first.event_shape[0] + second.event_shape[0])
    raise PoeError(
        "expected x and y to be vectors, both on Real(n) or both on Binary(n), since z = (x, y) is "
        f"one vector on one space; got x on {first} and y on {second}"
    )
