"""Where x lives: the shape of one event, membership, base measure, unconstrained coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import IndependentTransform, Transform, identity_transform
from torch.nn import functional as F

from poe.core.arguments import REFUSED, require, told, whole
from poe.core.errors import DtypeError, PoeError, ShapeError

Shape = int | SequenceOf[int]


@dataclass(frozen=True)
class Space:
    """A set of events with a base measure; densities are taken with respect to that measure."""

    is_discrete: ClassVar[bool] = False
    _remedy: ClassVar[str] = ""

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one event x."""
        raise NotImplementedError

    @property
    def num_values(self) -> int | None:
        """How many values an element may take; None where they are not finitely many."""
        return None

    def contains(self, x: Tensor) -> Tensor:
        """Whether each x lies in the space.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            Booleans, ``(*batch,)``.

        Raises:
            ShapeError: Where the trailing shape of x is not the event's.
            DtypeError: Where x is no tensor, or of integers in a continuous space.
        """
        self.batch_shape(x)
        inside = self._elements_inside(x)
        return self.as_vector(inside).all(-1) if inside.ndim == x.ndim else inside

    def as_vector(self, x: Tensor) -> Tensor:
        """Events as vectors, for reductions over whole events.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            The same numbers, ``(*batch, numel)``.
        """
        _require_tensor(self, x)
        event_ndim = len(self.event_shape)
        return x.flatten(-event_ndim) if event_ndim else x.unsqueeze(-1)

    def require(self, x: Tensor) -> None:
        """Do nothing where x lies in the space; else name the first value that does not.

        Looks at the values, which no step of a sampler may; on the meta device it cannot.

        Args:
            x: ``(*batch, *event)``.

        Raises:
            PoeError: Where an x is not in the space.
            ShapeError: Where the trailing shape of x is not the event's.
            DtypeError: Where x is no tensor, or of integers in a continuous space.

        Example:
            >>> Binary(2).require(torch.tensor([[1.0, -1.0]]))
            Traceback (most recent call last):
            poe.PoeError: expected x in Binary(2), got -1.0 in event 0: elements are 0 or 1; ...
        """
        is_inside = self.contains(x)
        if x.is_meta or bool(is_inside.all()):
            return
        first = int((~is_inside.flatten()).nonzero()[0])
        event = x.reshape(-1, *self.event_shape)[first]
        inside = self._elements_inside(event)
        odd = event[~inside].tolist()[0] if inside.shape == event.shape else event.tolist()
        remedy = f": {self._remedy}" if self._remedy else ""
        raise PoeError(f"expected x in {self}, got {odd} in event {first}{remedy}")

    def batch_shape(self, x: Tensor) -> torch.Size:
        """The leading shape of x.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            The shape of the batch.

        Raises:
            ShapeError: Where the trailing shape of x is not the event's.
            DtypeError: Where x is no tensor, or of integers in a continuous space.

        Example:
            >>> Real(2).batch_shape(torch.zeros(5, 2))
            torch.Size([5])
        """
        if not isinstance(x, Tensor) or x.layout is not torch.strided:
            _require_tensor(self, x)
        event, shape = self.event_shape, x.shape
        split = len(shape) - len(event)
        if split < 0 or shape[split:] != event:
            raise ShapeError(
                f"expected x of shape (*batch, {', '.join(map(str, event))}) for {self}, "
                f"got {tuple(x.shape)}; put the batch first and the event last"
            )
        if not self.is_discrete and not x.is_floating_point():
            raise DtypeError(
                f"expected floating-point x in {self}, got {x.dtype}; "
                "use x.to(torch.get_default_dtype())"
            )
        return shape[:split]

    def unconstrained(self) -> Space:
        """The space of the unconstrained coordinates, always a ``Real``.

        Returns:
            The space.

        Raises:
            PoeError: Where this space is discrete.
        """
        if self.is_discrete:
            raise PoeError(
                f"{self} is discrete and has no unconstrained coordinates; use a discrete sampler"
            )
        shape = self.to_unconstrained.forward_shape(self.event_shape)
        return Real(shape)

    @property
    def to_unconstrained(self) -> Transform:
        """The bijection from this space to `unconstrained()`; its `.inv` comes back."""
        if self.is_discrete:
            raise PoeError(
                f"{self} is discrete and has no unconstrained coordinates; use a discrete sampler"
            )
        return self._from_unconstrained().inv

    def _from_unconstrained(self) -> Transform:
        raise NotImplementedError

    def _elements_inside(self, x: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class _Shaped(Space):
    shape: Shape = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _as_shape(self.shape))

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size(self.shape)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{type(self).__name__}({_shape_text(self.event_shape)})"

    def _elementwise(self, constraint: constraints.Constraint) -> Transform:
        return IndependentTransform(biject_to(constraint), len(self.event_shape))


@dataclass(frozen=True)
class Real(_Shaped):
    """All real arrays of a shape, with Lebesgue measure.

    Args:
        shape: Of one event; a number is that of a vector, ``()`` is a scalar.

    Raises:
        ShapeError: Where a size is no integer, or below 1.

    Example:
        >>> Real(2) == Real((2,))
        True
    """

    def _from_unconstrained(self) -> Transform:
        return IndependentTransform(identity_transform, len(self.event_shape))

    def _elements_inside(self, x: Tensor) -> Tensor:
        return x.isfinite()


@dataclass(frozen=True)
class Interval(_Shaped):
    """Arrays whose every element lies in [low, high], with Lebesgue measure.

    Args:
        shape: Of one event; a number is that of a vector, ``()`` is a scalar.
        low: The lower border of every element.
        high: The upper border of every element.

    Raises:
        PoeError: Unless low < high.
        ShapeError: Where a size is no integer, or below 1.

    Example:
        >>> Interval(2, 0, 1).contains(torch.tensor([[0.0, 1.0], [0.5, 1.5]]))
        tensor([ True, False])
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("low", "high"):
            object.__setattr__(self, name, float(require(name, getattr(self, name), float)))
        if not -math.inf < self.low < self.high < math.inf:
            raise PoeError(
                f"expected low < high, both finite, got low={self.low}, high={self.high}; what is "
                "open is Real or Positive"
            )

    def __str__(self) -> str:
        return f"Interval({_shape_text(self.event_shape)}, {self.low:g}, {self.high:g})"

    def _from_unconstrained(self) -> Transform:
        return self._elementwise(constraints.interval(self.low, self.high))

    def _elements_inside(self, x: Tensor) -> Tensor:
        return (x >= self.low) & (x <= self.high)


@dataclass(frozen=True)
class Positive(_Shaped):
    """Arrays whose every element is positive, with Lebesgue measure.

    Args:
        shape: Of one event; a number is that of a vector, ``()`` is a scalar.

    Raises:
        ShapeError: Where a size is no integer, or below 1.

    Example:
        >>> Positive(2).contains(torch.tensor([[0.5, 3.0], [0.0, 1.0]]))
        tensor([ True, False])
    """

    def _from_unconstrained(self) -> Transform:
        return self._elementwise(constraints.positive)

    def _elements_inside(self, x: Tensor) -> Tensor:
        return (x > 0) & x.isfinite()


@dataclass(frozen=True)
class Simplex(Space):
    """Vectors of k non-negative numbers that sum to 1, with Lebesgue measure on the first k − 1.

    Args:
        k: The length of the vectors, at least 2.

    Raises:
        ShapeError: Where k is no integer, or below 2.

    Example:
        >>> Simplex(2).contains(torch.tensor([[0.25, 0.75], [0.5, 0.75]]))
        tensor([ True, False])
    """

    k: int

    def __post_init__(self) -> None:
        _keep_count(self, "k", 2)

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size((self.k,))

    def __str__(self) -> str:
        return f"Simplex({self.k})"

    def _from_unconstrained(self) -> Transform:
        return StickBreaking()

    def _elements_inside(self, x: Tensor) -> Tensor:
        # A sum of k rounded numbers is never exactly 1, and x may once have been float32.
        tolerance = max(1e-6, 8 * self.k * torch.finfo(x.dtype).eps)
        return (x >= 0).all(-1) & ((x.sum(-1) - 1).abs() <= tolerance)


@dataclass(frozen=True)
class PositiveDefinite(Space):
    """Symmetric positive definite k x k matrices, with Lebesgue measure on the lower triangle.

    Args:
        k: The number of rows, at least 1.

    Raises:
        ShapeError: Where k is no integer, or below 1.

    Example:
        >>> PositiveDefinite(2).contains(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
        tensor(True)
    """

    k: int

    def __post_init__(self) -> None:
        _keep_count(self, "k", 1)

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size((self.k, self.k))

    def __str__(self) -> str:
        return f"PositiveDefinite({self.k})"

    def _from_unconstrained(self) -> Transform:
        return LogCholesky(self.k)

    def _elements_inside(self, x: Tensor) -> Tensor:
        scale = x.abs().amax((-2, -1))
        gap = (x - x.mT).abs().amax((-2, -1))
        is_symmetric = gap <= max(1e-6, 8 * self.k * torch.finfo(x.dtype).eps) * scale
        return is_symmetric & (torch.linalg.cholesky_ex(x).info == 0)


@dataclass(frozen=True)
class Binary(_Shaped):
    """Arrays of zeros and ones, with counting measure.

    Args:
        shape: Of one event; a number is that of a vector, ``()`` is a scalar.

    Raises:
        ShapeError: Where a size is no integer, or below 1.

    Example:
        >>> Binary(2).contains(torch.tensor([[0.0, 1.0], [-1.0, 1.0]]))
        tensor([ True, False])
    """

    is_discrete: ClassVar[bool] = True
    _remedy: ClassVar[str] = "elements are 0 or 1; spins s are (s + 1) / 2, grey values x > 0.5"

    @property
    def num_values(self) -> int:
        return 2

    def _elements_inside(self, x: Tensor) -> Tensor:
        return (x == 0) | (x == 1)


@dataclass(frozen=True)
class Categorical(_Shaped):
    """Arrays of class indices 0 .. k − 1, with counting measure.

    Args:
        shape: Of one event; a number is that of a vector, ``()`` is a scalar.
        k: The number of classes, at least 1.

    Raises:
        ShapeError: Where a size is no integer, or it or k is below 1.

    Example:
        >>> Categorical(2, 3).contains(torch.tensor([[0, 2], [1, 3]]))
        tensor([ True, False])
    """

    k: int = 2
    is_discrete: ClassVar[bool] = True
    _remedy: ClassVar[str] = "elements are indices 0 ... k - 1; one-hot vectors are x.argmax(-1)"

    def __post_init__(self) -> None:
        super().__post_init__()
        _keep_count(self, "k", 1)

    @property
    def num_values(self) -> int:
        return self.k

    def __str__(self) -> str:
        return f"Categorical({_shape_text(self.event_shape)}, {self.k})"

    def _elements_inside(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x < self.k) & (x == x.round() if x.is_floating_point() else True)


@dataclass(frozen=True)
class Count(_Shaped):
    """Arrays of non-negative integers, with counting measure.

    Args:
        shape: Of one event; a number is that of a vector, ``()`` is a scalar.

    Raises:
        ShapeError: Where a size is no integer, or below 1.

    Example:
        >>> Count(2).contains(torch.tensor([[0, 7], [-1, 3]]))
        tensor([ True, False])
    """

    is_discrete: ClassVar[bool] = True

    def _elements_inside(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x == x.round() if x.is_floating_point() else True) & (x != torch.inf)


@dataclass(frozen=True)
class Sequence(Space):
    """Sequences of ``length`` tokens 0 .. vocab_size − 1, with counting measure.

    Args:
        vocab_size: The number of different tokens, at least 1.
        length: The number of tokens of an event, at least 1.

    Raises:
        ShapeError: Where one is no integer, or below 1.

    Example:
        >>> Sequence(vocab_size=5, length=2).contains(torch.tensor([[0, 4], [5, 0]]))
        tensor([ True, False])
    """

    vocab_size: int
    length: int
    is_discrete: ClassVar[bool] = True
    _remedy: ClassVar[str] = (
        "tokens are indices 0 ... vocab_size - 1; map others to one for unknown"
    )

    def __post_init__(self) -> None:
        _keep_count(self, "vocab_size", 1)
        _keep_count(self, "length", 1)

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size((self.length,))

    @property
    def num_values(self) -> int:
        return self.vocab_size

    def __str__(self) -> str:
        return f"Sequence({self.vocab_size}, {self.length})"

    def _elements_inside(self, x: Tensor) -> Tensor:
        return Categorical((self.length,), self.vocab_size)._elements_inside(x)


class LogCholesky(Transform):
    """Vectors of length k(k+1)/2 to L L', where L is lower triangular with exp on its diagonal.

    log |det| = k log 2 + Σ_i (k − i + 2) log L_ii, i = 1 .. k: the Jacobian of L -> L L' (theorem
    2.1.9 of the reference) times that of exp on the diagonal.

    Nothing here raises for a value: where rounding or overflow leaves a matrix that is not positive
    definite, as far out, its vector is NaN.

    Args:
        k: The number of rows of the matrices.

    References:
        Muirhead (1982), Aspects of multivariate statistical theory,
        doi:10.1002/9780470316559.
    """

    domain = constraints.real_vector
    codomain = constraints.positive_definite
    bijective = True

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogCholesky) and other.k == self.k

    def _call(self, x: Tensor) -> Tensor:
        rows, columns = torch.tril_indices(self.k, self.k, device=x.device)
        lower = x.new_zeros((*x.shape[:-1], self.k, self.k))
        lower[..., rows, columns] = x
        diagonal = lower.diagonal(dim1=-2, dim2=-1)
        lower = lower.tril(-1) + torch.diag_embed(diagonal.exp())
        return lower @ lower.mT

    def _inverse(self, y: Tensor) -> Tensor:
        lower, info = torch.linalg.cholesky_ex(y)
        lower = torch.where(info[..., None, None] == 0, lower, torch.nan)
        logs = lower.diagonal(dim1=-2, dim2=-1).log()
        rows, columns = torch.tril_indices(self.k, self.k, device=y.device)
        return (lower.tril(-1) + torch.diag_embed(logs))[..., rows, columns]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        steps = torch.arange(1, self.k + 1, device=x.device)
        logs = x[..., steps * (steps + 1) // 2 - 1]
        powers = (self.k + 2 - steps).to(x.dtype)
        constant = self.k * torch.log(torch.tensor(2.0, dtype=x.dtype, device=x.device))
        return (powers * logs).sum(-1) + constant

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], self.k, self.k)

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], self.k * (self.k + 1) // 2)


class StickBreaking(Transform):
    """Vectors u of length k − 1 to k shares of a stick, each of them to its own last digit.

    x_i = σ(v_i) Π_{j < i} σ(−v_j), v_i = u_i − log(k − i), i = 1 .. k − 1, and x_k is what is left:
    that of ``torch.distributions``, summed in logarithms, so that x near a corner of the simplex is
    not rounded to it.

    log |det| = Σ_i log x_i + log σ(−v_i).

    Example:
        >>> corner = StickBreaking()(torch.tensor([40.0, 0.0]))
        >>> bool(corner[1] > 0), StickBreaking().inv(corner)
        (True, tensor([40.,  0.]))
    """

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StickBreaking)

    def _call(self, x: Tensor) -> Tensor:
        logs, rest = self._logs(x)
        # Not 0, of which a logarithm is none, nor less than what has all its digits.
        return torch.cat([logs, rest[..., -1:]], -1).exp().clamp(min=torch.finfo(x.dtype).tiny)

    def _inverse(self, y: Tensor) -> Tensor:
        y = y.clamp(min=torch.finfo(y.dtype).tiny)
        after = y.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        return y[..., :-1].log() - after.log() + self._offset(after)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        logs, _ = self._logs(x)
        return (logs + F.logsigmoid(self._offset(x) - x)).sum(-1)

    def _logs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log x_i of all but the last share, and of what is left after each."""
        v = x - self._offset(x)
        rest = F.logsigmoid(-v).cumsum(-1)
        before = F.pad(rest[..., :-1], (1, 0))
        return F.logsigmoid(v) + before, rest

    def _offset(self, x: Tensor) -> Tensor:
        return torch.arange(x.shape[-1], 0, -1, dtype=x.dtype, device=x.device).log()

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], shape[-1] + 1)

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], shape[-1] - 1)


def _require_tensor(space: Space, x: object) -> None:
    if not isinstance(x, Tensor):
        raise DtypeError(
            f"expected a torch.Tensor in {space}, got {type(x).__name__}; use torch.as_tensor(x)"
        )
    if x.layout is not torch.strided:
        raise DtypeError(f"expected a dense tensor in {space}, got a sparse one; use x.to_dense()")


def _as_shape(shape: Shape) -> tuple[int, ...]:
    is_odd = isinstance(shape, str | type | Tensor)
    sizes = [REFUSED] if is_odd else shape if isinstance(shape, Iterable) else [shape]
    whole_sizes = tuple(REFUSED if isinstance(size, float) else whole(size) for size in sizes)
    if any(size is REFUSED or size < 0 for size in whole_sizes):
        raise ShapeError(f"expected a shape of positive integers, got {told(shape)}")
    if 0 in whole_sizes:
        raise ShapeError(
            f"expected events of at least one element, got the shape {whole_sizes}: an expert on "
            "none says nothing, so leave it out; one number is of shape ()"
        )
    return whole_sizes


def _shape_text(shape: torch.Size) -> str:
    return str(shape[0]) if len(shape) == 1 else str(tuple(shape))


def _keep_count(space: Space, name: str, least: int) -> None:
    """Hold a setting of a space as the whole number that it is."""
    given = getattr(space, name)
    count = REFUSED if isinstance(given, float) else whole(given)
    if count is REFUSED or count < least:
        raise ShapeError(f"expected an integer {name} >= {least}, got {told(given)}")
    object.__setattr__(space, name, count)


def space_of(support: constraints.Constraint, event_shape: SequenceOf[int]) -> Space:
    """The space that matches a ``torch.distributions`` constraint.

    Args:
        support: The constraint, as ``distribution.support``.
        event_shape: The shape of one event.

    Returns:
        The space.

    Raises:
        PoeError: Where no space of this package matches.

    Example:
        >>> str(space_of(constraints.unit_interval, (2,)))
        'Interval(2, 0, 1)'
    """
    shape = tuple(event_shape)
    while hasattr(support, "base_constraint"):  # independent(...), or that of a mixture
        support = support.base_constraint
    if support is constraints.boolean:
        return Binary(shape)
    if support is constraints.simplex:
        return Simplex(shape[-1])
    if support is constraints.positive_definite:
        return PositiveDefinite(shape[-1])
    if support is constraints.real or support is constraints.real_vector:
        return Real(shape)
    bounded = _space_between(support, shape)
    if bounded is not None:
        return bounded
    raise PoeError(
        f"expected a support that is a space of this package, got {support!r}; "
        "use poe.FromLogDensity(fn, space=...) and say what the space is"
    )


def _space_between(support: constraints.Constraint, shape: tuple[int, ...]) -> Space | None:
    """The space of elements between bounds; None where there is no such space."""
    low: Any = getattr(support, "lower_bound", None)
    high: Any = getattr(support, "upper_bound", None)
    if isinstance(support, type(constraints.nonnegative_integer)) and low == 0:
        return Count(shape)
    if isinstance(support, constraints.integer_interval) and _is_number(low, 0):
        return Categorical(shape, int(high) + 1)
    if isinstance(support, type(constraints.positive) | type(constraints.nonnegative)) and low == 0:
        return Positive(shape)
    if isinstance(support, constraints.interval | constraints.half_open_interval):
        ends = _one_bound(low), _one_bound(high)
        if ends == (0, math.inf):
            return Positive(shape)
        return Interval(shape, *ends) if all(map(math.isfinite, ends)) else None
    return None


def _is_number(bound: object, number: float) -> bool:
    return bool((torch.as_tensor(bound) == number).all())


def _one_bound(bound: object) -> float:
    if isinstance(bound, int | float):
        return float(bound)  # a tensor would round it
    values = torch.unique(torch.as_tensor(bound))
    if len(values) != 1:
        raise PoeError(
            f"expected the same bound for every element, got {values.tolist()}; use "
            "poe.Transformed(expert on the unit interval, AffineTransform(low, high - low))"
        )
    return float(values)
