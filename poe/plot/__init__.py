"""Pictures of experts, their products and draws, as matplotlib figures of one look.

    figure = poe.plot.densities(product, -4.0, 4.0, draws=draws)
    figure.savefig("densities.png")            # or .pdf, .svg

Every function returns a ``matplotlib.figure.Figure`` of which pyplot knows nothing, and draws on
``axes=`` where one axis is enough. An expert has one colour in all of them (``colors``).

| what is shown                                            | call                           |
|----------------------------------------------------------|--------------------------------|
| p_i beside the product, in 1-D, 2-D or over few states   | `densities(product, low, high)`|
| every element of draws, and every two of them            | `pairs(draws)`                 |
| a grid of pictures                                       | `images(x)`                    |
| E(x) of each chain, draw by draw                         | `trace(draws)`                 |
| c_i(x) = w_i log p̃_i(x): who says what                   | `contributions(product, x)`    |
| max_i z_i − min_i z_i along a chain: who objects         | `disagreement(product, draws)` |
| the composition itself                                   | `tree(product)`                |

Needs matplotlib, which is imported when a plot is made: pip install "product-of-experts[plots]"
"""

from __future__ import annotations

from poe.plot.contribution_plot import contributions
from poe.plot.density_plot import densities
from poe.plot.disagreement_plot import disagreement
from poe.plot.factors import colors
from poe.plot.image_grid import images
from poe.plot.pair_plot import pairs
from poe.plot.trace_plot import trace
from poe.plot.tree_diagram import tree

__all__ = [
    "colors", "contributions", "densities", "disagreement", "images", "pairs", "trace", "tree",
]  # fmt: skip
