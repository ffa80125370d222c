"""Block Gibbs sampling of binary events: hidden units first, then sets of elements at once."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from poe.conditionals import colours
from poe.density.capabilities import Conditionals, LogOdds
from poe.errors import PoeError, ShapeError
from poe.randomness import uniforms
from poe.samplers.chromatic import ChromaticGibbs
from poe.samplers.kernel import Corrected, Density, Info, Kernel
from poe.samplers.metropolis import MetropolisState


class BlockNoise(NamedTuple):
    """Uniforms in [0, 1): ``(chains, num_hidden)`` and ``(chains, *event)``."""

    hidden: Tensor
    visible: Tensor


@dataclass(frozen=True, eq=False, repr=False)  # functions and graphs do not compare by value
class BlockGibbs(Corrected[MetropolisState]):
    """Block Gibbs: one step draws z from p(z | x), then each set of elements from p(x_S | rest, z).

    The sets are the colours of the graph of ``conditionals.edges``: no two elements of a set are
    joined, so that given the others they are independent, xᵢ = 1 where u < σ(log-oddsᵢ). For an RBM
    all elements are one set, for a grid of nearest neighbours there are two. Each draw leaves the
    target invariant, and so does their composition.

    ``conditionals``: those of the very target that is sampled, as
    ``poe.density.capabilities.conditionals`` gives them.

    Of ``Info``: there is no proposal to reject, so a step counts as accepted unless some log-odds
    were NaN: then ``is_undefined``, and that chain's set keeps its values.

    Raises PoeError for anything but Conditionals, and ShapeError where positions have fewer
    elements than the edges join.

    Source: Geman & Geman 1984; of products of RBMs: Hinton 2002, section 2.

    >>> target = experts.Bernoulli([2.0, 0.0]) * experts.Bernoulli([-1.0, 3.0])
    >>> kernel = BlockGibbs(poe.density.capabilities.conditionals(target))
    >>> state = kernel.init(target, torch.zeros(5, 2))
    >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
    >>> state.position.shape, kernel.gradients_per_step
    (torch.Size([5, 2]), 2)
    """

    conditionals: Conditionals
    _masks: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.conditionals, Conditionals):
            raise PoeError(
                f"expected Conditionals, got {type(self.conditionals).__name__}: give those that "
                "poe.density.capabilities.conditionals(target) finds; where it finds None, "
                "use Gibbs(space)"
            )
        object.__setattr__(self, "_masks", _masks(self.conditionals.edges))

    def __repr__(self) -> str:
        hidden = self.conditionals.num_hidden
        sets = f"{self.num_sets} set{'s' if self.num_sets > 1 else ''} of elements"
        return f"BlockGibbs({f'{hidden} hidden units, ' if hidden else ''}{sets})"

    def with_given(self, given: Callable[[Tensor, Tensor], LogOdds]) -> BlockGibbs:
        """The same sets of elements, drawn by other log-odds."""
        other = copy(self)  # not built anew: to colour the graph takes time
        object.__setattr__(other, "conditionals", self.conditionals._replace(given=given))
        return other

    @property
    def num_sets(self) -> int:
        """In how many draws a step goes through the elements."""
        return len(self._masks)

    @property
    def gradients_per_step(self) -> int:
        """How often a step evaluates the target or its log-odds: never a score."""
        return self.num_sets + 1

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> BlockNoise:
        """A uniform for each chain's hidden units, and for each of its elements."""
        is_float = position.is_floating_point()
        like = position if is_float else position.new_empty(0, dtype=torch.get_default_dtype())
        shapes = (len(position), self.conditionals.num_hidden), position.shape
        return BlockNoise(*(uniforms(shape, like=like, generator=generator) for shape in shapes))

    @torch.no_grad()
    def state_at(self, target: Density, x: Tensor) -> MetropolisState:
        """Position and log-density."""
        return MetropolisState(x, target.log_density(x))

    @torch.no_grad()
    def _transition(
        self, target: Density, state: MetropolisState, noise: BlockNoise
    ) -> tuple[MetropolisState, Info]:
        x = state.position
        log_odds_at = self.conditionals.given(x, noise.hidden)
        is_undefined = torch.zeros_like(state.log_density, dtype=torch.bool)
        for is_free in self._sets(x):
            log_odds = log_odds_at(x)
            is_lost = log_odds.flatten(1).amax(1).isnan()  # the largest is NaN if one of them is
            probability = log_odds.sigmoid()
            drawn = torch.lt(noise.visible, probability, out=probability).to(x.dtype)
            is_held = is_lost.reshape(-1, *[1] * (x.ndim - 1))
            is_held = is_held if self.num_sets == 1 else is_held | ~is_free
            x = torch.where(is_held, x, drawn, out=drawn)
            is_undefined = is_undefined | is_lost
        return MetropolisState(x, target.log_density(x)), _info(is_undefined, noise.visible.dtype)

    def _sets(self, x: Tensor) -> Tensor:
        """Which elements are drawn together, set by set: ``(sets, *event)``.

        Elements beyond those that edges join are free, and in the first.
        """
        num_free = x.shape[1:].numel() - self._masks.shape[1]
        if num_free < 0:
            raise ShapeError(
                f"expected positions (chains, *event) of at least {self._masks.shape[1]} elements, "
                f"as the conditionals' edges join, got {tuple(x.shape)}: build BlockGibbs from the "
                "conditionals of the target that it samples"
            )
        others = self._masks.new_zeros((len(self._masks), num_free))
        others[:1] = True
        return torch.cat([self._masks, others], 1).reshape(-1, *x.shape[1:])


def num_log_odds(kernel: Kernel) -> int:
    """How often a step asks for log-odds of all elements, each as dear as a log-density."""
    if isinstance(kernel, ChromaticGibbs):
        return 1  # each site's are worked out once, with its colour
    return kernel.num_sets if isinstance(kernel, BlockGibbs) else 0


def _masks(edges: Tensor) -> Tensor:
    """The colours as masks over the elements that edges join, at least one: ``(colours, n)``."""
    num_joined = int(edges.max()) + 1 if edges.numel() else 0
    sets = colours(edges, num_joined)
    masks = edges.new_zeros((max(1, len(sets)), num_joined), dtype=torch.bool)
    for mask, elements in zip(masks, sets, strict=False):
        mask[elements] = True
    return masks


def _info(is_undefined: Tensor, dtype: torch.dtype) -> Info:
    nowhere = torch.zeros_like(is_undefined)
    is_defined = ~is_undefined
    return Info(is_defined.to(dtype), is_defined, nowhere, is_undefined, nowhere)
