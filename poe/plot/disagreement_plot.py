"""``disagreement``: how far the experts' log-densities pull apart, draw by draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.density.expert import Expert, require_expert
from poe.density.nonfinite import require_finite_of_each
from poe.diagnostics import binds_chains, contributions_along
from poe.diagnostics.experts import NO_DRAWS, names_of
from poe.draws import Draws
from poe.plot.factors import factors_of
from poe.plot.positions import require_order
from poe.plot.style import GREY, INK, SMALL, add_legend, as_array, figure_of, one_axis, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_DRAWS = 240
"""Of a longer chain as many draws are shown, evenly chosen."""


@checked
def disagreement(
    product: Expert, draws: Draws, *, chain: int = 0, axes: Axes | None = None
) -> Figure:
    """How far a product's experts pull apart along one chain, and who of them objects.

    gap_t = max_i z_i(x_t) − min_i z_i(x_t), where z_i is the contribution w_i log p̃_i less its
    mean along the chain, in units of its standard deviation there. It is large where one expert
    likes x much better than it usually does, and another much less. A bar has the colour of the
    expert of the lowest z. The dashed line is the mean gap of as many independent standard normals,
    thus about that of experts that mind different things: those that pull against each other lie
    above it, those that agree below. An expert that says the same all along has z = 0.

    Args:
        product: Of two experts at least.
        draws: Unweighted; ``draws.samples`` ``(chains, draws, *event)``.
        chain: The chain's number.
        axes: Where to draw; a new figure by default.

    Returns:
        The figure.

    Raises:
        PoeError: For less than two experts, weighted draws, or a chain that does not exist.
        NonFiniteError: Where a contribution is not finite.

    References:
        Of the dashed line: Tippett (1925), On the extreme individuals and the range of samples
        taken from a normal population, Biometrika 17.

    Example:
        >>> a, b = experts.Gaussian([-1.0], scale=[1.0]), experts.Gaussian([1.0], scale=[1.0])
        >>> g = torch.Generator().manual_seed(0)
        >>> draws = poe.sample(a * b, 400, num_chains=4, generator=g)
        >>> figure = disagreement(a * b, draws)
        >>> figure.axes[0].get_ylabel()
        'gap between experts (sd)'
    """
    factors = factors_of(require_expert(product))
    require_order(draws, "disagreement along a chain")
    if len(factors) < 2:
        raise PoeError(
            f"expected a product of at least two experts, got {type(product).__name__}: one expert "
            "alone has nobody to disagree with"
        )
    place, z = _standardised(product, draws, chain)
    gap, objector = z.amax(1) - z.amin(1), z.argmin(1)
    axis = one_axis(axes, 7.2, 2.8)
    width = float(place[1] - place[0]) if len(place) > 1 else 1.0
    for i, factor in enumerate(factors):
        values = gap.masked_fill(objector != i, 0.0)
        axis.bar(as_array(place), as_array(values), width=width, color=factor.color, lw=0,
                 label=factor.label)  # fmt: skip
    expected = normal_range(len(factors))
    axis.axhline(expected, color=INK, lw=1, ls=(0, (4, 3)), label="if independent")
    axis.margins(x=0)
    write(axis, x=f"draw of chain {chain}", y="gap between experts (sd)")
    axis.text(1.0, 1.02, f"mean gap {float(gap.mean()):.2f}, if independent {expected:.2f}",
              transform=axis.transAxes, ha="right", fontsize=SMALL, color=GREY)  # fmt: skip
    add_legend(axis, title="who objects most")
    return figure_of(axis)


def _standardised(product: Expert, draws: Draws, chain: int) -> tuple[Tensor, Tensor]:
    """The draws shown ``(n,)``, counted from 1, and z ``(n, k)`` there."""
    chains, length = draws.log_density.shape
    if not 0 <= chain < chains:
        raise PoeError(f"expected a chain from 0 to {chains - 1}, got {chain}")
    stride = max(1, -(-length // MAX_DRAWS))
    x = draws.samples[:, ::stride]
    if binds_chains(product):
        said = contributions_along(product, x)[chain]
    else:
        said = contributions_along(product, x[chain : chain + 1])[0]
    require_finite_of_each(names_of(product), said, f"contributions along chain {chain}", NO_DRAWS)
    centred = said - said.mean(0)
    sd = centred.square().mean(0).sqrt()
    rounding = 10 * torch.finfo(draws.log_density.dtype).eps * said.abs().amax(0)
    z = torch.where(sd > rounding, centred / sd, 0.0)
    return torch.arange(1, length + 1, stride), z.cpu()


def normal_range(k: int) -> float:
    """The mean of max − min of k independent standard normals: ∫ 1 − Φᵏ − (1 − Φ)ᵏ.

    >>> round(normal_range(2), 4), round(normal_range(3), 4)
    (1.1284, 1.6926)
    """
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    below = torch.special.ndtr(x)
    return float(torch.trapezoid(1 - below**k - (1 - below) ** k, x))
