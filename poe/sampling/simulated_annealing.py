"""The most probable state of a binary target, nearly: by annealing, and by climbing to a summit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from poe.core.arguments import checked, require_count
from poe.core.doubt import warn
from poe.core.errors import PoeError
from poe.core.randomness import resolve
from poe.density.adapt import Uniform
from poe.density.capabilities import Conditionals, conditionals, simplify
from poe.density.checks import number_like
from poe.density.expert import Expert
from poe.samplers.guarded import Guarded, Raised
from poe.samplers.kernel import or_nothing
from poe.structure.conditionals import colours
from poe.structure.discrete import structure_of
from poe.tuning.choice import in_blocks, on_checkerboard

GEOMETRIC = tuple(0.1 * 100 ** (k / 199) for k in range(200))
"""Inverse temperatures from 0.1 to 10: a sweep at each."""
MAX_SWEEPS = 10_000


def iterated_conditional_modes(target: Expert, x: Tensor) -> Tensor:
    """Climb from x: each element to its likelier value given the rest, until none changes.

    Sets of elements that do not depend on each other change at once, and one whose values are
    alike stays. It ends where no change of one element raises p̃: seldom the highest summit.

    Args:
        target: p̃, on a binary space.
        x: Where to begin, ``(*batch, *event)``.

    Returns:
        Where the climbs end, of the same shape.

    Raises:
        PoeError: For a target that is not binary, or whose conditionals are not known without
            hidden units.

    References:
        Besag (1986), On the statistical analysis of dirty pictures,
        doi:10.1111/j.2517-6161.1986.tb01412.x.

    Example:
        >>> pull = experts.Ising([[0.0, 1.0], [1.0, 0.0]], [0.5, 0.0])
        >>> iterated_conditional_modes(pull, torch.tensor([[0.0, 1.0]]))
        tensor([[1., 1.]])
    """
    found = _without_hidden(target)
    event = target.space.event_shape
    rows = x.reshape(-1, *event)
    log_odds = found.given(rows, rows.new_zeros((len(rows), 0)))
    sets = _sets(found, event, rows)
    for _ in range(MAX_SWEEPS):
        before = rows
        for is_free in sets:
            value = log_odds(rows)
            better = torch.where(value == 0, rows, (value > 0).to(rows.dtype))
            rows = torch.where(is_free, better, rows)
        if torch.equal(rows, before):
            break
    return rows.reshape(x.shape)


@checked
def simulated_annealing(
    target: Expert,
    *,
    num_chains: int = 4,
    schedule: Sequence[float] = GEOMETRIC,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The best of states to which chains of Gibbs sweeps cool down from states all alike.

    A sweep of p̃^β at each inverse temperature β of the ``schedule``, then a climb
    (``iterated_conditional_modes``). The result is a state of high probability, with no promise
    that there is none higher; where couplings are attractive ``experts.spins.graph_cut`` has one.

    Args:
        target: p̃, on a binary space, with conditionals that are known without hidden units.
        num_chains: How many cool down side by side.
        schedule: β, positive, that never go down; 200 from 0.1 to 10 by default.
        generator: Of all that is drawn; a fresh one, seeded by the system, by default.

    Returns:
        One state, ``(*event)``.

    Raises:
        PoeError: For a schedule that is empty or goes down, and as ``iterated_conditional_modes``.

    References:
        Kirkpatrick, Gelatt & Vecchi (1983), Optimization by simulated annealing,
        doi:10.1126/science.220.4598.671; Geman & Geman (1984), Stochastic relaxation, Gibbs
        distributions, and the Bayesian restoration of images, doi:10.1109/TPAMI.1984.4767596.

    Example:
        >>> apart = experts.Ising([[0.0, -1.0], [-1.0, 0.0]], [0.5, 0.0])
        >>> simulated_annealing(apart, generator=torch.Generator().manual_seed(0))
        tensor([1., 0.])
    """
    _check_schedule(schedule)
    require_count("num_chains", num_chains)
    _without_hidden(target)
    like = number_like(target)
    generator = resolve(generator, like.device)
    x = Uniform(target.space, like).sample(num_chains, generator=generator)
    simple = simplify(target).expert
    for beta in schedule:
        level = simplify(simple**beta).expert
        known = structure_of(level)
        choice = on_checkerboard(known) or in_blocks(known)
        assert choice is not None
        state = choice.kernel.init(level, x)
        state, _ = choice.kernel.step(level, state, generator=generator)
        x = state.position
    x = iterated_conditional_modes(target, x)
    with torch.no_grad():
        raised = Raised()
        best = x[or_nothing(Guarded(target, raised)(x)).argmax()]
    warn(raised.doubts())
    return best


def _without_hidden(target: Expert) -> Conditionals:
    found = conditionals(target)
    if found is None or found.num_hidden:
        raise PoeError(
            f"expected a binary target whose conditionals are known without hidden units, got "
            f"{type(target).__name__} on {target.space}: draw samples, by poe.sample, and keep the "
            "one of the highest log-density"
        )
    return found


def _sets(found: Conditionals, event: torch.Size, like: Tensor) -> list[Tensor]:
    groups = colours(found.edges, event.numel())
    masks = torch.zeros((len(groups), event.numel()), dtype=torch.bool, device=like.device)
    for mask, group in zip(masks, groups, strict=True):
        mask[group.to(like.device)] = True
    return list(masks.reshape(-1, *event))


def _check_schedule(schedule: Sequence[float]) -> None:
    is_positive = bool(schedule) and min(schedule) > 0
    if not is_positive or any(later < earlier for earlier, later in pairwise(schedule)):
        raise PoeError(
            "expected a schedule of positive inverse temperatures that never go down, got "
            f"{tuple(schedule)[:8]}: a cyclic one heats what has cooled; run it once, with more "
            "chains or smaller steps"
        )
