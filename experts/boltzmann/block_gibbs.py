"""Block-Gibbs sweeps of a restricted Boltzmann machine: two products of matrices each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from experts.boltzmann.fast_linear import linear
from experts.boltzmann.gaussian_rbm import GaussianRBM
from experts.boltzmann.potts_rbm import PottsRBM
from experts.boltzmann.rbm import RBM
from poe.core.arguments import checked
from poe.core.randomness import uniforms
from poe.samplers.kernel import Corrected, Density, Info, MetropolisState, all_accepted


def draw_bits(log_odds: Tensor, *, generator: torch.Generator) -> Tensor:
    """Independent bits, each 1 with probability σ(log-odds), written over the log-odds.

    Args:
        log_odds: log p(1) − log p(0), of any shape; it is written over.
        generator: Of the uniforms.

    Returns:
        The bits, in the place and dtype of the log-odds.

    Example:
        >>> draw_bits(torch.tensor([-50.0, 50.0]), generator=torch.Generator().manual_seed(0))
        tensor([0., 1.])
    """
    uniform = uniforms(log_odds.shape, like=log_odds, generator=generator)
    return torch.lt(uniform, log_odds.sigmoid_(), out=log_odds)


@checked
@torch.no_grad()
def sweep(
    rbm: RBM,
    x: Tensor,
    *,
    num_steps: int = 1,
    exponent: float = 1.0,
    generator: torch.Generator,
) -> Tensor:
    """x after some steps of block Gibbs, z ~ p(z | x) and then x ~ p(x | z).

    With an exponent β, of p(x, z)^β.

    Args:
        rbm: The density that is left invariant.
        x: Rows of 0 and 1, ``(n, v)``, in the dtype of W; left as they are.
        num_steps: How many steps.
        exponent: β.
        generator: Of all that is drawn.

    Returns:
        Rows of 0 and 1, ``(n, v)``.

    Example:
        >>> rbm = RBM([[9.0], [9.0]], [-4.0, -4.0], [-9.0])  # both on, or both off
        >>> sweep(rbm, torch.ones(1, 2), generator=torch.Generator().manual_seed(0))
        tensor([[1., 1.]])
    """
    rbm.space.batch_shape(x)
    x = x.to(rbm.W.dtype)
    for _ in range(num_steps):
        z = draw_bits(linear(x, rbm.W.mT, rbm.c).mul_(exponent), generator=generator)
        x = draw_bits(linear(z, rbm.W, rbm.b).mul_(exponent), generator=generator)
    return x


class LayerNoise(NamedTuple):
    """Uniforms ``(chains, h)``, and what the visible layer is drawn from: ``(chains, v)``."""

    hidden: Tensor
    visible: Tensor


@checked
@dataclass(frozen=True, eq=False)
class LayerGibbs(Corrected[MetropolisState]):
    """Block Gibbs of one RBM of any kind: z ~ p(z | x), then x ~ p(x | z); all are accepted.

    For products of binary ones ``poe.samplers.BlockGibbs`` draws from the conditionals of all
    factors; this one is for real elements and labels.

    Args:
        rbm: The target, which the kernel draws from: it must be the one that is sampled.

    References:
        Geman & Geman (1984), Stochastic relaxation, Gibbs distributions, and the Bayesian
        restoration of images, doi:10.1109/TPAMI.1984.4767596.

    Example:
        >>> rbm = experts.GaussianRBM([[2.0]], [0.0], [0.0])
        >>> g = torch.Generator().manual_seed(0)
        >>> poe.sample(rbm, 100, kernel=LayerGibbs(rbm), generator=g, progress=False).guarantee
        'asymptotically exact'
    """

    rbm: RBM | GaussianRBM | PottsRBM

    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False
    is_of_one_density: ClassVar[bool] = True

    @property
    def gradients_per_step(self) -> int:
        """Either layer, and the log-density where the step ends."""
        return 3

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> LayerNoise:
        """The random numbers of one step: for the hidden layer, then for the visible one.

        Args:
            position: Where the chains are, ``(chains, v)``.
            generator: Of the numbers.

        Returns:
            Uniforms ``(chains, h)``, and what ``rbm.visible_given`` takes ``(chains, v)``.
        """
        shape = (len(position), len(self.rbm.c))
        hidden = uniforms(shape, like=self.rbm.W, generator=generator)
        return LayerNoise(hidden, self.rbm.visible_noise(position, generator))

    @torch.no_grad()
    def transition(
        self, target: Density, state: MetropolisState, noise: LayerNoise
    ) -> tuple[MetropolisState, Info]:
        x = state.position
        z = (noise.hidden < self.rbm.hidden_probabilities(x)).to(self.rbm.W.dtype)
        x = self.rbm.visible_given(z, noise.visible).to(x.dtype)
        log_density = target.log_density(x)
        return MetropolisState(x, log_density), all_accepted(log_density)
