"""Twists: what an expert says of a prefix, before the rest of the event is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from poe.core.arguments import checked, require
from poe.core.space import Space
from poe.density.checks import device_of
from poe.density.conditional import Given
from poe.density.expert import At, Expert, Mixture, Product, Tempered, experts_in
from poe.density.latent import Chain, Marginal, Posterior
from poe.density.questions import keeps_default, question
from poe.density.transformed import Dequantized, Relaxed, Transformed
from poe.density.wrappers import Autocast
from poe.structure.autoregressive import Autoregressive, num_values


class Twist(nn.Module):
    """Positive functions ψₜ of the first t elements of an event, element by element.

    They steer particles over positions, and proposals, to where the whole event will be likely:
    they change what it costs, never what is drawn. ψ₀ = 1; ψₜ may be 0 only where no continuation
    has a density. The three methods are those of ``poe.Autoregressive``, which is a twist itself,
    with ratios ψₜ / ψₜ₋₁ that need not sum to 1. The best one is the sum of p̃ over all
    continuations.

    References:
        Whiteley & Lee (2014), Twisted particle filters, doi:10.1214/13-AOS1167.

        Zhao, Brekelmans, Makhzani & Grosse (2024), Probabilistic inference in language models via
        twisted sequential Monte Carlo, arXiv:2404.17546.
    """

    def begin(self, num_sequences: int) -> Any:
        """The state before the first element.

        Args:
            num_sequences: The number n of sequences, which are empty yet.

        Returns:
            A state of the subclass's own: tensors ``(n, ...)``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement begin")

    def log_next(self, state: Any, place: int) -> Tensor:
        """log ψₜ₊₁(prefix, v) − log ψₜ(prefix) of every value v of the next element.

        Args:
            state: Of the prefixes.
            place: The next element's number t, from 0.

        Returns:
            Log-ratios of the k values, ``(n, k)``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement log_next")

    def append(self, state: Any, place: int, values: Tensor) -> Any:
        """The state with one element more.

        Args:
            state: Of the prefixes.
            place: The new element's number, from 0.
            values: Its values, ``(n,)``, int64.

        Returns:
            The state of the longer prefixes.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement append")


class Scored(NamedTuple):
    """The elements so far ``(n, t)`` and log ψ of them ``(n,)``."""

    values: Tensor
    log_value: Tensor


class OnPrefixes(Twist):
    """A twist by a function of prefixes.

    Every value that may follow is tried: k evaluations an element.

    Args:
        fn: Prefixes ``(n, t)``, int64, to log ψₜ ``(n,)``, 1 ≤ t ≤ numel.
        space: Of the events, with k values an element.
        looks_ahead: Whether every value that may follow is tried. Where it is False the function
            is asked of what is there alone, one evaluation an element: for large vocabularies.

    Raises:
        PoeError: Where an element may take infinitely many values.

    Example:
        >>> at_most_one = OnPrefixes(
        ...     lambda prefix: torch.where(prefix.sum(1) <= 1, 0.0, -torch.inf), poe.Binary(3)
        ... )
        >>> state = at_most_one.append(at_most_one.begin(1), 0, torch.tensor([1]))
        >>> at_most_one.log_next(state, 1)
        tensor([[0., -inf]])
    """

    @checked
    def __init__(
        self, fn: Callable[[Tensor], Tensor], space: Space, *, looks_ahead: bool = True
    ) -> None:
        super().__init__()
        self.fn, self.space, self.looks_ahead = fn, space, looks_ahead
        self.register_buffer("places", torch.arange(num_values(space)), persistent=False)

    places: Tensor

    def begin(self, num_sequences: int) -> Scored:
        values = self.places.new_empty((num_sequences, 0))
        return Scored(values, torch.zeros(num_sequences, device=values.device))

    def log_next(self, state: Scored, place: int) -> Tensor:
        n, k = len(state.values), len(self.places)
        if not self.looks_ahead:
            known = state.log_value if state.values.shape[1] == 0 else self._last_ratio(state)
            return known[:, None].expand(n, k)
        tried = torch.cat([state.values.repeat_interleave(k, 0), self.places.repeat(n)[:, None]], 1)
        return ratio(self.fn(tried).reshape(n, k), state.log_value[:, None])

    def _last_ratio(self, state: Scored) -> Tensor:
        return ratio(self.fn(state.values), state.log_value)

    def append(self, state: Scored, place: int, values: Tensor) -> Scored:
        extended = torch.cat([state.values, values[:, None]], 1)
        # Without looking ahead log ψ lags by one element: it is that of the prefix before.
        known = extended if self.looks_ahead else state.values
        if known.shape[1] == 0:
            return Scored(extended, state.log_value)
        return Scored(extended, self.fn(known))


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """log above − log below, −inf where the first is."""
    return torch.where(above == -torch.inf, above, above - below)


class Scaled(Twist):
    """ψ^w, for a factor that is raised to a power."""

    def __init__(self, twist: nn.Module, factor: Tempered) -> None:
        super().__init__()
        self.twist, self.factor = twist, factor

    def begin(self, num_sequences: int) -> Any:
        return self.twist.begin(num_sequences)  # type: ignore[operator]

    def log_next(self, state: Any, place: int) -> Tensor:
        found = self.factor.weigh(self.twist.log_next(state, place))  # type: ignore[operator]
        # What a negative exponent makes of an impossible value is left to the whole density.
        return found.masked_fill(found == torch.inf, 0.0)

    def append(self, state: Any, place: int, values: Tensor) -> Any:
        return self.twist.append(state, place, values)  # type: ignore[operator]


@question
def twists(expert: Expert) -> Sequence[nn.Module]:
    """The twists that an expert offers by itself; none where it knows nothing of prefixes.

    Families register here. Of a product those of its factors, of a power p^w those to the power.
    With them ``poe.LocalProduct(target.space, poe.twists(target))`` is what decoding that
    reweights each next element draws from.

    Args:
        expert: A density of sequences.

    Returns:
        A twist for each factor that knows of prefixes.

    >>> field = experts.Bernoulli([0.0, 0.0, 0.0])
    >>> twists(experts.MADE(3) * field)
    [MADE(...)]
    """
    require("expert", expert, nn.Module)
    return []


@twists.register
def _(expert: Autoregressive) -> Sequence[nn.Module]:
    return [expert]


@twists.register
def _(expert: Product) -> Sequence[nn.Module]:
    return [twist for factor in experts_in(expert.experts) for twist in twists(factor)]


@twists.register
def _(expert: Tempered) -> Sequence[nn.Module]:
    return [Scaled(twist, expert) for twist in twists(expert.expert)]


class LocalProduct(Autoregressive):
    """A product of twists, normalised **element by element**: q(v | prefix) ∝ ∏ⱼ ψⱼ(prefix, v).

    What masking and reweighting each next token draws from (locally constrained decoding): **not**
    the product of the experts, which is normalised over whole events. As a proposal it is a good
    one, and its weights mend it: ``poe.smc_over_positions``, ``SuffixMetropolisHastings``.
    Where no value is left, all are alike; without twists it is uniform.

    Args:
        space: Of the events, with k values an element.
        factors: The twists; any ``poe.Autoregressive`` is one, ``poe.twists(expert)`` finds others.

    Raises:
        PoeError: Where an element may take infinitely many values.

    Example:
        >>> a, b = experts.MADE(3), experts.NADE(3, 4)
        >>> naive = LocalProduct(a.space, [a, b])
        >>> naive.sample(5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3])
    """

    @checked
    def __init__(self, space: Space, factors: Sequence[nn.Module]) -> None:
        super().__init__()
        self.space, self.twists = space, nn.ModuleList(factors)
        device = device_of(self.twists)
        even = torch.zeros(num_values(space), device=device)
        self.register_buffer("even", even, persistent=False)

    even: Tensor

    def begin(self, num_sequences: int) -> tuple[Any, ...]:
        states = (twist.begin(num_sequences) for twist in self.twists)  # type: ignore[operator]
        return (self.even.new_zeros(num_sequences), *states)

    def log_ratios(self, state: tuple[Any, ...], place: int) -> Tensor:
        """Σⱼ of the twists' ``log_next``, not normalised.

        Args:
            state: Of the prefixes.
            place: The next element's number, from 0.

        Returns:
            Log-weights of the k values, ``(n, k)``.
        """
        found = self.even.expand(len(state[0]), -1)
        for twist, own in zip(self.twists, state[1:], strict=True):
            found = found + twist.log_next(own, place)  # type: ignore[operator]
        return found

    def log_next(self, state: tuple[Any, ...], place: int) -> Tensor:
        return normalized(self.log_ratios(state, place))

    def append(self, state: tuple[Any, ...], place: int, values: Tensor) -> tuple[Any, ...]:
        moved = (
            twist.append(own, place, values)  # type: ignore[operator]
            for twist, own in zip(self.twists, state[1:], strict=True)
        )
        return (state[0], *moved)


def normalized(log_weights: Tensor) -> Tensor:
    """Log-probabilities of the values ``(n, k)``, all alike in a row that has none."""
    is_dead = (log_weights == -torch.inf).all(-1, keepdim=True)
    return log_weights.masked_fill(is_dead, 0.0).log_softmax(-1)


keeps_default(Mixture, "a prefix would have to weigh the components", twists)
keeps_default(At, "prefixes of z are none of G(z)", twists)
for _moved in (Transformed, Dequantized, Relaxed):
    keeps_default(_moved, "a continuous event has no next value", twists)
for _conditional in (Given, Chain, Marginal, Posterior):
    keeps_default(_conditional, "a conditional is not asked for prefixes", twists)
keeps_default(Autocast, "by rounding it is another density", twists)
