"""Hard constraints on bits: how many are 1, and whether that number is odd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experts.parameters import real, whole
from poe import Binary, Expert, PoeError
from poe.core.arguments import checked
from poe.core.randomness import choose, resolve
from poe.density.capabilities import Simplified, Term, combine, exact_log_partition
from poe.io import register
from poe.structure.twists import Twist, twists


class Constraint(Expert):
    """log p̃(x) = 0 where the number of ones may be what it is, −inf elsewhere.

    The functions and classes of this module say which in words. Z = Σ C(n, c) over the counts that
    may be; draws are exact: a count, then places. A product of powers of them, each exponent above
    0, is one.

    Where x is not in {0, 1}ⁿ the log-density is −inf too, as it is outside of the space.

    Args:
        shape: Of the event, on ``Binary(shape)``, of n elements.
        allowed: Whether c ones may be, c = 0 … n, ``(n + 1,)``.

    Raises:
        PoeError: Where no count may be, and for ``allowed`` of another shape.

    Example:
        >>> two = Constraint(4, torch.tensor([False, False, True, False, False]))
        >>> two(torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]))
        tensor([0., -inf])
        >>> poe.log_partition(two * at_most(2, 4)).value.exp()  # of C(4, 2) states
        tensor(6.)
    """

    allowed: Tensor
    may_be_infinite = ()

    def __init__(self, shape: int | tuple[int, ...], allowed: Tensor | Sequence[bool]) -> None:
        super().__init__()
        self.space = Binary(shape)
        mask = real("allowed", allowed) != 0
        if mask.shape != (self.num_elements + 1,):
            raise PoeError(
                f"expected allowed of shape ({self.num_elements + 1},), one for each count of ones "
                f"in {self.space}, got {tuple(mask.shape)}"
            )
        if not mask.is_meta and not bool(mask.any()):
            raise PoeError(
                f"expected a count of ones in {self.space} that may be, got none: the "
                "constraints contradict each other"
            )
        self.register_buffer("allowed", mask)
        # Of a floating dtype, so that the expert has one.
        self.register_buffer("log_count", _log_binomials(self.num_elements).to(mask.device))

    log_count: Tensor

    @property
    def num_elements(self) -> int:
        """n, how many bits there are."""
        return self.space.event_shape.numel()

    def forward(self, x: Tensor) -> Tensor:
        """The unnormalised log-density.

        Args:
            x: States, ``(*batch, *event)``.

        Returns:
            log p̃(x), ``(*batch,)``; −inf where the count may not be, or x is not of 0 and 1.
        """
        flat = self.space.as_vector(x)
        count = flat.sum(-1)
        may_be = self.allowed[count.long().clamp(0, self.num_elements)]
        is_inside = may_be & self.space.contains(x)
        zero = (count * 0).to(self.log_count.dtype)  # with a gradient, which is 0
        return zero.masked_fill(~is_inside, -torch.inf)

    def log_prob(self, x: Tensor) -> Tensor:
        """The normalised log-density, log p̃(x) − log Z.

        Args:
            x: States of 0 and 1, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.

        Raises:
            PoeError: Where x is not in Binary.
        """
        if not torch.compiler.is_compiling():
            self.space.require(x)
        return self(x) - self.log_counts().logsumexp(0)

    def log_counts(self) -> Tensor:
        """log C(n, c) where c ones may be, −inf elsewhere: ``(n + 1,)``."""
        return self.log_count.masked_fill(~self.allowed, -torch.inf)

    @checked
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent exact draws, every state that may be alike.

        Args:
            num_samples: How many.
            generator: Of all that is drawn; a fresh one, seeded by the system, by default.

        Returns:
            Draws, ``(num_samples, *event)``.
        """
        device = self.allowed.device
        generator = resolve(generator, device)
        weights = self.log_counts().double().softmax(0)
        counts = choose(weights, num_samples, generator=generator)
        shape = (num_samples, self.num_elements)
        keys = torch.rand(shape, dtype=torch.float64, generator=generator, device=device)
        ranks = keys.argsort(1).argsort(1)
        x = (ranks < counts[:, None]).to(self.log_count.dtype)
        return x.reshape(num_samples, *self.space.event_shape)

    def extra_repr(self) -> str:
        if self.allowed.is_meta:
            return str(self.space)
        return f"{self.space}, ones: {_in_words(self.allowed.nonzero().flatten().tolist())}"


@checked
def at_most(k: int, shape: int | tuple[int, ...]) -> Constraint:
    """At most k ones.

    Args:
        k: A count, from 0 to the number n of bits.
        shape: Of the event, on ``Binary(shape)``.

    Returns:
        The constraint.

    Raises:
        PoeError: Where k is not from 0 to n.

    Example:
        >>> at_most(2, 5)
        Constraint(Binary(5), ones: 0 ... 2)
    """
    return _between(0, whole("k", k, None), shape)


@checked
def at_least(k: int, shape: int | tuple[int, ...]) -> Constraint:
    """At least k ones.

    Args:
        k: A count, from 0 to the number n of bits.
        shape: Of the event, on ``Binary(shape)``.

    Returns:
        The constraint.

    Raises:
        PoeError: Where k is not from 0 to n.

    Example:
        >>> at_least(4, 5).log_prob(torch.ones(1, 5)).exp()
        tensor([0.1667])
    """
    return _between(whole("k", k, None), Binary(shape).event_shape.numel(), shape)


@checked
def exactly(k: int, shape: int | tuple[int, ...]) -> Constraint:
    """Exactly k ones.

    Args:
        k: A count, from 0 to the number n of bits.
        shape: Of the event, on ``Binary(shape)``.

    Returns:
        The constraint.

    Raises:
        PoeError: Where k is not from 0 to n.

    Example:
        >>> exactly(1, 3).sample(2, generator=torch.Generator().manual_seed(0)).sum(1)
        tensor([1., 1.])
    """
    return _between(whole("k", k, None), k, shape)


@checked
def parity(shape: int | tuple[int, ...], *, odd: bool = False) -> Constraint:
    """An even number of ones, or an odd one: Z = 2^(n − 1).

    Args:
        shape: Of the event, on ``Binary(shape)``, of n elements.
        odd: Whether the number is odd.

    Returns:
        The constraint.

    Example:
        >>> poe.log_partition(parity(5)).value.exp()
        tensor(16.)
    """
    counts = torch.arange(Binary(shape).event_shape.numel() + 1)
    return Constraint(shape, counts % 2 == int(odd))


def _between(least: int, most: int, shape: int | tuple[int, ...]) -> Constraint:
    n = Binary(shape).event_shape.numel()
    if not 0 <= least <= most <= n:
        raise PoeError(
            f"expected a number of ones between 0 and {n} for {Binary(shape)}, got "
            f"{least if least > 0 else most}"
        )
    counts = torch.arange(n + 1)
    return Constraint(shape, (counts >= least) & (counts <= most))


@exact_log_partition.register
def _(expert: Constraint) -> Tensor | None:
    return expert.log_counts().logsumexp(0)


@combine.register
def _(first: Constraint, terms: Sequence[Term]) -> Simplified | None:
    """What all of them allow; None where an exponent is not above 0, learned, or nothing is."""
    allowed = first.allowed
    for term in terms:
        is_fixed = not (term.exponent.requires_grad or term.exponent.is_meta)
        if allowed.is_meta or not is_fixed or not bool(term.exponent > 0):
            return None
        assert isinstance(term.expert, Constraint)
        allowed = allowed & term.expert.allowed
    if not bool(allowed.any()):
        return None
    merged = Constraint(tuple(first.space.event_shape), allowed)
    return Simplified(merged.to(first.log_count.dtype), first.log_count.new_zeros(()))


class CountSoFar(NamedTuple):
    """How many ones each prefix has: ``(n,)``."""

    ones: Tensor


class Feasible(Twist):
    """1 while some continuation satisfies the constraint, 0 from where none does."""

    def __init__(self, constraint: Constraint) -> None:
        super().__init__()
        self.constraint = constraint

    def begin(self, num_sequences: int) -> CountSoFar:
        return CountSoFar(self.constraint.allowed.new_zeros(num_sequences, dtype=torch.long))

    def log_next(self, state: CountSoFar, place: int) -> Tensor:
        remaining = self.constraint.num_elements - place - 1
        counts = state.ones[:, None] + torch.arange(2, device=state.ones.device)
        # How many counts up to c may be: some from c to c + remaining, or none.
        may_be = self.constraint.allowed.long().cumsum(0)
        below = nn.functional.pad(may_be, (1, 0))
        is_open = may_be[counts + remaining] > below[counts]
        zero = self.constraint.log_count.new_zeros(counts.shape)
        return zero.masked_fill(~is_open, -torch.inf)

    def append(self, state: CountSoFar, place: int, values: Tensor) -> CountSoFar:
        return CountSoFar(state.ones + values)


@twists.register
def _(expert: Constraint) -> Sequence[nn.Module]:
    return [Feasible(expert)]


register(
    Feasible,
    lambda t: {"constraint": t.constraint},
    lambda f: Feasible(**f),
    name="experts.graphs.Feasible",
    formerly=("experts.constraints.Feasible",),
)
register(
    Constraint,
    lambda c: {"shape": tuple(c.space.event_shape), "allowed": c.allowed, "log_count": c.log_count},
    lambda f: Constraint(f["shape"], f["allowed"]).to(f["log_count"].dtype),
    name="experts.Constraint",
    formerly=("experts.constraints.Constraint",),
)


def _log_binomials(n: int) -> Tensor:
    """log C(n, c), c = 0 … n, in the default dtype."""
    found = [math.lgamma(n + 1) - math.lgamma(c + 1) - math.lgamma(n - c + 1) for c in range(n + 1)]
    return torch.tensor(found)


def _in_words(counts: list[int]) -> str:
    is_run = counts == list(range(counts[0], counts[-1] + 1))
    if is_run and len(counts) > 1:
        return f"{counts[0]} ... {counts[-1]}"
    return ", ".join(map(str, counts[:4])) + (", ..." if len(counts) > 4 else "")
