"""The law of kernels as the suite asks it, and that a kernel reaches every state."""

from __future__ import annotations

from functools import partial

import torch

from poe import testing
from poe.density.expert import Expert
from poe.samplers.kernel import Kernel
from tests.laws.discrete import places_of, table_of

MAX_Z = 5.0
"""The suite has some 45,000 z-values: at 5 one in 40 suites has a false alarm, at 4 each has."""

check_kernel = partial(testing.check_kernel, max_z=MAX_Z)

COPIES = 200


def check_reaches_all(kernel: Kernel, target: Expert, generator: torch.Generator) -> None:
    """One step from COPIES of each state: all lead to the likeliest, and some state can stay.

    Where the target is kept, which `check_kernel` shows, each state of positive probability comes
    back to itself, so what leads to the likeliest is also reached from it: the chain is
    irreducible, and since a state can stay not periodic. So it comes to its target from anywhere.
    """
    x, truth = table_of(target)
    count, possible = len(x), truth > 0
    start = torch.arange(count)[possible].repeat_interleave(COPIES)
    state, _ = kernel.step(target, kernel.init(target, x[start]), generator=generator)
    moves = torch.zeros(count, count, dtype=torch.bool)
    moves[start, places_of(target, state.position)] = True
    assert not moves[:, ~possible].any(), "a state of probability 0 was reached"
    assert moves.diagonal().any(), "no state can stay: the chain may be periodic"
    leads = torch.arange(count) == truth.argmax()
    while (wider := leads | moves[:, leads].any(1)).sum() > leads.sum():
        leads = wider
    assert torch.equal(leads, possible), "some states never come to the likeliest"
