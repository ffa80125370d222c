"""Maps of a table's columns to one unit, to be read through by `expert.at(map)`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experts.parameters import ArrayLike, keep, positive, real
from poe import DtypeError, ShapeError
from poe.core.arguments import checked
from poe.io import register


class Standardize(nn.Module):
    """Each column to mean 0 and standard deviation 1: (x − loc) / scale.

    Args:
        loc: Means, ``(d,)``.
        scale: Standard deviations, ``(d,)``, positive.

    Example:
        >>> standardize = Standardize.fitted(torch.tensor([[1.0, 7.0], [3.0, 7.0]]))
        >>> standardize(torch.tensor([[3.0, 8.0]]))
        tensor([[1., 1.]])
    """

    may_be_infinite = ()

    loc: Tensor
    scale: Tensor

    @checked
    def __init__(self, loc: ArrayLike, scale: ArrayLike) -> None:
        super().__init__()
        center = real("loc", loc)
        keep(self, "loc", center)
        keep(self, "scale", positive("scale", scale, like=center))

    @classmethod
    @checked
    def fitted(cls, rows: ArrayLike) -> Standardize:
        """That of a table's columns; a constant column keeps its own unit.

        Args:
            rows: The table, ``(n, d)``, n >= 2.

        Returns:
            The map.

        Raises:
            ShapeError: For what is no such table.
        """
        rows = _table(rows)
        loc, scale = rows.mean(0), rows.std(0, correction=0)
        rounding = 8 * torch.finfo(rows.dtype).eps * rows.abs().amax(0)
        return cls(loc, torch.where(scale > rounding, scale, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """(x − loc) / scale.

        Args:
            x: ``(*batch, d)``.

        Returns:
            ``(*batch, d)``.
        """
        return (x - self.loc) / self.scale


class NormalScores(nn.Module):
    """Each column to a standard normal by its ranks: Φ⁻¹(F(x)), F interpolated linearly.

    Between the knots the map is linear, and beyond the first and last knot it goes on with the
    slope of the outermost piece, which is 1 where it is ``fitted``, so that what is far stays far.
    F(x) is the mid-rank of the values seen.

    Args:
        knots: Values of x, ``(d, m)``, increasing along each row.
        scores: What they are mapped to, ``(d, m)``, increasing along each row.

    References:
        van der Waerden (1952), Order tests for the two-sample problem and their power, Indagationes
        Mathematicae 14.

    Example:
        >>> scores = NormalScores.fitted(torch.tensor([[1.0], [10.0], [100.0]]))
        >>> scores(torch.tensor([[10.0], [100.0], [102.0]]))
        tensor([[0.0000],
                [0.9674],
                [2.9674]])
    """

    may_be_infinite = ()

    knots: Tensor
    scores: Tensor

    @checked
    def __init__(self, knots: ArrayLike, scores: ArrayLike) -> None:
        super().__init__()
        places = real("knots", knots)
        keep(self, "knots", places)
        keep(self, "scores", real("scores", scores, like=places))

    @classmethod
    @checked
    def fitted(cls, rows: ArrayLike) -> NormalScores:
        """That of a table's columns, a knot for each value that one takes and one beyond each end.

        Args:
            rows: The table, ``(n, d)``, n >= 2.

        Returns:
            The map.

        Raises:
            ShapeError: For what is no such table.
        """
        rows = _table(rows)
        columns = [_normal_scores(column) for column in rows.unbind(1)]
        length = max(len(knots) for knots, _ in columns)
        padded = [[_with_ends(part, length) for part in column] for column in columns]
        knots, scores = zip(*padded, strict=True)
        return cls(torch.stack(knots), torch.stack(scores))

    def forward(self, x: Tensor) -> Tensor:
        """Each column's score.

        Args:
            x: ``(*batch, d)``.

        Returns:
            ``(*batch, d)``.
        """
        columns = x.reshape(-1, x.shape[-1]).mT.contiguous()
        after = torch.searchsorted(self.knots, columns.detach()).clamp(1, self.knots.shape[1] - 1)
        low, high = self.knots.gather(1, after - 1), self.knots.gather(1, after)
        start, stop = self.scores.gather(1, after - 1), self.scores.gather(1, after)
        scores = start + (columns - low) * ((stop - start) / (high - low))
        return scores.mT.reshape(x.shape)


def _normal_scores(column: Tensor) -> tuple[Tensor, Tensor]:
    values, counts = column.unique(return_counts=True)
    mid_rank = counts.cumsum(0) - 0.5 * counts
    return values, torch.special.ndtri(mid_rank.to(column) / len(column))


def _with_ends(part: Tensor, length: int) -> Tensor:
    """One more before, and as many after as fill the row, in steps of 1: a slope of 1."""
    after = torch.arange(1, length - len(part) + 2).to(part)
    return torch.cat([part[:1] - 1, part, part[-1] + after])


def _table(rows: ArrayLike) -> Tensor:
    rows = real("rows", rows)
    if rows.ndim != 2 or len(rows) < 2:
        raise ShapeError(
            f"expected a table of shape (n, d) with n >= 2, got {tuple(rows.shape)}; "
            "give one row for each example"
        )
    if rows.is_meta or rows.dtype.itemsize < 4:
        raise DtypeError(f"expected a table of float32 or float64, got {rows.dtype}: use .float()")
    return rows


register(
    Standardize,
    lambda s: {"loc": s.loc, "scale": s.scale},
    lambda f: Standardize(**f),
    name="experts.tables.Standardize",
    formerly=("experts.coordinates.Standardize",),
)
register(
    NormalScores,
    lambda s: {"knots": s.knots, "scores": s.scores},
    lambda f: NormalScores(**f),
    name="experts.tables.NormalScores",
    formerly=("experts.coordinates.NormalScores",),
)
