"""Mean-field inference in a deep Boltzmann machine, and the lower bound that it gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.boltzmann.dbm import DBM
from experts.parameters import whole
from poe import ShapeError
from poe.core.arguments import checked


@checked
def mean_field(dbm: DBM, x: Tensor, num_steps: int = 30) -> list[Tensor]:
    """The means of the layers under the best independent q(h) = Π q(h_lj) that is found.

    μ_l = σ(b_l + W_{l-1}'μ_{l-1} + W_l μ_{l+1}) for l = 1, ..., L with μ_0 = x, the odd layers
    together and then the even ones, ``num_steps`` times. Given their neighbours the means of a
    layer are those of the largest bound, so that each update raises it and none has to be damped.
    The first guess is one way up with doubled weights, as in pre-training.

    Args:
        dbm: The machine.
        x: Rows of 0 and 1, ``(*batch, n_0)``.
        num_steps: How often each layer is updated, at least once.

    Returns:
        The means, ``(*batch, n_l)`` of every layer, x itself first.

    Raises:
        PoeError: For fewer than one step.
        ShapeError: For x of another size.

    References:
        Salakhutdinov & Hinton (2009), Deep Boltzmann machines, AISTATS, sections 2.2 and 3.

        Salakhutdinov & Larochelle (2010), Efficient learning of deep Boltzmann machines, AISTATS
        (the first guess).

    Example:
        >>> dbm = DBM([[[2.0], [-1.0]], [[0.5]]], [[0.0, 0.5], [1.0], [-0.5]])
        >>> mean_field(dbm, torch.tensor([[1.0, 0.0]]))
        [tensor([[1., 0.]]), tensor([[0.9626]]), tensor([[0.4953]])]
    """
    whole("num_steps", num_steps)
    means = _way_up(dbm, x.to(dbm.W0.dtype))
    from_x = F.linear(means[0], dbm.W0.mT, dbm.biases[1])  # never changes, and is half of the work
    for _ in range(num_steps):
        means[1] = (from_x + F.linear(means[2], dbm.W1) if dbm.depth > 1 else from_x).sigmoid()
        for index in [*range(3, dbm.depth + 1, 2), *range(2, dbm.depth + 1, 2)]:
            means[index] = dbm.log_odds(means, index).sigmoid()
    return means


@checked
def variational_bound(dbm: DBM, means: Sequence[Tensor]) -> Tensor:
    """A lower bound on log p̃(x), the sum over all hidden layers.

    L(x) = E_q log p̃(x, h) + entropy of q = Σ_l μ_l'W_l μ_{l+1} + Σ_l b_l'μ_l + Σ_j H(μ_j). With
    log Z it bounds log p(x) = log p̃(x) − log Z; the gap is KL(q ‖ p(h | x)).

    Args:
        dbm: The machine.
        means: x and the means of the hidden layers, ``(*batch, n_l)`` each, as ``mean_field`` gives
            them; any other means of hidden units bound it too.

    Returns:
        L(x), ``(*batch,)``, in nats.

    Example:
        >>> dbm = DBM([[[2.0], [-1.0]], [[0.5]]], [[0.0, 0.5], [1.0], [-0.5]])
        >>> x = torch.tensor([[1.0, 0.0]])
        >>> variational_bound(dbm, mean_field(dbm, x))  # log(e⁰ + e³ + e⁻⁰·⁵ + e³)  = 3.7324
        tensor([3.7312])
    """
    sizes = [len(bias) for bias in dbm.biases]
    if [mean.shape[-1:] for mean in means] != [(size,) for size in sizes]:
        raise ShapeError(
            f"expected means of {sizes} units, got shapes {[tuple(mean.shape) for mean in means]}"
        )
    ties = [
        ((lower @ matrix) * upper).sum(-1)
        for lower, matrix, upper in zip(means, dbm.weights, means[1:], strict=False)
    ]
    linear = [mean @ bias for mean, bias in zip(means, dbm.biases, strict=True)]
    entropies = [_entropy(mean) for mean in means[1:]]
    return torch.stack([*ties, *linear, *entropies]).sum(0)


def _way_up(dbm: DBM, x: Tensor) -> list[Tensor]:
    """Each layer from the one below alone, whose say counts twice where one above is missing."""
    dbm.visible_space.batch_shape(x)
    means = [x]
    for index in range(1, dbm.depth + 1):
        factor = 1.0 if index == dbm.depth else 2.0
        says = factor * (means[-1] @ dbm.weights[index - 1])
        means.append((dbm.biases[index] + says).sigmoid())
    return means


def _entropy(mean: Tensor) -> Tensor:
    """−Σ μ log μ + (1 − μ) log(1 − μ), 0 where μ is 0 or 1."""
    return -(torch.xlogy(mean, mean) + torch.special.xlog1py(1 - mean, -mean)).sum(-1)
