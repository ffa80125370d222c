"""Bridges between ranges and sizes: named bijections, and maps that are features only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import ComposeTransform, SigmoidTransform, Transform

from poe.core.arguments import REFUSED, checked, whole
from poe.core.errors import DtypeError, PoeError, ShapeError


class Rescale(Transform):
    r"""From [low, high] to [to_low, to_high], in proportion, element by element.

    .. math:: y = a' + (x - a) \frac{b' - a'}{b - a}, \qquad
              \log |\det| = n \log \frac{b' - a'}{b - a}

    The borders go exactly to the borders, both ways. As a density,
    ``poe.Transformed(expert, Rescale(0, 1, -1, 1))`` moves an expert on [0, 1] to [−1, 1]; as a
    feature, ``expert.at(Rescale(-1, 1, 0, 1))`` reads it there, without the Jacobian.

    Args:
        low: a, finite.
        high: b, above a.
        to_low: a', where a goes.
        to_high: b', where b goes, above a'.

    Raises:
        PoeError: Where low >= high, or to_low >= to_high, or one is not finite.

    Example:
        >>> to_signs = Rescale(0, 255, -1, 1)
        >>> to_signs(torch.tensor([0.0, 127.5, 255.0]))
        tensor([-1.,  0.,  1.])
        >>> beta = poe.as_expert(torch.distributions.Beta(2.0, 2.0))
        >>> moved = poe.Transformed(beta, Rescale(0, 1, -1, 1))
        >>> str(moved.space), beta(torch.tensor([0.5])).exp(), moved(torch.tensor([0.0])).exp()
        ('Interval((), -1, 1)', tensor([1.5000]), tensor([0.7500]))
    """

    bijective = True
    sign = 1

    @checked
    def __init__(self, low: float, high: float, to_low: float, to_high: float) -> None:
        super().__init__()
        self.low, self.high = _bounds(low, high)
        self.to_low, self.to_high = _bounds(to_low, to_high)

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.interval(self.low, self.high)

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.interval(self.to_low, self.to_high)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rescale) and _ends(other) == _ends(self)

    def _call(self, x: Tensor) -> Tensor:
        return _rescaled(x, *_ends(self))

    def _inverse(self, y: Tensor) -> Tensor:
        low, high, to_low, to_high = _ends(self)
        return _rescaled(y, to_low, to_high, low, high)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log-slope log (b' − a') / (b − a) of each element, the same everywhere.

        Args:
            x: Positions in [low, high], of any shape.
            y: Where they go; not looked at.

        Returns:
            The log-slopes, of the shape of x.
        """
        slope = (self.to_high - self.to_low) / (self.high - self.low)
        return torch.full_like(x, slope).log()


@checked
def logit(low: float = 0.0, high: float = 1.0) -> ComposeTransform:
    """From [low, high] to all real numbers, y = log((x − low) / (high − x)), element by element.

    Its ``.inv`` comes back. An expert on logits, as flows of pictures often are, is brought to
    [0, 1] by ``poe.Transformed(expert, logit().inv)``.

    Args:
        low: The border that goes to −∞.
        high: The border that goes to +∞, above ``low``.

    Returns:
        The bijection.

    Raises:
        PoeError: Unless low < high, both finite.

    Example:
        >>> logit(0, 255)(torch.tensor([127.5]))
        tensor([0.])
    """
    return ComposeTransform([Rescale(low, high, 0.0, 1.0), SigmoidTransform().inv])


class Resize(nn.Module):
    """Pictures of another size: ``(*batch, [channels,] h, w) -> (*batch, [channels,] *size)``.

    A feature map, as it is no bijection: ``expert.at(Resize((8, 8)), poe.Real((16, 16)))``.

    Args:
        size: The new height and width, in pixels.
        mode: "area" averages the pixels that fall into one, and is what shrinks pictures;
            "nearest", "bilinear" and "bicubic" are torch's, the last two smoothed where they
            shrink.

    Raises:
        ShapeError: Where the size is no height and width of at least 1.
        PoeError: For another mode.

    Example:
        >>> Resize((1, 2))(torch.tensor([[1.0, 3.0, 5.0, 7.0], [1.0, 3.0, 5.0, 7.0]]))
        tensor([[2., 6.]])
    """

    def __init__(
        self,
        size: Sequence[int],
        mode: Literal["area", "nearest", "bilinear", "bicubic"] = "area",
    ) -> None:
        super().__init__()
        sizes = list(size) if isinstance(size, Sequence) else []
        self.size = tuple(whole(each) for each in sizes)
        self.mode = mode
        if len(self.size) != 2 or any(each is REFUSED or each < 1 for each in self.size):
            raise ShapeError(f"expected size=(height, width), got {size!r}")
        if not isinstance(mode, str) or mode not in ("area", "nearest", "bilinear", "bicubic"):
            raise PoeError(
                f"expected mode 'area', 'nearest', 'bilinear' or 'bicubic', got {mode!r}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """The pictures in the new size.

        Args:
            x: Pictures, ``(*batch, [channels,] h, w)``, of floats.

        Returns:
            ``(*batch, [channels,] *size)``.

        Raises:
            DtypeError: Where x is not of floats.
        """
        if not x.is_floating_point():
            raise DtypeError(f"expected pictures of floats to resize, got {x.dtype}; use x.float()")
        rows = x.reshape(-1, 1, *x.shape[-2:])  # each channel by itself
        smooth = self.mode in ("bilinear", "bicubic")
        small = nn.functional.interpolate(rows, self.size, mode=self.mode, antialias=smooth)
        return small.reshape(*x.shape[:-2], *self.size)

    def extra_repr(self) -> str:
        return f"{self.size}, {self.mode!r}"


class Indices(nn.Module):
    """The same values as integers: a Categorical or Sequence expert read at zeros and ones.

    Between discrete spaces a one-to-one map has no Jacobian, so ``.at`` moves the density itself.

    >>> Indices()(torch.tensor([0.0, 1.0]))
    tensor([0, 1])
    """

    def forward(self, x: Tensor) -> Tensor:
        """The same values in int64.

        Args:
            x: Whole numbers, of any shape and dtype.

        Returns:
            The same shape.
        """
        return x.long()


class Floats(nn.Module):
    """The same values as floats: an expert on bits or real numbers read at indices.

    >>> Floats()(torch.tensor([0, 1]))
    tensor([0., 1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """The same values in the default floating dtype; floats stay as they are.

        Args:
            x: Numbers, of any shape and dtype.

        Returns:
            The same shape.
        """
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _rescaled(x: Tensor, *ends: float) -> Tensor:
    """Exact at both borders, and monotone, so that rounding takes nothing across one."""
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    # The borders rounded as x is, so that they are met exactly.
    low, high, to_low, to_high = (
        torch.full((), end, dtype=x.dtype, device=x.device) for end in ends
    )
    share = (x - low) / (high - low)
    width = to_high - to_low
    return torch.where(share < 0.5, to_low + width * share, to_high + width * (share - 1))


def _ends(map: Rescale) -> tuple[float, float, float, float]:
    return map.low, map.high, map.to_low, map.to_high


def _bounds(low: float, high: float) -> tuple[float, float]:
    if not float("-inf") < low < high < float("inf"):
        raise PoeError(f"expected finite bounds low < high, got {low} and {high}")
    return float(low), float(high)
