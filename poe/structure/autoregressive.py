"""Experts that are known element by element: p(x) = ∏ p(xₜ | x₁ … xₜ₋₁)."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import PoeError
from poe.core.randomness import resolve
from poe.core.space import Binary, Space
from poe.density.checks import device_of, dtype_of
from poe.density.expert import Expert
from poe.density.transformed import mask_outside


class Autoregressive(Expert):
    """log p(x) = Σₜ log p(xₜ | x₁ … xₜ₋₁), the elements in row-major order; normalised.

    A subclass sets ``space`` (Binary, Categorical or Sequence) and says what follows a prefix, for
    many sequences at once, by a state of its own: a NamedTuple of tensors ``(n, ...)``, such as
    a transformer's keys and values.

    - ``begin(n)``: the state before the first element;
    - ``log_next(state, place)``: log p(v | prefix) for all k values, ``(n, k)``;
    - ``append(state, place, values)``: the state after the values ``(n,)``, int64.

    From these come ``log_prob``, exact draws, the weights of ``poe.smc_over_positions`` and the
    proposals of ``poe.samplers.SuffixMetropolisHastings``. A network that sees all places in one
    pass overrides ``log_conditionals``.

    Example:
        >>> class Sticky(Autoregressive):
        ...     space = poe.Binary(3)
        ...     def begin(self, num_sequences):
        ...         return PrefixState(torch.zeros(num_sequences, 1))
        ...     def log_next(self, state, place):
        ...         return torch.cat([state.values, -state.values], 1).log_softmax(1)
        ...     def append(self, state, place, values):
        ...         return PrefixState(1.0 - 2.0 * values[:, None])
        >>> Sticky().log_prob(torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])).exp()
        tensor([0.3879, 0.0071])
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
        """log p(v | prefix) of every value v of the next element.

        Args:
            state: Of the prefixes.
            place: The next element's number, from 0.

        Returns:
            Log-probabilities of the k values, ``(n, k)``.
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

    def log_conditionals(self, x: Tensor) -> Tensor:
        """log p(v | x₁ … xₜ₋₁) of every value v at every place.

        Args:
            x: Events, ``(*batch, *event)``.

        Returns:
            Log-probabilities, ``(*batch, numel, k)``, the places in row-major order.
        """
        batch_shape = self.space.batch_shape(x)
        rows = as_values(self.space, x.reshape(-1, *self.space.event_shape))
        state, found = self.begin(len(rows)), []
        for place, values in enumerate(rows.unbind(1)):
            found.append(self.log_next(state, place))
            if place < rows.shape[1] - 1:
                state = self.append(state, place, values)
        return torch.stack(found, 1).reshape(*batch_shape, len(found), -1)

    def forward(self, x: Tensor) -> Tensor:
        """Σₜ log p(xₜ | x₁ … xₜ₋₁), −inf outside the space.

        Args:
            x: Events, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        values = as_values(self.space, x)
        found = self.log_conditionals(x).gather(-1, values[..., None]).squeeze(-1).sum(-1)
        return mask_outside(self.space, x, found)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density, of events that are in the space.

        Args:
            x: Events, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.

        Raises:
            PoeError: Where x is not in the space, whose density there is 0.
        """
        if not torch.compiler.is_compiling():
            self.space.require(x)
        return self(x)

    @checked
    @torch.no_grad()
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws, element by element; exact.

        Args:
            num_samples: How many.
            generator: The source of randomness; a fresh one by default.

        Returns:
            Draws, ``(num_samples, *event)``.
        """
        device = device_of(self)
        generator = resolve(generator, device)
        shape = (num_samples, num_places(self.space))
        uniforms = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
        return as_events(self, ancestral(self, uniforms).values)


def at_rows(state: Any, rows: Tensor) -> Any:
    """A state with only those of its sequences, in that order: of a tensor, or tuples of them."""
    if isinstance(state, Tensor):
        return state[rows]
    parts = [at_rows(part, rows) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


class PrefixState(NamedTuple):
    """A state that is the elements so far, or what is made of them: ``(n, ...)``."""

    values: Tensor


class Generated(NamedTuple):
    """Values ``(n, numel)``, int64, and log p of them ``(n,)``."""

    values: Tensor
    log_prob: Tensor


def ancestral(
    model: Autoregressive,
    uniforms: Tensor,
    kept: Tensor | None = None,
    num_kept: Tensor | None = None,
) -> Generated:
    """Elements drawn in order by the uniforms ``(n, numel)``, after prefixes that are kept.

    The first ``num_kept`` ``(n,)`` elements of each row are those of ``kept`` ``(n, numel)``.
    """
    state, values, log_probs = model.begin(len(uniforms)), [], []
    for place, uniform in enumerate(uniforms.unbind(1)):
        log_next = model.log_next(state, place)
        value = draw_value(log_next, uniform)
        if kept is not None and num_kept is not None:
            value = torch.where(place < num_kept, kept[:, place], value)
        values.append(value)
        log_probs.append(log_next.gather(1, value[:, None]).squeeze(1))
        if place < uniforms.shape[1] - 1:
            state = model.append(state, place, value)
    return Generated(torch.stack(values, 1), torch.stack(log_probs, 1).sum(1))


def draw_value(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """A value by its weight, where the running sum passes the uniform: ``(n, k), (n,) -> (n,)``.

    A value of weight 0 is never drawn, save where all are of weight 0: there the first is.

    >>> draw_value(torch.tensor([[0.0, -torch.inf, 0.0]]).expand(2, 3), torch.tensor([0.4, 0.5]))
    tensor([0, 2])
    """
    sums = log_weights.double().softmax(-1).cumsum(-1)
    chosen = (sums <= uniform[:, None] * sums[:, -1:]).sum(-1)
    last = (log_weights > -torch.inf).int().cumsum(-1).argmax(-1)
    return torch.minimum(chosen, last)


def num_places(space: Space) -> int:
    """How many elements an event has."""
    return space.event_shape.numel()


def num_values(space: Space) -> int:
    """How many values an element may take; raises PoeError where they are not finitely many."""
    if space.num_values is None:
        raise PoeError(
            f"expected a space of finitely many values an element, got {space}: what goes element "
            "by element lives on Binary, Categorical or Sequence"
        )
    return space.num_values


def as_values(space: Space, x: Tensor) -> Tensor:
    """Elements as indices in row-major order; what is none is clamped to one, to index a table by.

    Args:
        space: Of finitely many values an element.
        x: ``(*batch, *event)``.

    Returns:
        ``(*batch, numel)``, int64.

    Raises:
        PoeError: For a space of other elements.
    """
    batch_shape = space.batch_shape(x)
    flat = x.reshape(*batch_shape, num_places(space))
    return flat.long().clamp(0, num_values(space) - 1)


def as_events(expert: Expert, values: Tensor) -> Tensor:
    """Indices ``(n, numel)`` as events of the expert's space, floats of its dtype on Binary."""
    x = values.reshape(-1, *expert.space.event_shape)
    if not isinstance(expert.space, Binary):
        return x
    found = dtype_of(expert)
    return x.to(found if has_numbers(expert) else torch.get_default_dtype())


def has_numbers(expert: Expert) -> bool:
    """Whether any tensor of an expert is of a floating dtype."""
    tensors = itertools.chain(expert.parameters(), expert.buffers())
    return any(tensor.is_floating_point() for tensor in tensors)
