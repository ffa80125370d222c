"""Chromatic Gibbs: all labels of one colour at once, of a model of pairs that agree or not."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from poe.core.errors import PoeError, ShapeError
from poe.core.randomness import uniforms
from poe.density.capabilities import LabelPairs, label_pairs
from poe.density.expert import Expert
from poe.samplers.discrete.gibbs import Gibbs
from poe.samplers.kernel import Corrected, Density, Info, Kernel, MetropolisState, all_accepted
from poe.structure.conditionals import colours


class SitesNoise(NamedTuple):
    """A uniform in [0, 1) for each site: ``(chains, n)``."""

    sites: Tensor


class Colour(NamedTuple):
    """Sites of which no two are joined, and what joins them to others.

    - ``sites`` ``(s,)``: their numbers;
    - ``places``, ``others`` and ``edges`` ``(e,)``: which of them an edge leads to, from which
      site, and the number of that edge.
    """

    sites: Tensor
    places: Tensor
    others: Tensor
    edges: Tensor


@dataclass(frozen=True, eq=False, repr=False)  # tensors do not compare by value
class ChromaticGibbs(Corrected[MetropolisState]):
    """Block Gibbs of labels: one step draws the sites of each colour together, colour by colour.

    p(xᵢ = v | rest) ∝ exp(hᵢ(v) + Σⱼ Jᵢⱼ [xⱼ = v]), independently for sites that no edge joins: the
    colours of the graph. On a grid of nearest neighbours there are two, the squares of a chess
    board. Each draw leaves the target invariant, whatever the signs of couplings, and so does their
    composition.

    Of ``Info``: every step is accepted. A step raises ShapeError where positions have another
    number of elements than the pairs.

    Args:
        pairs: Those of the very target that is sampled, as
            ``poe.density.capabilities.label_pairs`` gives them.

    Raises:
        PoeError: For anything but LabelPairs.

    References:
        Geman & Geman (1984), Stochastic relaxation, Gibbs distributions, and the Bayesian
        restoration of images, doi:10.1109/TPAMI.1984.4767596; Gonzalez, Low, Gretton & Guestrin
        (2011), Parallel Gibbs sampling: from colored fields to thin junction trees (the name).

    Example:
        >>> target = experts.Potts.grid((8, 8), coupling=0.5, num_labels=3)
        >>> kernel = ChromaticGibbs(poe.density.capabilities.label_pairs(target))
        >>> state = kernel.init(target, torch.zeros(5, 8, 8))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel
        (torch.Size([5, 8, 8]), ChromaticGibbs(2 colours))
    """

    pairs: LabelPairs
    _colours: tuple[Colour, ...] = field(init=False)

    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False
    is_of_one_density: ClassVar[bool] = True
    log_odds_per_step: ClassVar[int] = 1  # each site's are worked out once, with its colour

    def __post_init__(self) -> None:
        require_pairs(self.pairs)
        object.__setattr__(self, "_colours", tuple(_colours(self.pairs)))

    def __repr__(self) -> str:
        return f"ChromaticGibbs({self.num_colours} colours)"

    @property
    def num_colours(self) -> int:
        """In how many draws a step goes through the sites."""
        return len(self._colours)

    def at_level(self, level: Expert) -> Kernel:
        """The same by the pairs of that level, or Gibbs site by site where they are not known.

        Args:
            level: A density on the path to the target.

        Returns:
            The kernel for it.
        """
        found = label_pairs(level)
        return Gibbs(level.space) if found is None else self.with_pairs(found)

    def with_pairs(self, pairs: LabelPairs) -> ChromaticGibbs:
        """The same colours, drawn by other couplings and fields of the same edges.

        Args:
            pairs: The other ones; of other edges, they are coloured anew.

        Returns:
            A copy.
        """
        if not torch.equal(pairs.edges, self.pairs.edges):
            return ChromaticGibbs(pairs)
        other = copy(self)  # not built anew: to colour the graph takes time
        object.__setattr__(other, "pairs", pairs)
        return other

    @property
    def is_reversible(self) -> bool:
        """Where no two sites are joined, and one colour is all of them."""
        return self.num_colours <= 1

    @property
    def gradients_per_step(self) -> int:
        """The log-odds of all sites together, and the log-density where the step ends."""
        return 2

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> SitesNoise:
        fields = self.pairs.fields
        shape = (len(position), len(fields))
        return SitesNoise(uniforms(shape, like=fields, generator=generator))

    @torch.no_grad()
    def transition(
        self, target: Density, state: MetropolisState, noise: SitesNoise
    ) -> tuple[MetropolisState, Info]:
        require_elements(state.position, self.pairs)
        fields = self.pairs.fields
        x = state.position.reshape(len(state.position), -1).long()
        for colour in self._colours:
            votes = F.one_hot(x[:, colour.others], fields.shape[1]).to(fields.dtype)
            votes = votes.mul_(self.pairs.couplings[colour.edges, None])
            log_odds = fields[colour.sites].expand(len(x), -1, -1).contiguous()
            log_odds = log_odds.index_add(1, colour.places, votes)
            x = x.index_copy(1, colour.sites, drawn(log_odds, noise.sites[:, colour.sites]))
        position = x.reshape(state.position.shape).to(state.position.dtype)
        log_density = target.log_density(position)
        return MetropolisState(position, log_density), all_accepted(log_density)


def drawn(logits: Tensor, uniform: Tensor) -> Tensor:
    """Labels v ~ softmax(logits) where the uniforms fall: ``(..., k)``, ``(...)`` to ``(...)``.

    >>> drawn(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([0.6]))
    tensor([1])
    """
    below = logits.softmax(-1)[..., :-1].cumsum(-1)
    return (uniform.unsqueeze(-1) >= below).sum(-1)


def require_pairs(pairs: object) -> None:
    """Refuse anything but LabelPairs.

    Args:
        pairs: Anything.

    Raises:
        PoeError: Where it is not so.
    """
    if not isinstance(pairs, LabelPairs):
        raise PoeError(
            f"expected LabelPairs, got {type(pairs).__name__}: give those that "
            "poe.density.capabilities.label_pairs(target) finds; where it finds None, use "
            "Gibbs(space)"
        )


def require_elements(position: Tensor, pairs: LabelPairs) -> None:
    """Refuse positions of another number of elements than the pairs have.

    Args:
        position: ``(chains, *event)``.
        pairs: Of n elements.

    Raises:
        ShapeError: Where they differ.
    """
    if position.shape[1:].numel() != len(pairs.fields):
        raise ShapeError(
            f"expected positions (chains, *event) of {len(pairs.fields)} elements, as the pairs' "
            f"fields have, got {tuple(position.shape)}: build the kernel from the pairs of the "
            "target that it samples"
        )


def _colours(pairs: LabelPairs) -> list[Colour]:
    num_sites = len(pairs.fields)
    ends = torch.cat([pairs.edges, pairs.edges.flip(0)], 1)  # each edge from both sides
    found = []
    for sites in colours(pairs.edges, num_sites):
        place = sites.new_full((num_sites,), -1)
        place[sites] = torch.arange(len(sites), device=sites.device)
        own = (place[ends[0]] >= 0).nonzero().squeeze(1)
        number = own % pairs.edges.shape[1]
        found.append(Colour(sites, place[ends[0, own]], ends[1, own], number))
    return found
