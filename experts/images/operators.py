"""Linear maps A of pictures, with their adjoints: what a camera, or a filter, does to a picture."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experts.parameters import ArrayLike, fixed, keep, pair, real, sizes, whole
from poe import PoeError, Real, ShapeError
from poe.core.arguments import checked
from poe.io import register

BOUNDARIES = ("cut", "periodic")


class LinearOperator(nn.Module):
    """A linear map of events: ``forward`` is A x, ``adjoint`` is A'y, so that <A x, y> = <x, A'y>.

    Shapes: x ``(n, *in_shape)``, y ``(n, *out_shape)``. A subclass sets the two shapes.

    Example:
        >>> halve = BlockMean((4, 4), 2)
        >>> x, y = torch.randn(1, 4, 4), torch.randn(1, 2, 2)
        >>> torch.allclose((halve(x) * y).sum(), (x * halve.adjoint(y)).sum(), atol=1e-5)
        True
    """

    may_be_infinite = ()

    in_shape: torch.Size
    out_shape: torch.Size

    def forward(self, x: Tensor) -> Tensor:
        """A x.

        Args:
            x: ``(n, *in_shape)``.

        Returns:
            ``(n, *out_shape)``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward")

    def adjoint(self, y: Tensor) -> Tensor:
        """A'y.

        Args:
            y: ``(n, *out_shape)``.

        Returns:
            ``(n, *in_shape)``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement adjoint")

    def column_squares(self, weights: Tensor) -> Tensor:
        """The diagonal of A' diag(w) A: what a solver is preconditioned with.

        Args:
            weights: w, ``(n, *out_shape)``.

        Returns:
            ``(n, *in_shape)``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement column_squares")

    def extra_repr(self) -> str:
        return f"{tuple(self.in_shape)} -> {tuple(self.out_shape)}"


class Identity(LinearOperator):
    """A x = x, for denoising.

    Args:
        shape: Of x.

    Example:
        >>> Identity((2, 2))(torch.ones(1, 2, 2)).shape
        torch.Size([1, 2, 2])
    """

    @checked
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.in_shape = self.out_shape = torch.Size(sizes("shape", shape, 0))

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def column_squares(self, weights: Tensor) -> Tensor:
        return weights


class Mask(LinearOperator):
    """(A x)ᵢ = mᵢ xᵢ, with m of 0 and 1: what is 0 was not seen, for inpainting.

    Args:
        mask: m, ``(*event)``.

    Raises:
        PoeError: For values that are not 0 or 1.

    Example:
        >>> Mask(torch.tensor([[1.0, 0.0]]))(torch.full((1, 1, 2), 3.0))
        tensor([[[3., 0.]]])
    """

    mask: Tensor

    @checked
    def __init__(self, mask: ArrayLike) -> None:
        super().__init__()
        fixed("mask", mask, "give a tensor")
        mask = real("mask", mask)
        if not mask.is_meta and not bool(((mask == 0) | (mask == 1)).all()):
            raise PoeError(
                f"expected a mask of 0 and 1, got values from {mask.min().item():g} to "
                f"{mask.max().item():g}: use mask > 0.5"
            )
        self.register_buffer("mask", mask)
        self.in_shape = self.out_shape = mask.shape

    def forward(self, x: Tensor) -> Tensor:
        return self.mask * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.mask * y

    def column_squares(self, weights: Tensor) -> Tensor:
        return self.mask * weights


class Window(LinearOperator):
    """A part of a larger picture: what ``expert.at(window)`` reads an expert of the part through.

    Args:
        shape: Of the larger picture, ``(rows, cols)``.
        part: Shape of the smaller one.
        corner: Row and column where it begins.

    Raises:
        ShapeError: Where it does not lie inside.

    Example:
        >>> Window((2, 3), part=(1, 2), corner=(1, 0))(torch.arange(6.0).reshape(1, 2, 3))
        tensor([[[3., 4.]]])
    """

    @checked
    def __init__(
        self, shape: tuple[int, int], part: tuple[int, int], corner: tuple[int, int]
    ) -> None:
        super().__init__()
        shape, part = pair("shape", shape), pair("part", part)
        corner = pair("corner", corner, None)
        margins = [s - p - c for s, p, c in zip(shape, part, corner, strict=True)]
        if min(margins) < 0 or min(corner) < 0:
            raise ShapeError(
                f"expected a part inside the picture {tuple(shape)}, got one of {tuple(part)} at "
                f"{tuple(corner)}"
            )
        self.corner = tuple(corner)
        self.in_shape, self.out_shape = torch.Size(shape), torch.Size(part)
        self.space = Real(tuple(shape))
        self.margins = (corner[1], margins[1], corner[0], margins[0])

    def forward(self, x: Tensor) -> Tensor:
        (row, col), (rows, cols) = self.corner, self.out_shape
        return x[..., row : row + rows, col : col + cols]

    def adjoint(self, y: Tensor) -> Tensor:
        return F.pad(y, self.margins)

    def column_squares(self, weights: Tensor) -> Tensor:
        return self.adjoint(weights)


class FilterBank(LinearOperator):
    """The responses of k filters, wherever they fit in: (A x)_k = correlation of x with filter k.

    Args:
        filters: ``(k, a, b)``; a parameter stays one.
        shape: Of x, ``(rows, cols)``.
        stride: With 1 the responses are ``(k, rows - a + 1, cols - b + 1)``, with a larger one
            every so many of them, down and to the right; a pair for both.

    Raises:
        ShapeError: Where a filter does not fit in, or the last response would leave pixels out.

    Example:
        >>> difference = FilterBank(torch.tensor([[[1.0, -1.0]]]), (2, 3))
        >>> difference(torch.tensor([[[1.0, 2, 4], [0, 0, 1]]]))
        tensor([[[[-1., -2.],
                  [ 0., -1.]]]])
    """

    filters: Tensor

    def __init__(
        self, filters: ArrayLike, shape: tuple[int, int], stride: int | tuple[int, int] = 1
    ) -> None:
        super().__init__()
        filters, shape = real("filters", filters), pair("shape", shape)
        if filters.ndim != 3 or any(f > s for f, s in zip(filters.shape[1:], shape, strict=True)):
            raise ShapeError(
                f"expected filters of shape (k, a, b) no larger than the picture {tuple(shape)}, "
                f"got {tuple(filters.shape)}"
            )
        keep(self, "filters", filters)
        count, height, width = filters.shape
        self.in_shape = torch.Size(shape)
        both = stride if isinstance(stride, Iterable) else (stride, stride)
        down, right = pair("stride", both)
        if (shape[0] - height) % down or (shape[1] - width) % right:
            raise ShapeError(
                f"expected a stride that divides {shape[0] - height} and {shape[1] - width}, so "
                f"that no pixel is left out, got {stride}: crop the picture"
            )
        self.stride = (down, right)
        rows, cols = (shape[0] - height) // down + 1, (shape[1] - width) // right + 1
        self.out_shape = torch.Size((count, rows, cols))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x[:, None], self.filters[:, None], stride=self.stride)

    def adjoint(self, y: Tensor) -> Tensor:
        return F.conv_transpose2d(y, self.filters[:, None], stride=self.stride)[:, 0]

    def column_squares(self, weights: Tensor) -> Tensor:
        filters = self.filters[:, None].square()
        return F.conv_transpose2d(weights, filters, stride=self.stride)[:, 0]


class Blur(LinearOperator):
    """Convolution with a kernel k of odd sides: (A x)_p = Σ_q k_q x_{p−q}, for deblurring.

    Args:
        kernel: k, of odd sides ``(a, b)``; a parameter stays one.
        shape: Of x, ``(rows, cols)``.
        boundary: "cut" keeps only what was blurred from inside the picture,
            ``(rows - a + 1, cols - b + 1)``, which is what a camera sees of a larger world;
            "periodic" wraps around and keeps the shape.

    Raises:
        PoeError: For another boundary.
        ShapeError: For a kernel of even sides or larger than the picture.

    Example:
        >>> Blur(torch.full((1, 3), 1 / 3), (1, 4), "periodic")(torch.tensor([[[3.0, 0, 0, 0]]]))
        tensor([[[1., 1., 0., 1.]]])
    """

    kernel: Tensor

    @checked
    def __init__(self, kernel: ArrayLike, shape: tuple[int, int], boundary: str = "cut") -> None:
        super().__init__()
        if boundary not in BOUNDARIES:
            raise PoeError(f"expected a boundary of {', '.join(BOUNDARIES)}, got {boundary!r}")
        kernel, shape = real("kernel", kernel), pair("shape", shape)
        sides = tuple(kernel.shape)
        if len(sides) != 2 or any(k % 2 == 0 or k > s for k, s in zip(sides, shape, strict=True)):
            raise ShapeError(
                f"expected a kernel of odd sides no larger than the picture {tuple(shape)}, got "
                f"{sides}: pad it with zeros"
            )
        keep(self, "kernel", kernel)
        self.boundary = boundary
        self.in_shape = torch.Size(shape)
        lost = (sides[0] - 1, sides[1] - 1) if boundary == "cut" else (0, 0)
        self.out_shape = torch.Size((shape[0] - lost[0], shape[1] - lost[1]))

    def forward(self, x: Tensor) -> Tensor:
        return self._correlate(x, self.kernel.flip(0, 1))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._back(y, self.kernel)

    def column_squares(self, weights: Tensor) -> Tensor:
        return self._back(weights, self.kernel.square())

    def _back(self, y: Tensor, kernel: Tensor) -> Tensor:
        if self.boundary == "periodic":
            return self._correlate(y, kernel)
        return F.conv_transpose2d(y[:, None], kernel.flip(0, 1)[None, None])[:, 0]

    def _correlate(self, x: Tensor, kernel: Tensor) -> Tensor:
        x = x[:, None]
        if self.boundary == "periodic":
            rows, cols = kernel.shape[0] // 2, kernel.shape[1] // 2
            x = F.pad(x, (cols, cols, rows, rows), mode="circular")
        return F.conv2d(x, kernel[None, None])[:, 0]


class BlockMean(LinearOperator):
    """The means of square blocks, for super-resolution: a sensor with larger pixels.

    Args:
        shape: Of x, ``(rows, cols)``.
        size: The side of a block, in pixels, which divides those of the picture.

    Raises:
        ShapeError: Where it does not.

    Example:
        >>> BlockMean((2, 2), 2)(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
        tensor([[[2.5000]]])
    """

    @checked
    def __init__(self, shape: tuple[int, int], size: int) -> None:
        super().__init__()
        size, shape = whole("size", size, 0), pair("shape", shape)
        if size < 1 or any(side % size for side in shape):
            raise ShapeError(
                f"expected a size that divides both sides of {tuple(shape)}, got {size}: crop it"
            )
        self.size = size
        self.in_shape = torch.Size(shape)
        self.out_shape = torch.Size((shape[0] // size, shape[1] // size))

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x[:, None], self.size)[:, 0]

    def adjoint(self, y: Tensor) -> Tensor:
        return self._spread(y) / self.size**2

    def column_squares(self, weights: Tensor) -> Tensor:
        return self._spread(weights) / self.size**4

    def _spread(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.size, -1).repeat_interleave(self.size, -2)


register(
    Identity,
    lambda a: {"shape": tuple(a.in_shape)},
    lambda f: Identity(**f),
    name="experts.images.Identity",
    formerly=("experts.linear_operator.Identity",),
)
register(
    Mask,
    lambda a: {"mask": a.mask},
    lambda f: Mask(**f),
    name="experts.images.Mask",
    formerly=("experts.linear_operator.Mask",),
)
register(
    Window,
    lambda a: {"shape": tuple(a.in_shape), "part": tuple(a.out_shape), "corner": a.corner},
    lambda f: Window(**f),
    name="experts.images.Window",
    formerly=("experts.linear_operator.Window",),
)
register(
    FilterBank,
    lambda a: {"filters": a.filters, "shape": tuple(a.in_shape), "stride": a.stride},
    lambda f: FilterBank(**f),
    name="experts.images.FilterBank",
    formerly=("experts.linear_operator.FilterBank",),
)
register(
    Blur,
    lambda a: {"kernel": a.kernel, "shape": tuple(a.in_shape), "boundary": a.boundary},
    lambda f: Blur(**f),
    name="experts.images.Blur",
    formerly=("experts.linear_operator.Blur",),
)
register(
    BlockMean,
    lambda a: {"shape": tuple(a.in_shape), "size": a.size},
    lambda f: BlockMean(**f),
    name="experts.images.BlockMean",
    formerly=("experts.linear_operator.BlockMean",),
)
