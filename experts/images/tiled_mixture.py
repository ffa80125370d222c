"""Mixtures of Gaussians on the tiles of a picture, times what was seen of it: in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.images.operators import FilterBank
from experts.images.patch_mixture import PatchMixture
from poe import Expert, ImproperError, PoeError, Product
from poe.core.arguments import checked
from poe.core.randomness import choose, resolve
from poe.density.capabilities import Simplified, distribute
from poe.structure.gaussian_factors import GaussianFactor, gaussian_factors

ROUNDING = 1e-4
"""Of single precision, relative to the largest entry, in what a tile says of its neighbours."""

MAX_NUMBERS = 2**24
"""Of matrices at once while drawing: 64 MiB in single precision."""


class Observed(NamedTuple):
    """What Gaussian factors say of x: exp(−½ x'Qx + b'x).

    Args:
        times: From x ``(n, *event)`` to Q x.
        shift: b, ``(1, *event)``.
    """

    times: Callable[[Tensor], Tensor]
    shift: Tensor


class Seen(NamedTuple):
    """exp(−½ x'Hx + h'x) of every tile's pixels by itself.

    Args:
        precisions: H, ``(tiles, a², a²)``.
        shifts: h, ``(tiles, a²)``.
    """

    precisions: Tensor
    shifts: Tensor


class TiledMixture(Expert):
    """The normalised product of a ``PatchMixture`` whose patches do not overlap and Gaussians.

    Where what was seen of a picture (noise, missing pixels, means of blocks) joins no two tiles,
    the posterior is a mixture of Gaussians on each tile by itself:

    p(x) ∝ Π_t Σ_k a_k N(B x_t; 0, L_k L_k') exp(−½ x_t'H_t x_t + h_t'x_t)

    so that its normaliser is known, and draws are exact: a component, then its Gaussian. It is what
    ``poe.simplify`` makes of such a product, and nobody builds it by hand.

    Args:
        target: The product itself.
        patches: Its factor on the tiles.
        seen: What the others say of each tile: H and h.
        constant: What they add to the log-density at x = 0, ``()``.

    References:
        Yu, Sapiro & Mallat (2012), Solving inverse problems with piecewise linear estimators: from
        Gaussian mixture models to structured sparsity, arXiv:1006.3056 (there with the most
        probable component only).

    Example:
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
    may_be_infinite = ()

    @checked
    def __init__(
        self, target: Product, patches: PatchMixture, seen: Seen, constant: Tensor
    ) -> None:
        super().__init__()
        self.target, self.space, self.bank = target, patches.space, patches.bank
        kinds, kind_of = torch.unique(seen.precisions, dim=0, return_inverse=True)
        own, prior = own_precisions(patches)
        found = [_component(kinds + precision, kind_of, seen.shifts) for precision in own]
        values = prior[:, None] + torch.stack([log_mass for _, log_mass in found])
        self.register_buffer("own", own)
        self.register_buffer("precisions", seen.precisions)
        self.register_buffer("means", torch.stack([mean for mean, _ in found]))
        self.register_buffer("probabilities", values.softmax(0))
        self.register_buffer("log_z", values.logsumexp(0).sum() + constant)

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, normalised.

        Args:
            x: Pictures, ``(*batch, rows, cols)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        return self.target(x) - self.log_z

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x); equals ``log_density``.

        Args:
            x: Pictures, ``(*batch, rows, cols)``.

        Returns:
            ``(*batch,)``.
        """
        return self(x)

    @checked
    @torch.no_grad()
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws.

        Args:
            num_samples: How many.
            generator: Of the draws; a fresh one if left out.

        Returns:
            ``(num_samples, rows, cols)``.
        """
        generator = resolve(generator, self.log_z.device)
        chances = self.probabilities.mT
        chosen = choose(chances, num_samples, generator=generator)
        size = max(1, MAX_NUMBERS // max(1, self.precisions.numel()))
        draws = [self._draw(part, generator) for part in chosen.mT.split(size)]
        return as_picture(torch.cat(draws), self.bank)

    def _draw(self, component: Tensor, generator: torch.Generator) -> Tensor:
        """Of the components of each tile ``(m, tiles)`` a draw each, ``(m, tiles, a²)``.

        Tiles of which the same was seen have a factor for each of their components, once.
        """
        kinds, kind_of = torch.unique(self.precisions, dim=0, return_inverse=True)
        pairs, which = torch.unique(component * len(kinds) + kind_of, return_inverse=True)
        factors = root(kinds[pairs % len(kinds)] + self.own[pairs // len(kinds)])
        mean = self.means[component, torch.arange(len(kind_of), device=component.device)]
        noise = torch.empty_like(mean).normal_(generator=generator)
        return mean + solve(factors.mT[which], noise, upper=True)

    @torch.no_grad()
    def mean(self) -> Tensor:
        """E x, exactly.

        Returns:
            ``(rows, cols)``.
        """
        return as_picture((self.probabilities[..., None] * self.means).sum(0)[None], self.bank)[0]

    def extra_repr(self) -> str:
        count, tiles = self.probabilities.shape
        return f"{tiles} tiles, {count} components"


@distribute.register
def _(factor: PatchMixture, others: Sequence[Expert]) -> Simplified | None:
    found = [gaussian_factors(other) for other in others]
    if not others or any(part is None for part in found):
        return None
    known = observed(factor, [one for part in found if part is not None for one in part])
    seen = None if known is None else _tile_by_tile(factor, known)
    if seen is None:
        return None
    names = [type(expert).__name__ for expert in (factor, *others)]
    require_seen(factor, names, seen.precisions, torch.arange(len(seen.precisions)))
    zero = torch.zeros(1, *factor.space.event_shape).to(factor.logits)
    constant = sum((other(zero)[0] for other in others), torch.zeros(()).to(zero))
    expert = TiledMixture(Product(factor, *others), factor, seen, constant.detach())
    return Simplified(expert, expert.log_z)


def observed(patches: PatchMixture, factors: Sequence[GaussianFactor]) -> Observed | None:
    """Q and b of the factors; None where patches overlap, or weights are hidden variables."""
    if patches.bank.stride != patches.bank.filters.shape[1:]:
        return None
    if not all(factor.is_fixed for factor in factors):
        return None
    zero = torch.zeros(1, *patches.space.event_shape).to(patches.logits)
    responses = [factor.operator(zero) for factor in factors]
    weights = [f.draw(r, torch.zeros_like(r)) for f, r in zip(factors, responses, strict=True)]
    pairs = list(zip(factors, weights, strict=True))

    def times(x: Tensor) -> Tensor:
        return torch.stack([f.operator.adjoint(w.times(f.operator(x))) for f, w in pairs]).sum(0)

    shifts = [
        f.operator.adjoint(w.times(f.target.expand(1, *f.operator.out_shape))) for f, w in pairs
    ]
    return Observed(times, torch.stack(shifts).sum(0))


def own_precisions(patches: PatchMixture) -> tuple[Tensor, Tensor]:
    """B'S_k⁻¹B ``(k, a², a²)``, and log a_k N(0; 0, S_k) times (2π)^½ for each direction of x."""
    filters, inverses = patches.bank.filters.flatten(1), patches.inverse_trils()
    precisions = filters.mT @ inverses.mT @ inverses @ filters
    free = precisions.shape[1] - len(filters)
    prior = patches.logits.log_softmax(-1) + inverses.diagonal(dim1=1, dim2=2).log().sum(1)
    return precisions, prior + 0.5 * free * math.log(2 * math.pi)


def require_seen(
    patches: PatchMixture, names: Sequence[str], precisions: Tensor, tiles: Tensor
) -> None:
    """Raise ImproperError where a tile may move freely in a direction that its filters ignore.

    With the columns of N the directions u with B u = 0: where N'H_t N is singular the density of
    tile t, of precisions H_t ``(m, a², a²)``, is constant along one of them.
    """
    filters = patches.bank.filters.flatten(1).to("cpu", torch.float64)
    rank = int(torch.linalg.matrix_rank(filters))
    free = torch.linalg.svd(filters).Vh[rank:]
    if not len(free):
        return
    seen = precisions.to("cpu", torch.float64)
    lowest = torch.linalg.eigvalsh(free @ seen @ free.mT)[:, 0]
    rounding = torch.finfo(precisions.dtype).eps * seen.diagonal(dim1=1, dim2=2).sum(1)
    unseen = (lowest <= rounding).nonzero()[:, 0]
    if len(unseen):
        raise _improper(patches.bank, names, int(tiles[unseen[0]]), len(unseen))


def _improper(bank: FilterBank, names: Sequence[str], tile: int, count: int) -> ImproperError:
    height, width = bank.filters.shape[1:]
    row, col = divmod(tile, bank.out_shape[2])
    others = f", and {count - 1} tiles more" if count > 1 else ""
    return ImproperError(
        f"expected factors that see something of every tile, got {' and '.join(names)}, "
        f"which leave the mean of rows {row * height} to {(row + 1) * height - 1} and columns "
        f"{col * width} to {(col + 1) * width - 1} free{others}: the density is constant in a "
        "direction there, and has no finite integral; multiply by a broad experts.Gaussian"
    )


def as_tiles(x: Tensor, bank: FilterBank) -> Tensor:
    """Side by side: ``(n, *event) -> (n, tiles, a²)``."""
    sides = tuple(bank.filters.shape[1:])
    return F.unfold(x[:, None], sides, stride=sides).mT


def as_picture(tiles: Tensor, bank: FilterBank) -> Tensor:
    """The reverse: ``(n, tiles, a²) -> (n, *event)``."""
    sides = tuple(bank.filters.shape[1:])
    return F.fold(tiles.mT, tuple(bank.in_shape), sides, stride=sides)[:, 0]


def root(precisions: Tensor) -> Tensor:
    """L of P = L L', of a batch. Raises PoeError where P is singular to the dtype's rounding."""
    found, info = torch.linalg.cholesky_ex(precisions)
    pivots = found.diagonal(dim1=-2, dim2=-1).square().amin(-1)
    largest = precisions.diagonal(dim1=-2, dim2=-1).amax(-1)
    if bool(((info > 0) | (pivots <= 4 * torch.finfo(pivots.dtype).eps * largest)).any()):
        raise PoeError(
            "expected factors that hold every tile, got one so faint beside the patches' own "
            f"precision that {precisions.dtype} cannot tell it from none: use .double(), or "
            "multiply by an experts.Gaussian"
        )
    return found


def solve(factors: Tensor, shifts: Tensor, *, upper: bool) -> Tensor:
    """L⁻¹v, of a batch."""
    return torch.linalg.solve_triangular(factors, shifts[..., None], upper=upper)[..., 0]


def _tile_by_tile(patches: PatchMixture, known: Observed) -> Seen | None:
    """What is said of each tile, asked once for each of its pixels; None where tiles are joined.

    Whether they are shows at a picture of no regularity.
    """
    bank, size = patches.bank, patches.bank.filters.shape[1:].numel()
    count = bank.out_shape[1:].numel()
    units = torch.eye(size).to(patches.logits)[:, None].expand(size, count, size)
    precisions = as_tiles(known.times(as_picture(units, bank)), bank).movedim(0, -1)
    probe = torch.linspace(0, 1e4, count * size).cos().to(precisions).view(1, count, size)
    found = as_tiles(known.times(as_picture(probe, bank)), bank)
    gap = found - (precisions @ probe[..., None])[..., 0]
    if not bool(gap.abs().amax() <= ROUNDING * precisions.abs().amax()):
        return None
    return Seen(precisions, as_tiles(known.shift, bank)[0])


def _component(precisions: Tensor, kind_of: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Of exp(−½ x'Px + h'x) for each tile: its mean, and the log of its integral up to (2π)^½."""
    factors = root(precisions)
    log_det = factors.diagonal(dim1=1, dim2=2).log().sum(1)[kind_of]
    whitened = solve(factors[kind_of], shifts, upper=False)
    mean = solve(factors.mT[kind_of], whitened, upper=True)
    return mean, 0.5 * whitened.square().sum(1) - log_det
