"""Swendsen-Wang: whole clusters of spins are flipped at once, or take a label at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.errors import PoeError, ShapeError
from poe.core.randomness import uniforms
from poe.density.capabilities import LabelPairs, SpinPairs, label_pairs, spin_pairs
from poe.density.expert import Expert
from poe.samplers.discrete.block_gibbs import gibbs_of
from poe.samplers.discrete.chromatic import ChromaticGibbs, drawn, require_elements, require_pairs
from poe.samplers.discrete.gibbs import Gibbs
from poe.samplers.kernel import Corrected, Density, Info, Kernel, MetropolisState, all_accepted


def components(edges: Tensor, is_joined: Tensor, num_sites: int) -> Tensor:
    """Which sites hang together: for each its component's first site, chain by chain.

    Every root is hooked to the lowest root that an edge leads to, labels are followed to their
    roots, and edges within a component are dropped: a few rounds, each on fewer edges.

    Args:
        edges: The two sites of each, ``(2, m)``.
        is_joined: Which edges count, ``(chains, m)``.
        num_sites: Sites of a chain.

    Returns:
        Labels, ``(chains, num_sites)`` int64, of chain c in
        c · num_sites ... (c + 1) · num_sites − 1.

    References:
        Shiloach & Vishkin (1982), An O(log n) parallel connectivity algorithm,
        doi:10.1016/0196-6774(82)90008-6.

    Example:
        >>> path = torch.tensor([[0, 1, 2], [1, 2, 3]])
        >>> components(path, torch.tensor([[True, False, True], [False, True, True]]), 4)
        tensor([[0, 0, 2, 2],
                [4, 5, 5, 5]])
    """
    num_chains = len(is_joined)
    label = torch.arange(num_chains * num_sites, device=is_joined.device)
    if not is_joined.is_meta:
        chain, edge = is_joined.nonzero(as_tuple=True)
        one, other = edges.to(label.device)[:, edge] + num_sites * chain
        while len(one):
            label = _hooked(label, one, other)
            one, other = label[one], label[other]
            apart = one != other
            one, other = one[apart], other[apart]
    return label.reshape(num_chains, num_sites)


def _hooked(label: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The labels after each root that an edge leads from has gone to the lowest it leads to."""
    high, low = torch.maximum(one, other), torch.minimum(one, other)
    label = label.scatter_reduce(0, high, low, "amin")
    while True:
        followed = label[label]
        if torch.equal(followed, label):
            return label
        label = followed


class ClusterNoise(NamedTuple):
    """Uniforms in [0, 1), one for each pair and each site: ``(chains, m)`` and ``(chains, n)``."""

    bonds: Tensor
    flips: Tensor


@dataclass(frozen=True, eq=False, repr=False)  # tensors do not compare by value
class SwendsenWang(Corrected[MetropolisState]):
    """Swendsen-Wang: one step draws bonds given the spins, then the spins given the bonds.

    A pair that is content, Jᵢⱼ sᵢ sⱼ > 0, is joined with probability 1 − exp(−2 |Jᵢⱼ|); then every
    cluster C of joined sites is flipped as a whole with probability σ(−2 Σ_{i∈C} hᵢ sᵢ), which is
    ½ without a field. Both are draws from conditionals of p(s, bonds): the step leaves the target
    invariant, whatever the signs of couplings and fields, and it is reversible. Near and below the
    critical temperature of attractive couplings it mixes far faster than sites one by one; where
    signs are mixed a cluster may span everything, and little moves.

    Of ``Info``: every step is accepted. A step raises ShapeError where positions have another
    number of elements than the pairs.

    Args:
        pairs: Those of the very target that is sampled, as
            ``poe.density.capabilities.spin_pairs`` gives them.

    Raises:
        PoeError: For anything but SpinPairs.

    References:
        Swendsen & Wang (1987), Nonuniversal critical dynamics in Monte Carlo simulations,
        doi:10.1103/PhysRevLett.58.86; Edwards & Sokal (1988), Generalization of the
        Fortuin-Kasteleyn-Swendsen-Wang representation and Monte Carlo algorithm,
        doi:10.1103/PhysRevD.38.2009 (with fields).

    Example:
        >>> target = experts.Ising.grid((16, 16), coupling=0.44, field=0.01)
        >>> kernel = SwendsenWang(poe.density.capabilities.spin_pairs(target))
        >>> state = kernel.init(target, torch.zeros(5, 16, 16))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel
        (torch.Size([5, 16, 16]), SwendsenWang(480 pairs))
    """

    pairs: SpinPairs

    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False
    is_of_one_density: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.pairs, SpinPairs):
            raise PoeError(
                f"expected SpinPairs, got {type(self.pairs).__name__}: give those that "
                "poe.density.capabilities.spin_pairs(target) finds; where it finds None, use "
                "BlockGibbs or Gibbs"
            )

    def __repr__(self) -> str:
        return f"SwendsenWang({len(self.pairs.couplings)} pairs)"

    def at_level(self, level: Expert) -> Kernel:
        """The same by the pairs of that level, or (block) Gibbs where they are not known.

        Args:
            level: A density on the path to the target.

        Returns:
            The kernel for it.
        """
        found = spin_pairs(level)
        return gibbs_of(level) if found is None else SwendsenWang(found)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> ClusterNoise:
        like = self.pairs.couplings
        sizes = (len(like), len(self.pairs.fields))
        noise = (like.new_empty((len(position), n)).uniform_(generator=generator) for n in sizes)
        return ClusterNoise(*noise)

    @torch.no_grad()
    def transition(
        self, target: Density, state: MetropolisState, noise: ClusterNoise
    ) -> tuple[MetropolisState, Info]:
        edges, couplings, fields = self.pairs
        x = state.position.reshape(len(state.position), -1)
        _check_elements(state.position, len(fields))
        spins = 2 * x.to(couplings.dtype) - 1
        first, second = (spins.index_select(1, end) for end in edges)
        # 1 − exp(−2 J s s') is negative for a pair that is not content: it is never joined.
        is_joined = noise.bonds < -torch.expm1(-2 * couplings * first * second)
        cluster = components(edges, is_joined, len(fields)).flatten()
        pull = torch.zeros_like(spins).flatten()
        pull = pull.index_add(0, cluster, (fields * spins).flatten())
        is_flipped = noise.flips.flatten() < torch.sigmoid(-2 * pull)
        is_flipped = is_flipped[cluster].reshape(x.shape)
        position = torch.where(is_flipped, 1 - x, x).reshape(state.position.shape)
        log_density = target.log_density(position)
        return MetropolisState(position, log_density), all_accepted(log_density)


def _check_elements(position: Tensor, num_sites: int) -> None:
    if position.shape[1:].numel() != num_sites:
        raise ShapeError(
            f"expected positions (chains, *event) of {num_sites} elements, as the pairs' fields "
            f"have, got {tuple(position.shape)}: build SwendsenWang from the pairs of the target "
            "that it samples"
        )


class LabelClusterNoise(NamedTuple):
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

    Of ``Info``: every step is accepted. A step raises ShapeError where positions have another
    number of elements than the pairs.

    Args:
        pairs: Those of the very target that is sampled, as
            ``poe.density.capabilities.label_pairs`` gives them.

    Raises:
        PoeError: For anything but LabelPairs, and for negative couplings, which no bond stands for.

    References:
        Swendsen & Wang (1987), Nonuniversal critical dynamics in Monte Carlo simulations,
        doi:10.1103/PhysRevLett.58.86; Edwards & Sokal (1988), Generalization of the
        Fortuin-Kasteleyn-Swendsen-Wang representation and Monte Carlo algorithm,
        doi:10.1103/PhysRevD.38.2009 (with fields).

    Example:
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
        """The same by the pairs of that level, or what moves there.

        Args:
            level: A density on the path to the target.

        Returns:
            The kernel for it: colour by colour where some pairs are pushed apart, and Gibbs site by
            site where the pairs are not known.
        """
        found = label_pairs(level)
        if found is None:
            return Gibbs(level.space)
        return LabelClusters(found) if found.is_attractive else ChromaticGibbs(found)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> LabelClusterNoise:
        like = self.pairs.fields
        shapes = ((len(position), n) for n in (len(self.pairs.couplings), len(like)))
        return LabelClusterNoise(*(uniforms(s, like=like, generator=generator) for s in shapes))

    @torch.no_grad()
    def transition(
        self, target: Density, state: MetropolisState, noise: LabelClusterNoise
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
