"""Block-Gibbs sweeps of a restricted Boltzmann machine: two products of matrices each."""

from __future__ import annotations

import torch
from torch import Tensor

from experts.linear import linear
from experts.rbm import RBM
from poe.randomness import uniforms


def draw_bits(log_odds: Tensor, *, generator: torch.Generator) -> Tensor:
    """Independent bits, each 1 with probability σ(log-odds), written over the log-odds.

    >>> draw_bits(torch.tensor([-50.0, 50.0]), generator=torch.Generator().manual_seed(0))
    tensor([0., 1.])
    """
    uniform = uniforms(log_odds.shape, like=log_odds, generator=generator)
    return torch.lt(uniform, log_odds.sigmoid_(), out=log_odds)


@torch.no_grad()
def sweep(
    rbm: RBM,
    x: Tensor,
    *,
    num_steps: int = 1,
    exponent: float = 1.0,
    generator: torch.Generator,
) -> Tensor:
    """x after ``num_steps`` of block Gibbs, z ~ p(z | x) and then x ~ p(x | z): ``(n, v)``.

    With an exponent β, of p(x, z)^β. ``x`` itself is left as it is.

    >>> rbm = RBM([[9.0], [9.0]], [-4.0, -4.0], [-9.0])  # both on, or both off
    >>> sweep(rbm, torch.ones(1, 2), generator=torch.Generator().manual_seed(0))
    tensor([[1., 1.]])
    """
    for _ in range(num_steps):
        z = draw_bits(linear(x, rbm.W.mT, rbm.c).mul_(exponent), generator=generator)
        x = draw_bits(linear(z, rbm.W, rbm.b).mul_(exponent), generator=generator)
    return x
