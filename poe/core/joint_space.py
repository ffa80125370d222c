"""Where mixed states live: vectors of several parts, each in a space of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import DtypeError, PoeError, ShapeError
from poe.core.space import Count, Real, Space


@checked
@dataclass(frozen=True)
class Joint(Space):
    """x = (x₁, x₂, …): the parts' elements one after the other in a vector of floats.

    The base measure is the product of the parts'. ``poe.samplers.Alternating`` moves there, part by
    part.

    Args:
        parts: At least two spaces, each Real, Count, or of finitely many values a site.

    Raises:
        PoeError: For other parts.

    Example:
        >>> space = Joint((poe.Real(2), poe.Categorical((), 3)))
        >>> value, label = space.split(torch.tensor([[0.5, -0.5, 2.0]]))
        >>> value, label, str(space)
        (tensor([[ 0.5000, -0.5000]]), tensor([2.]), 'Joint(Real(2), Categorical((), 3))')
    """

    parts: tuple[Space, ...]
    is_discrete: ClassVar[bool] = True  # at least in part: there are no unconstrained coordinates

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        bad = [p for p in self.parts if not (isinstance(p, Real | Count) or p.num_values)]
        if bad or len(self.parts) < 2:
            raise PoeError(
                "expected at least two parts, each Real, Count or of finitely many values a site, "
                f"got {', '.join(map(str, bad or self.parts)) or 'none'}: bring a constrained part "
                "to Real by poe.Transformed"
            )

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size((sum(self._sizes),))

    def __str__(self) -> str:
        return f"Joint({', '.join(map(str, self.parts))})"

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parts of x.

        Args:
            x: ``(*batch, n)``.

        Returns:
            A tensor ``(*batch, *event)`` for each part, of its own event shape.
        """
        pieces = x.split(self._sizes, -1)
        shapes = [part.event_shape for part in self.parts]
        batch = x.shape[:-1]
        return tuple(p.reshape(*batch, *s) for p, s in zip(pieces, shapes, strict=True))

    def join(self, *parts: Tensor) -> Tensor:
        """x of its parts, in the dtype of the first: the reverse of ``split``.

        Args:
            *parts: A tensor ``(*batch, *event)`` for each part, of its own event shape.

        Returns:
            x, ``(*batch, n)``.

        Raises:
            ShapeError: Where there are more parts than spaces, or fewer.
        """
        if len(parts) != len(self.parts):
            raise ShapeError(f"expected {len(self.parts)} parts for {self}, got {len(parts)}")
        flat = [s.as_vector(part) for s, part in zip(self.parts, parts, strict=True)]
        return torch.cat([part.to(parts[0].dtype) for part in flat], -1)

    def batch_shape(self, x: Tensor) -> torch.Size:
        """The leading shape of x.

        Args:
            x: ``(*batch, n)``.

        Returns:
            The shape of the batch.

        Raises:
            ShapeError: Where x is of another length.
            DtypeError: Where x is no tensor of floats.
        """
        shape = super().batch_shape(x)
        if not x.is_floating_point():
            raise DtypeError(f"expected floating-point x in {self}, got {x.dtype}; use x.float()")
        return shape

    @property
    def _sizes(self) -> list[int]:
        return [part.event_shape.numel() for part in self.parts]

    def contains(self, x: Tensor) -> Tensor:
        """Whether each x lies in the space.

        Args:
            x: ``(*batch, n)``.

        Returns:
            Booleans, ``(*batch,)``.

        Raises:
            ShapeError: Where x is of another length.
            DtypeError: Where x is no tensor of floats.
        """
        self.batch_shape(x)
        pairs = zip(self.parts, self.split(x), strict=True)
        return torch.stack([part.contains(piece) for part, piece in pairs]).all(0)
