"""What the studio offers, and what of it was chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

import poe
from poe.samplers.kernel import Kernel


@dataclass(frozen=True)
class Offer:
    """An expert that can be chosen; one with ``labels`` is a conditional, given one of them."""

    name: str
    about: str
    labels: tuple[str, ...] = ()


class Choice(NamedTuple):
    """A chosen expert, its exponent in the product, and its label where it has one."""

    name: str
    exponent: float = 1.0
    label: str = ""

    def __str__(self) -> str:
        """The expert in short, as pictures name it.

        >>> str(Choice("digits-slant", 2.0, "right"))
        'slant right'
        """
        return f"{self.name.removeprefix('digits-')} {self.label}".strip()


class Approach(NamedTuple):
    """Where chains stand on their way to the product: x ``(chains, *event)``, and in words."""

    words: str
    x: Tensor
    num_steps: int = 0
    """Taken so far."""


@dataclass(frozen=True)
class Recipe:
    """How a product is sampled.

    - ``approach``: the way of the chains to a start, of ``num_steps`` steps;
    - ``corrected``, ``unadjusted``: the kernels at the product; a step size left out is tuned in
      ``warmup`` steps;
    - ``draws_a_frame``: how many draws of a chain there are between two pictures.
    """

    approach: Callable[[torch.Generator], Iterator[Approach]]
    corrected: Kernel
    unadjusted: Kernel
    num_chains: int
    num_steps: int
    draws_a_frame: int
    warmup: int = 0


@dataclass(frozen=True)
class Family:
    """Experts on one space, and how products of them are built and sampled.

    - ``factors``: the named factors of a choice; raises PoeError where they make no density;
    - ``recipe``: of a product of those factors, and the choice that it comes from.
    """

    name: str
    offers: Callable[[], tuple[Offer, ...]]
    factors: Callable[[Sequence[Choice]], dict[str, poe.Expert]]
    recipe: Callable[[poe.Product, Sequence[Choice]], Recipe]
