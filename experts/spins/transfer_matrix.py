"""Exact sums over all states of a spin model: its sites are summed out one after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from poe.samplers.discrete.clusters import components

MAX_WORK = 2**30
"""The most table entries that a sum goes over: some seconds."""
MAX_WIDTH = 23
"""The most spins that a table spans: 64 MB."""
MAX_STORED = 2**25
"""The most table entries that are kept to draw from: 256 MB."""
MIN_WORK = 2**12
"""What one site costs at least, in table entries."""


class Order(NamedTuple):
    """In which order sites are taken in, and when each can be summed out.

    Args:
        sites: Those with a neighbour, as they come in.
        last: For each of them the place of its last neighbour, after which it is summed out.
        widths: How many spins the table spans at each place: it has 2^width entries.
    """

    sites: Tensor
    last: Tensor
    widths: Tensor

    @property
    def work(self) -> float:
        """Table entries that the sum goes over."""
        return float(torch.exp2(self.widths.double()).clamp(min=MIN_WORK).sum())

    @property
    def can_be_summed(self) -> bool:
        """Whether a sum takes seconds, and its table fits."""
        return self.work <= MAX_WORK and bool((self.widths <= MAX_WIDTH).all())

    @property
    def can_be_stored(self) -> bool:
        """Whether all tables fit, which draws need."""
        return self.work <= MAX_STORED


def best_order(edges: Tensor, shape: Sequence[int]) -> Order:
    """Row by row or, for a grid, column by column: whichever costs less, part by part of the graph.

    Args:
        edges: Pairs of flattened elements, ``(2, m)``.
        shape: Of the event.

    Returns:
        The order that goes over fewer table entries.

    Example:
        >>> best_order(torch.tensor([[0, 1, 2], [1, 2, 3]]), (4,)).widths  # a chain
        tensor([1, 2, 2, 2])
    """
    edges = edges.cpu()
    by_row = torch.arange(torch.Size(shape).numel()).reshape(tuple(shape))
    is_joined = torch.ones((1, edges.shape[1]), dtype=torch.bool)
    part = components(edges, is_joined, by_row.numel())[0]
    scans = [by_row.flatten()]
    if by_row.ndim == 2:
        scans.append(by_row.mT.flatten())
    orders = [_order(edges, scan[part[scan].argsort(stable=True)]) for scan in scans]
    return min(orders, key=lambda order: order.work)


def log_sum_over_spins(order: Order, edges: Tensor, couplings: Tensor, fields: Tensor) -> Tensor:
    """log Σₛ exp(Σ Jᵢⱼ sᵢ sⱼ + Σ hᵢ sᵢ) over s in {−1, 1}^n, in float64.

    The transfer matrix of Kramers & Wannier, one site at a time: a table over the spins that
    still have neighbours to come, in log space. Its gradient needs all tables at once: 2 GB
    for a periodic grid of 10 × 10.

    Args:
        order: As of ``best_order``.
        edges: Pairs of sites, ``(2, m)``.
        couplings: J, ``(m,)``.
        fields: h, ``(n,)``.

    Returns:
        The logarithm of the sum, ``()``.

    References:
        Kramers & Wannier (1941), Statistics of the two-dimensional ferromagnet, part I,
        doi:10.1103/PhysRev.60.252.

    Example:
        >>> ring = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> log_sum_over_spins(best_order(ring, (3,)), ring, torch.ones(3), torch.zeros(3))
        tensor(3.7466, dtype=torch.float64)
    """
    alone = torch.ones(len(fields), dtype=torch.bool, device=fields.device)
    alone[order.sites.to(fields.device)] = False
    h = fields.double()[alone]
    total = torch.logaddexp(h, -h).sum()
    final = deque(_sweep(order, edges, couplings, fields), maxlen=1)
    return total + final[0].table.logsumexp(1).squeeze() if final else total


def sample_spins(
    order: Order, edges: Tensor, couplings: Tensor, fields: Tensor, uniforms: Tensor
) -> Tensor:
    """Independent exact draws in {0, 1}, by backward sampling.

    The site summed out last is drawn first, each given those summed out after it.

    Args:
        order: As of ``best_order``.
        edges: Pairs of sites, ``(2, m)``.
        couplings: J, ``(m,)``.
        fields: h, ``(n,)``.
        uniforms: What is drawn from, ``(num_samples, n)``, float64.

    Returns:
        Draws, ``(num_samples, n)``, float64.
    """
    x = (uniforms < (2 * fields.double()).sigmoid()).to(uniforms)
    steps = [step.log_odds() for step in _sweep(order, edges, couplings, fields)]
    for site, others, log_odds in reversed(steps):
        places = 2 ** torch.arange(len(others), device=x.device).flip(0)
        index = (x[:, others].long() * places).sum(-1)
        x[:, site] = (uniforms[:, site] < log_odds[index].sigmoid()).to(x)
    return x


class _Step(NamedTuple):
    """A site about to be summed out of ``table`` ``(a, 2, b)``, which spans it and the ``others``.

    Entries are logs of sums over all sites before. Earlier dimensions are of ``others`` first.
    """

    site: int
    others: list[int]
    table: Tensor

    def log_odds(self) -> tuple[int, list[int], Tensor]:
        """Of the site being 1, for each state of the others: ``(2^others,)``."""
        return self.site, self.others, (self.table[:, 1] - self.table[:, 0]).flatten()


def _sweep(order: Order, edges: Tensor, couplings: Tensor, fields: Tensor) -> Iterator[_Step]:
    sites, last = order.sites.tolist(), order.last.tolist()
    before = _earlier_neighbours(order, edges)
    strengths = couplings.double().unbind()
    h = fields.double().unbind()
    agree = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64, device=fields.device)
    table = agree.new_zeros(1)
    frontier: list[int] = []  # places whose spins the table spans, the newest first
    for place, site in enumerate(sites):
        table = torch.stack([table - h[site], table + h[site]])
        for neighbour, edge in before[place]:
            axis = frontier.index(neighbour)
            pairs = table.view(2, 2**axis, 2, -1)
            pairs.add_(strengths[edge] * agree[:, None, :, None])
        frontier.insert(0, place)
        for done in [p for p in frontier if last[p] == place]:
            axis = frontier.index(done)
            frontier.remove(done)
            table = table.reshape(2**axis, 2, -1)
            yield _Step(sites[done], [sites[p] for p in frontier], table)
            table = torch.logaddexp(table[:, 0], table[:, 1]).flatten()
        table = table.flatten()


def _order(edges: Tensor, sites: Tensor) -> Order:
    has_neighbour = torch.zeros(len(sites), dtype=torch.bool)
    has_neighbour[edges.flatten()] = True
    sites = sites[has_neighbour[sites]]
    place = torch.zeros(len(has_neighbour), dtype=torch.long)
    place[sites] = torch.arange(len(sites))
    first, second = place[edges].sort(0).values
    last = torch.zeros(len(sites), dtype=torch.long)
    for end in (first, second):
        last.scatter_reduce_(0, end, second, "amax")
    leaving = torch.bincount(last + 1, minlength=len(sites) + 1)[: len(sites)]
    return Order(sites, last, (1 - leaving).cumsum(0))


def _earlier_neighbours(order: Order, edges: Tensor) -> list[list[tuple[int, int]]]:
    """For each place, the places before it that it is joined to, with the number of the edge."""
    place = {site: k for k, site in enumerate(order.sites.tolist())}
    before: list[list[tuple[int, int]]] = [[] for _ in place]
    for number, pair in enumerate(edges.T.tolist()):
        early, late = sorted(place[site] for site in pair)
        before[late].append((early, number))
    return before
