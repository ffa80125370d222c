"""Spectral normalisation whose power iteration is a step of training, not a side effect."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from poe.core.arguments import checked

LAYERS = (nn.Linear, nn.Conv2d)


def normalize_spectrally(net: nn.Module) -> None:
    r"""Divide the weight of every linear and convolutional layer by its largest singular value.

    .. math:: \bar W = W / \sigma(W), \qquad \sigma(W) \approx u^\top W v

    with a kernel (out, in, height, width) as a matrix (out, in height width). So a linear layer has
    Lipschitz constant 1, and a convolution at most the root of the number of its taps.
    torch's parametrization improves u and v at every call in training mode, which makes the density
    another one at every Langevin step; here they stay as they are until ``power_iterate``.

    Args:
        net: Whose layers are changed in place.

    References:
        Miyato, Kataoka, Koyama & Yoshida (2018), Spectral normalization for generative adversarial
        networks, eq. 8, arXiv:1802.05957.

        Du & Mordatch (2019), Implicit generation and modeling with energy based models, section 3.3
        (for energies), arXiv:1903.08689.

    Example:
        >>> layer = nn.Sequential(nn.Linear(3, 3))
        >>> normalize_spectrally(layer)
        >>> round(float(torch.linalg.matrix_norm(layer[0].weight, 2).detach()), 2)
        1.0
    """
    for layer in list(net.modules()):
        if isinstance(layer, LAYERS):
            spectral_norm(layer)
    hold(net)


def hold(net: nn.Module) -> None:
    """No power iteration in ``forward``, whatever mode the network is in; for its ``train``."""
    for _, norm in _norms(net):
        norm.eval()


@checked
@torch.no_grad()
def power_iterate(net: nn.Module) -> None:
    """One power iteration of every normalised layer: call it after each update of the weights.

    Args:
        net: Whose layers' singular vectors u and v are improved in place; a network without
            spectral normalisation stays as it is.
    """
    for layer, norm in _norms(net):
        norm.train()
        _ = layer.weight
        norm.eval()


def _norms(net: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    for layer in net.modules():
        if isinstance(layer, LAYERS) and parametrize.is_parametrized(layer, "weight"):
            yield layer, layer.get_submodule("parametrizations.weight.0")
