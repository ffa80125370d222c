"""Densities from any network output f(x), by a link function that is never negative.

| link                    | density p̃(x)   | log-density       |
|-------------------------|-----------------|-------------------|
| `exponential(net, s)`   | exp f           | f                 |
| `square(net, s)`        | f^2             | 2 log abs f       |
| `absolute(net, s)`      | abs f           | log abs f         |
| `softplus(net, s)`      | log(1 + exp f)  | log softplus(f)   |

Where f is 0 the density of `square` and `absolute` is 0 and the log-density -inf, with no score.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poe.core.arguments import checked
from poe.core.errors import DtypeError
from poe.core.space import Space
from poe.density.expert import Expert

Link = Callable[[Tensor], Tensor]


class FromNetwork(Expert):
    """log p̃(x) = log g(f(x)) for a network f and a link g >= 0.

    Build one with ``exponential``, ``square``, ``absolute`` or ``softplus``.

    Args:
        net: f, ``(*batch, *event) -> (*batch,)``.
        space: Where x lives.
        log_link: log g, element by element.
    """

    @checked
    def __init__(self, net: nn.Module, space: Space, log_link: Link) -> None:
        super().__init__()
        self.space = space
        self.net = net
        self.log_link = log_link

    def forward(self, x: Tensor) -> Tensor:
        """log g(f(x)).

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            The unnormalised log-density, ``(*batch,)``.
        """
        return self.log_link(self.net(x))

    def extra_repr(self) -> str:
        return f"{self.space}, {self.log_link.__name__}"


@checked
def exponential(net: nn.Module, space: Space) -> FromNetwork:
    """p̃(x) = exp f(x).

    Args:
        net: f, ``(*batch, *event) -> (*batch,)``.
        space: Where x lives.

    Returns:
        The expert.

    Example:
        >>> exponential(torch.nn.Flatten(0), poe.Real(1))(torch.tensor([[2.0]]))
        tensor([2.])
    """
    return FromNetwork(net, space, log_exponential)


@checked
def square(net: nn.Module, space: Space) -> FromNetwork:
    """p̃(x) = f(x)², zero where f is.

    Args:
        net: f, ``(*batch, *event) -> (*batch,)``.
        space: Where x lives.

    Returns:
        The expert.

    References:
        Loconte et al. (2024), Subtractive mixture models via squaring: representation and learning,
        arXiv:2310.00724.

    Example:
        >>> square(torch.nn.Flatten(0), poe.Real(1))(torch.tensor([[-1.0], [0.0]]))
        tensor([0., -inf])
    """
    return FromNetwork(net, space, log_square)


@checked
def absolute(net: nn.Module, space: Space) -> FromNetwork:
    """p̃(x) = |f(x)|.

    Args:
        net: f, ``(*batch, *event) -> (*batch,)``.
        space: Where x lives.

    Returns:
        The expert.

    Example:
        >>> absolute(torch.nn.Flatten(0), poe.Real(1))(torch.tensor([[-1.0]]))
        tensor([0.])
    """
    return FromNetwork(net, space, log_absolute)


@checked
def softplus(net: nn.Module, space: Space) -> FromNetwork:
    """p̃(x) = log(1 + exp f(x)): like exp f where f is small, like f where it is large.

    Args:
        net: f, ``(*batch, *event) -> (*batch,)``.
        space: Where x lives.

    Returns:
        The expert.

    Example:
        >>> softplus(torch.nn.Flatten(0), poe.Real(1))(torch.tensor([[-200.0]]))
        tensor([-200.])
    """
    return FromNetwork(net, space, log_softplus)


@checked
def log_exponential(f: Tensor) -> Tensor:
    """log exp f.

    Args:
        f: Values of a network, of any shape.

    Returns:
        f itself.
    """
    return f


@checked
def log_square(f: Tensor) -> Tensor:
    """log f², without ever squaring.

    Args:
        f: Values of a network, of any shape.

    Returns:
        2 log |f|, of the same shape; −inf where f is 0.
    """
    return 2 * _floats(f).abs().log()


@checked
def log_absolute(f: Tensor) -> Tensor:
    """log |f|.

    Args:
        f: Values of a network, of any shape.

    Returns:
        log |f|, of the same shape; −inf where f is 0.
    """
    return _floats(f).abs().log()


@checked
def log_softplus(f: Tensor) -> Tensor:
    """log log(1 + exp f), exact also where exp f underflows.

    Args:
        f: Values of a network, of any shape.

    Returns:
        The log of the softplus, of the same shape.
    """
    # Below the switch softplus(f) = exp f (1 - exp f / 2 + ...); 1e-7 is lost at most.
    is_small = _floats(f) < -15
    return torch.where(is_small, f - f.clamp(max=-15).exp() / 2, F.softplus(f.clamp(min=-15)).log())


def _floats(f: Tensor) -> Tensor:
    if not f.is_floating_point():
        raise DtypeError(f"expected values of floats, got {f.dtype}: use f.float()")
    return f


LINKS: dict[str, Link] = {
    link.__name__: link for link in (log_exponential, log_square, log_absolute, log_softplus)
}
