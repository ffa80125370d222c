"""Energies that are neural networks."""

from __future__ import annotations

from torch import Tensor, nn

import poe
from poe.core.arguments import checked


class NeuralEnergy(poe.Expert):
    r"""An unnormalised density whose log is the output of a network.

    .. math:: \tilde p(x) = \exp f(x), \qquad E(x) = -f(x)

    The normaliser is unknown, so there is no ``log_prob``.

    Args:
        net: f, from ``(*batch, *event)`` to ``(*batch,)``.
        space: Where x lives.

    Raises:
        ShapeError: When called, where the net returns another shape.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1), nn.Flatten(0))
        >>> NeuralEnergy(net, poe.Real(2))(torch.ones(3, 2)).shape
        torch.Size([3])
    """

    @checked
    def __init__(self, net: nn.Module, space: poe.Space) -> None:
        super().__init__()
        self.net = net
        self.space = space

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, unnormalised.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            f(x), ``(*batch,)``.
        """
        value: Tensor = self.net(x)
        return value


poe.io.register(
    NeuralEnergy,
    lambda expert: {"net": expert.net, "space": expert.space},
    lambda fields: NeuralEnergy(**fields),
    name="experts.NeuralEnergy",
    formerly=("experts.neural.NeuralEnergy",),
)
