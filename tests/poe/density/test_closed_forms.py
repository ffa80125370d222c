"""That `import poe` registers how powers, products and mixtures answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import poe
from poe.density.capabilities import (
    check_proper,
    conditionals,
    distribute,
    exact_log_partition,
    label_pairs,
    log_density_of_one_hot,
    simplify,
    spin_pairs,
    tails,
)

RULES = [
    *((question, kind) for kind in (poe.Product, poe.Tempered) for question in (
        conditionals, exact_log_partition, label_pairs, log_density_of_one_hot, simplify,
        spin_pairs, tails,
    )),
    *((question, poe.Mixture) for question in (check_proper, distribute, tails)),
    *((question, poe.Transformed) for question in (check_proper, tails)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("question", "kind"), RULES, ids=[f"{q.__name__}-{k.__name__}" for q, k in RULES]
)
def test_the_rule_is_registered(question: Callable[..., Any], kind: type[poe.Expert]) -> None:
    assert question.dispatch(kind) is not question.dispatch(object)  # type: ignore[attr-defined]
