"""The geometric path between two densities, evaluated with one exponent for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from poe.expert import Expert
from poe.samplers.kernel import Density


def geometric_ladder(
    target: Expert, start: Expert, exponents: Sequence[float]
) -> tuple[Expert, ...]:
    """The experts start^(1 − β) target^β, one for each exponent β.

    >>> import poe
    >>> broad, sharp = (
    ...     poe.FromLogDensity(lambda x, p=p: -p * x.square().sum(-1), space=poe.Real(1))
    ...     for p in (1.0, 9.0)
    ... )
    >>> [level(torch.ones(1)).item() for level in geometric_ladder(sharp, broad, (0.0, 0.5, 1.0))]
    [-1.0, -5.0, -9.0]
    """
    return tuple(start ** (1.0 - exponent) * target**exponent for exponent in exponents)


class Components(NamedTuple):
    """What start and target say at each row: all that any density between them can ask.

    Shapes: log_density ``(2, rows)``; score ``(2, rows, *event)``, or ``(2, rows, 0)`` where no
    gradient was asked for.
    """

    log_density: Tensor
    score: Tensor

    def at(self, rows: Tensor) -> Self:
        """Those of the rows with these indices."""
        return type(self)(*(part.index_select(1, rows) for part in self))

    def joined(self, others: Self) -> Self:
        """These rows, then those of the others."""
        return type(self)(*(torch.cat(parts, 1) for parts in zip(self, others, strict=True)))

    def tempered(self, exponents: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density and score of start^(1 − β) target^β, with β ``(rows,)``.

        With exponent 0 a density has no say, even where it is infinite or NaN; a density of 0
        that has a say excludes the row, as in a Product.
        """
        weights = torch.stack([1.0 - exponents, exponents])
        values = _weighted(self.log_density, weights)
        lowest = values.amin(0)
        log_density = torch.where(lowest == -torch.inf, lowest, values.sum(0))
        return log_density, _weighted(self.score, weights).sum(0)


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    weights = weights.reshape(*weights.shape, *([1] * (values.ndim - 2)))
    return (weights * values).masked_fill(weights == 0, 0.0)


class RecordedPath:
    """start^(1 − β) target^β with one β for each row, which remembers all that it was asked.

    A kernel sees one density, and keeps only its log-density. Another exponent asks for both of its
    components; whatever position a kernel ends at it has evaluated, so they are among the records
    and cost no new evaluation.
    """

    def __init__(self, start: Density, target: Density, exponents: Tensor) -> None:
        self.start, self.target, self.exponents = start, target, exponents
        self.records: list[tuple[Tensor, Components]] = []

    def log_density(self, x: Tensor) -> Tensor:
        """Log-density ``(rows,)``."""
        return self._record(x, self._values(x))[0]

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density ``(rows,)`` and score ``(rows, *event)``, each component evaluated apart."""
        return self._record(x, self._values_and_scores(x))

    def _record(self, x: Tensor, components: Components) -> tuple[Tensor, Tensor]:
        self.records.append((x.clone(), components))  # a copy, which the kernel cannot change
        return components.tempered(self.exponents)

    def _values(self, x: Tensor) -> Components:
        values = torch.stack([density.log_density(x) for density in (self.start, self.target)])
        return Components(values.detach(), values.new_empty((*values.shape, 0)))

    def _values_and_scores(self, x: Tensor) -> Components:
        pairs = [density.log_density_and_score(x) for density in (self.start, self.target)]
        values, scores = zip(*pairs, strict=True)
        return Components(torch.stack(values), torch.stack(scores))

    def components_of(self, x: Tensor) -> Components:
        """Those at other positions x ``(*batch, *event)``, evaluated as the kernel does."""
        has_score = self.records[0][1].score.numel() > 0
        return self._values_and_scores(x) if has_score else self._values(x)

    def components_at(self, x: Tensor) -> Components:
        """Those at positions x ``(rows, *event)``, from the records; NaN where there is none."""
        found = Components(*(torch.full_like(part, torch.nan) for part in self.records[0][1]))
        for position, components in self.records:
            is_here = (position == x).reshape(len(x), -1).all(1)
            parts = zip(components, found, strict=True)
            found = Components(*(_where(is_here, *pair) for pair in parts))
        return found


def _where(is_here: Tensor, here: Tensor, elsewhere: Tensor) -> Tensor:
    return torch.where(is_here.reshape(-1, *([1] * (here.ndim - 2))), here, elsewhere)
