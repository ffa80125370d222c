"""The factors of a target as plots show them: by name, in one colour each."""

from __future__ import annotations

from typing import NamedTuple

from poe.core.arguments import checked
from poe.density.expert import Expert, Tempered, require_expert

PALETTE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")
"""Told apart by colour-blind readers too. Source: Tol 2021, "bright"."""


class Factor(NamedTuple):
    """One p̃_i(x)^w_i of a product."""

    name: str
    expert: Expert
    color: str

    @property
    def exponent(self) -> float:
        """w_i, 1 where there is none."""
        return float(self.expert.exponent.detach()) if isinstance(self.expert, Tempered) else 1.0

    @property
    def label(self) -> str:
        """Its name, with its exponent where that is not 1.

        >>> Factor("blur", experts.Gaussian([0.0], scale=[1.0]) ** -0.5, "black").label
        'blur$^{-0.5}$'
        """
        name = self.name.replace("$", r"\$")
        return name if self.exponent == 1 else f"{name}$^{{{self.exponent:.3g}}}$"

    @property
    def line(self) -> str:
        """Dashed where the expert is divided by (NOT)."""
        return "--" if self.exponent < 0 else "-"


def factors_of(target: Expert) -> list[Factor]:
    """The factors of a product in its order; of another expert, that one alone."""
    pairs = list(require_expert(target)._factors())
    return [Factor(name, expert, color_of(i)) for i, (name, expert) in enumerate(pairs)]


@checked
def colors(target: Expert) -> dict[str, str]:
    """The colour that each expert of a product has in all plots.

    By its place in the product, so that it stays when further experts follow. After six the
    colours come again, lighter.

    Args:
        target: A product; another expert is one factor.

    Returns:
        "#rrggbb" by name.

    Example:
        >>> colors(poe.Product(a=experts.Gaussian([0.0], scale=[1.0])))
        {'a': '#4477AA'}
    """
    return {factor.name: factor.color for factor in factors_of(target)}


def color_of(place: int) -> str:
    """The colour at a place of a product.

    >>> color_of(0), color_of(6)
    ('#4477AA', '#9cb7d2')
    """
    color = PALETTE[place % len(PALETTE)]
    strength = 0.53 ** (place // len(PALETTE))
    if strength == 1:
        return color
    channels = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - strength * (255 - channel)):02x}" for channel in channels)
