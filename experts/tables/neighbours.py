"""Experts that remember a table: what is near to its rows is likely."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from experts.parameters import ArrayLike, fixed, keep, number, positive, real, whole
from poe import DtypeError, Expert, Real, ShapeError
from poe.core.arguments import checked
from poe.io import Fields, register

_CHUNK_SIZE = 1024  # rows at once, which bounds the memory of their distances to all points

ITSELF = 1e-3
"""In resolutions: a row this near is x, as far as float32 and a map of the columns can tell."""


class Neighbourhood(NamedTuple):
    """The k nearest stored rows.

    Args:
        log_distance: Log-distances, ``(*batch, k)``.
        row: Row numbers, ``(*batch, k)``.
    """

    log_distance: Tensor
    row: Tensor


class Neighbours(Expert):
    """The k-nearest-neighbour energy: log p̃(x) = −d · mean over j ≤ k of log sqrt(δ_j² + r²).

    δ_j is the distance from x to its j-th nearest row, a mean over the coordinates: δ = (Σ |x_i −
    y_i|^p / d)^(1/p). With k = 1 and r = 0 it would be the nearest-neighbour density estimate up to
    a constant, and the score of Ramaswamy et al.; r bounds it where rows repeat. It falls as |x|^−d
    and has no finite normaliser on its own. A row at x itself is not counted (one, where there are
    several), so that stored rows are judged by the others and are not at distance 0: in every
    dtype, one within a thousandth of the resolution.

    Coordinates should have one unit: see `experts.tables.Standardize`.

    Args:
        points: The rows y, ``(n, d)``, n > k; an ``nn.Parameter`` stays one.
        num_neighbours: k.
        norm: p, positive.
        resolution: r, positive, in the units of x.

    Raises:
        ShapeError: For points that are no table of at least k + 1 rows.
        PoeError: For settings that are not positive.

    References:
        Loftsgaarden & Quesenberry (1965), A nonparametric estimate of a multivariate density
        function, The Annals of Mathematical Statistics 36.

        Ramaswamy, Rastogi & Shim (2000), Efficient algorithms for mining outliers from large data
        sets, SIGMOD, doi:10.1145/342009.335437.

    Example:
        >>> expert = Neighbours(torch.tensor([[0.0], [1.0], [5.0]]))
        >>> expert(torch.tensor([[2.5], [9.0], [5.0]]))
        tensor([-0.4057, -1.3863, -1.3863])
    """

    may_be_infinite = ()

    points: Tensor

    @checked
    def __init__(
        self,
        points: ArrayLike,
        num_neighbours: int = 1,
        *,
        norm: float = 2.0,
        resolution: float = 0.03,
    ) -> None:
        super().__init__()
        points, num_neighbours = real("points", points), whole("num_neighbours", num_neighbours)
        if points.ndim != 2 or len(points) <= num_neighbours:
            raise ShapeError(
                f"expected points of shape (n, d) with n > num_neighbours = {num_neighbours}, got "
                f"{tuple(points.shape)}; give more rows or ask for fewer neighbours"
            )
        if points.dtype.itemsize < 4:
            raise DtypeError(f"expected points of float32 or float64, got {points.dtype}")
        self.space = Real(points.shape[1])
        keep(self, "points", points)
        self.num_neighbours = num_neighbours
        self.norm = number("norm", norm, positive)
        self.resolution = number("resolution", resolution, positive)

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, unnormalised.

        Args:
            x: ``(*batch, d)``.

        Returns:
            log p̃(x), ``(*batch,)``.
        """
        return -x.shape[-1] * self._nearest(x).log_distance.mean(-1)

    def extra_repr(self) -> str:
        n, d = self.points.shape
        return f"{n} rows in Real({d}), num_neighbours={self.num_neighbours}, norm={self.norm:g}"

    def _nearest(self, x: Tensor) -> Neighbourhood:
        queries = x.reshape(-1, x.shape[-1])
        parts = [self._nearest_of(chunk) for chunk in queries.split(_CHUNK_SIZE)]
        shape = (*x.shape[:-1], self.num_neighbours)
        return Neighbourhood(*(torch.cat(part).reshape(shape) for part in zip(*parts, strict=True)))

    def _nearest_of(self, x: Tensor) -> Neighbourhood:
        # By differences: the matrix product's rounding would put a row off itself.
        mode = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(x, self.points, p=self.norm, compute_mode=mode)
        distances = distances / x.shape[-1] ** (1 / self.norm)
        found = distances.topk(self.num_neighbours + 1, largest=False)
        is_itself = found.values[:, :1] <= ITSELF * self.resolution
        others = torch.arange(self.num_neighbours, device=x.device) + is_itself.long()
        log_distance = 0.5 * (found.values.gather(1, others).square() + self.resolution**2).log()
        return Neighbourhood(log_distance, found.indices.gather(1, others))


class RelativeNeighbours(Neighbours):
    """How dense it is at x, against how dense it is at x's neighbours: log p̃(x) = ℓ(x) − mean ℓ(y).

    ℓ is `Neighbours`, and the mean is over the k rows y nearest to x, each judged by the others:
    the simplified local outlier factor, in logarithms. Loose and tight clusters are equally normal.

    Args:
        points: The rows y, ``(n, d)``, n > k; an ``nn.Parameter`` stays one.
        num_neighbours: k.
        norm: p, positive, as of `Neighbours`.
        resolution: r, positive, in the units of x, as of `Neighbours`.

    Raises:
        ShapeError: For points that are no table of at least k + 1 rows.
        PoeError: For settings that are not positive.

    References:
        Schubert, Zimek & Kriegel (2014), Local outlier detection reconsidered: a generalized view
        on locality with applications to spatial, video, and network outlier detection, section 4.1,
        doi:10.1007/s10618-012-0300-z.

    Example:
        >>> tight, loose = torch.arange(4.0) / 10, 5 + torch.arange(4.0)
        >>> expert = RelativeNeighbours(torch.cat([tight, loose])[:, None], num_neighbours=2)
        >>> expert(torch.tensor([[0.15], [1.0], [6.5]])).round(decimals=2)
        tensor([ 0.5800, -1.8100,  0.6900])
    """

    points_log_density: Tensor

    @checked
    def __init__(
        self,
        points: ArrayLike,
        num_neighbours: int = 10,
        *,
        norm: float = 2.0,
        resolution: float = 0.03,
    ) -> None:
        fixed("points", points, "give a tensor, or Neighbours, which keeps a parameter")
        super().__init__(points, num_neighbours, norm=norm, resolution=resolution)
        self.register_buffer("points_log_density", Neighbours.forward(self, self.points))

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, unnormalised.

        Args:
            x: ``(*batch, d)``.

        Returns:
            log p̃(x), ``(*batch,)``.
        """
        log_distance, row = self._nearest(x)
        own = -x.shape[-1] * log_distance.mean(-1)
        return own - self.points_log_density[row].mean(-1)


def _settings(expert: Neighbours) -> Fields:
    names = ("points", "num_neighbours", "norm", "resolution")
    return {name: getattr(expert, name) for name in names}


register(
    Neighbours,
    _settings,
    lambda fields: Neighbours(**fields),
    name="experts.Neighbours",
    formerly=("experts.neighbours.Neighbours",),
)
register(
    RelativeNeighbours,
    _settings,
    lambda fields: RelativeNeighbours(**fields),
    name="experts.RelativeNeighbours",
    formerly=("experts.neighbours.RelativeNeighbours",),
)
