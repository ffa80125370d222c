"""Block Gibbs sampling of binary events: hidden units first, then sets of elements at once."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.errors import PoeError, ShapeError
from poe.core.randomness import uniforms
from poe.density.capabilities import Conditionals, LogOdds, conditionals
from poe.density.expert import Expert
from poe.samplers.discrete.gibbs import NO_SINGLE_ELEMENT, Gibbs
from poe.samplers.kernel import Corrected, Density, Info, Kernel, MetropolisState
from poe.structure.conditionals import colours

LogOddsGiven = Callable[[Tensor, Tensor], LogOdds]
"""What ``Conditionals.given`` is."""


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

    Of ``Info``: there is no proposal to reject, so a step counts as accepted unless some log-odds
    were NaN: then ``is_undefined``, and that chain's set keeps its values. A step raises ShapeError
    where positions have fewer elements than the edges join.

    Args:
        conditionals: Those of the very target that is sampled, as
            ``poe.density.capabilities.conditionals`` gives them.

    Raises:
        PoeError: For anything but Conditionals.

    References:
        Geman & Geman (1984), Stochastic relaxation, Gibbs distributions, and the Bayesian
        restoration of images, doi:10.1109/TPAMI.1984.4767596; Hinton (2002), Training products of
        experts by minimizing contrastive divergence, section 2, doi:10.1162/089976602760128018
        (of products of RBMs).

    Example:
        >>> target = experts.Bernoulli([2.0, 0.0]) * experts.Bernoulli([-1.0, 3.0])
        >>> kernel = BlockGibbs(poe.density.capabilities.conditionals(target))
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel.gradients_per_step
        (torch.Size([5, 2]), 2)
    """

    conditionals: Conditionals
    _masks: Tensor = field(init=False)

    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False
    is_of_one_density: ClassVar[bool] = True
    way_out: ClassVar[str] = NO_SINGLE_ELEMENT

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

    def at_level(self, level: Expert) -> Kernel:
        """Block Gibbs by the conditionals of that level, or site by site where it has none.

        Args:
            level: A density on the path to the target.

        Returns:
            The kernel for it.
        """
        return gibbs_of(level)

    def between(self, start: Expert) -> Callable[[Tensor], Kernel]:
        """Block Gibbs by (1 − β) the log-odds of the start + β those of the target, row by row.

        Args:
            start: The density at β = 0.

        Returns:
            From β, ``(rows,)``, the kernel of that many rows.

        Raises:
            PoeError: Where the start's conditionals are not known, and for hidden units: p̃^β of an
                RBM is none, as its units are summed out before the power is taken.
        """
        found = conditionals(start)
        if found is None or found.num_hidden or self.conditionals.num_hidden:
            raise PoeError(
                "expected BlockGibbs without hidden units and a start whose conditionals are "
                f"known, got {self} from {type(start).__name__}, whose levels have none: use "
                "GibbsWithGradients(space) or Gibbs(space), or poe.smc"
            )
        own = self.conditionals
        edges = torch.cat([own.edges, found.edges], 1)  # sets that suit both
        kernel = BlockGibbs(own._replace(edges=edges))
        return lambda exponents: kernel.with_given(_mixed(found.given, own.given, exponents))

    def with_given(self, given: LogOddsGiven) -> BlockGibbs:
        """The same sets of elements, drawn by other log-odds.

        Args:
            given: From x and the uniforms of hidden units, the log-odds as a function of x
                (``Conditionals.given``).

        Returns:
            A copy.
        """
        other = copy(self)  # not built anew: to colour the graph takes time
        object.__setattr__(other, "conditionals", self.conditionals._replace(given=given))
        return other

    @property
    def num_sets(self) -> int:
        """In how many draws a step goes through the elements."""
        return len(self._masks)

    @property
    def is_reversible(self) -> bool:
        """Where all elements are one set: hidden units and elements are drawn by turns."""
        return self.num_sets == 1

    @property
    def log_odds_per_step(self) -> int:
        """One for each set."""
        return self.num_sets

    @property
    def gradients_per_step(self) -> int:
        """The log-odds of each set, and the log-density where the step ends."""
        return self.num_sets + 1

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> BlockNoise:
        is_float = position.is_floating_point()
        like = position if is_float else position.new_empty(0, dtype=torch.get_default_dtype())
        shapes = (len(position), self.conditionals.num_hidden), position.shape
        return BlockNoise(*(uniforms(shape, like=like, generator=generator) for shape in shapes))

    @torch.no_grad()
    def transition(
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


def gibbs_of(density: Expert) -> Kernel:
    """Block Gibbs by the conditionals of a density, where they are known, else site by site."""
    found = conditionals(density)
    return Gibbs(density.space) if found is None else BlockGibbs(found)


def _mixed(first: LogOddsGiven, last: LogOddsGiven, exponents: Tensor) -> LogOddsGiven:
    """The log-odds of the levels in between, for rows at ``exponents`` ``(rows,)``."""

    def given(x: Tensor, uniforms: Tensor) -> LogOdds:
        beta = exponents.reshape(-1, *([1] * (x.ndim - 1))).to(x.dtype)
        one, other = first(x, uniforms), last(x, uniforms)
        return lambda x: mixed_log_odds(one(x), other(x), beta)

    return given


def mixed_log_odds(first: Tensor, last: Tensor, beta: Tensor) -> Tensor:
    """(1 − β) first + β last; of weight 0, an infinite one has no say.

    >>> mixed_log_odds(torch.tensor(1.0), torch.tensor(torch.inf), torch.tensor([0.0, 0.5]))
    tensor([1., inf])
    """
    weighted = ((1 - beta) * first).masked_fill(beta == 1, 0.0)
    weighted = weighted + (beta * last).masked_fill(beta == 0, 0.0)
    is_finite = first.isfinite() & last.isfinite()
    return torch.where(is_finite, torch.lerp(first, last, beta), weighted)


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
    return Info(is_defined.to(dtype), is_defined, nowhere, is_undefined, is_undefined)
