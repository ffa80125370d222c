"""The uniform distribution over a finite space: where to start when nothing better is known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poe.errors import PoeError
from poe.expert import Expert
from poe.randomness import resolve
from poe.space import Binary, Space


class Uniform(Expert):
    """p(x) = k^(−d): every state of a finite space alike, k values at each of d elements.

    Draws have the dtype and device of ``like`` on Binary; on other spaces they are int64. Raises
    PoeError for a space without finitely many values.

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
                f"expected a space of finitely many values an element, got {space}, over which no "
                "distribution is uniform"
            )
        self.space, self.num_values = space, space.num_values
        self.register_buffer("zero", torch.zeros(()) if like is None else like.new_zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        inside = self.space.contains(x)
        return torch.where(inside, self.zero - self._log_num_states(), -torch.inf)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), the log-density itself: ``(*batch, *event) -> (*batch,)``."""
        return self(x)

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, *event)``."""
        device = self.zero.device
        shape = (num_samples, *self.space.event_shape)
        generator = resolve(generator, device)
        x = torch.randint(self.num_values, shape, generator=generator, device=device)
        return x.to(self.zero.dtype) if isinstance(self.space, Binary) else x

    def _log_num_states(self) -> float:
        return self.space.event_shape.numel() * math.log(self.num_values)
