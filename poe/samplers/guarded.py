"""A density as a run asks it: counted, never where nothing is, and with −inf where it raises."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from poe.core.doubt import Doubt, Kind
from poe.core.errors import DtypeError, GradientError, PoeError, ShapeError, is_out_of_memory
from poe.density.checks import leaves_x
from poe.density.conditional import is_batch
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert, Wrapper
from poe.density.wrappers import Chunked
from poe.samplers.kernel import Density, nowhere

Answer = tuple[Tensor, ...]
"""Of each row a log-density, and a score where one is asked for."""
Ask = Callable[[Tensor], Answer]
OF_PROGRAMS = (NameError, TypeError, AttributeError, ImportError, NotImplementedError, PoeError)
"""Errors that come everywhere, if one comes first."""
OF_NO_POSITION = (GradientError, DtypeError, ShapeError)
"""What an expert says of itself, or of the kind of tensor that it is given."""


class Counted:
    """A density that counts the positions it is asked at."""

    def __init__(self, density: Density) -> None:
        self.density, self.num_evaluations = density, 0

    def log_density(self, x: Tensor) -> Tensor:
        """log p̃(x): ``(n, *event) -> (n,)``."""
        self.num_evaluations += len(x)
        return self.density.log_density(x)

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p̃(x) and its gradient."""
        self.num_evaluations += len(x)
        return self.density.log_density_and_score(x)


class Raised:
    """The errors that a density raised in a run where it counts as −inf: how many, and the first.

    >>> raised = Raised()
    >>> raised.note({0: ArithmeticError("no root"), 3: ArithmeticError("none here")})
    >>> raised.count, raised.doubts()[0].text
    (2, 'the log-density raised an error at 2 positions that were tried, which count as -inf (A...')
    """

    def __init__(self) -> None:
        self.count = 0
        """Of positions."""
        self.first = ""
        """What the first error said."""
        self.latest: dict[int, Exception] = {}
        """The errors of the latest call that had some, by rows."""
        self.has_answered = False
        """Whether a density of the run was ever evaluated without one."""

    def note(self, errors: dict[int, Exception]) -> None:
        """Count those of some rows."""
        self.latest = errors
        self.count += len(errors)
        self.first = self.first or in_one_line(next(iter(errors.values())))

    def doubts(self) -> list[Doubt]:
        """What is to be said of them, if there were any."""
        if not self.count:
            return []
        text = (
            f"the log-density raised an error at {self.count} positions that were tried, which "
            f"count as -inf ({self.first}): where it is no fault, return -inf there"
        )
        return [Doubt(Kind.RAISED, text)]


def in_one_line(error: Exception) -> str:
    """The kind of an error, and the beginning of what it says."""
    try:
        said = " ".join(str(error).split())
    except Exception:  # a class whose words are its own fault
        said = ""
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__


class Guarded(Wrapper):
    """An expert that is asked at positions a run came to, which may be anything.

    Where a position is not finite the expert is asked at one that was good instead, and the value
    is `poe.samplers.kernel.nowhere`: the step that led there is divergent. Where the expert raises
    an error at some of the rows, these have log-density −inf, and the error is kept in ``raised``;
    at all of them, the error is the expert's own. What tells that there is no memory left is no
    matter of positions.

    Nothing waits for a device, and rows are asked by halves only after an error.
    A batch of densities is always asked as a whole, with rows that were good in place of others.

    >>> def root(x):
    ...     if (x < 0).any():
    ...         raise ArithmeticError("no root")
    ...     return -x.sqrt().sum(-1)
    >>> asked = Guarded(poe.FromLogDensity(root, space=poe.Real(1)), Raised())
    >>> asked(torch.tensor([[1.0], [-1.0], [4.0]])), asked.raised.first
    (tensor([-1., -inf, -2.]), 'ArithmeticError: no root')
    """

    def __init__(self, expert: Expert, raised: Raised) -> None:
        super().__init__()
        self.space, self.expert, self.raised = expert.space, expert, raised
        self._ask_both = expert.log_density_and_score  # looked up once: it takes a microsecond
        self._is_batch, self._is_discrete = is_batch(expert), expert.space.is_discrete
        self._ndim = 1 + len(expert.space.event_shape)
        self._good: Tensor | None = None
        """A position ``(1, *event)``, or of a batch of densities one for each."""
        self.has_answered = False
        """Whether it has, at a position that is known to be good."""
        self._others: dict[int, Guarded] = {}

    def inner(self) -> Expert:
        """The expert that is asked."""
        return self.expert

    @leaves_x
    def forward(self, x: Tensor) -> Tensor:
        return self._answer(lambda rows: (self.expert(rows),), x)[0]

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The log-density ``(n,)`` and its gradient, which is any where there is no density."""
        both: tuple[Tensor, Tensor] = self._answer(self._ask_both, x)
        return both

    def beside(self, other: Expert) -> Guarded:
        """Another expert that is asked at the same positions."""
        if id(other) not in self._others:
            self._others[id(other)] = Guarded(other, self.raised)
        return self._others[id(other)]

    def _answer(self, ask: Ask, x: Tensor) -> Any:
        if torch.compiler.is_compiling():  # an error ends the block, which is done again eagerly
            return self._somewhere(ask, x)
        if x.is_meta or x.ndim != self._ndim:
            return ask(x)
        if self._good is None:
            self._good = self._good_of(x)
        if self._is_batch and len(x) != len(self._good):
            return ask(x)
        try:
            answer = ask(x) if self._is_tame(x) else self._somewhere(ask, x)
        except OF_NO_POSITION:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return self._after_error(ask, x, error)
        if not self.has_answered:
            self.has_answered = self.raised.has_answered = True
        return answer

    def _is_tame(self, x: Tensor) -> bool:
        """Whether all positions are finite, as far as that can be told without waiting."""
        if self._is_discrete:
            return True
        return x.is_cpu and math.isfinite((x.detach() if x.requires_grad else x).sum().item())

    def _good_of(self, x: Tensor) -> Tensor:
        """The first of these positions that is finite; of a batch of densities one for each."""
        is_wild = _is_wild(x.detach())
        first = x.detach().index_select(0, is_wild.view(-1).int().argmin(0, keepdim=True))
        first = first.nan_to_num()  # finite even if none of them is
        return torch.where(is_wild, first, x.detach()) if self._is_batch else first

    def _somewhere(self, ask: Ask, x: Tensor) -> Answer:
        """The answer at finite positions, and that of nowhere at others."""
        if self._is_discrete or self._good is None:
            return ask(x)
        is_wild = _is_wild(x)
        value, *score = ask(torch.where(is_wild, self._good, x))
        return value.masked_fill(is_wild.view(-1), nowhere(value.dtype)), *score

    def _after_error(self, ask: Ask, x: Tensor, error: Exception) -> Answer:
        """The answers of the rows that have one; the very error where none has."""
        is_own = isinstance(error, OF_PROGRAMS) and not self.raised.has_answered
        if self._good is None or x.dtype != self._good.dtype:  # it is tried in another precision
            raise error
        if is_own or (self._is_batch and not self.has_answered):
            raise error
        errors: dict[int, Exception] = {}
        parts = self._by_halves(ask, x, range(len(x)), error, errors)
        if not errors:  # it is about their number, or passes, and no position is to blame
            raise error
        known = next((part for part in parts if part is not None), None)
        if known is None:
            known = self._known(ask, x, error)
        else:
            self._keep(x, errors)
        self.raised.note(errors)
        filled = [_nothing(known) if part is None else part for part in parts]
        return tuple(torch.cat(column) for column in zip(*filled, strict=True))

    def _by_halves(
        self, ask: Ask, x: Tensor, rows: range, error: Exception, errors: dict[int, Exception]
    ) -> list[Answer | None]:
        """The answers of rows among which one raised an error; None for that one, which is kept."""
        if len(rows) == 1:
            errors[rows.start] = error
            return [None]
        middle = len(rows) // 2
        answers: list[Answer | None] = []
        for half in (rows[:middle], rows[middle:]):
            try:
                answers.append(self._of(ask, x, half))
            except Exception as fault:
                if is_out_of_memory(fault):
                    raise
                answers += self._by_halves(ask, x, half, fault, errors)
        return answers

    def _of(self, ask: Ask, x: Tensor, rows: range) -> Answer:
        """The answers of some rows: of a single one in company, for who takes one for none."""
        first, last = rows.start, rows.stop
        if self._is_batch:
            place = torch.arange(len(x), device=x.device).reshape(-1, *[1] * (x.ndim - 1))
            is_asked = (place >= first) & (place < last)
            assert self._good is not None
            asked = self._somewhere(ask, torch.where(is_asked, x, self._good))
            return tuple(part[first:last] for part in asked)
        some = x[first:last] if len(rows) > 1 else x[first:last].repeat_interleave(2, 0)
        return tuple(part[: len(rows)] for part in self._somewhere(ask, some))

    def _known(self, ask: Ask, x: Tensor, error: Exception) -> Answer:
        """What is said where the expert was good; its error where it no longer is, or never was."""
        assert self._good is not None
        if not self.has_answered:
            raise error
        try:
            return self._of(ask, self._good, range(1))
        except Exception:  # it comes everywhere, whatever it says here
            raise error from None

    def _keep(self, x: Tensor, errors: dict[int, Exception]) -> None:
        """That it has answered, and at the first time where."""
        if self.has_answered:
            return
        is_good = ~_is_wild(x.detach()).flatten()
        is_good[list(errors)] = False
        if not self._is_batch and bool(is_good.any()):
            self._good = x[is_good][:1].detach().clone()
        self.has_answered = self.raised.has_answered = True


def pulled(expert: Expert, coordinates: Coordinates, raised: Raised) -> Expert:
    """The density of u, its expert guarded where the way from u to x may end at infinity."""
    is_plain = coordinates.is_unbounded or coordinates.was_of_u(expert)
    return coordinates.pull(expert if is_plain else Guarded(expert, raised))


def guarded(expert: Expert, coordinates: Coordinates, raised: Raised) -> Guarded:
    """The density of u, guarded in u as well.

    Args:
        expert: The density of x.
        coordinates: From u to x.
        raised: Where errors are kept.

    Returns:
        The density of u, which may be asked anywhere.
    """
    return Guarded(pulled(expert, coordinates, raised), raised)


def beside(target: Density, other: Expert) -> Expert:
    """Another expert, as it is asked at the positions of a target: guarded where that is."""
    inner = target.inner() if isinstance(target, Chunked) else target
    return inner.beside(other) if isinstance(inner, Guarded) else other


def _is_wild(x: Tensor) -> Tensor:
    """Whether rows, or their sums, are not finite: ``(n, *event) -> (n, 1, ..., 1)``."""
    total = x.sum(tuple(range(1, x.ndim)), keepdim=True) if x.ndim > 1 else x
    return (total - total).isnan()


def _nothing(known: Answer) -> tuple[Any, ...]:
    """A row like the others, of log-density −inf and no score."""
    value, *score = known
    return value.new_full((1,), -torch.inf), *(
        part.new_zeros((1, *part.shape[1:])) for part in score
    )
