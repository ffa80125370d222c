"""The uniform distribution over a finite space: where to start when nothing better is known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poe.core.errors import PoeError
from poe.core.randomness import resolve
from poe.core.space import Binary, Space
from poe.density.capabilities import (
    Conditionals,
    LabelPairs,
    SpinPairs,
    conditionals,
    label_pairs,
    spin_pairs,
)
from poe.density.expert import Expert


class Uniform(Expert):
    """p(x) = k^(−d): every state of a finite space alike, k values at each of d elements.

    x is taken to be one of them: it is not checked. Draws have the dtype and device of ``like`` on
    Binary; on other spaces they are int64. Raises PoeError for a space of infinitely many values.

    >>> expert = Uniform(poe.Categorical((2,), 3))
    >>> expert.log_prob(torch.tensor([[0, 2]]))  # − log 9
    tensor([-2.1972])
    >>> expert.sample(4, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2])
    """

    zero: Tensor

    def __init__(self, space: Space, like: Tensor | None = None) -> None:
        super().__init__()
        if space.num_values is None:
            raise PoeError(
                f"expected a start for {space}, whose elements have infinitely many values, so "
                "that no distribution over it is uniform: give one, by `initial=` in poe.sample or "
                "`start=` in poe.smc, and a kernel that moves there, by `kernel=`."
            )
        self.space, self.num_values = space, space.num_values
        self.register_buffer("zero", torch.zeros(()) if like is None else like.new_zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        log_num_states = self.space.event_shape.numel() * math.log(self.num_values)
        return self.zero.new_full(self.space.batch_shape(x), -log_num_states)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), the log-density itself: ``(*batch, *event) -> (*batch,)``."""
        return self(x)

    def log_density_of_one_hot(self, z: Tensor) -> Tensor:
        """The same, of one-hot events ``(*batch, *event, k)``."""
        return self(z.argmax(-1))

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, *event)``."""
        device = self.zero.device
        shape = (num_samples, *self.space.event_shape)
        generator = resolve(generator, device)
        x = torch.randint(self.num_values, shape, generator=generator, device=device)
        return x.to(self.zero.dtype) if isinstance(self.space, Binary) else x


@conditionals.register
def _(expert: Uniform) -> Conditionals | None:
    """Both values of a binary element alike."""
    if not isinstance(expert.space, Binary):
        return None
    edges = torch.zeros((2, 0), dtype=torch.int64, device=expert.zero.device)
    return Conditionals(edges, 0, lambda x, uniforms: torch.zeros_like)


@spin_pairs.register
def _(expert: Uniform) -> SpinPairs | None:
    """No couplings, and no fields."""
    if not isinstance(expert.space, Binary):
        return None
    edges = torch.zeros((2, 0), dtype=torch.int64, device=expert.zero.device)
    num_sites = expert.space.event_shape.numel()
    return SpinPairs(edges, expert.zero.new_zeros(0), expert.zero.new_zeros(num_sites))


@label_pairs.register
def _(expert: Uniform) -> LabelPairs:
    """No couplings, and fields of 0."""
    edges = torch.zeros((2, 0), dtype=torch.int64, device=expert.zero.device)
    fields = expert.zero.new_zeros((expert.space.event_shape.numel(), expert.num_values))
    return LabelPairs(edges, expert.zero.new_zeros(0), fields)
