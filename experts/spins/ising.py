"""Ising models: spins that pull on each other in pairs, on any graph."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Self

import torch
from torch import Tensor

from experts.families.discrete import Bernoulli
from experts.parameters import ArrayLike, aligned, filled, indices, keep
from experts.spins.lattice import check_edges, grid_graph, united
from experts.spins.transfer_matrix import Order, best_order, log_sum_over_spins, sample_spins
from poe import Binary, Expert, PoeError, ShapeError
from poe.core.arguments import checked
from poe.core.last_call_cache import Latest
from poe.core.randomness import resolve
from poe.density.capabilities import (
    Conditionals,
    LogOdds,
    Simplified,
    SpinPairs,
    Term,
    combine,
    conditionals,
    exact_log_partition,
    sampler_of,
    spin_pairs,
    widen,
)
from poe.density.expert import Sampler
from poe.io import Fields, register

DENSE = 32
"""Where more than one of so many entries of J is coupled, a matrix product is the faster."""


class Ising(Expert):
    """The Ising model on x in {0, 1}^n, with spins s = 2x − 1; unnormalised.

    log p̃(x) = Σ_{i<j} Jᵢⱼ sᵢ sⱼ + Σᵢ hᵢ sᵢ

    Inside are only the pairs that are coupled: ``edges`` ``(2, m)``, ``couplings`` ``(m,)`` and
    ``fields`` ``(*event)``; fields that are given as an ``nn.Parameter`` stay one, and so do
    couplings by ``from_edges``.

    A product of powers of Ising models is one, whatever the exponents' sign, with ``Bernoulli``
    experts among them too. log Z is exact, by ``experts.spins.transfer_matrix``, where that goes
    over no more than 2^30 table entries (seconds): chains and rings, free grids at most 16 wide and
    some hundred long (also with each row closed to a ring), periodic ones up to 11 × 11, any 23
    sites. Beyond, estimates start at such strips. Up to 2^25 entries ``sample`` draws exactly.

    Args:
        J: Couplings, ``(n, n)``, of which the upper triangle is read: symmetric with a diagonal of
            0, or zero below the diagonal. To learn them use ``from_edges``.
        h: Fields, ``(n,)``, or a number for all.

    Raises:
        ShapeError: Where the shapes do not fit.
        PoeError: Where a number is not finite, J has a diagonal, is not symmetric or requires a
            gradient.

    References:
        Ising (1925), Beitrag zur Theorie des Ferromagnetismus, doi:10.1007/BF02980577.

    Example:
        >>> pair = Ising([[0.0, 0.5], [0.5, 0.0]], [0.0, 0.1])
        >>> pair(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
        tensor([ 0.6000, -0.4000])
        >>> poe.log_partition(pair**2).value
        tensor(1.8399)
    """

    edges: Tensor
    couplings: Tensor
    fields: Tensor
    offset: Tensor
    may_be_infinite = ()

    @checked
    def __init__(self, J: ArrayLike, h: ArrayLike = 0.0) -> None:
        super().__init__()
        _refuse_gradient("J", J)
        matrix, field = aligned(J=J, h=h)
        _check_matrix(matrix)
        upper = matrix.triu(1)
        if matrix.is_meta:
            edges = torch.triu_indices(len(matrix), len(matrix), 1).to(matrix.device)
        else:
            edges = upper.nonzero().mT.contiguous()
        self._assemble(edges, upper[edges[0], edges[1]], field, matrix.shape[:1])

    @classmethod
    @checked
    def from_edges(
        cls,
        edges: Tensor | Sequence[Sequence[int]],
        couplings: ArrayLike,
        fields: ArrayLike,
        shape: int | tuple[int, ...],
    ) -> Self:
        """The Ising model of a graph, on ``Binary(shape)``, with n = prod(shape).

        Args:
            edges: Pairs of different sites, numbers of flattened elements, ``(2, m)``; a pair that
                is there twice has both couplings.
            couplings: J of each pair, ``(m,)``, or a number for all.
            fields: h of each site, of shape ``shape``, or a number for all.
            shape: Of the event.

        Returns:
            The model.

        Raises:
            ShapeError: Where the shapes do not fit, or edges are no whole numbers.
            PoeError: For a site outside 0 ... n − 1 or joined to itself, or a number that is not
                finite.

        Example:
            >>> chain = Ising.from_edges([[0, 1], [1, 2]], 0.3, 0.0, 3)
            >>> chain(torch.ones(1, 3))
            tensor([0.6000])
        """
        model = cls.__new__(cls)
        Expert.__init__(model)
        model._assemble(indices("edges", edges), couplings, fields, Binary(shape).event_shape)
        return model

    @classmethod
    @checked
    def grid(
        cls,
        shape: tuple[int, ...],
        coupling: ArrayLike,
        field: ArrayLike = 0.0,
        periodic: bool = False,
    ) -> Self:
        """Nearest neighbours on a grid of rows and columns, on ``Binary((rows, cols))``.

        Args:
            shape: ``(rows, cols)``.
            coupling: A number, or ``(2, rows, cols)``: ``[0, i, j]`` couples (i, j) to the site
                below, ``[1, i, j]`` to the one on the right; what leads out of a free grid is not
                read.
            field: A number, or ``(rows, cols)``.
            periodic: Whether the last row is joined to the first, and the last column to the first.
                Two rows are then joined twice, which doubles the coupling; a single one is not
                joined to itself.

        Returns:
            The model.

        Raises:
            ShapeError: Where the shapes do not fit.
            PoeError: Where a number is not finite, or ``coupling`` requires a gradient.

        Example:
            >>> magnet = Ising.grid((8, 8), coupling=0.44, periodic=True)
            >>> poe.log_partition(magnet).value  # of 2^64 states, exactly
            tensor(60.0763)
        """
        _refuse_gradient("coupling", coupling)
        strength, fields = aligned(coupling=coupling, field=field)
        edges, couplings = grid_graph("Ising.from_edges", shape, strength, periodic)
        return cls.from_edges(edges, couplings, fields, tuple(shape))

    def forward(self, x: Tensor) -> Tensor:
        """The unnormalised log-density.

        Args:
            x: States of 0 and 1, ``(*batch, *event)``.

        Returns:
            log p̃(x), ``(*batch,)``.
        """
        spins = self._spins(x)
        if self._is_dense:
            pairs = (spins @ self._matrix() * spins).sum(-1)
        else:
            first, second = self.edges
            pairs = spins.index_select(-1, first) * spins.index_select(-1, second) @ self.couplings
        return pairs + spins @ self.fields.flatten() + self.offset

    def local_fields(self, x: Tensor) -> Tensor:
        """Σⱼ Jᵢⱼ sⱼ + hᵢ, half the log-odds of xᵢ = 1 given the rest.

        Args:
            x: States of 0 and 1, ``(*batch, *event)``.

        Returns:
            The local fields, of the shape of x.
        """
        spins = self._spins(x)
        if self._is_dense:
            matrix = self._matrix()
            pulls = spins @ (matrix + matrix.mT)
        else:
            pulls = torch.zeros_like(spins)
            for here, there in (self.edges, self.edges.flip(0)):
                pulls = pulls.index_add(-1, here, self.couplings * spins.index_select(-1, there))
        return (pulls + self.fields.flatten()).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"{self.space}, {len(self.couplings)} pairs"

    def _assemble(
        self,
        edges: Tensor,
        couplings: ArrayLike,
        fields: ArrayLike,
        shape: Sequence[int],
        offset: Tensor | float = 0.0,
    ) -> None:
        self.space = Binary(tuple(shape))
        check_edges(edges, self.space)
        couplings, fields = aligned(couplings=couplings, fields=fields)
        self.register_buffer("edges", edges.to(fields.device))
        keep(self, "couplings", filled("couplings", couplings, edges.shape[1:]))
        keep(self, "fields", filled("fields", fields, self.space.event_shape))
        # What a Bernoulli leaves when it is read as an Ising model.
        self.register_buffer("offset", torch.as_tensor(offset).to(self.fields))
        self._order = Latest()

    def _spins(self, x: Tensor) -> Tensor:
        batch_shape = x.shape[: x.ndim - self.fields.ndim]
        return 2 * x.reshape(*batch_shape, self.fields.numel()).to(self.fields.dtype) - 1

    @property
    def _is_dense(self) -> bool:
        return self.fields.numel() ** 2 <= DENSE * self.couplings.numel()

    def _matrix(self) -> Tensor:
        """Each pair once: ``(n, n)``."""
        size = self.fields.numel()
        flat = self.couplings.new_zeros(size * size)
        number = self.edges[0] * size + self.edges[1]
        return flat.index_add(0, number, self.couplings).reshape(size, size)

    def _can_sample(self) -> bool:
        if self.fields.is_meta:
            return False
        return self.elimination_order().can_be_stored

    def elimination_order(self) -> Order:
        """In which order sites are summed out."""
        return self._order(lambda edges: best_order(edges, self.fields.shape), self.edges)

    def _sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, *event)``."""
        order = self.elimination_order()
        h = self.fields.flatten()
        generator = resolve(generator, h.device)
        uniforms = torch.rand(
            (num_samples, len(h)), generator=generator, dtype=torch.float64, device=h.device
        )
        with torch.no_grad():
            x = sample_spins(order, self.edges, self.couplings, h, uniforms)
        return x.to(h.dtype).reshape(num_samples, *self.fields.shape)


@combine.register
def _(first: Ising, terms: Sequence[Term]) -> Simplified | None:
    """Couplings and fields add, each times its exponent, in float64 whatever the experts' dtype."""
    models = [term.expert for term in terms if isinstance(term.expert, Ising)]
    if first.fields.is_meta:
        return None
    weights = [term.exponent.to("cpu", torch.float64) for term in terms]
    edges, couplings = united(
        torch.cat([model.edges.cpu() for model in models], 1),
        torch.cat(_weighted(weights, [model.couplings for model in models])),
        first.fields.numel(),
    )
    fields = torch.stack(_weighted(weights, [model.fields for model in models])).sum(0)
    log_constant = torch.stack(_weighted(weights, [model.offset for model in models])).sum()
    target = first.fields
    merged = Ising.from_edges(edges, couplings.to(target), fields.to(target), target.shape)
    return Simplified(merged, log_constant.to(target))


@widen.register
def _(expert: Bernoulli, families: Set[type[Expert]]) -> Expert:
    """An Ising model without couplings: θx − A(θ) = (θ/2) s + θ/2 − A(θ)."""
    if Ising not in families:
        return expert
    half = expert.logits / 2
    none = torch.zeros((2, 0), dtype=torch.long)
    constant = half.sum() - expert.log_partition(expert.logits)
    return _build(
        {"edges": none, "couplings": half.new_zeros(0), "fields": half, "offset": constant}
    )


@conditionals.register
def _(expert: Ising) -> Conditionals:
    """Twice the local fields; neighbours must not be drawn together."""
    return Conditionals(expert.edges, 0, lambda x, uniforms: _log_odds(expert))


def _log_odds(expert: Ising) -> LogOdds:
    return lambda x: 2 * expert.local_fields(x)


@spin_pairs.register
def _(expert: Ising) -> SpinPairs:
    return SpinPairs(expert.edges, expert.couplings.detach(), expert.fields.detach().flatten())


@sampler_of.register
def _(expert: Ising) -> Sampler | None:
    """Where the tables that sites are summed out over can be kept."""
    return expert._sample if expert._can_sample() else None


@exact_log_partition.register
def _(expert: Ising) -> Tensor | None:
    if expert.fields.is_meta:
        return None
    order = expert.elimination_order()
    if not order.can_be_summed:
        return None
    h = expert.fields.flatten()
    return expert.offset + log_sum_over_spins(order, expert.edges, expert.couplings, h).to(h)


def _build(fields: Fields) -> Ising:
    model = Ising.__new__(Ising)
    Expert.__init__(model)
    model._assemble(**fields, shape=fields["fields"].shape)
    return model


register(
    Ising,
    lambda m: {
        "edges": m.edges,
        "couplings": m.couplings,
        "fields": m.fields,
        "offset": m.offset,
    },
    _build,
    name="experts.Ising",
    formerly=("experts.ising.Ising",),
)


def _weighted(weights: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
    return [w * v.to("cpu", torch.float64) for w, v in zip(weights, values, strict=True)]


def _refuse_gradient(name: str, value: ArrayLike) -> None:
    if isinstance(value, Tensor) and value.requires_grad:
        raise PoeError(
            f"expected {name} to be numbers, got a tensor that requires a gradient; to learn "
            "couplings use Ising.from_edges(edges, nn.Parameter(couplings), fields, shape)"
        )


def _check_matrix(matrix: Tensor) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ShapeError(
            f"expected J of shape (n, n), got {tuple(matrix.shape)}: for a list of pairs use "
            "Ising.from_edges(edges, couplings, fields, shape)"
        )
    if matrix.is_meta:
        return
    if bool(matrix.diagonal().any()):
        raise PoeError(
            f"expected J with a diagonal of 0, got {matrix.diagonal().tolist()}: as s² = 1 it adds "
            "but a constant; use J - diag(J)"
        )
    lower, upper = matrix.tril(-1), matrix.triu(1)
    rounding = 1e-5 * float(matrix.abs().max()) if matrix.numel() else 0.0
    if bool(lower.any()) and not torch.allclose(lower.mT, upper, rtol=0, atol=rounding):
        raise PoeError(
            "expected J to be symmetric, or zero below the diagonal, got one that is neither: the "
            "log-density sums J_ij over i < j, so give (J + J.T).triu(1) where both halves count"
        )
