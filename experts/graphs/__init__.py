"""Factor graphs, linear chains and constraints on counts, with exact sums over them."""

from __future__ import annotations

from experts.graphs import widen_categorical as widen_categorical
from experts.graphs.count_constraints import Constraint, at_least, at_most, exactly, parity
from experts.graphs.factor_graph import FactorGraph
from experts.graphs.forward_backward import Chains, Marginals, MostProbable
from experts.graphs.linear_chain import LinearChain, stack_chains
from experts.graphs.transitions import Transitions, fit_transitions

__all__ = [
    "Chains",
    "Constraint",
    "FactorGraph",
    "LinearChain",
    "Marginals",
    "MostProbable",
    "Transitions",
    "at_least",
    "at_most",
    "exactly",
    "fit_transitions",
    "parity",
    "stack_chains",
]
