"""Hard constraints on token sequences: those that a finite automaton accepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import poe
from experts.parameters import indices
from poe import Expert, PoeError, ShapeError
from poe.core.arguments import checked, told
from poe.density.capabilities import Simplified, Term, combine, exact_log_partition
from poe.density.transformed import mask_outside
from poe.io import register
from poe.structure.autoregressive import as_values
from poe.structure.twists import LocalProduct, Twist, ratio, twists

MAX_STATES = 20_000


class Automaton(Expert):
    """log p̃(x) = 0 where the automaton accepts the tokens x₁ … xₙ, −inf elsewhere.

    It begins in state 0, goes from state s to ``transitions[s, classes[v]]`` with each token v, and
    accepts by the state it ends in. Tokens of one class do the same everywhere. Z, the number of
    accepted sequences, is exact, and so are draws, all of them alike; a product of powers of
    automata, each exponent above 0, is one. ``matches``, ``contains``, ``avoids`` and
    ``at_most_tokens`` of ``experts.language`` make automata of texts.

    Shapes: x ``(*batch, length)``.

    Args:
        transitions: The state after each, ``(states, classes)``.
        classes: The class of each token, ``(k,)``.
        accepting: Whether a sequence may end in each state, ``(states,)``.
        length: How many tokens a sequence has.

    Raises:
        DtypeError: For what are no whole numbers.
        ShapeError: Where there is not one row of transitions for each state.
        PoeError: For states and classes that are none, and where no sequence is accepted.

    Example:
        >>> # An even number of the tokens 1 and 2:
        >>> even = Automaton([[0, 1], [1, 0]], [0, 1, 1], [True, False], length=3)
        >>> even(torch.tensor([[0, 1, 2], [0, 0, 1]]))
        tensor([0., -inf])
        >>> poe.log_partition(even).value.exp().round()
        tensor(13.)
    """

    transitions: Tensor
    classes: Tensor
    log_accept: Tensor
    log_count: Tensor
    may_be_infinite = ("log_accept", "log_count")

    def __init__(
        self,
        transitions: Tensor | Sequence[Sequence[int]],
        classes: Tensor | Sequence[int],
        accepting: Tensor | Sequence[bool],
        length: int,
    ) -> None:
        super().__init__()
        found, kinds = indices("transitions", transitions), indices("classes", classes)
        is_accepting = indices("accepting", accepting) != 0
        _require_states(found, kinds, is_accepting)
        self.register_buffer("transitions", found)
        self.register_buffer("classes", kinds)
        zero = torch.zeros(is_accepting.shape, device=is_accepting.device)
        self.register_buffer("log_accept", zero.masked_fill(~is_accepting, -torch.inf))
        self.space: poe.Sequence = poe.Sequence(len(self.classes), length)
        counts = log_sums(self, torch.zeros(len(self.classes), device=found.device))
        self.register_buffer("log_count", counts.to(zero.dtype), persistent=False)
        if not found.is_meta and self.log_count[length, 0] == -torch.inf:
            raise PoeError(
                f"expected a sequence of {length} tokens that the automaton accepts, got none: "
                "the constraint asks for more than fits in, or contradicts itself"
            )

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, unnormalised.

        Args:
            x: Tokens, ``(*batch, length)``.

        Returns:
            0 where x is accepted, else −inf, ``(*batch,)``.
        """
        batch_shape = self.space.batch_shape(x)
        kinds = self.classes[as_values(self.space, x)]
        state = torch.zeros(batch_shape, dtype=torch.long, device=kinds.device)
        for kind in kinds.unbind(-1):
            state = self.transitions[state, kind]
        return mask_outside(self.space, x, self.log_accept[state])

    def log_prob(self, x: Tensor) -> Tensor:
        """log p̃(x) − log Z.

        Args:
            x: Tokens, ``(*batch, length)``.

        Returns:
            ``(*batch,)``.

        Raises:
            PoeError: For what are no tokens.
        """
        if not torch.compiler.is_compiling():
            self.space.require(x)
        return self(x) - self.log_count[self.space.length, 0]

    @checked
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws, every accepted sequence alike.

        Args:
            num_samples: How many.
            generator: Of the draws; a fresh one if left out.

        Returns:
            ``(num_samples, length)``.
        """
        uniform = LocalProduct(self.space, [Ahead(self, self.log_count)])
        return uniform.sample(num_samples, generator=generator)

    def extra_repr(self) -> str:
        return f"{self.space}, {len(self.transitions)} states"


def _require_states(transitions: Tensor, classes: Tensor, is_accepting: Tensor) -> None:
    if transitions.ndim != 2 or classes.ndim != 1 or is_accepting.shape != transitions.shape[:1]:
        raise ShapeError(
            "expected transitions (states, classes), classes (k,) and accepting (states,), got "
            f"{tuple(transitions.shape)}, {tuple(classes.shape)} and {tuple(is_accepting.shape)}"
        )
    ranges = {
        "transitions": (transitions, transitions.shape[0], "states"),
        "classes": (classes, transitions.shape[1], "classes"),
    }
    for name, (values, count, what) in ranges.items():
        is_none = (values < 0) | (values >= count)
        if not values.is_meta and bool(is_none.any()):
            raise PoeError(
                f"expected {name} among the {what} 0 ... {count - 1}, got "
                f"{values[is_none][0].item()}: number them from 0"
            )


def log_sums(automaton: Automaton, log_weights: Tensor) -> Tensor:
    """log Σ ∏ₜ w(vₜ) over r tokens that lead from a state to an accepting one.

    By backward recursion over r.

    Args:
        automaton: Whose states they are.
        log_weights: log w, ``(k,)``.

    Returns:
        By r and state, ``(length + 1, states)``, float64.
    """
    size = automaton.transitions.shape[1]
    index = automaton.classes.to(log_weights.device)
    weights = log_weights.new_full((size,), -torch.inf, dtype=torch.float64)
    largest = weights.scatter_reduce(0, index, log_weights.double(), "amax")
    safe = largest.masked_fill(largest == -torch.inf, 0.0)
    sums = torch.zeros_like(largest).index_add(0, index, (log_weights.double() - safe[index]).exp())
    weights = safe + sums.log()
    found = [automaton.log_accept.double()]
    for _ in range(automaton.space.length):
        found.append((weights + found[-1][automaton.transitions]).logsumexp(1))
    return torch.stack(found)


class StateSoFar(NamedTuple):
    """The automaton's state after each prefix.

    Args:
        values: ``(n,)``.
    """

    values: Tensor


class Ahead(Twist):
    """A value of what an automaton may still do: ψ(prefix) = exp(log_value[r, s]).

    After the prefix it is in state s and r tokens are to come.

    Args:
        automaton: The constraint.
        log_value: log ψ, ``(length + 1, states)``: with ``log_sums`` of token probabilities it is
            the probability that independent tokens of those frequencies satisfy the constraint
            (``foreseen``).
    """

    log_value: Tensor

    @checked
    def __init__(self, automaton: Automaton, log_value: Tensor) -> None:
        super().__init__()
        states = (automaton.space.length + 1, len(automaton.transitions))
        if log_value.shape != states or not bool((log_value < torch.inf).all()):
            raise ShapeError(
                f"expected log values of shape {states}, numbers or -inf, got {told(log_value)}"
            )
        self.automaton = automaton
        self.register_buffer("log_value", log_value)

    def begin(self, num_sequences: int) -> StateSoFar:
        return StateSoFar(self.automaton.classes.new_zeros(num_sequences))

    def log_next(self, state: StateSoFar, place: int) -> Tensor:
        remaining = self.automaton.space.length - place
        after = self.log_value[remaining - 1][self.automaton.transitions[state.values]]
        found = ratio(after, self.log_value[remaining][state.values][:, None])
        return found[:, self.automaton.classes]

    def append(self, state: StateSoFar, place: int, values: Tensor) -> StateSoFar:
        kinds = self.automaton.classes[values]
        return StateSoFar(self.automaton.transitions[state.values, kinds])


@checked
def reachable(automaton: Automaton) -> Ahead:
    """1 while the tokens still to come can satisfy the constraint, 0 from where they cannot.

    The twist that an automaton brings to ``poe.smc_over_positions`` by itself.

    Args:
        automaton: The constraint.

    Returns:
        The twist.
    """
    zero = torch.zeros_like(automaton.log_count)
    return Ahead(automaton, zero.masked_fill(automaton.log_count == -torch.inf, -torch.inf))


@checked
def foreseen(automaton: Automaton, log_frequencies: Tensor) -> Ahead:
    """How likely the constraint is to be satisfied, by independent tokens of those frequencies.

    It makes room for a rare word long before the last chance. Give it by ``twists=`` to
    ``poe.smc_over_positions``.

    Args:
        automaton: The constraint.
        log_frequencies: ``(k,)``, all finite: such as
            ``experts.language.token_frequencies(model, ...)``.

    Returns:
        The twist.

    Raises:
        PoeError: Where a token has no frequency.

    References:
        Zhang, Dang, Peng & Van den Broeck (2023), Tractable control for autoregressive language
        generation, arXiv:2304.07438 (GeLaTo; with a hidden Markov model in place of independent
        tokens).

    Example:
        >>> ends_in_2 = Automaton([[0, 1], [0, 1]], [0, 0, 1], [False, True], length=3)
        >>> foreseen(ends_in_2, torch.tensor([0.5, 0.3, 0.2]).log()).log_value[1].exp()
        tensor([0.2000, 0.2000])
    """
    if log_frequencies.shape != automaton.classes.shape or not log_frequencies.is_floating_point():
        raise ShapeError(
            f"expected a number for each of {len(automaton.classes)} tokens, got "
            f"{log_frequencies.dtype} of shape {tuple(log_frequencies.shape)}"
        )
    if not log_frequencies.is_meta and not bool(log_frequencies.isfinite().all()):
        raise PoeError(
            "expected every token to have some frequency, got tokens of none: a twist may be 0 "
            "only where no continuation has a density"
        )
    values = log_sums(automaton, log_frequencies.to(automaton.classes.device))
    return Ahead(automaton, values.to(automaton.log_count.dtype))


def joined(first: Automaton, second: Automaton) -> Automaton:
    """The automaton that accepts what both accept, of the pairs of states that can be met.

    Args:
        first: One.
        second: The other, on the same tokens.

    Returns:
        Theirs.

    Raises:
        PoeError: Where no sequence is accepted by both, and for more than 20 000 states.
    """
    pairs, classes = torch.stack([first.classes, second.classes], 1).unique(
        dim=0, return_inverse=True
    )
    columns = first.transitions[:, pairs[:, 0]], second.transitions[:, pairs[:, 1]]
    width = len(second.transitions)
    number, met, rows = {0: 0}, [0], []
    for state in met:  # grows on the way
        after = columns[0][state // width] * width + columns[1][state % width]
        for pair in after.tolist():
            if pair not in number:
                number[pair] = len(met)
                met.append(pair)
        rows.append([number[pair] for pair in after.tolist()])
        if len(met) > MAX_STATES:
            raise PoeError(f"expected at most {MAX_STATES} states of two constraints, got more")
    states = torch.tensor(met, device=classes.device)
    accepting = (first.log_accept[states // width] == 0) & (second.log_accept[states % width] == 0)
    transitions = torch.tensor(rows, device=classes.device)
    return Automaton(transitions, classes, accepting, first.space.length)


@exact_log_partition.register
def _(expert: Automaton) -> Tensor | None:
    return expert.log_count[expert.space.length, 0]


@combine.register
def _(first: Automaton, terms: Sequence[Term]) -> Simplified | None:
    """What all of them accept; None where an exponent is not above 0, or learned."""
    found = first
    for term in terms:
        is_fixed = not (term.exponent.requires_grad or term.exponent.is_meta)
        if first.classes.is_meta or not is_fixed or not bool(term.exponent > 0):
            return None
        assert isinstance(term.expert, Automaton)
        if term.expert is not first:
            found = joined(found, term.expert)
    return Simplified(found.to(first.log_accept.dtype), first.log_accept.new_zeros(()))


@twists.register
def _(expert: Automaton) -> Sequence[Twist]:
    return [reachable(expert)]


register(
    Automaton,
    lambda a: {
        "transitions": a.transitions,
        "classes": a.classes,
        "log_accept": a.log_accept,
        "length": a.space.length,
    },
    lambda f: Automaton(f["transitions"], f["classes"], f["log_accept"] == 0, f["length"]).to(
        f["log_accept"].dtype
    ),
    name="experts.language.Automaton",
    formerly=("experts.language.automaton.Automaton",),
)
register(
    Ahead,
    lambda t: {"automaton": t.automaton, "log_value": t.log_value},
    lambda f: Ahead(**f),
    name="experts.language.Ahead",
    formerly=("experts.language.automaton.Ahead",),
)
