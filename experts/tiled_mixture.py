"""Mixtures of Gaussians on the tiles of a picture, times what was seen of it: in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.patch_mixture import PatchMixture
from poe import Expert, Product
from poe.gaussian_factors import GaussianFactor, Weights, gaussian_factors
from poe.properties import Simplified, distribute
from poe.randomness import resolve

ROUNDING = 1e-4
"""Of single precision, relative to the largest entry, in what a tile says of its neighbours."""


class Seen(NamedTuple):
    """exp(−½ x'Hx + h'x) of every tile's pixels by itself: ``(tiles, a², a²)``, ``(tiles, a²)``."""

    precisions: Tensor
    shifts: Tensor


class TiledMixture(Expert):
    """The normalised product of a ``PatchMixture`` whose patches do not overlap and Gaussians.

    Where what was seen of a picture (noise, missing pixels, means of blocks) joins no two tiles,
    the posterior is a mixture of Gaussians on each tile by itself:

    p(x) ∝ Π_t Σ_k a_k N(B x_t; 0, L_k L_k') exp(−½ x_t'H_t x_t + h_t'x_t)

    so that its normaliser is known, and draws are exact: a component, then its Gaussian. It is
    what ``poe.simplify`` makes of such a product, and nobody builds it by hand; ``target`` is the
    product itself.

    Source: Yu, Sapiro & Mallat 2012 (there with the most probable component only).

    >>> step = torch.tensor([[[0.7, -0.7]]])
    >>> patches = PatchMixture(step, [0.0], [[[0.5]]], shape=(1, 4), stride=(1, 2))
    >>> product = patches * experts.Gaussian(torch.zeros(1, 4), scale=1.0)
    >>> poe.simplify(product).expert.sample(3, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([3, 1, 4])
    """

    own: Tensor
    precisions: Tensor
    means: Tensor
    probabilities: Tensor
    log_z: Tensor

    def __init__(
        self, target: Product, patches: PatchMixture, seen: Seen, constant: Tensor
    ) -> None:
        super().__init__()
        self.target, self.space, self.sides = target, patches.space, patches.bank.filters.shape[1:]
        kinds, kind_of = torch.unique(seen.precisions, dim=0, return_inverse=True)
        filters, inverses = patches.bank.filters.flatten(1), patches.inverse_trils()
        own = filters.mT @ inverses.mT @ inverses @ filters  # (k, a², a²)
        size, freedom = own.shape[1], filters.shape[0]
        prior = patches.logits.log_softmax(-1) + inverses.diagonal(dim1=1, dim2=2).log().sum(1)
        prior = prior + 0.5 * (size - freedom) * math.log(2 * math.pi)
        found = [_component(kinds + precision, kind_of, seen.shifts) for precision in own]
        values = prior[:, None] + torch.stack([log_mass for _, log_mass in found])
        self.register_buffer("own", own)
        self.register_buffer("precisions", seen.precisions)
        self.register_buffer("means", torch.stack([mean for mean, _ in found]))
        self.register_buffer("probabilities", values.softmax(0))
        self.register_buffer("log_z", values.logsumexp(0).sum() + constant)

    def forward(self, x: Tensor) -> Tensor:
        return self.target(x) - self.log_z

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x): ``(*batch, *event) -> (*batch,)``; equals ``log_density``."""
        return self(x)

    @torch.no_grad()
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, *event)``."""
        generator = resolve(generator, self.log_z.device)
        chances = self.probabilities.mT
        chosen = torch.multinomial(chances, num_samples, replacement=True, generator=generator)
        tiles = torch.arange(len(chances), device=chosen.device)
        draws = []
        for component in chosen.mT:
            mean = self.means[component, tiles]
            noise = torch.empty_like(mean).normal_(generator=generator)
            factors = torch.linalg.cholesky(self.precisions + self.own[component])
            draws.append(mean + _solve(factors.mT, noise, upper=True))
        return self._picture(torch.stack(draws))

    @torch.no_grad()
    def mean(self) -> Tensor:
        """E x, exactly: ``(*event)``."""
        return self._picture((self.probabilities[..., None] * self.means).sum(0)[None])[0]

    def _picture(self, rows: Tensor) -> Tensor:
        """Tiles laid side by side: ``(n, tiles, a²) -> (n, *event)``."""
        shape, sides = list(self.space.event_shape), list(self.sides)
        return F.fold(rows.mT, shape, sides, stride=sides)[:, 0]

    def extra_repr(self) -> str:
        count, tiles = self.probabilities.shape
        return f"{tiles} tiles, {count} components"


@distribute.register
def _(factor: PatchMixture, others: Sequence[Expert]) -> Simplified | None:
    if factor.bank.stride != factor.bank.filters.shape[1:]:  # the patches overlap
        return None
    found = [gaussian_factors(other) for other in others]
    known = [one for part in found if part is not None for one in part]
    if not others or any(part is None for part in found):
        return None
    seen = _seen(factor, known)
    if seen is None:
        return None
    target = Product(factor, *others)
    zero = torch.zeros(1, *factor.space.event_shape).to(factor.logits)
    constant = sum((other(zero)[0] for other in others), torch.zeros(()).to(zero))
    expert = TiledMixture(target, factor, seen, constant.detach())
    return Simplified(expert, expert.log_z)


def _seen(patches: PatchMixture, factors: Sequence[GaussianFactor]) -> Seen | None:
    """What the factors say of each tile, by asking once for each of its pixels.

    None where their weights are hidden variables, or where they join tiles.
    """
    shape, sides = patches.space.event_shape, patches.bank.filters.shape[1:]
    size = sides.numel()
    weights = [_fixed_weights(factor, shape, patches.logits) for factor in factors]
    known = [w for w in weights if w is not None]
    if len(known) < len(factors):
        return None

    def precision(x: Tensor) -> Tensor:
        pairs = zip(factors, known, strict=True)
        return torch.stack([f.operator.adjoint(w.times(f.operator(x))) for f, w in pairs]).sum(0)

    def tiles(x: Tensor) -> Tensor:
        return F.unfold(x[:, None], list(sides), stride=sides).mT  # (n, tiles, a²)

    units = torch.eye(size).to(patches.logits)
    repeats = [rows // side for rows, side in zip(shape, sides, strict=True)]
    columns = tiles(precision(units.reshape(size, *sides).repeat(1, *repeats)))
    precisions = columns.movedim(0, -1)
    probe = torch.linspace(-1, 1, shape.numel()).sin().reshape(1, *shape).to(units)
    probe = probe * torch.linspace(0, 1e4, shape.numel()).cos().reshape(1, *shape).to(units)
    expected = (precisions @ tiles(probe)[0, :, :, None])[..., 0]
    gap = (tiles(precision(probe))[0] - expected).abs().amax()
    if not bool(gap <= ROUNDING * precisions.abs().amax()):
        return None
    pairs = zip(factors, known, strict=True)
    parts = [
        f.operator.adjoint(w.times(f.target.expand(1, *f.operator.out_shape))) for f, w in pairs
    ]
    return Seen(precisions, tiles(torch.stack(parts).sum(0))[0])


def _fixed_weights(factor: GaussianFactor, shape: torch.Size, like: Tensor) -> Weights | None:
    """Its weights, where they are the same whatever x is."""
    if not factor.is_fixed:
        return None
    responses = factor.operator(torch.zeros(1, *shape).to(like))
    return factor.draw(responses, torch.zeros_like(responses))


def _component(precisions: Tensor, kind_of: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Of exp(−½ x'Px + h'x) for each tile: its mean, and the log of its integral up to (2π)^½."""
    factors = torch.linalg.cholesky(precisions)
    log_det = factors.diagonal(dim1=1, dim2=2).log().sum(1)[kind_of]
    whitened = _solve(factors[kind_of], shifts, upper=False)
    mean = _solve(factors.mT[kind_of], whitened, upper=True)
    return mean, 0.5 * whitened.square().sum(1) - log_det


def _solve(factors: Tensor, shifts: Tensor, upper: bool) -> Tensor:
    return torch.linalg.solve_triangular(factors, shifts[..., None], upper=upper)[..., 0]
