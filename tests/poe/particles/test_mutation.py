"""Moves of particles: what is kept owes nothing to how it was decided what to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import experts
import poe
from poe.particles.mutation import (
    CLOSE,
    Tally,
    kernel_at_scale,
    learn_scale,
    move_chains,
    others_have_mixed,
)
from poe.samplers.kernel import Density, Info, MetropolisState
from poe.samplers.path import Level, geometric_path

NORMAL = experts.Gaussian([0.0], scale=[1.0])
FLAT = NORMAL * poe.FromLogDensity(lambda x: 0 * x.sum(-1), space=poe.Real(1))


@dataclass(frozen=True)
class Scripted:
    """A kernel that goes where it is told: positions ``(steps, chains, 1)``."""

    script: Tensor
    guarantee = "asymptotically exact"

    def init(self, target: Density, x: Tensor) -> Any:
        """At the start."""
        return MetropolisState(x, target.log_density(x))

    def step(self, target: Density, state: Any, *, generator: torch.Generator) -> tuple[Any, Info]:
        """To the next place, of which the generator's seed counts the steps."""
        step = generator.initial_seed()
        generator.manual_seed(step + 1)
        x = self.script[step]
        yes = torch.ones(len(x), dtype=torch.bool)
        info = Info(yes.float(), yes, ~yes, ~yes, ~yes)
        return MetropolisState(x, target.log_density(x)), info


def kept(script: Tensor, num_islands: int, max_thinning: int = 8) -> Tensor:
    """The positions that are kept of chains that go along that script, ``(islands, n)``."""
    level = Level(geometric_path(NORMAL, FLAT), 1.0)
    began = script[0]
    counting = torch.Generator().manual_seed(1)
    moved = move_chains(
        level,
        Scripted(script),
        level.path.evaluate(began, False),
        num_moves=2,
        max_thinning=max_thinning,
        tally=Tally(num_islands),
        generator=counting,
    )
    return moved.parts.position.reshape(num_islands, -1)


def test_how_long_an_island_goes_on_is_decided_by_the_others() -> None:
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(17, 3, 1, generator=g)
    drifting = torch.arange(17.0)[:, None, None] + 0.01 * torch.randn(17, 3, 1, generator=g)
    both = torch.cat([mixing, drifting], 1)
    mixed, drifted = kept(both, 2)
    # The island that mixes waits for the other one, which does not wait for it.
    assert torch.equal(mixed.reshape(3, 2), mixing[[8, 16], :, 0].T)
    assert torch.equal(drifted.reshape(3, 2), drifting[[1, 2], :, 0].T)


def test_an_islands_own_way_has_no_say_in_what_is_kept_of_it() -> None:
    g = torch.Generator().manual_seed(1)
    others = torch.randn(17, 4, 1, generator=g).cumsum(0) / 3
    steps = set()
    for _ in range(20):  # whatever way the first island goes, the same steps of it are kept
        own = torch.randn(17, 2, 1, generator=g)
        first = kept(torch.cat([own, others], 1), 3)[0].reshape(2, 2)
        steps.add(tuple((own[1:, 0, 0] == x).nonzero().item() + 1 for x in first[0]))
    assert len(steps) == 1


def test_a_lone_component_that_does_not_vary_has_no_say() -> None:
    g = torch.Generator().manual_seed(0)
    walk = torch.randn(8, 60, 1, generator=g).cumsum(0)
    still = torch.full((60, 1), 1e6)
    began, near, far = (torch.cat([x, still], 1) for x in (torch.zeros(60, 1), walk[3], walk[7]))
    assert not others_have_mixed(began, near, far, 6).any()


def test_the_scale_is_learned_on_moves_that_are_thrown_away() -> None:
    level, g = Level(geometric_path(NORMAL, FLAT), 1.0), torch.Generator().manual_seed(0)
    parts = level.path.evaluate(torch.randn(4000, 1, generator=g), False)
    kernel, tally = poe.samplers.MetropolisHastings(), Tally(2)
    for first in (1e-3, 1.0, 300.0):
        scale = learn_scale(level, kernel, parts, first, tally=tally, generator=g)
        state = kernel_at_scale(kernel, scale).init(FLAT, parts.position)
        _, info = kernel_at_scale(kernel, scale).step(FLAT, state, generator=g)
        # Close enough is found by the mean of 4000 chains, and seen by another.
        error = (2 * info.acceptance_probability.var() / 4000) ** 0.5
        miss = abs(info.acceptance_probability.mean() - kernel.target_acceptance)
        assert miss < CLOSE + 4 * error
    assert tally.acceptance == []
    assert tally.num_evaluations == tally.num_steps * 4000


def test_it_ends_where_the_largest_scale_is_accepted_more_often_than_wanted() -> None:
    level, g = Level(geometric_path(NORMAL, FLAT), 1.0), torch.Generator().manual_seed(0)
    parts = level.path.evaluate(torch.randn(100, 1, generator=g), True)
    affine = poe.samplers.Dense(torch.zeros(1), torch.eye(1))
    kernel, tally = poe.samplers.Preconditioned(poe.samplers.SplitHMC(), affine), Tally(2)
    learn_scale(level, kernel, parts, None, tally=tally, generator=g)
    assert tally.num_steps == 1
