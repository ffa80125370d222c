"""A mixture of Gaussians as the expert on every patch of a picture."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.images.operators import FilterBank
from experts.parameters import ArrayLike, keep, real
from poe import Expert, Real, ShapeError
from poe.io import register
from poe.structure.gaussian_factors import GaussianFactor, gaussian_factors


class PatchMixture(Expert):
    """A product, over the patches of a picture, of one mixture of Gaussians of filter responses.

    log p̃(x) = Σ_p log Σ_k a_k N(r_p; 0, L_k L_k'),  r_p = B (patch of x at p),  a =
    softmax(logits)

    A field of experts whose experts see all responses B of a patch together, so that one may know
    edges of a direction, another smooth shades. Unnormalised, and flat along what no response sees
    (constant pictures, where filters sum to zero): multiply by a broad Gaussian. Patches side by
    side (a ``stride`` of their sides) are independent tiles, whose posterior is in closed form
    (``TiledMixture``). Of patches that overlap each pixel counts several times, so that a mixture
    fitted to single patches is far too sure of itself there. ``poe.samplers.GaussianGibbs`` samples
    any of them times a likelihood.

    Args:
        filters: B, ``(d, a, a)``. What is an ``nn.Parameter`` stays one, here and below.
        logits: Of the weights a, ``(k,)``.
        scale_trils: L, ``(k, d, d)``, lower triangular.
        shape: Of the picture, ``(rows, cols)``.
        stride: Pixels from patch to patch, down and to the right; a pair for both.

    Raises:
        ShapeError: Where they do not fit.

    References:
        Zoran & Weiss (2011), From learning models of natural image patches to whole image
        restoration, ICCV (there as a bound's approximation, not as a density).

        Roth & Black (2009), Fields of experts, International Journal of Computer Vision,
        doi:10.1007/s11263-008-0197-6 (as experts of a product).

    Example:
        >>> step = torch.tensor([[[1.0, -1.0]]])
        >>> patches = PatchMixture(step, [0.0, 0.0], [[[0.1]], [[1.0]]], shape=(1, 3))
        >>> patches(torch.tensor([[[0.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]]))
        tensor([ 1.5716, -1.3263])
    """

    logits: Tensor
    scale_trils: Tensor
    may_be_infinite = ()

    def __init__(
        self,
        filters: Tensor,
        logits: ArrayLike,
        scale_trils: ArrayLike,
        shape: tuple[int, int],
        stride: int | tuple[int, int] = 1,
    ) -> None:
        super().__init__()
        self.bank = FilterBank(filters, shape, stride)
        self.space = Real(tuple(shape))
        keep(self, "logits", real("logits", logits))
        keep(self, "scale_trils", real("scale_trils", scale_trils))
        if self.logits.ndim != 1:
            raise ShapeError(f"expected logits of shape (k,), got {tuple(self.logits.shape)}")
        count, size = len(self.logits), len(self.bank.filters)
        if self.scale_trils.shape != (count, size, size):
            raise ShapeError(
                f"expected scale_trils of shape {(count, size, size)}, one for each of {count} "
                f"components and {size} responses, got {tuple(self.scale_trils.shape)}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, unnormalised.

        Args:
            x: Pictures, ``(*batch, rows, cols)``.

        Returns:
            log p̃(x), ``(*batch,)``.
        """
        batch = self.space.batch_shape(x)
        responses = self.bank(x.reshape(-1, *self.space.event_shape))
        values = self.log_terms(_rows(responses)).logsumexp(0)
        return values.reshape(len(responses), -1).sum(1).reshape(batch)

    def log_terms(self, rows: Tensor) -> Tensor:
        """log a_k N(r; 0, L_k L_k') of every component.

        Args:
            rows: r, responses of patches, ``(m, d)``.

        Returns:
            ``(k, m)``.
        """
        inverses = self.inverse_trils()
        constants = self.logits.log_softmax(-1) + inverses.diagonal(dim1=1, dim2=2).log().sum(1)
        squares = (inverses @ rows.mT).square().sum(1)
        size = rows.shape[1]
        return constants[:, None] - 0.5 * squares - 0.5 * size * math.log(2 * math.pi)

    def on(self, shape: tuple[int, int]) -> PatchMixture:
        """The same experts, shared, on pictures of another shape.

        Args:
            shape: ``(rows, cols)``.

        Returns:
            The mixture there, of the same stride.

        Raises:
            ShapeError: Where the patches do not fit in.
        """
        return PatchMixture(
            self.bank.filters, self.logits, self.scale_trils, shape, self.bank.stride
        )

    def draw_weights(self, responses: Tensor, uniforms: Tensor) -> PatchWeights:
        """The precisions of a component drawn for each patch.

        Args:
            responses: ``(n, d, rows, cols)``, of the patches.
            uniforms: Of [0, 1), as many; of each patch the first is used.

        Returns:
            One precision matrix for each patch.
        """
        cumulative = self.log_terms(_rows(responses)).softmax(0).cumsum(0)
        chance = uniforms[:, 0].flatten() * cumulative[-1]
        component = (cumulative < chance).sum(0)
        inverses = self.inverse_trils()
        precisions = inverses.mT @ inverses
        filters = self.bank.filters.flatten(1)
        squares = torch.einsum("ji,kjl,li->ki", filters, precisions, filters)
        return PatchWeights(
            self.bank, precisions[component], inverses.mT[component], squares[component]
        )

    def extra_repr(self) -> str:
        return f"{len(self.logits)} components"

    def inverse_trils(self) -> Tensor:
        """L⁻¹ of every component: ``(k, d, d)``."""
        eye = torch.eye(self.scale_trils.shape[1]).to(self.scale_trils)
        return torch.linalg.solve_triangular(self.scale_trils, eye, upper=False)


class PatchWeights(NamedTuple):
    """W of one precision matrix for each patch, over m patches of all pictures.

    Args:
        bank: The filters.
        precisions: ``(m, d, d)``.
        roots: R of precisions RR', ``(m, d, d)``.
        squares: The diagonal of each patch's pixels, ``(m, a a)``.
    """

    bank: FilterBank
    precisions: Tensor
    roots: Tensor
    squares: Tensor

    def times(self, responses: Tensor) -> Tensor:
        return self._each(self.precisions, responses)

    def root(self, normals: Tensor) -> Tensor:
        return self._each(self.roots, normals)

    def diagonal(self) -> Tensor:
        _, rows, cols = self.bank.out_shape
        columns = self.squares.reshape(-1, rows * cols, self.squares.shape[1]).mT
        sides, shape = self.bank.filters.shape[1:], self.bank.in_shape
        return F.fold(columns, tuple(shape), tuple(sides), stride=self.bank.stride)[:, 0]

    def _each(self, matrices: Tensor, responses: Tensor) -> Tensor:
        n, size, rows, cols = responses.shape
        out = torch.bmm(matrices, _rows(responses)[:, :, None])[:, :, 0]
        return out.reshape(n, rows, cols, size).movedim(-1, 1)


@gaussian_factors.register
def _(expert: PatchMixture) -> tuple[GaussianFactor, ...]:
    return (GaussianFactor(expert.bank, expert.logits.new_zeros(()), expert.draw_weights),)


register(
    PatchMixture,
    lambda e: {
        "filters": e.bank.filters,
        "logits": e.logits,
        "scale_trils": e.scale_trils,
        "shape": tuple(e.space.event_shape),
        "stride": e.bank.stride,
    },
    lambda f: PatchMixture(**f),
    name="experts.PatchMixture",
    formerly=("experts.patch_mixture.PatchMixture",),
)


def _rows(responses: Tensor) -> Tensor:
    """One row for each patch: ``(n, d, rows, cols) -> (n rows cols, d)``."""
    return responses.movedim(1, -1).flatten(0, 2)
