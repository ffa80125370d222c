"""Monotone rational-quadratic splines on an interval, the identity outside."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Splines(NamedTuple):
    r"""Monotone maps of [−B, B] onto itself, in K bins; outside [−B, B] each is the identity.

    In a bin from (x₀, y₀), of width w, height h, slope s = h / w and derivatives d₀, d₁ at its
    ends, with ξ = (x − x₀) / w:

    .. math:: y = y_0 + \frac{h\,(s \xi^2 + d_0\, \xi (1 - \xi))}
       {s + (d_1 + d_0 - 2 s)\, \xi (1 - \xi)}

    Unlike those of nflows they look at no value on the way, so that they compile, and run on the
    meta device.

    Args:
        widths: w, ``(*, K)``, adding up to 2B.
        heights: h, ``(*, K)``, adding up to 2B.
        derivatives: d, ``(*, K + 1)``, 1 at both ends.
        bound: B.

    References:
        Durkan, Bekasov, Murray & Papamakarios (2019), Neural spline flows, eq. 4 and appendix A,
        arXiv:1906.04032.

    Example:
        >>> splines = splines_of(torch.zeros(3 * 4 - 1), num_bins=4, bound=5.0)
        >>> y, log_slope = splines.forward(torch.tensor(1.0))
        >>> round(splines.inverse(y).item(), 4)
        1.0
    """

    widths: Tensor
    heights: Tensor
    derivatives: Tensor
    bound: float

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and log |dy/dx|.

        Args:
            x: ``(*,)``.

        Returns:
            Both, each ``(*,)``.
        """
        is_inside = x.abs() < self.bound
        inside = torch.where(is_inside, x, torch.zeros_like(x))
        x0, y0, w, h, d0, d1 = self._bins(inside, self.widths)
        xi, s = (inside - x0) / w, h / w
        both, denominator = xi * (1 - xi), s + (d1 + d0 - 2 * s) * xi * (1 - xi)
        y = y0 + h * (s * xi.square() + d0 * both) / denominator
        rise = d1 * xi.square() + 2 * s * both + d0 * (1 - xi).square()
        log_slope = 2 * s.log() + rise.log() - 2 * denominator.log()
        return torch.where(is_inside, y, x), torch.where(is_inside, log_slope, 0 * log_slope)

    def inverse(self, y: Tensor) -> Tensor:
        """x, by the root of a quadratic equation that lies in the bin.

        Args:
            y: ``(*,)``.

        Returns:
            ``(*,)``.
        """
        is_inside = y.abs() < self.bound
        inside = torch.where(is_inside, y, torch.zeros_like(y))
        x0, y0, w, h, d0, d1 = self._bins(inside, self.heights)
        s, rest = h / w, (inside - y0) * (d1 + d0 - 2 * h / w)
        a, b, c = h * (s - d0) + rest, h * d0 - rest, -s * (inside - y0)
        root = (b.square() - 4 * a * c).clamp(min=0).sqrt()
        return torch.where(is_inside, x0 + w * 2 * c / (-b - root), y)

    def _bins(self, inside: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Of each number's bin: x₀, y₀, w, h, d₀, d₁."""
        ends = sizes[..., :-1].cumsum(-1) - self.bound
        index = (ends <= inside.unsqueeze(-1)).sum(-1, keepdim=True)

        def at(values: Tensor, offset: int = 0) -> Tensor:
            return values.gather(-1, index + offset).squeeze(-1)

        x0, y0 = (F.pad(e.cumsum(-1), (1, 0)) - self.bound for e in (self.widths, self.heights))
        derivatives = self.derivatives
        w, h = at(self.widths), at(self.heights)
        return at(x0), at(y0), w, h, at(derivatives), at(derivatives, 1)


def splines_of(parameters: Tensor, num_bins: int, bound: float) -> Splines:
    """Splines from free numbers: softmax for sizes, softplus for derivatives.

    Args:
        parameters: ``(*, 3 K − 1)``.
        num_bins: K.
        bound: B.

    Returns:
        The splines.
    """
    sizes = [num_bins, num_bins, num_bins - 1]
    widths, heights, derivatives = parameters.split(sizes, -1)
    return Splines(
        2 * bound * widths.softmax(-1),
        2 * bound * heights.softmax(-1),
        F.pad(F.softplus(derivatives), (1, 1), value=1.0),
        bound,
    )
