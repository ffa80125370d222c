"""Potts models: labels that agree or disagree with their neighbours, on any graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.parameters import ArrayLike, aligned, filled, fixed, indices, keep
from experts.spins.lattice import check_edges, grid_graph, united
from poe import Categorical as CategoricalSpace, Expert
from poe.core.arguments import checked
from poe.density.capabilities import LabelPairs, Simplified, Term, combine, label_pairs
from poe.io import Fields, register


class Potts(Expert):
    """The Potts model on x in {0, ..., k − 1}^n; unnormalised.

    log p̃(x) = Σ over edges (i, j) of Jᵢⱼ [xᵢ = xⱼ] + Σᵢ hᵢ(xᵢ)

    With k = 2 it is an Ising model of couplings J / 2 and fields (h(1) − h(0)) / 2, up to a
    constant. A product of powers of Potts models is one, with ``Categorical`` experts among them
    too. log Z is exact by enumeration of at most 2^25 states and estimated beyond; kernels draw
    clusters of sites, or all of one colour, at once.

    Args:
        edges: Pairs of different sites, numbers of flattened elements, ``(2, m)``; a pair that is
            there twice has both couplings.
        couplings: J of each pair, ``(m,)``, or a number for all: J > 0 makes neighbours agree.
        fields: h, ``(*event, k)``, or ``(k,)`` or a number for all sites.
        shape: Of the event.
        num_labels: k.

    Raises:
        ShapeError: Where the shapes do not fit, or edges are no whole numbers.
        PoeError: For a site outside 0 ... n − 1 or joined to itself, or a number that is not
            finite.

    References:
        Potts (1952), Some generalized order-disorder transformations,
        doi:10.1017/S0305004100027419.

    Example:
        >>> chain = Potts([[0, 1], [1, 2]], 0.5, [0.0, 0.0, 1.0], 3, num_labels=3)
        >>> chain(torch.tensor([[2, 2, 0]]))
        tensor([2.5000])
    """

    edges: Tensor
    couplings: Tensor
    fields: Tensor
    may_be_infinite = ()

    @checked
    def __init__(
        self,
        edges: Tensor | Sequence[Sequence[int]],
        couplings: ArrayLike,
        fields: ArrayLike,
        shape: int | tuple[int, ...],
        num_labels: int,
    ) -> None:
        super().__init__()
        self.space = CategoricalSpace(shape, num_labels)
        edges = indices("edges", edges)
        check_edges(edges, self.space)
        couplings, fields = aligned(couplings=couplings, fields=fields)
        labels = torch.Size((num_labels,))
        each = torch.Size((*self.space.event_shape, num_labels))
        if fields.shape == labels and fields.shape != each:
            fixed("fields", fields, f"give one of shape {tuple(each)}")
            fields = fields.expand(each).clone()
        self.register_buffer("edges", edges.to(fields.device))
        keep(self, "couplings", filled("couplings", couplings, edges.shape[1:]))
        keep(self, "fields", filled("fields", fields, each))

    @classmethod
    @checked
    def grid(
        cls,
        shape: tuple[int, ...],
        coupling: ArrayLike,
        num_labels: int,
        field: ArrayLike = 0.0,
        periodic: bool = False,
    ) -> Self:
        """Nearest neighbours on a grid of rows and columns, on ``Categorical((rows, cols), k)``.

        Args:
            shape: ``(rows, cols)``.
            coupling: A number, or ``(2, rows, cols)`` as in ``Ising.grid``.
            num_labels: k.
            field: A number, ``(k,)`` for all sites, or ``(rows, cols, k)``.
            periodic: Whether the grid is closed on itself, as in ``Ising.grid``.

        Returns:
            The model.

        Raises:
            ShapeError: Where the shapes do not fit.
            PoeError: Where a number is not finite.

        Example:
            >>> mosaic = Potts.grid((4, 4), coupling=1.0, num_labels=3)
            >>> mosaic(torch.zeros(1, 4, 4))
            tensor([24.])
        """
        fixed("coupling", coupling, "give Potts(edges, parameter, ...)")
        strength, fields = aligned(coupling=coupling, field=field)
        edges, couplings = grid_graph("Potts", shape, strength, periodic)
        return cls(edges, couplings, fields, tuple(shape), num_labels)

    @property
    def num_labels(self) -> int:
        """k, how many labels there are."""
        return self.fields.shape[-1]

    def forward(self, x: Tensor) -> Tensor:
        """The unnormalised log-density.

        Args:
            x: Labels 0 ... k − 1, ``(*batch, *event)``.

        Returns:
            log p̃(x), ``(*batch,)``.
        """
        batch = x.shape[: x.ndim - self.fields.ndim + 1]
        labels = x.reshape(*batch, -1).long()
        first, second = self.edges
        agree = labels.index_select(-1, first) == labels.index_select(-1, second)
        chosen = F.one_hot(labels.clamp(0, self.num_labels - 1), self.num_labels)
        pulls = chosen.to(self.fields.dtype).flatten(-2) @ self.fields.flatten()
        return agree.to(self.couplings.dtype) @ self.couplings + pulls

    def log_density_of_one_hot(self, z: Tensor) -> Tensor:
        """The log-density as a smooth function of the one-hot encoding, Σ Jᵢⱼ zᵢ'zⱼ + Σ hᵢ'zᵢ.

        Args:
            z: One-hot labels, or weights between, ``(*batch, *event, k)``.

        Returns:
            log p̃, ``(*batch,)``.
        """
        sites = z.reshape(*z.shape[: z.ndim - self.fields.ndim], -1, self.num_labels)
        first, second = (sites.index_select(-2, end) for end in self.edges)
        return (first * second).sum(-1) @ self.couplings + sites.flatten(-2) @ self.fields.flatten()

    def extra_repr(self) -> str:
        return f"{self.space}, {len(self.couplings)} pairs"


@combine.register
def _(first: Potts, terms: Sequence[Term]) -> Simplified | None:
    """Couplings and fields add, each times its exponent, in float64 whatever the experts' dtype."""
    if first.fields.is_meta:
        return None
    models = [term.expert for term in terms if isinstance(term.expert, Potts)]
    weights = [term.exponent.to("cpu", torch.float64) for term in terms]
    both = list(zip(weights, models, strict=True))
    edges, couplings = united(
        torch.cat([model.edges.cpu() for model in models], 1),
        torch.cat([weight * model.couplings.cpu().double() for weight, model in both]),
        first.space.event_shape.numel(),
    )
    fields = torch.stack([weight * model.fields.cpu().double() for weight, model in both]).sum(0)
    like, shape = first.fields, first.space.event_shape
    merged = Potts(edges, couplings.to(like), fields.to(like), shape, first.num_labels)
    return Simplified(merged, like.new_zeros(()))


@label_pairs.register
def _(expert: Potts) -> LabelPairs:
    """Its own couplings and fields."""
    fields = expert.fields.detach().reshape(-1, expert.num_labels)
    return LabelPairs(expert.edges, expert.couplings.detach(), fields)


def _build(fields: Fields) -> Potts:
    shape = tuple(fields["fields"].shape)
    return Potts(
        fields["edges"], fields["couplings"], fields["fields"], shape[:-1], num_labels=shape[-1]
    )


register(
    Potts,
    lambda m: {"edges": m.edges, "couplings": m.couplings, "fields": m.fields},
    _build,
    name="experts.Potts",
    formerly=("experts.potts.Potts",),
)
