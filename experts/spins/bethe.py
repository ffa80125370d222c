"""Loopy belief propagation: marginals by messages between neighbours."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from experts.parameters import number, positive, whole
from experts.spins.ising import Ising
from experts.spins.potts import Potts
from poe import Expert, PoeError
from poe.core.arguments import checked
from poe.core.doubt import Doubt, Kind, warn
from poe.density.capabilities import simplify
from poe.density.questions import speaks_as


class Beliefs(NamedTuple):
    """What the messages of belief propagation come to.

    Args:
        marginals: p(xᵢ = a), ``(*event, k)``, exact on trees.
        log_partition: log Z in Bethe's approximation, ``()``, exact on trees.
        num_steps: How many steps were taken.
        change: The largest change of a log-message in the last step: where it is above the
            tolerance, the messages have not settled, and nothing is to be believed.
    """

    marginals: Tensor
    log_partition: Tensor
    num_steps: int
    change: float


class _Graph(NamedTuple):
    """Each pair as two directed edges, e from source to target and back.

    Shapes, with 2m directed edges: source, target, back ``(2m,)``; log_factors ``(2m, k, k)``,
    from a label of the source to one of the target; fields ``(n, k)``.
    """

    source: Tensor
    target: Tensor
    back: Tensor
    log_factors: Tensor
    fields: Tensor


@checked
@torch.no_grad()
def belief_propagation(
    target: Expert, *, damping: float = 0.5, max_steps: int = 1000, tolerance: float = 1e-6
) -> Beliefs:
    """Sum-product messages, all at once, in log space, until they settle.

    m_{i→j}(b) ∝ Σₐ exp(Jᵢⱼ(a, b) + hᵢ(a)) ∏_{k ≠ j} m_{k→i}(a)

    Exact on trees; else an approximation that is good where couplings are weak or loops long, and
    may not settle where they are strong. Warns (TrustWarning) where the messages have not settled
    after ``max_steps``: then neither marginals nor log Z are to be believed.

    Args:
        target: An Ising or a Potts model, or a product that merges to one.
        damping: The weight of the old log-messages, which the new ones are mixed with, in [0, 1).
        max_steps: The most steps; in each of them all messages are sent.
        tolerance: The largest change of a log-message, in nats, at which they have settled.

    Returns:
        Marginals and log Z, in the dtype of the fields; computed in float64.

    Raises:
        PoeError: For other targets, a damping outside [0, 1), no steps, and a tolerance that is not
            above 0.

    References:
        Pearl (1988), Probabilistic reasoning in intelligent systems, Morgan Kaufmann.

        Yedidia, Freeman & Weiss (2005), Constructing free-energy approximations and generalized
        belief propagation algorithms, doi:10.1109/TIT.2005.850085, equation 37 (log Z).

    Example:
        >>> chain = experts.Ising.from_edges([[0, 1], [1, 2]], 0.5, [1.0, 0.0, 0.0], 3)
        >>> found = belief_propagation(chain)
        >>> found.marginals[:, 1]
        tensor([0.8808, 0.6760, 0.5813])
        >>> torch.allclose(found.log_partition, poe.log_partition(chain).value)
        True
    """
    _require_settings(damping, max_steps, tolerance)
    graph, event_shape, like = _graph(target)
    messages = torch.zeros_like(graph.log_factors[:, 0])
    num_steps, change = 0, torch.inf
    while num_steps < max_steps and not change < tolerance:
        cavity = _gathered(graph, messages)[graph.source] - messages[graph.back]
        found = torch.logsumexp(graph.log_factors + cavity[:, :, None], 1).log_softmax(-1)
        found = damping * messages + (1 - damping) * found
        change = (found - messages).abs().amax().item() if messages.numel() else 0.0
        num_steps, messages = num_steps + 1, found
    if not change < tolerance:
        warn([_not_settled(change, num_steps)])
    beliefs = _gathered(graph, messages).log_softmax(-1)
    log_partition = _bethe(graph, messages, beliefs)
    marginals = beliefs.exp().reshape(*event_shape, -1)
    return Beliefs(marginals.to(like), log_partition.to(like), num_steps, change)


def _require_settings(damping: float, max_steps: int, tolerance: float) -> None:
    if not 0 <= damping < 1:
        raise PoeError(f"expected a damping of at least 0 and below 1, got {damping}")
    whole("max_steps", max_steps)
    number("tolerance", tolerance, positive)


def _not_settled(change: float, num_steps: int) -> Doubt:
    text = (
        f"the messages have not settled: a log-message still changed by {change:.2g} in step "
        f"{num_steps}, so that neither marginals nor log Z are to be believed; raise damping= or "
        "max_steps=, or use draws of poe.sample"
    )
    return Doubt(Kind.NOT_SETTLED, text)


def _gathered(graph: _Graph, messages: Tensor) -> Tensor:
    """Fields and all messages that come in, as logarithms: ``(n, k)``."""
    return graph.fields.index_add(0, graph.target, messages)


def _bethe(graph: _Graph, messages: Tensor, beliefs: Tensor) -> Tensor:
    """Energy and entropy of the pairs, less the entropy of sites that are counted too often."""
    half = len(graph.source) // 2
    cavity = _gathered(graph, messages)[graph.source] - messages[graph.back]
    factors = graph.log_factors[:half]
    joint = factors + cavity[:half, :, None] + cavity[half:, None, :]
    joint = joint - joint.logsumexp((1, 2), keepdim=True)
    of_pairs = (joint.exp() * (factors - joint)).sum()
    degree = torch.bincount(graph.source, minlength=len(beliefs))
    of_sites = beliefs.exp() * (graph.fields - (1 - degree)[:, None] * beliefs)
    return of_pairs + of_sites.sum()


def _graph(target: Expert) -> tuple[_Graph, torch.Size, Tensor]:
    found, log_constant = simplify(target)
    if speaks_as(found, Ising):
        spin = torch.tensor([-1.0, 1.0], dtype=torch.float64, device=found.fields.device)
        factors = found.couplings.double()[:, None, None] * spin[:, None] * spin
        fields = found.fields.double().flatten()[:, None] * spin
        log_constant = log_constant + found.offset
    elif speaks_as(found, Potts):
        agree = torch.eye(found.num_labels, dtype=torch.float64, device=found.fields.device)
        factors = found.couplings.double()[:, None, None] * agree
        fields = found.fields.double().flatten(0, -2)
    else:
        raise PoeError(
            f"expected an Ising or a Potts model, or a product that merges to one, got "
            f"{type(found).__name__}: use draws of poe.sample for marginals"
        )
    one, other = found.edges
    # One site carries the constant, which its marginal does not see.
    fields = fields.clone()
    fields[0] += log_constant.double()
    m = len(one)
    graph = _Graph(
        source=torch.cat([one, other]),
        target=torch.cat([other, one]),
        back=torch.arange(2 * m, device=one.device).roll(m),
        log_factors=torch.cat([factors, factors.mT]),
        fields=fields,
    )
    return graph, found.space.event_shape, found.fields
