"""Independent classes as members of the larger families they are multiplied with."""

from __future__ import annotations

from collections.abc import Set

import torch

from experts.families.discrete import Categorical
from experts.graphs.factor_graph import FactorGraph
from experts.graphs.linear_chain import LinearChain
from experts.spins.potts import Potts
from poe import Expert
from poe.density.capabilities import widen


@widen.register
def _(expert: Categorical, families: Set[type[Expert]]) -> Expert:
    """Factors of single elements, of which the normaliser is spread over these.

    >>> chain = LinearChain(torch.zeros(2, 3), torch.eye(3))
    >>> poe.simplify(chain * Categorical(torch.zeros(2, 3))).expert
    LinearChain(Categorical(2, 3))
    """
    fields = expert.logits.log_softmax(-1)
    shape, k = tuple(fields.shape[:-1]), fields.shape[-1]
    if FactorGraph in families:
        rows = fields.reshape(-1, k)
        places = torch.arange(len(rows), device=rows.device)[:, None]
        return FactorGraph.from_tables(expert.space, [(places, rows)])
    if LinearChain in families:
        return LinearChain(fields, fields.new_zeros(k, k), expert.space)
    if Potts in families:
        none = torch.zeros((2, 0), dtype=torch.long)
        return Potts(none, fields.new_zeros(0), fields, shape, k)
    return expert
