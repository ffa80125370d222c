"""Whether draws of a factor serve as proposals, which their importance weights tell."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.joint_space import Joint
from poe.density.closed_forms import samplable_factor
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert
from poe.diagnostics.weights import kish_ess, tail_index
from poe.samplers.discrete.suffix import SuffixMetropolisHastings
from poe.samplers.kernel import Kernel, or_nothing
from poe.samplers.metropolis import IndependenceMetropolisHastings
from poe.samplers.questions import needs_score
from poe.structure.autoregressive import Autoregressive
from poe.structure.discrete import Structure
from poe.structure.twists import LocalProduct, twists
from poe.tuning.choice import SHORT_SWEEP, Choice, choose

DRAWN, AT_ONCE = 512, 64
"""So many draws are weighed, of which so many at a time."""
WORTH, WORTH_OF_SEQUENCES, WORTH_WITHOUT_SCORE = 0.7, 0.5, 0.2
"""The least share of them that they must be worth: beside HMC, beside Gibbs, and beside a random
walk. A share of few draws says too much where the large weights are rare."""
WORTHLESS = 0.1
"""Of so small a share no more are drawn."""
MAX_TAIL_INDEX = 0.5
"""Beyond it the variance of weights is infinite, and chains stay long where one is large."""
LONG_SWEEP = 4096
"""No run affords many sweeps of Gibbs of so many evaluations, however proposals are weighed."""


class Proposals(NamedTuple):
    """A kernel that proposes draws of a model, and what these are worth as draws of the target.

    - ``said``: what they are draws of, in words;
    - ``log_weights``: log p̃ − log q of some, ``(n,)``.
    """

    kernel: Kernel
    said: str
    log_weights: Tensor

    @property
    def why(self) -> str:
        """In words."""
        count = len(self.log_weights)
        return f"by importance weights {count} {self.said} are worth {count * self.worth:.0f}"

    @property
    def worth(self) -> float:
        """The share of them that independent draws of the target would be."""
        return kish_ess(self.log_weights).nan_to_num(0.0).item() / len(self.log_weights)


class Chosen(NamedTuple):
    """A kernel with the reason for it, and whether the target has a score that can be followed."""

    choice: Choice
    has_score: bool


def chosen(
    known: Structure,
    target: Expert,
    density: Expert,
    u: Tensor,
    generator: torch.Generator,
) -> Chosen:
    """A kernel that proposes draws of a factor where these are worth it, else ``choose``'s.

    Args:
        known: Of the target, in its own space.
        target: What to sample.
        density: The same in the chains' coordinates, the space's own.
        u: Where chains start, ``(chains, *event)``.
        generator: Of the draws that are weighed.

    Returns:
        The kernel, and in words why this one, and what draws of the factor are worth.

    Raises:
        PoeError: As ``choose`` does.

    Example:
        >>> import poe
        >>> prior = experts.Gaussian([0.0, 0.0], scale=1.0)
        >>> likely = poe.FromLogDensity(lambda x: -0.1 * x.sum(-1).abs(), space=poe.Real(2))
        >>> target = poe.Product(prior, likely)
        >>> known, g = Structure(target.space, is_batch=False), torch.Generator().manual_seed(0)
        >>> chosen(known, target, target, torch.zeros(4, 2), g).choice.kernel
        IndependenceMetropolisHastings(model=Gaussian(...))
    """
    other = choose(known, density, u)
    tried = _proposals(known, target, density, u, generator)
    choice = other if tried is None else _better(tried, known, other)
    return Chosen(choice, needs_score(other.kernel))


def _better(tried: Proposals, known: Structure, other: Choice) -> Choice:
    """The one that is, and why."""
    if _are_better(tried, known, other):
        return Choice(tried.kernel, f"{tried.why}; without them {other.why}")
    if _num_changes(known) > LONG_SWEEP and not needs_score(other.kernel):
        sweep = f"where a sweep of Gibbs takes {_num_changes(known)} evaluations"
        return Choice(tried.kernel, f"{tried.why}: ends of them are proposed, {sweep}")
    return Choice(other.kernel, f"{other.why}; {tried.why}")


def _are_better(tried: Proposals, known: Structure, other: Choice) -> bool:
    """Whether proposals serve better than another kernel, as far as some of them tell."""
    if known.space.is_discrete:
        return tried.worth >= WORTH_OF_SEQUENCES
    least = WORTH if needs_score(other.kernel) else WORTH_WITHOUT_SCORE
    return tried.worth >= least and tail_index(tried.log_weights) < MAX_TAIL_INDEX


def _proposals(
    known: Structure, target: Expert, density: Expert, u: Tensor, generator: torch.Generator
) -> Proposals | None:
    """Draws of a factor, weighed; None where none can be drawn, or elements say how they go."""
    is_taken = known.spins or known.labels or known.conditionals
    if known.is_batch or isinstance(known.space, Joint) or u.is_meta or is_taken:
        return None
    if known.space.is_discrete:
        return _sequences(known, target, density, u, generator)
    factor = samplable_factor(target)
    if factor is None:
        return None
    kernel = IndependenceMetropolisHastings(Coordinates(target.space).pull(factor[1]))
    log_weights = _log_weights(kernel.model, density, u, DRAWN, generator)
    return Proposals(kernel, f"draws of expert {factor[0]!r}", log_weights)


def _sequences(
    known: Structure, target: Expert, density: Expert, u: Tensor, generator: torch.Generator
) -> Proposals | None:
    """Of what factors say of each next element, where one of them is a model of it."""
    models = twists(target)
    is_short = _num_changes(known) <= SHORT_SWEEP
    if is_short or not any(isinstance(model, Autoregressive) for model in models):
        return None
    kernel = SuffixMetropolisHastings(LocalProduct(known.space, models))
    count = AT_ONCE if _num_changes(known) > LONG_SWEEP else DRAWN  # taken whatever they are worth
    log_weights = _log_weights(kernel.model, density, u, count, generator)
    said = "draws of what the experts say of each next element"
    return Proposals(kernel, said, log_weights)


@torch.no_grad()
def _log_weights(
    model: Expert, density: Expert, u: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """log p̃ − log q of draws, some at a time while they are worth it; −inf where there is none."""
    found = u.new_empty(0, dtype=torch.float64)
    while len(found) < count:
        x = model.sample(AT_ONCE, generator=generator).to(u.dtype)
        log_weights = density.log_density(x).double() - model.log_density(x).double()
        found = torch.cat([found, or_nothing(log_weights)])
        if not kish_ess(found) > WORTHLESS * len(found):
            break
    return found


def _num_changes(known: Structure) -> int:
    """Of single elements, which a sweep of Gibbs weighs: 0 where there is no number of values."""
    return known.space.event_shape.numel() * ((known.space.num_values or 1) - 1)
