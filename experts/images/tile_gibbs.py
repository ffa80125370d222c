"""Gibbs sampling tile by tile, where what was seen joins a tile with its neighbours: a blur."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from experts.images.patch_mixture import PatchMixture
from experts.images.tiled_mixture import (
    Observed,
    as_picture,
    as_tiles,
    observed,
    own_precisions,
    require_seen,
    root,
)
from poe import PoeError
from poe.core.arguments import checked
from poe.core.randomness import uniforms
from poe.samplers.kernel import Corrected, Density, Info, MetropolisState, all_accepted
from poe.structure.gaussian_factors import GaussianFactor

COLOURS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Of tiles, by whether their row and column are odd: of one colour no two touch."""
ROUNDING = 1e-4


class TileNoise(NamedTuple):
    """For each tile of each chain a uniform and normals.

    Args:
        uniform: ``(n, tiles)``.
        normal: ``(n, tiles, a²)``.
    """

    uniform: Tensor
    normal: Tensor


class Colour(NamedTuple):
    """Tiles of one colour, and what is the same for all of a kind, component by component.

    Of H + B'S_k⁻¹B = LL' of each kind:

    Args:
        tiles: Their numbers, ``(m,)``.
        precisions: H, ``(m, a², a²)``.
        kind_of: The kind of each tile, ``(m,)``.
        inverses: L⁻¹, ``(kinds, k, a², a²)``.
        masses: log a_k N(0; 0, S_k) / |L|, ``(kinds, k)``.
    """

    tiles: Tensor
    precisions: Tensor
    kind_of: Tensor
    inverses: Tensor
    masses: Tensor


@checked
@dataclass(frozen=True, eq=False)
class TileGibbs(Corrected[MetropolisState]):
    """Draws the tiles of one colour given all others, colour by colour, with their components.

    Of the product of a ``PatchMixture`` whose patches do not overlap and Gaussian factors that join
    a tile with those it touches, and no further. Given those a tile's x_t has the density
    Σ_k a_k N(B x_t; 0, L_k L_k') exp(−½ x_t'H_t x_t + h_t'x_t), a mixture of Gaussians: its
    component and x_t are drawn together, exactly, so no component holds a tile back.

    Args:
        patches: Side by side: their stride is their sides.
        factors: What ``poe.gaussian_factors`` says of the other experts.

    Raises:
        PoeError: Where the patches overlap, a factor's weights are hidden variables, or two tiles
            of one colour are joined.
        ImproperError: Where nothing is seen of a tile.

    Example:
        >>> step = torch.tensor([[[0.7, -0.7]]])
        >>> patches = experts.PatchMixture(step, [0.0], [[[0.5]]], (1, 4), (1, 2))
        >>> broad = experts.Gaussian(torch.zeros(1, 4), scale=1.0)
        >>> kernel = TileGibbs(patches, poe.gaussian_factors(broad))
        >>> state = kernel.init(patches * broad, torch.zeros(3, 1, 4))
        >>> g = torch.Generator().manual_seed(0)
        >>> state, _ = kernel.step(patches * broad, state, generator=g)
        >>> state.position.shape
        torch.Size([3, 1, 4])
    """

    patches: PatchMixture
    factors: tuple[GaussianFactor, ...]
    _observed: Observed = field(init=False)
    _colours: tuple[Colour, ...] = field(init=False)
    _own: Tensor = field(init=False)

    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False
    is_of_one_density: ClassVar[bool] = True

    def __post_init__(self) -> None:
        known = observed(self.patches, self.factors)
        if known is None:
            raise PoeError(
                "expected patches side by side and Gaussian factors, got patches that overlap or "
                "weights that are hidden variables: use poe.samplers.GaussianGibbs"
            )
        own, prior = own_precisions(self.patches)
        found = [_colour(self.patches, known, own, prior, colour) for colour in COLOURS]
        object.__setattr__(self, "_observed", known)
        object.__setattr__(self, "_own", own)
        object.__setattr__(self, "_colours", tuple(one for one in found if len(one.tiles)))

    def __repr__(self) -> str:
        return f"TileGibbs({self.patches.bank.out_shape[1:].numel()} tiles)"

    @property
    def gradients_per_step(self) -> int:
        """In evaluations of the factors: one for each colour, and the density."""
        return len(COLOURS) + 1

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> TileNoise:
        """A uniform and the normals of each tile.

        Args:
            position: Pictures, ``(n, rows, cols)``.
            generator: Of the noise.

        Returns:
            Both.
        """
        size, shape = self._own.shape[1], (len(position), self.patches.bank.out_shape[1:].numel())
        return TileNoise(
            uniforms(shape, like=position, generator=generator),
            position.new_empty(*shape, size).normal_(generator=generator),
        )

    @torch.no_grad()
    def transition(
        self, target: Density, state: MetropolisState, noise: TileNoise
    ) -> tuple[MetropolisState, Info]:
        x, bank = state.position, self.patches.bank
        for colour in self._colours:
            tiles, which = as_tiles(x, bank), colour.tiles
            pull = as_tiles(self._observed.shift - self._observed.times(x), bank)[:, which]
            shifts = pull + (colour.precisions @ tiles[:, which, :, None])[..., 0]
            drawn = self._drawn(colour, shifts, noise.uniform[:, which], noise.normal[:, which])
            x = as_picture(tiles.index_copy(1, which, drawn), bank)
        state = self.state_at(target, x)
        return state, all_accepted(state.log_density)

    def _drawn(self, colour: Colour, shifts: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """x_t of the tiles of a colour: ``(n, m, a²)``."""
        drawn = torch.empty_like(shifts)
        for kind, (inverses, masses) in enumerate(zip(colour.inverses, colour.masses, strict=True)):
            which = (colour.kind_of == kind).nonzero()[:, 0]
            own = shifts[:, which]
            whitened = torch.einsum("kij,nmj->nmki", inverses, own)
            chances = (masses + 0.5 * whitened.square().sum(-1)).softmax(-1).cumsum(-1)
            component = (chances < (uniform[:, which, None] * chances[..., -1:])).sum(-1)
            at = component[..., None, None].expand(*component.shape, 1, own.shape[-1])
            root = whitened.gather(2, at)[:, :, 0] + normal[:, which]
            x = torch.einsum("nmji,nmj->nmi", inverses[component], root)
            drawn = drawn.index_copy(1, which, x)
        return drawn


def _colour(
    patches: PatchMixture, known: Observed, own: Tensor, prior: Tensor, colour: tuple[int, int]
) -> Colour:
    """The tiles of a colour, and what the factors say of each by itself.

    Raises PoeError where two of them are joined, ImproperError where nothing holds one of them.
    """
    bank = patches.bank
    _, rows, cols = bank.out_shape
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    is_own = ((row % 2 == colour[0]) & (col % 2 == colour[1])).flatten().to(own.device)
    which, size = is_own.nonzero()[:, 0], own.shape[1]
    units = torch.eye(size).to(own)[:, None] * is_own[:, None]  # (a², tiles, a²)
    precisions = as_tiles(known.times(as_picture(units, bank)), bank)[:, which].movedim(0, -1)
    probe = torch.linspace(0, 1e4, is_own.numel() * size).cos().to(own).view(1, -1, size)
    probe = probe * is_own[:, None]
    found = as_tiles(known.times(as_picture(probe, bank)), bank)[:, which]
    gap = found - (precisions @ probe[:, which, :, None])[..., 0]
    if gap.numel() and not bool(gap.abs().amax() <= ROUNDING * precisions.abs().amax()):
        raise PoeError(
            "expected factors that join a tile only with those it touches, got tiles of one colour "
            "joined: use larger patches, or poe.samplers.GaussianGibbs"
        )
    require_seen(patches, ["PatchMixture", "its Gaussian factors"], precisions, which)
    kinds, kind_of = torch.unique(precisions, dim=0, return_inverse=True)
    factors = root(kinds[:, None] + own)
    inverses = torch.linalg.solve_triangular(factors, torch.eye(size).to(own), upper=False)
    masses = prior - factors.diagonal(dim1=2, dim2=3).log().sum(-1)
    return Colour(which, precisions, kind_of, inverses, masses)
