"""Factor tables: a density as a product of tables over small sets of elements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from experts.graphs.variable_elimination import (
    Step,
    Table,
    draw_backwards,
    eliminate,
    elimination_order,
)
from experts.parameters import ArrayLike, indices, keep, log_values
from poe import Expert, PoeError, ShapeError, Space
from poe.core.arguments import checked, require
from poe.core.last_call_cache import Latest
from poe.core.randomness import resolve
from poe.core.space import Binary
from poe.density.capabilities import Simplified, Term, combine, exact_log_partition, sampler_of
from poe.density.expert import Sampler
from poe.density.transformed import mask_outside
from poe.io import register
from poe.structure.autoregressive import as_events, as_values, num_places, num_values
from poe.structure.twists import Twist, twists

MAX_ARITY = 12
Factor = tuple[Sequence[int], ArrayLike]


class Tables(nn.Module):
    """Tables over sets of one size: ``scopes (m, arity)``, ``values (m, k, ..., k)``."""

    scopes: Tensor
    values: Tensor
    may_be_infinite = ("values",)

    def __init__(self, scopes: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("scopes", scopes)
        keep(self, "values", values)

    def at(self, x: Tensor) -> Tensor:
        """The sum of what the tables say of indices: ``(*batch, numel) -> (*batch,)``."""
        k, arity = self.values.shape[-1], self.scopes.shape[1]
        powers = torch.tensor([k**i for i in reversed(range(arity))], device=x.device)
        entries = (x[..., self.scopes] * powers).sum(-1)
        rows = torch.arange(len(self.scopes), device=x.device)
        return self.values.flatten(1)[rows, entries].sum(-1)

    def at_one_hot(self, z: Tensor) -> Tensor:
        """The same of one-hot vectors, linear in each: ``(*batch, numel, k) -> (*batch,)``.

        −inf where a weight above 0 falls on such an entry; these have no part in the gradient.
        """
        is_excluded = self.values == -torch.inf
        found = self._contract(z, self.values.masked_fill(is_excluded, 0.0)).sum(-1)
        excluded = self._contract(z.detach(), is_excluded.to(z.dtype)).sum(-1)
        return found.masked_fill(excluded > 0, -torch.inf)

    def _contract(self, z: Tensor, values: Tensor) -> Tensor:
        """Each table with the vectors of its elements: ``(*batch, m)``.

        Of a table as a matrix, from the first half of its elements to the second, so that a batch
        costs a product of matrices and no copy of the tables.
        """
        half = self.scopes.shape[1] // 2
        rows, columns = self._outer(z, slice(half)), self._outer(z, slice(half, None))
        matrices = values.to(z.dtype).reshape(len(values), rows.shape[-1], columns.shape[-1])
        return (torch.einsum("...mi,mij->...mj", rows, matrices) * columns).sum(-1)

    def _outer(self, z: Tensor, places: slice) -> Tensor:
        """Products of the vectors at some places of each table: ``(*batch, m, k ** places)``."""
        found = z.new_ones(len(self.scopes), 1)
        for elements in self.scopes.T[places]:
            found = (found[..., :, None] * z[..., elements, None, :]).flatten(-2)
        return found


class FactorGraph(Expert):
    """log p̃(x) = Σⱼ θⱼ(x_{Sⱼ}): tables of log-values over small sets Sⱼ of elements; unnormalised.

    log Z is exact where elements can be summed out one after another over no more than 2^26
    table entries, as in chains, trees and narrow grids; there ``sample`` is exact too. A product of
    powers is a factor graph again, where no −inf meets an exponent below 0.

    Gradients: on Binary in x, each table continued linearly in every element; else by
    ``log_density_of_one_hot``. Learnable tables:
    ``FactorGraph.from_tables(space, [(scopes, nn.Parameter(values))])``.

    Args:
        space: Binary, Categorical or Sequence, of k values.
        factors: Pairs of elements Sⱼ (numbers of the flattened event, all different, at most 12)
            and a table θⱼ, ``(k,) * len(elements)``, whose entries may be −inf. Tables over the
            same elements add.

    Raises:
        ShapeError: For tables of another shape, or over no elements or more than 12.
        PoeError: For elements that are not there or not different, for NaN or +inf entries, and for
            a table that is an ``nn.Parameter``.

    References:
        Kschischang, Frey & Loeliger (2001), Factor graphs and the sum-product algorithm,
        doi:10.1109/18.910572.

        Koller & Friedman (2009), Probabilistic graphical models, MIT Press, chapter 4.

    Example:
        >>> never_equal = [[-torch.inf, 0.0], [0.0, -torch.inf]]
        >>> chain = FactorGraph(poe.Binary(3), [((0, 1), never_equal), ((1, 2), never_equal)])
        >>> chain(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        tensor([0., -inf])
        >>> poe.log_partition(chain).value.exp()
        tensor(2.)
    """

    may_be_infinite = ()

    @checked
    def __init__(self, space: Space, factors: Iterable[Factor]) -> None:
        super().__init__()
        self._assemble(space, _stacked(space, factors))

    @classmethod
    def from_tables(cls, space: Space, tables: Iterable[tuple[Tensor, Tensor]]) -> FactorGraph:
        """The factor graph of tables that are stacked already, which may be learned.

        Args:
            space: Binary, Categorical or Sequence, of k values.
            tables: A pair for each arity: scopes ``(m, arity)``, the elements of m tables, and
                values ``(m, k, ..., k)``, the tables; values that are an ``nn.Parameter`` stay one.

        Returns:
            The factor graph.

        Raises:
            ShapeError: Where scopes and values do not fit, or an arity is above 12.
            PoeError: For elements that are not there or not different, and for NaN or +inf entries.
        """
        require("space", space, Space)
        tables = require("tables", tables, Sequence[tuple[Any, Any]])
        expert = cls.__new__(cls)
        Expert.__init__(expert)
        expert._assemble(
            space, [(indices("scopes", scopes), log_values("values", v)) for scopes, v in tables]
        )
        return expert

    def _assemble(self, space: Space, tables: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.space = space
        for scopes, values in tables:
            _check(space, scopes, values)
        self.tables = nn.ModuleList(Tables(*pair) for pair in tables)
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self._order = Latest()

    zero: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The unnormalised log-density.

        Args:
            x: States, ``(*batch, *event)``; on Binary also numbers between 0 and 1.

        Returns:
            log p̃(x), ``(*batch,)``; −inf where a table excludes x.
        """
        if not isinstance(self.space, Binary):
            return mask_outside(self.space, x, self._at(as_values(self.space, x)))
        flat = self.space.as_vector(x).to(self._dtype)
        if _are_bits(flat) and not (x.requires_grad and torch.is_grad_enabled()):
            return self._at(flat.long())
        return self._of(torch.stack([1 - flat, flat], -1))

    def _at(self, values: Tensor) -> Tensor:
        found = self.zero.new_zeros(values.shape[:-1])
        for table in self._tables():
            found = found + table.at(values)
        return found

    def log_density_of_one_hot(self, z: Tensor) -> Tensor:
        """The log-density of one-hot elements, differentiable: each table linear in every element.

        Args:
            z: One-hot elements, or weights between, ``(*batch, *event, k)``.

        Returns:
            log p̃, ``(*batch,)``; −inf where a weight above 0 falls on an entry of −inf.
        """
        ndim = len(self.space.event_shape)
        return self._of(z.flatten(-1 - ndim, -2) if ndim else z.unsqueeze(-2))

    def _of(self, z: Tensor) -> Tensor:
        found = self.zero.new_zeros(z.shape[:-2]).to(z.dtype)
        for table in self._tables():
            found = found + table.at_one_hot(z)
        return found

    def _tables(self) -> list[Tables]:
        return [table for table in self.tables if isinstance(table, Tables)]

    @property
    def _dtype(self) -> torch.dtype:
        return next((table.values.dtype for table in self._tables()), self.zero.dtype)

    def factors(self) -> list[Table]:
        """All tables, one by one, the elements of each in increasing order."""
        return [one for table in self._tables() for one in _one_by_one(table.scopes, table.values)]

    def elimination_order(self) -> list[Step] | None:
        """In which order elements are summed out; None where that is too much work."""
        return self._order(self._find_order, *(table.scopes for table in self._tables()))

    def _find_order(self, *scopes: Tensor) -> list[Step] | None:
        found = [tuple(scope) for of_one_size in scopes for scope in of_one_size.tolist()]
        return elimination_order(found, num_values(self.space))

    @torch.no_grad()
    def _sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, *event)``."""
        generator = resolve(generator, self.zero.device)
        shape = (num_samples, num_places(self.space), num_values(self.space))
        waits = torch.empty(shape, dtype=torch.float64, device=self.zero.device)
        gumbel = -waits.exponential_(generator=generator).log()
        return as_events(self, draw_backwards(self._eliminated()[1], gumbel)).to(
            self._dtype if isinstance(self.space, Binary) else torch.long
        )

    def _eliminated(self) -> tuple[Tensor, list[Table]]:
        order = self.elimination_order()
        assert order is not None
        if not order:
            return self.zero.double(), []
        doubles = [Table(scope, values.double()) for scope, values in self.factors()]
        return eliminate(order, doubles)

    def extra_repr(self) -> str:
        counts = [f"{len(t.scopes)} of {t.scopes.shape[1]}" for t in self._tables()]
        return f"{self.space}, tables over elements: {', '.join(counts) or 'none'}"


@sampler_of.register
def _(expert: FactorGraph) -> Sampler | None:
    """Where elements can be summed out one after another."""
    is_known = not expert.zero.is_meta and expert.elimination_order() is not None
    return expert._sample if is_known else None


@exact_log_partition.register
def _(expert: FactorGraph) -> Tensor | None:
    order = None if expert.zero.is_meta else expert.elimination_order()
    if order is None:
        return None
    num_free = num_places(expert.space) - len(order)
    free = num_free * torch.tensor(float(num_values(expert.space))).log()
    return (expert._eliminated()[0] + free).to(expert._dtype)


@combine.register
def _(first: FactorGraph, terms: Sequence[Term]) -> Simplified | None:
    """All tables side by side, each times its exponent, those over the same elements added."""
    if first.zero.is_meta:
        return None
    summed: dict[tuple[int, ...], Tensor] = {}
    graphs = [(t.expert, t.exponent) for t in terms if isinstance(t.expert, FactorGraph)]
    for tables, exponent in ((tables, w) for graph, w in graphs for tables in graph._tables()):
        values = tables.values
        is_hard = bool((values == -torch.inf).any())
        if is_hard and not bool(exponent >= 0):
            return None
        weighted = torch.where((exponent == 0) & values.isinf(), 0.0, exponent.to(values) * values)
        for scope, one in _one_by_one(tables.scopes, weighted):
            summed[scope] = summed[scope] + one if scope in summed else one
    merged = FactorGraph(first.space, summed.items())
    return Simplified(merged.to(first._dtype), first.zero.new_zeros(()))


class PrefixOfTables(NamedTuple):
    """All elements as indices ``(n, numel)``, those that are not there yet 0."""

    x: Tensor


class WithinPrefix(Twist):
    """ψₜ: the tables all of whose elements are among the first t."""

    def __init__(self, graph: FactorGraph) -> None:
        super().__init__()
        self.graph = graph
        self.by_last: dict[int, list[tuple[int, int]]] = {}
        for number, tables in enumerate(graph._tables()):
            for row, last in enumerate(tables.scopes.amax(1).tolist()):
                self.by_last.setdefault(last, []).append((number, row))

    def begin(self, num_sequences: int) -> PrefixOfTables:
        shape = (num_sequences, num_places(self.graph.space))
        return PrefixOfTables(self.graph.zero.new_zeros(shape, dtype=torch.long))

    def log_next(self, state: PrefixOfTables, place: int) -> Tensor:
        k = num_values(self.graph.space)
        found = self.graph.zero.new_zeros((len(state.x), k)).to(self.graph._dtype)
        tables = self.graph._tables()
        for number, row in self.by_last.get(place, []):
            scope, values = tables[number].scopes[row].tolist(), tables[number].values[row]
            found = (
                found
                + values.movedim(scope.index(place), -1)[
                    tuple(state.x[:, element] for element in scope if element != place)
                ]
            )
        return found

    def append(self, state: PrefixOfTables, place: int, values: Tensor) -> PrefixOfTables:
        x = state.x.clone()
        x[:, place] = values
        return PrefixOfTables(x)


@twists.register
def _(expert: FactorGraph) -> Sequence[nn.Module]:
    return [] if expert.zero.is_meta else [WithinPrefix(expert)]


register(
    WithinPrefix,
    lambda t: {"graph": t.graph},
    lambda f: WithinPrefix(**f),
    name="experts.graphs.WithinPrefix",
    formerly=("experts.factor_graph.WithinPrefix",),
)
register(
    Tables,
    lambda t: {"scopes": t.scopes, "values": t.values},
    lambda f: Tables(**f),
    name="experts.graphs.Tables",
    formerly=("experts.factor_graph.Tables",),
)
register(
    FactorGraph,
    lambda g: {"space": g.space, "tables": list(g.tables)},
    lambda f: FactorGraph.from_tables(f["space"], [(t.scopes, t.values) for t in f["tables"]]),
    name="experts.FactorGraph",
    formerly=("experts.factor_graph.FactorGraph",),
)


def _are_bits(flat: Tensor) -> bool:
    """Whether entries of the tables are asked for, and none between them, as far as can be told."""
    if flat.is_meta or torch.compiler.is_compiling():
        return False
    try:
        return bool(((flat == 0) | (flat == 1)).all())
    except RuntimeError:  # of torch.func.vmap, whose rows have no values to branch on
        return False


def _one_by_one(scopes: Tensor, values: Tensor) -> Iterator[Table]:
    """Each table by itself, its elements in increasing order."""
    in_order = list(range(scopes.shape[1]))
    for scope, own in zip(scopes.tolist(), values.unbind(0), strict=True):
        order = sorted(in_order, key=scope.__getitem__)
        yield Table(
            tuple(scope[i] for i in order), own if order == in_order else own.permute(order)
        )


def _stacked(space: Space, factors: Iterable[Factor]) -> list[tuple[Tensor, Tensor]]:
    """Tables of one arity together, and none for a set of no elements."""
    by_arity: dict[int, list[tuple[Sequence[int], Tensor]]] = {}
    k, dtypes = num_values(space), set()
    for scope, table in factors:
        if isinstance(table, nn.Parameter):
            raise PoeError(
                f"a table over {tuple(scope)} must be numbers, got an nn.Parameter, which would "
                "not be learned: use FactorGraph.from_tables(space, [(scopes, parameter)])"
            )
        values = log_values(f"the table over {tuple(scope)}", table)
        if tuple(values.shape) != (k,) * len(scope) or not scope:
            raise ShapeError(
                f"expected a table of shape {(k,) * len(scope)} over the elements {tuple(scope)} "
                f"of {space}, at least one, got {tuple(values.shape)}"
            )
        dtypes.add(values.dtype)
        by_arity.setdefault(len(scope), []).append((scope, values))
    widest = max(dtypes, key=lambda dtype: torch.finfo(dtype).bits, default=None)
    return [
        (
            torch.tensor([list(scope) for scope, _ in pairs]),
            torch.stack([values.to(widest) for _, values in pairs]),
        )
        for _, pairs in sorted(by_arity.items())
    ]


def _check(space: Space, scopes: Tensor, values: Tensor) -> None:
    k, n = num_values(space), num_places(space)
    if scopes.ndim != 2 or tuple(values.shape) != (len(scopes), *[k] * scopes.shape[1]):
        raise ShapeError(
            f"expected scopes (m, arity) and values (m, {k}, ..., {k}) with a dimension for each "
            f"element of a scope, got {tuple(scopes.shape)} and {tuple(values.shape)}"
        )
    if scopes.shape[1] > MAX_ARITY:
        raise ShapeError(
            f"expected tables over at most {MAX_ARITY} elements, got {scopes.shape[1]}: for a "
            "constraint on many bits use experts.graphs.at_most or experts.graphs.parity"
        )
    if scopes.is_meta or values.is_meta or not scopes.numel():
        return
    if int(scopes.min()) < 0 or int(scopes.max()) >= n:
        raise PoeError(
            f"expected elements 0 ... {n - 1} of {space}, got {int(scopes.min())} ... "
            f"{int(scopes.max())}: they are numbered as in x.flatten()"
        )
    repeated = [scope for scope in scopes.tolist() if len(set(scope)) < len(scope)]
    if repeated:
        raise PoeError(f"expected different elements in each table, got {repeated[0]}")
