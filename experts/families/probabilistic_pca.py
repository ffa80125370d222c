"""Probabilistic PCA: a Gaussian of many dimensions with few that matter."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

import poe
from experts.parameters import ArrayLike, keep, positive, real, whole
from poe.core.arguments import checked
from poe.core.errors import PoeError, ShapeError
from poe.core.randomness import resolve
from poe.io import register


class ProbabilisticPCA(poe.Expert):
    r"""A Gaussian whose covariance is of low rank, and noise: normalised, on any Real space.

    .. math:: p(x) = N(x;\, m,\, W W^\top + s^2 I) = \int N(x;\, m + W z,\, s^2 I)\, N(z; 0, I)\, dz

    With k columns of W it costs O(n k) where a full Gaussian costs O(n²): what a neural energy of
    pictures can be multiplied to, and its chains begin at. By Woodbury, with
    :math:`M = W^\top W + s^2 I` of size k and :math:`L L^\top = M`,

    .. math:: r^\top S^{-1} r = \frac{\lVert r \rVert^2 - \lVert L^{-1} W^\top r \rVert^2}{s^2},
       \qquad \log\det S = \log\det M + (n - k) \log s^2

    What is an ``nn.Parameter`` stays one.

    Args:
        loc: The mean m, ``(*event)``.
        loadings: W, ``(*event, k)``.
        scale: s, the standard deviation of the noise, ``()``, positive.

    Raises:
        ShapeError: Where the shapes do not fit.
        PoeError: Where the scale is not positive, or a number is not finite.

    References:
        Tipping & Bishop (1999), Probabilistic principal component analysis,
        doi:10.1111/1467-9868.00196, equations 4 to 7.

    Example:
        >>> expert = ProbabilisticPCA([0.0, 0.0], [[1.0], [1.0]], 0.5)
        >>> expert(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        tensor([-1.9946, -5.5502])
    """

    loc: Tensor
    loadings: Tensor
    scale: Tensor
    may_be_infinite = ()

    @checked
    def __init__(self, loc: ArrayLike, loadings: ArrayLike, scale: ArrayLike) -> None:
        super().__init__()
        center = real("loc", loc)
        columns = real("loadings", loadings, like=center)
        spread = positive("scale", scale, like=center)
        if columns.shape[:-1] != center.shape or not columns.ndim or spread.ndim:
            raise ShapeError(
                f"expected loadings of shape (*event, k) with the event of loc, "
                f"{tuple(center.shape)}, and one scale, got {tuple(columns.shape)} and a scale of "
                f"shape {tuple(spread.shape)}"
            )
        self.space = poe.Real(tuple(center.shape))
        keep(self, "loc", center)
        keep(self, "loadings", columns)
        keep(self, "scale", spread)

    @classmethod
    @torch.no_grad()
    def fit(cls, rows: Tensor, num_components: int) -> Self:
        """The one of largest likelihood of rows, in closed form.

        With eigenvalues λ and eigenvectors u of the rows' covariance, its sum divided by n: s² is
        the mean of the λ left out, and the columns of W are √(λ − s²) u.

        Args:
            rows: Events, ``(n, *event)``, at least 2.
            num_components: k, from 1 to the size of an event less 1.

        Returns:
            The expert, in the dtype of the rows.

        Raises:
            ShapeError: Where there are fewer than 2 rows.
            PoeError: Where k is out of range, a number is not finite, or nothing is left out, and s
                would be 0.

        References:
            Tipping & Bishop (1999), doi:10.1111/1467-9868.00196, equations 14 and 15.

        Example:
            >>> g = torch.Generator().manual_seed(0)
            >>> rows = ProbabilisticPCA([1.0, 1.0], [[2.0], [0.0]], 0.5).sample(10_000, generator=g)
            >>> ProbabilisticPCA.fit(rows, 1).scale
            tensor(0.4996)
        """
        rows = real("rows", rows)
        if rows.ndim == 0 or len(rows) < 2 or rows.is_meta:
            raise ShapeError(
                f"expected rows of shape (n, *event), at least 2, got {tuple(rows.shape)}"
            )
        event, size = rows.shape[1:], rows[0].numel()
        num_components = whole("num_components", num_components, None)
        if not 1 <= num_components < size:
            raise PoeError(f"expected 1 to {size - 1} components, got {num_components}")
        flat = rows.reshape(len(rows), size).double()
        values, vectors = torch.linalg.eigh(flat.T.cov(correction=0))
        kept, rest = values[-num_components:], values[:-num_components].mean()
        if not bool(rest > 1e-12 * values[-1]):
            raise PoeError(
                f"expected rows that vary in more than {num_components} directions, got rows that "
                "do not: give fewer components, more rows, or rows with noise"
            )
        loadings = vectors[:, -num_components:] * (kept - rest).clamp(min=0).sqrt()
        parts = flat.mean(0).view(event), loadings.view(*event, num_components), rest.sqrt()
        return cls(*(part.to(rows.dtype) for part in parts))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised log-density.

        Args:
            x: Events, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        batch, size, variance = self.space.batch_shape(x), self.loc.numel(), self.scale.square()
        rows = (x - self.loc).reshape(-1, size)
        loadings = self.loadings.reshape(size, -1)
        identity = torch.eye(loadings.shape[1], dtype=loadings.dtype, device=loadings.device)
        root = torch.linalg.cholesky(loadings.T @ loadings + variance * identity)
        along = torch.linalg.solve_triangular(root.T, rows @ loadings, upper=True, left=False)
        distance = (rows.square().sum(-1) - along.square().sum(-1)) / variance
        log_det = 2 * root.diagonal().log().sum() + (size - len(root)) * variance.log()
        return -0.5 * (distance + log_det + size * math.log(2 * math.pi)).reshape(batch)

    def log_prob(self, x: Tensor) -> Tensor:
        """The normalised log-density, which equals ``log_density``.

        Args:
            x: Events, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        return self(x)

    @checked
    @torch.no_grad()
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent exact draws, without a gradient.

        Args:
            num_samples: How many.
            generator: Of all that is drawn; a fresh one, seeded by the system, by default.

        Returns:
            Draws, ``(num_samples, *event)``.
        """
        return self.rsample(num_samples, generator=generator)

    def rsample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """The same draws with their gradients in location, loadings and scale: m + W z + s ε.

        Args:
            num_samples: How many.
            generator: Of all that is drawn; a fresh one, seeded by the system, by default.

        Returns:
            Draws, ``(num_samples, *event)``.
        """
        generator = resolve(generator, self.loc.device)
        z = self.loc.new_empty(num_samples, self.loadings.shape[-1]).normal_(generator=generator)
        noise = self.loc.new_empty(num_samples, *self.loc.shape).normal_(generator=generator)
        return self.loc + torch.tensordot(z, self.loadings, ([1], [-1])) + self.scale * noise

    def extra_repr(self) -> str:
        return f"{self.space}, {self.loadings.shape[-1]} components"


register(
    ProbabilisticPCA,
    lambda p: {"loc": p.loc, "loadings": p.loadings, "scale": p.scale},
    lambda f: ProbabilisticPCA(**f),
    name="experts.ProbabilisticPCA",
    formerly=("experts.probabilistic_pca.ProbabilisticPCA",),
)
