"""Whether an expert is a batch of densities, one for each row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe import diagnostics
from poe.density.conditional import is_batch


class Located(poe.Conditional):
    space = poe.Real(1)

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        return -(x[..., 0] - condition).square()


one, three = Located().given(0.5), Located().given(torch.tensor([0.0, 1.0, 2.0]))
line = experts.Gaussian([0.0], scale=[1.0])


@pytest.mark.parametrize(
    "compose",
    [
        lambda e: e,
        lambda e: e**0.5,
        lambda e: line * e,
        lambda e: poe.Mixture([line, e], log_partitions=[None, 0.0]),
        lambda e: poe.Chunked(e, 8),
        lambda e: e.at(torch.nn.Identity(), poe.Real(1)) * line,
    ],
    ids=["Given", "Tempered", "Product", "Mixture", "Chunked", "At"],
)
def test_a_composition_is_a_batch_where_a_part_is(
    compose: Callable[[poe.Expert], poe.Expert],
) -> None:
    for expert, count in ((one, None), (three, 3)):
        composed = compose(expert)
        assert composed.num_densities == count
        assert is_batch(composed) == diagnostics.binds_chains(composed) == (count == 3)


def test_a_users_own_batch_says_so() -> None:
    class Rows(poe.Expert):
        space, num_densities = poe.Real(1), 4  # type: ignore[assignment]

    assert (line * Rows()).num_densities == 4
    assert line.num_densities is None
