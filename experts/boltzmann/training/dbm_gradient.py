"""What a deep Boltzmann machine learns from: block-Gibbs sweeps, moments, and their difference."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from experts.boltzmann.dbm import DBM


class Moments(NamedTuple):
    """Of neighbouring layers: E h_l ``(n_l,)`` each, and E h_l h_{l+1}' ``(n_l, n_{l+1})`` each."""

    means: list[Tensor]
    products: list[Tensor]


@torch.no_grad()
def sweeps(dbm: DBM, even: Tensor, num_sweeps: int, generator: torch.Generator) -> Tensor:
    """Block Gibbs: the odd layers given the even ones, then these given those.

    ``(chains, Σ n_even)`` to the same. ``poe.samplers.BlockGibbs`` draws from the same conditionals
    and evaluates the density as well, which training has no use for.

    >>> dbm = DBM([[[9.0]], [[9.0]]], [[-4.0], [-9.0], [-4.0]])  # x and h2 both on, or both off
    >>> sweeps(dbm, torch.ones(1, 2), 3, torch.Generator().manual_seed(0))
    tensor([[1., 1.]])
    """
    layers = dbm.split(even)
    for _ in range(num_sweeps):
        for index in [*range(1, dbm.depth + 1, 2), *range(0, dbm.depth + 1, 2)]:
            probability = dbm.log_odds(layers, index).sigmoid_()
            uniform = torch.empty_like(probability).uniform_(generator=generator)
            layers[index] = (uniform < probability).to(even.dtype)
    return torch.cat(layers[::2], 1)


def with_odd_means(dbm: DBM, even: Tensor) -> list[Tensor]:
    """The even layers as drawn, and the means of the odd ones given them: less noise than draws.

    >>> dbm = DBM([[[1.0]], [[1.0]]], [[0.0], [-2.0], [0.0]])
    >>> with_odd_means(dbm, torch.ones(1, 2))
    [tensor([[1.]]), tensor([[0.5000]]), tensor([[1.]])]
    """
    layers = dbm.split(even)
    for index in range(1, dbm.depth + 1, 2):
        layers[index] = dbm.log_odds(layers, index).sigmoid()
    return layers


def moments(layers: Sequence[Tensor]) -> Moments:
    """Over a batch of means of independent units: layers ``(n, n_l)``.

    >>> moments([torch.tensor([[1.0], [0.0]]), torch.tensor([[0.5], [0.5]])])
    Moments(means=[tensor([0.5000]), tensor([0.5000])], products=[tensor([[0.2500]])])
    """
    pairs = pairwise(layers)
    products = [(lower / len(lower)).mT @ upper for lower, upper in pairs]
    return Moments([layer.mean(0) for layer in layers], products)


def centred_gradient(data: Moments, model: Moments, centres: Sequence[Tensor]) -> list[Tensor]:
    """The step up the likelihood in weights, then in biases, when units count from their centres.

    The gradient in the parameters of Σ (h_l − o_l)'W_l (h_{l+1} − o_{l+1}) + Σ b_l'h_l, taken back
    to those of the DBM: with Δ what data have more than the model, and o_l the centres,

    dW_l = Δ E h_l h_{l+1}' − o_l Δ E h_{l+1}' − Δ E h_l o_{l+1}',
    db_l = Δ E h_l − dW_{l-1}'o_{l-1} − dW_l o_{l+1}.

    It points uphill as the plain gradient does, which centres of 0 give; but weights no longer
    learn what biases should, without which upper layers hardly learn at all.

    Args:
        data: Of the data, as ``moments`` gives them.
        model: Of the model, as ``moments`` gives them.
        centres: o_l, ``(n_l,)`` each.

    Returns:
        dW_l, then db_l.

    References:
        Montavon & Müller (2012), Deep Boltzmann machines and the centering trick,
        doi:10.1007/978-3-642-35289-8_33.

        Melchior, Fischer & Wiskott (2016), How to center deep Boltzmann machines, arXiv:1311.1354.

    Example:
        >>> data, model = (moments([torch.full((1, 1), p)] * 2) for p in (1.0, 0.5))
        >>> centred_gradient(data, model, [torch.tensor([1.0])] * 2)
        [tensor([[-0.2500]]), tensor([0.7500]), tensor([0.7500])]
    """
    shifts = [d - m for d, m in zip(data.means, model.means, strict=True)]
    weights = [
        (d - m)
        .addr_(centres[k], shifts[k + 1], alpha=-1)
        .addr_(shifts[k], centres[k + 1], alpha=-1)
        for k, (d, m) in enumerate(zip(data.products, model.products, strict=True))
    ]
    biases = list(shifts)
    for k, weight in enumerate(weights):
        biases[k] = biases[k] - weight @ centres[k + 1]
        biases[k + 1] = biases[k + 1] - centres[k] @ weight
    return [*weights, *biases]
