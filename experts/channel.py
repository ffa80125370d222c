"""The noise channel: what a noisy binary picture says of the clean one."""

from __future__ import annotations

import math

from torch import Tensor

from experts.families.discrete import Bernoulli
from experts.parameters import floats, number, probability
from poe import PoeError


def binary_channel(noisy: Tensor, flip_probability: float) -> Bernoulli:
    """p(y | x) as an expert on the clean x, for a noisy y whose bits were flipped independently.

    log p(y | x) = Σᵢ log(1 − p) [xᵢ = yᵢ] + log p [xᵢ ≠ yᵢ], which is a Bernoulli with logits of
    ±log((1 − p) / p). A prior times it is a posterior: the lecture's ψᵢ(xᵢ, yᵢ).

    Shapes: ``noisy`` ``(*event)``, of 0 and 1. Raises PoeError for other values, and for a p that
    is not between 0 and 1.

    >>> posterior = experts.Ising.grid((1, 2), 0.5) * binary_channel(torch.tensor([[1, 0]]), 0.1)
    >>> posterior(torch.tensor([[[1, 0]], [[1, 1]]]))
    tensor([-0.7107, -1.9079])
    """
    flip_probability = number("flip_probability", flip_probability, probability)
    y = floats("noisy", noisy)
    if not y.is_meta and not bool(((y == 0) | (y == 1)).all()):
        raise PoeError(
            f"expected a picture of 0 and 1, got values from {y.min().item():g} to "
            f"{y.max().item():g}: compare a grey one with a threshold first"
        )
    return Bernoulli((2 * y - 1) * math.log((1 - flip_probability) / flip_probability))
