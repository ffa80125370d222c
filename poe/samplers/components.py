"""Connected components of many graphs at once."""

from __future__ import annotations

import torch
from torch import Tensor


def components(edges: Tensor, is_joined: Tensor, num_sites: int) -> Tensor:
    """Which sites hang together: for each its component's first site, chain by chain.

    Every root is hooked to the lowest root that an edge leads to, labels are followed to their
    roots, and edges within a component are dropped: a few rounds, each on fewer edges.

    Shapes: edges ``(2, m)``, is_joined ``(chains, m)``; ``(chains, num_sites)`` int64, the labels
    of chain c in c · num_sites ... (c + 1) · num_sites − 1.

    Source: Shiloach & Vishkin 1982.

    >>> path = torch.tensor([[0, 1, 2], [1, 2, 3]])
    >>> components(path, torch.tensor([[True, False, True], [False, True, True]]), 4)
    tensor([[0, 0, 2, 2],
            [4, 5, 5, 5]])
    """
    num_chains = len(is_joined)
    label = torch.arange(num_chains * num_sites, device=is_joined.device)
    if not is_joined.is_meta:
        chain, edge = is_joined.nonzero(as_tuple=True)
        one, other = edges.to(label.device)[:, edge] + num_sites * chain
        while len(one):
            label = _hooked(label, one, other)
            one, other = label[one], label[other]
            apart = one != other
            one, other = one[apart], other[apart]
    return label.reshape(num_chains, num_sites)


def _hooked(label: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The labels after each root that an edge leads from has gone to the lowest it leads to."""
    high, low = torch.maximum(one, other), torch.minimum(one, other)
    label = label.scatter_reduce(0, high, low, "amin")
    while True:
        followed = label[label]
        if torch.equal(followed, label):
            return label
        label = followed
