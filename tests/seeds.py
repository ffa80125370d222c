"""Networks whose first weights are the same wherever and whenever they are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Within it the global generators of torch (which nn.Linear asks) and numpy start at the seed.

    What they were before comes back at the end, so that no test depends on those that ran before.
    """
    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)
