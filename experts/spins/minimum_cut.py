"""The most probable state of attractive spins, exactly: the smallest cut of a graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from poe import Expert, PoeError
from poe.core.arguments import checked
from poe.core.imports import missing
from poe.density.capabilities import SpinPairs, spin_pairs


@checked
def graph_cut(target: Expert) -> Tensor:
    """A state of the highest probability, exactly: the smallest cut of a graph.

    Up to a constant, −log p̃ = Σ 2 Jᵢⱼ [sᵢ ≠ sⱼ] + Σ 2 |hᵢ| [sᵢ ≠ sign hᵢ]: where no J is negative,
    that is the cost of cutting the pairs that differ, and the edges to a source and a sink that
    stand for 1 and 0. The smallest cut is the largest flow. Of several such states it is one.

    Needs the extra ``graphcut``.

    Args:
        target: An Ising model without negative couplings, or a product of such and Bernoulli
            experts.

    Returns:
        The state x, ``(*event)``, in the dtype of the fields.

    Raises:
        PoeError: For other targets, and for couplings that are not attractive, whose problem is
            NP-hard.
        ImportError: Where PyMaxflow is missing.

    References:
        Greig, Porteous & Seheult (1989), Exact maximum a posteriori estimation for binary images,
        doi:10.1111/j.2517-6161.1989.tb01764.x.

        Boykov & Kolmogorov (2004), An experimental comparison of min-cut/max-flow algorithms for
        energy minimization in vision, doi:10.1109/TPAMI.2004.60.

    Example:
        >>> row = experts.Ising.from_edges([[0, 1], [1, 2]], 1.0, [1.5, -0.5, 0.25], 3)
        >>> graph_cut(row)
        tensor([1., 1., 1.])
    """
    pairs = spin_pairs(target)
    if pairs is None:
        raise PoeError(
            f"expected a target of pairs and fields alone, got {type(target).__name__}: use "
            "poe.simulated_annealing(target), or keep the best of draws"
        )
    _check_attractive(pairs)
    is_one = torch.from_numpy(_smallest_cut(pairs))
    return is_one.to(pairs.fields).reshape(target.space.event_shape)


def _check_attractive(pairs: SpinPairs) -> None:
    negative = pairs.couplings < 0
    if bool(negative.any()):
        where = pairs.edges[:, negative][:, 0].tolist()
        raise PoeError(
            f"expected couplings of at least 0 for a graph cut, got {int(negative.sum())} negative "
            f"ones, as {pairs.couplings[negative][0].item():.3g} between sites {where[0]} and "
            f"{where[1]}: use poe.simulated_annealing(target), which promises no optimum"
        )


def _smallest_cut(pairs: SpinPairs) -> np.ndarray:
    try:
        import maxflow
    except ImportError as error:
        raise missing("PyMaxflow", "graphcut") from error
    first, second = pairs.edges.cpu().numpy()
    weights = 2 * pairs.couplings.double().cpu().numpy()
    fields = 2 * pairs.fields.double().cpu().numpy()
    graph = maxflow.Graph[float](len(fields), len(first))
    nodes = graph.add_nodes(len(fields))
    graph.add_edges(first, second, weights, weights)
    # What is cut off from the source is 0: that costs the capacity from it.
    graph.add_grid_tedges(nodes, np.maximum(fields, 0), np.maximum(-fields, 0))
    graph.maxflow()
    return ~graph.get_grid_segments(nodes)
