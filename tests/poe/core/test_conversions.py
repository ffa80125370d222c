"""Each mismatch of spaces names a bridge, and the bridge that is named leads there."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
from torch import nn

import poe
from poe.core.conversions import bridge, way_together

SPACES: tuple[poe.Space, ...] = (
    poe.Real(2), poe.Real(()), poe.Real((2, 2)), poe.Interval(2, 0, 1), poe.Interval(2, 0, 255),
    poe.Interval((2, 2), -math.pi, math.pi), poe.Positive(2), poe.Positive(4), poe.Simplex(3),
    poe.PositiveDefinite(2), poe.Binary(2), poe.Binary((2, 2)), poe.Categorical(2, 2),
    poe.Categorical(2, 5), poe.Count(2), poe.Sequence(5, 2),
    poe.Joint((poe.Real(2), poe.Categorical((), 3))),
)  # fmt: skip
PAIRS = [(a, b) for a, b in itertools.product(SPACES, SPACES) if a != b]
IDS = [f"{a} to {b}" for a, b in PAIRS]


class Flat(poe.Expert):
    """Says 0 everywhere, once x is in its space."""

    def __init__(self, space: poe.Space) -> None:
        super().__init__()
        self.space = space

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(self.space.batch_shape(x))


def call_in(words: str) -> str:
    """The first call that the words name: from its beginning to its closing bracket."""
    start = re.search(r"(poe\.(Transformed|Dequantized)|expert\.at)\(", words)
    assert start is not None, words
    depth = 0
    for place in range(start.start(), len(words)):
        depth += {"(": 1, ")": -1}.get(words[place], 0)
        if depth == 0 and words[place] == ")":
            return words[start.start() : place + 1]
    raise AssertionError(words)


@pytest.mark.parametrize(("source", "goal"), PAIRS, ids=IDS)
def test_the_bridge_that_is_named_leads_there(source: poe.Space, goal: poe.Space) -> None:
    words = bridge(source, goal)
    names = {"poe": poe, "torch": torch, "expert": Flat(source), "map": nn.Identity()}
    brought = eval(call_in(words), names)
    assert brought.space == goal
    assert (Flat(goal) * brought).space == goal
    if "map" not in words:  # such a one is the user's
        x = goal_point(goal)
        assert brought(x).shape == (3,)


def goal_point(space: poe.Space) -> torch.Tensor:
    """Three points well inside."""
    if not space.is_discrete:
        u = torch.zeros(3, *space.unconstrained().event_shape)
        return space.to_unconstrained.inv(u)
    x = torch.ones(3, *space.event_shape)
    return x if isinstance(space, poe.Binary | poe.Count) else x.long()


@pytest.mark.parametrize(("source", "goal"), PAIRS, ids=IDS)
def test_a_product_says_both_spaces_and_the_bridge(source: poe.Space, goal: poe.Space) -> None:
    with pytest.raises(poe.SpaceMismatchError) as caught:
        poe.Product(one=Flat(goal), other=Flat(source))
    words = str(caught.value)
    assert f"one lives on {goal}, other on {source}; " in words
    assert any(name in words for name in ("Transformed", ".at(", "Dequantized"))
    assert words.endswith(way_together("one", goal, "other", source))


@pytest.mark.parametrize(("source", "goal"), PAIRS, ids=IDS)
def test_the_way_together_depends_on_no_order_and_leads_there(
    source: poe.Space, goal: poe.Space
) -> None:
    words = way_together("a", source, "b", goal)
    assert words == way_together("b", goal, "a", source)
    experts = {"a": Flat(source), "b": Flat(goal)}
    name = re.search(r"with (a|b) as expert|use (a|b)\.at", words)
    assert name is not None, words
    who = name[1] or name[2]
    call = call_in(words.replace(f"{who}.at(", "expert.at("))
    names = {"poe": poe, "torch": torch, "expert": experts[who], "map": nn.Identity()}
    brought = eval(call, names)
    other = experts["b" if who == "a" else "a"]
    assert (other * brought).space == other.space


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (poe.Real(2), poe.Interval(2, -1, 1)),
        (poe.Real(2), poe.Positive(2)),
        (poe.Positive(2), poe.Interval(2, 0, 5)),
        (poe.Interval(2, -1, 1), poe.Interval(2, 0, 1)),
        (poe.Real(3), poe.Simplex(3)),
        (poe.Real((2, 2)), poe.PositiveDefinite(2)),
    ],
    ids=str,
)
def test_a_prior_on_a_part_is_met_at_the_same_x(wide: poe.Space, narrow: poe.Space) -> None:
    for pair in ((wide, narrow), (narrow, wide)):
        with pytest.raises(poe.SpaceMismatchError) as caught:
            Flat(pair[0]) * Flat(pair[1])
        words = str(caught.value)
        assert re.search(r"same x, use Flat(_2)?\.at\(torch\.nn\.Identity\(\)", words), words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (poe.Interval(2, 0, 255), poe.Interval(2, -1, 1)),
        (poe.Interval(2, -1, 1), poe.Positive(2)),
        (poe.PositiveDefinite(2), poe.Positive((2, 2))),
        (poe.Interval(2, 0, 1), poe.Real(3)),
        (poe.Binary(2), poe.Real(2)),
    ],
    ids=str,
)
def test_what_reaches_beyond_is_not_read_at_the_same_x(one: poe.Space, other: poe.Space) -> None:
    assert "same x" not in way_together("a", one, "b", other)


@pytest.mark.parametrize(
    ("source", "goal", "words"),
    [
        (poe.Real(2), poe.Interval(2, 0, 1), "to cut it off where .* ends, expert.at"),
        (poe.Binary(2), poe.Interval(2, 0, 1), r"exactly, or poe.Relaxed\(expert\), .* biased"),
        (poe.Real((1, 8, 8)), poe.Real((1, 4, 4)), r"Resize\(\(8, 8\)\).*pictures of other sizes"),
        (poe.Real(3), poe.Real(2), "a feature, .* other numbers of elements have no bijection"),
        (poe.Real(2), poe.Binary(2), "to weigh those points by its density, or bring the other"),
        (poe.Count(2), poe.Categorical(2, 5), "cut to the values of Categorical"),
        (poe.Categorical(2, 5), poe.Sequence(5, 2), "the same values"),
        (poe.Binary(2), poe.Count(2), "more values than Binary.* or bring the other expert"),
        (poe.Sequence(5, 3), poe.Sequence(5, 2), "since Sequence.* has other shapes"),
        (poe.Real(2), poe.Joint((poe.Real(2), poe.Binary(1))), r"space.split\(x\)\[0\]"),
        (poe.Binary(1), poe.Joint((poe.Real(2), poe.Real(1))), "from or to a mixed state"),
    ],
)
def test_what_it_does_to_the_density_is_said(
    source: poe.Space, goal: poe.Space, words: str
) -> None:
    assert re.search(words, bridge(source, goal))


def test_exact_bridges_keep_the_normaliser() -> None:
    source = poe.Categorical(1, 5)
    logits = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    expert = poe.as_expert(
        torch.distributions.Independent(torch.distributions.Categorical(logits=logits), 1)
    )
    for goal in (poe.Real(1), poe.Interval(1, -1, 1), poe.Positive(1)):
        brought = eval(call_in(bridge(source, goal)), {"poe": poe, "expert": expert})
        log_z = poe.log_partition(brought)
        assert log_z.value.item() == pytest.approx(0.0, abs=1e-6)
