"""``trace``: the energy of each chain, draw by draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from poe.core.arguments import checked
from poe.draws import Draws
from poe.plot.positions import require_order
from poe.plot.style import (
    GREY,
    SMALL,
    WARNING,
    add_legend,
    as_array,
    figure_of,
    one_axis,
    tints,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CHAINS = 40
"""Of more chains as many are drawn, evenly chosen, and all that stand out."""
COLOR = "#27486f"


@checked
def trace(draws: Draws, *, axes: Axes | None = None) -> Figure:
    """The energy E(x) = −log p̃(x) of each chain along its draws.

    Chains that are stuck, stand still or escaped (``draws.stuck_chains`` and so on) are red and
    named. Of more than 40 chains 40 are drawn, evenly chosen, and those. Energies that are not
    finite are gaps, and are counted.

    Args:
        draws: Unweighted; ``draws.log_density`` ``(chains, draws)``.
        axes: Where to draw; a new figure by default.

    Returns:
        The figure.

    Raises:
        PoeError: For weighted draws, which have no order.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> draws = poe.sample(experts.Gaussian([0.0], scale=[1.0]), 40, num_chains=4, generator=g)
        >>> len(trace(draws).axes[0].lines)
        4
    """
    require_order(draws, "a trace")
    axis = one_axis(axes, 6.4, 3.0)
    energy = -draws.log_density.detach()
    words = _words(draws)
    chains = _shown(len(energy), list(words))
    place = torch.arange(1, energy.shape[1] + 1)
    for order, chain in enumerate(chains):
        is_odd = chain in words
        shade = WARNING if is_odd else tints(COLOR)(0.45 + 0.55 * order / max(1, len(chains) - 1))
        values = energy[chain].masked_fill(~energy[chain].isfinite(), torch.nan)
        axis.plot(
            place, as_array(values), color=shade, lw=1.2 if is_odd else 0.7, alpha=0.75,
            label=f"chain {chain}: {words[chain]}" if is_odd else f"_chain {chain}",
            zorder=3 if is_odd else 2,
        )  # fmt: skip
    write(axis, x="draw", y="energy E(x) = \u2212log p\u0303(x)")
    axis.margins(x=0.01)
    if words:
        add_legend(axis)
    _add_note(axis, energy, len(chains))
    return figure_of(axis)


def _words(draws: Draws) -> dict[int, str]:
    """What is wrong with the chains with which something is."""
    kinds = {
        "escaped": draws.escaped_chains,
        "stood still": draws.still_chains,
        "stuck": draws.stuck_chains,
    }
    return {chain: word for word, chains in kinds.items() for chain in chains}


def _shown(num_chains: int, odd: list[int]) -> list[int]:
    count = min(num_chains, MAX_CHAINS)
    even = [int((i + 0.5) * num_chains / count) for i in range(count)]
    return sorted({*even, *odd})


def _add_note(axis: Axes, energy: torch.Tensor, num_shown: int) -> None:
    num_broken = int((~energy.isfinite()).sum())
    parts = [f"{num_shown} of {len(energy)} chains"] if num_shown < len(energy) else []
    parts += [f"{num_broken} energies are not finite"] if num_broken else []
    if parts:
        axis.text(1.0, 1.02, "; ".join(parts), transform=axis.transAxes, ha="right",
                  fontsize=SMALL, color=WARNING if num_broken else GREY)  # fmt: skip
