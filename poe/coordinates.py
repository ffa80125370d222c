"""The unconstrained coordinates in which chains move, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from poe.algebra import Transformed
from poe.expert import Expert
from poe.space import Real, Space


@dataclass(frozen=True)
class Coordinates:
    """Chains move in u = T(x), with T the space's bijection to all of ℝⁿ; discrete ones stay put.

    log p̃(u) = log p̃(x) + log |det dx/du|.

    >>> import poe
    >>> coordinates = Coordinates(poe.Positive(2))
    >>> u = coordinates.to_u(torch.tensor([[1.0, 1.0]]))
    >>> u, coordinates.to_x(u)
    (tensor([[0., 0.]]), tensor([[1., 1.]]))
    """

    space: Space

    @property
    def is_identity(self) -> bool:
        """Whether u is x itself."""
        return self.space.is_discrete or isinstance(self.space, Real)

    @property
    def u_space(self) -> Space:
        """The space of the coordinates."""
        return self.space if self.is_identity else self.space.unconstrained()

    def pull(self, expert: Expert) -> Expert:
        """The density of u, Jacobian included."""
        return expert if self.is_identity else Transformed(expert, self.space.to_unconstrained)

    def to_u(self, x: Tensor) -> Tensor:
        """``(*batch, *event)`` to unconstrained coordinates."""
        return x if self.is_identity else self.space.to_unconstrained(x)

    def to_x(self, u: Tensor) -> Tensor:
        """Back to the space."""
        return u if self.is_identity else self.space.to_unconstrained.inv(u)

    def log_density_of_x(self, u: Tensor, x: Tensor, log_density_of_u: Tensor) -> Tensor:
        """log p̃(x) from log p̃(u): the Jacobian taken out again; all of shape ``(*batch,)``."""
        if self.is_identity:
            return log_density_of_u
        jacobian: Tensor = self.space.to_unconstrained.inv.log_abs_det_jacobian(u, x)
        return log_density_of_u - jacobian
