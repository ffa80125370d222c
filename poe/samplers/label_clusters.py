"""Swendsen-Wang for labels: whole clusters of sites take a new label at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.errors import PoeError
from poe.core.randomness import uniforms
from poe.density.capabilities import LabelPairs, label_pairs
from poe.density.expert import Expert
from poe.samplers.chromatic import ChromaticGibbs, drawn, require_elements, require_pairs
from poe.samplers.components import components
from poe.samplers.gibbs import Gibbs
from poe.samplers.kernel import Corrected, Density, Info, Kernel, MetropolisState, all_accepted


class ClusterNoise(NamedTuple):
    """Uniforms in [0, 1), one for each pair and each site: ``(chains, m)`` and ``(chains, n)``."""

    bonds: Tensor
    sites: Tensor


@dataclass(frozen=True, eq=False, repr=False)  # tensors do not compare by value
class LabelClusters(Corrected[MetropolisState]):
    """Swendsen-Wang for k labels: one step draws bonds given the labels, then labels given bonds.

    A pair of equal labels is joined with probability 1 − exp(−Jᵢⱼ); then every cluster C of joined
    sites takes the label v with probability ∝ exp(Σ_{i∈C} hᵢ(v)). Both are draws from conditionals
    of p(x, bonds): the step leaves the target invariant. Near the transition of attractive
    couplings it mixes far faster than sites one by one; where fields tell apart the sites of large
    clusters, little moves.

    ``pairs``: those of the very target that is sampled, as
    ``poe.density.capabilities.label_pairs`` gives them. Of ``Info``: every step is accepted.

    Raises PoeError for anything but LabelPairs, and for negative couplings, which no bond stands
    for, and ShapeError where positions have another number of elements. Source: Swendsen & Wang
    1987; with fields: Edwards & Sokal 1988.

    >>> target = experts.Potts.grid((8, 8), coupling=1.0, num_labels=3)
    >>> kernel = LabelClusters(poe.density.capabilities.label_pairs(target))
    >>> state = kernel.init(target, torch.zeros(5, 8, 8))
    >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
    >>> state.position.shape, kernel
    (torch.Size([5, 8, 8]), LabelClusters(112 pairs))
    """

    pairs: LabelPairs

    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False
    is_of_one_density: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_pairs(self.pairs)
        if not self.pairs.couplings.is_meta and not self.pairs.is_attractive:
            raise PoeError(
                f"expected couplings of at least 0, got {self.pairs.couplings.min().item():g}: no "
                "bond stands for a pair that should differ; use ChromaticGibbs"
            )

    def __repr__(self) -> str:
        return f"LabelClusters({len(self.pairs.couplings)} pairs)"

    def at_level(self, level: Expert) -> Kernel:
        """The same by the pairs of that level; colour by colour where some are pushed apart, and
        Gibbs site by site where the pairs are not known."""
        found = label_pairs(level)
        if found is None:
            return Gibbs(level.space)
        return LabelClusters(found) if found.is_attractive else ChromaticGibbs(found)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> ClusterNoise:
        """A uniform for each chain's pairs, and for each of its sites."""
        like = self.pairs.fields
        shapes = ((len(position), n) for n in (len(self.pairs.couplings), len(like)))
        return ClusterNoise(*(uniforms(s, like=like, generator=generator) for s in shapes))

    @torch.no_grad()
    def transition(
        self, target: Density, state: MetropolisState, noise: ClusterNoise
    ) -> tuple[MetropolisState, Info]:
        require_elements(state.position, self.pairs)
        edges, couplings, fields = self.pairs
        x = state.position.reshape(len(state.position), -1)
        first, second = (x.index_select(1, end) for end in edges)
        is_joined = (first == second) & (noise.bonds < -torch.expm1(-couplings))
        cluster = components(edges, is_joined, len(fields)).flatten()
        every = fields.repeat(len(x), 1)  # (chains n, k)
        pull = torch.zeros_like(every).index_add(0, cluster, every)
        labels = drawn(pull, noise.sites.flatten())[cluster]  # each has that of its first site
        position = labels.reshape(state.position.shape).to(state.position.dtype)
        log_density = target.log_density(position)
        return MetropolisState(position, log_density), all_accepted(log_density)
