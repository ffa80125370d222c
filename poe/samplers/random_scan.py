"""Random-scan Gibbs: as many draws a step as there are sites, each at a random one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poe.samplers.gibbs import Gibbs


class ScanNoise(NamedTuple):
    """Gumbel variables ``(chains, n, k)`` of n draws, and the site of each ``(chains, n)``."""

    gumbel: Tensor
    site: Tensor


@dataclass(frozen=True)
class RandomScanGibbs(Gibbs):
    """Gibbs at n random sites a step, drawn with replacement, for each chain its own.

    Each draw is from p(xᵢ | the other sites), as in ``Gibbs``, whose sweep visits every site once
    and mostly mixes faster; random scan is reversible, draw by draw.

    ``space`` and errors are as for ``Gibbs``.

    Source: Geman & Geman 1984; Liu, Wong & Kong 1995.

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: 2.0 * x.sum(-1), space=poe.Binary(3))
    >>> kernel = RandomScanGibbs(target.space)
    >>> state = kernel.init(target, torch.zeros(5, 3))
    >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
    >>> state.position.shape, kernel.gradients_per_step
    (torch.Size([5, 3]), 4)
    """

    @property
    def is_reversible(self) -> bool:
        """Draw by draw."""
        return True

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> Any:
        """A site for each chain and draw, and a Gumbel variable for each of its values."""
        gumbel = super().draw_noise(position, generator).gumbel
        sites, device = gumbel.shape[1], position.device
        site = torch.randint(sites, gumbel.shape[:2], generator=generator, device=device)
        return ScanNoise(gumbel, site)

    def _scan(self, noise: Any) -> Iterable[Tensor]:
        return noise.site.unbind(1)
