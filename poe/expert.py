"""Experts (unnormalised log-densities), their powers and their products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.func import grad_and_value

from poe.bridges import bridge
from poe.errors import DtypeError, OperatorError, PoeError, ShapeError, SpaceMismatchError
from poe.space import Space

if TYPE_CHECKING:
    from torch.distributions.transforms import Transform

    from poe.algebra import At, Mixture

Exponent = float | Tensor

_MISSING_METHODS = {
    "log_prob": "has no log_prob, since its normaliser is not known; use log_density(x), and "
    "poe.log_partition(expert) for the normaliser",
    "sample": "has no exact sample(); use poe.sample(expert, num_samples)",
}


class Expert(nn.Module):
    """An unnormalised log-density log p̃(x) on a space; subclasses implement `forward`.

    A subclass sets `self.space` and returns the log-density of shape `(*batch,)` for x of shape
    `(*batch, *event)`. Where the normaliser is known it also defines `log_prob(x)`, and where
    exact sampling exists `sample(num_samples, *, generator=None)`.

    >>> class Laplace(Expert):
    ...     space = poe.Real(1)
    ...     def forward(self, x):
    ...         return -x.abs().sum(-1)
    >>> Laplace()(torch.tensor([[1.0], [-2.0]]))
    tensor([-1., -2.])
    """

    space: Space

    def __call__(self, x: Tensor) -> Tensor:
        """The log-density with its shapes checked: `(*batch, *event) -> (*batch,)`."""
        batch_shape = self.space.batch_shape(x)
        try:
            value = super().__call__(x)
        except RuntimeError as error:
            _explain_placement(self, x, error)
            raise
        _check_output(self, value, x, batch_shape)
        return value

    def log_density(self, x: Tensor) -> Tensor:
        """log p̃(x): `(*batch, *event) -> (*batch,)`."""
        return self(x)

    def energy(self, x: Tensor) -> Tensor:
        """E(x) = -log p̃(x): `(*batch, *event) -> (*batch,)`."""
        return -self(x)

    def score(self, x: Tensor) -> Tensor:
        """The gradient of log p̃ at x, detached: `(*batch, *event) -> (*batch, *event)`.

        On Binary that of the expert's own formula, read at real numbers; on Categorical and
        Sequence that in the one-hot encoding of x, `(*batch, *event, k)` (`poe.one_hot`).
        """
        return self.log_density_and_score(x)[1]

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p̃(x) and its gradient by one forward and one backward pass, both detached.

        Raises PoeError on a discrete space where there is no gradient.
        """
        batch_shape = self.space.batch_shape(x)  # before x is asked for a gradient
        function, place = self._differentiable(x)
        if torch.compiler.is_compiling():
            return _by_transform(function, place)
        with torch.inference_mode(False), torch.enable_grad():
            position = (place.clone() if place.is_inference() else place).detach().requires_grad_()
            value = function(position)
            _check_output(self, value, x, batch_shape)
            score = _gradient(value, position)
        return value.detach(), score

    def _differentiable(self, x: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """What is differentiated, and where."""
        if not self.space.is_discrete:
            return self, x
        from poe.one_hot import differentiable

        return differentiable(self, x)

    def at(self, generator: nn.Module | Transform, space: Space | None = None) -> At:
        """This expert read through `generator`, without a Jacobian: z -> log p̃(G(z))."""
        from poe.algebra import At

        return At(self, generator, space)

    def __mul__(self, other: object) -> Product:
        if isinstance(other, Expert):
            return Product(self, other)
        _refuse(
            f"cannot multiply an expert by {kind_of(other)}: to weight an expert use `expert ** 2`"
        )

    def __rmul__(self, other: object) -> NoReturn:
        _refuse(
            f"cannot multiply {kind_of(other)} by an expert: to weight an expert use `expert ** 2`"
        )

    def __truediv__(self, other: object) -> Product:
        if isinstance(other, Expert):
            return Product(self, other**-1)
        _refuse(
            f"cannot divide an expert by {kind_of(other)}: "
            "for a temperature T use `expert ** (1 / T)`"
        )

    def __rtruediv__(self, other: object) -> NoReturn:
        _refuse(f"cannot divide {kind_of(other)} by an expert: use `a / b` or `b ** -1`")

    def __pow__(self, exponent: Exponent) -> Expert:
        if isinstance(exponent, Expert):
            _refuse("an exponent is a number, not an expert: for both together use `a * b`")
        return Tempered(self, exponent)

    def __rpow__(self, other: object) -> NoReturn:
        _refuse("an exponent is a number, not an expert: use `expert ** 2`")

    def __or__(self, other: object) -> Mixture:
        from poe.algebra import either

        if isinstance(other, Expert):
            return either(self, other)
        _refuse(
            f"cannot mix an expert with {kind_of(other)}: use `a | b` or `Mixture([a, b], weights)`"
        )

    def __ror__(self, other: object) -> NoReturn:
        _refuse(
            f"cannot mix {kind_of(other)} with an expert: use `a | b` or `Mixture([a, b], weights)`"
        )

    def __add__(self, other: object) -> NoReturn:
        _refuse("densities are not added: use `a * b` for AND, `a | b` for OR")

    __radd__ = __add__

    def __sub__(self, other: object) -> NoReturn:
        _refuse("densities are not subtracted: use `a / b ** alpha` for a AND NOT b")

    __rsub__ = __sub__

    def __neg__(self) -> NoReturn:
        _refuse("a density has no negative: use `a / b ** alpha` for a AND NOT b")

    def __getattr__(self, name: str) -> Any:
        # Only what an expert lacks arrives here: these two exist where the mathematics allows.
        if name in _MISSING_METHODS:
            raise AttributeError(f"{type(self).__name__} {_MISSING_METHODS[name]}")
        return super().__getattr__(name)

    def _factors(self) -> Iterator[tuple[str, Expert]]:
        """The named factors that this expert adds to a product."""
        yield type(self).__name__, self


class Tempered(Expert):
    """p̃(x)^w: log-density w log p̃(x), where weight 0 means that the expert has no say.

    `exponent` is a number, a 0-d tensor (kept as a buffer) or an `nn.Parameter` (learned). At
    w = 0 the log-density is 0 even where log p̃(x) is infinite; NaN stays NaN.
    """

    exponent: Tensor

    def __init__(self, expert: Expert, exponent: Exponent) -> None:
        super().__init__()
        self.space = require_expert(expert).space
        self.expert = expert
        weight = _as_exponent(exponent, expert)
        if isinstance(weight, nn.Parameter):
            self.exponent = weight
        else:
            self.register_buffer("exponent", weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.weigh(self.expert(x))

    def weigh(self, value: Tensor) -> Tensor:
        """w times the log-density `value`, 0 where w is 0 though the value is infinite."""
        exponent = self.exponent.to(value.dtype)
        has_no_say = (exponent == 0) & value.isinf()
        return exponent * value.masked_fill(has_no_say, 0)

    def __pow__(self, exponent: Exponent) -> Expert:
        learned = isinstance(self.exponent, nn.Parameter) or isinstance(exponent, nn.Parameter)
        if learned or isinstance(exponent, Expert):
            return super().__pow__(exponent)
        return Tempered(self.expert, self.exponent * _as_exponent(exponent, self.expert))

    def __getattr__(self, name: str) -> Any:
        return _closed_form(self, name) or super().__getattr__(name)

    def extra_repr(self) -> str:
        kind = "learned, " if isinstance(self.exponent, nn.Parameter) else ""
        return f"exponent={kind}{'?' if self.exponent.is_meta else f'{self.exponent.item():g}'}"

    def _factors(self) -> Iterator[tuple[str, Expert]]:
        factors = list(self.expert._factors())
        if len(factors) == 1:
            yield factors[0][0], self
            return
        for name, factor in factors:
            yield name, factor**self.exponent


class Product(Expert):
    """The conjunction of experts: log p̃(x) = sum_i w_i log p̃_i(x) (Hinton 2002, eq. 1).

    Nested products flatten and powers of products distribute. A factor's name is its keyword, or
    its class; repeated names get a suffix. Nothing is evaluated at build time.

    Where one factor excludes x (contribution -inf) the product is -inf, whatever the others say:
    in particular 0 / 0 is 0. A division by zero elsewhere is +inf, and NaN stays NaN.
    """

    names: tuple[str, ...]

    def __init__(self, /, *experts: Expert, **named: Expert) -> None:
        super().__init__()
        factors = [pair for expert in experts for pair in require_expert(expert)._factors()]
        for name, expert in named.items():
            factors += _renamed(name, list(require_expert(expert)._factors()))
        if not factors:
            raise PoeError("expected at least one expert in a product, got none")
        self.names = unique_names([name for name, _ in factors])
        self.experts = nn.ModuleList([expert for _, expert in factors])
        self.space = shared_space(self.names, [expert for _, expert in factors])

    def forward(self, x: Tensor) -> Tensor:
        return conjunction(torch.stack([expert(x) for expert in self.experts]))

    def contributions(self, x: Tensor) -> Tensor:
        """What each factor says: `(*batch, n_experts)`, in the order of `names`; sums to `self(x)`.

        Where one factor excludes x, a division by zero in another counts as 0.
        """
        self.space.batch_shape(x)
        values = torch.stack([expert(x) for expert in self.experts], -1)
        is_excluded = (values == -torch.inf).any(-1, keepdim=True)
        return values.masked_fill(is_excluded & (values == torch.inf), 0)

    def __pow__(self, exponent: Exponent) -> Expert:
        if isinstance(exponent, Expert):
            return super().__pow__(exponent)
        weight = _as_exponent(exponent, self)
        powers = [expert**weight for expert in experts_in(self.experts)]
        return named_product(self.names, powers)

    def __getattr__(self, name: str) -> Any:
        return _closed_form(self, name) or super().__getattr__(name)

    def extra_repr(self) -> str:
        return f"names={list(self.names)}"

    def _factors(self) -> Iterator[tuple[str, Expert]]:
        yield from zip(self.names, experts_in(self.experts), strict=True)


def conjunction(values: Tensor) -> Tensor:
    """The sum of what experts say, −inf where one of them excludes x: ``(n, *batch) -> (*batch,)``.

    >>> conjunction(torch.tensor([[1.0, float("inf")], [2.0, -float("inf")]]))
    tensor([3., -inf])
    """
    lowest = values.detach().amin(0)
    return torch.where(lowest == -torch.inf, lowest, values.sum(0))


def _closed_form(expert: Expert, name: str) -> Any:
    """`log_prob` or `sample` of a composition that has a closed form, else None."""
    if name not in _MISSING_METHODS:
        return None
    from poe.properties import simplify

    simple = simplify(expert).expert
    return None if isinstance(simple, Product | Tempered) else getattr(simple, name, None)


def _by_transform(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The value and its gradient as one function of x, which is what a compiled graph can hold."""

    def summed(x: Tensor) -> tuple[Tensor, Tensor]:
        value = function(x)
        return value.sum(), value

    score, (_, value) = grad_and_value(summed, has_aux=True)(x)
    return value, score


def _gradient(value: Tensor, position: Tensor) -> Tensor:
    if not value.requires_grad:  # a constant density, such as a uniform one
        return torch.zeros_like(position)
    return torch.autograd.grad(value.sum(), position, materialize_grads=True)[0]


def _check_output(expert: Expert, value: object, x: Tensor, batch_shape: torch.Size) -> None:
    if not isinstance(value, Tensor):
        raise DtypeError(
            f"expected {type(expert).__name__}.forward to return a tensor, got {kind_of(value)}"
        )
    if value.shape != batch_shape:
        raise ShapeError(
            f"expected a log-density of shape {tuple(batch_shape)} from {type(expert).__name__} "
            f"for x of shape {tuple(x.shape)} in {expert.space}, got {tuple(value.shape)}; "
            "sum over the event's dimensions only, and drop dimensions of size 1"
        )
    if not value.is_floating_point():
        raise DtypeError(
            f"expected a floating-point log-density from {type(expert).__name__}, got {value.dtype}"
        )


def _explain_placement(expert: Expert, x: Tensor, error: RuntimeError) -> None:
    """Turn torch's complaint about a dtype or a device into words, where that is the cause."""
    for name, tensor in [*expert.named_parameters(), *expert.named_buffers()]:
        if tensor.device != x.device:
            raise DtypeError(
                f"expected x on {tensor.device}, where {type(expert).__name__}.{name} lies, got "
                f"{x.device}; use x.to('{tensor.device}') or expert.to('{x.device}')"
            ) from error
        both_float = tensor.is_floating_point() and x.is_floating_point()
        if both_float and tensor.ndim and tensor.dtype != x.dtype:
            raise DtypeError(
                f"expected x of {tensor.dtype}, as {type(expert).__name__}.{name}, got {x.dtype}; "
                f"use x.to({tensor.dtype}) or expert.to({x.dtype})"
            ) from error


def _as_exponent(exponent: Exponent, expert: nn.Module) -> Tensor:
    if isinstance(exponent, bool) or not isinstance(exponent, int | float | Tensor):
        _refuse(f"expected an exponent that is a number or a 0-d tensor, got {kind_of(exponent)}")
    if isinstance(exponent, Tensor):
        if exponent.ndim != 0:
            raise ShapeError(
                f"expected an exponent of shape (), got {tuple(exponent.shape)}; "
                "use one `expert ** w` for each weight"
            )
        if not exponent.is_floating_point():
            exponent = exponent.to(dtype_of(expert))
    else:
        exponent = torch.tensor(float(exponent), dtype=dtype_of(expert), device=_device_of(expert))
    if not exponent.is_meta and not math.isfinite(exponent.item()):
        raise PoeError(f"expected a finite exponent, got {exponent.item()}")
    return exponent


def dtype_of(module: nn.Module) -> torch.dtype:
    """The module's own dtype, so that 1 / 3 is as exact as its other numbers."""
    floats = [t.dtype for t in _tensors(module) if t.is_floating_point()]
    return floats[0] if floats else torch.float64


def _device_of(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in _tensors(module)), torch.get_default_device())


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def experts_in(modules: nn.ModuleList) -> list[Expert]:
    """The experts that a module list holds."""
    return cast("list[Expert]", list(modules))


def require_expert(candidate: object) -> Expert:
    """`candidate` itself, if it is an Expert; raises `OperatorError` with the remedy otherwise."""
    if isinstance(candidate, Expert):
        return candidate
    _refuse(
        f"expected an Expert, got {kind_of(candidate)}; use poe.as_expert(distribution), "
        "poe.FromLogDensity(fn, space=...) or poe.FromEnergy(fn, space=...)"
    )


def shared_space(names: tuple[str, ...], experts: list[Expert], kind: str = "product") -> Space:
    """The one space of all `experts`; raises `SpaceMismatchError` where there are two."""
    first = experts[0].space
    for name, expert in zip(names, experts, strict=True):
        if expert.space != first:
            raise SpaceMismatchError(
                f"experts of a {kind} share one space: {names[0]} lives on {first}, {name} on "
                f"{expert.space}; {bridge(expert.space, first)}"
            )
    return first


def _renamed(name: str, factors: list[tuple[str, Expert]]) -> list[tuple[str, Expert]]:
    if len(factors) == 1:
        return [(name, factors[0][1])]
    return [(f"{name}.{inner}", factor) for inner, factor in factors]


def unique_names(names: list[str]) -> tuple[str, ...]:
    """The same names, repeated ones with a suffix."""
    taken: list[str] = []
    for name in names:
        candidates = (name if i == 1 else f"{name}_{i}" for i in range(1, len(names) + 1))
        taken.append(next(candidate for candidate in candidates if candidate not in taken))
    return tuple(taken)


def named_product(names: tuple[str, ...], experts: list[Expert]) -> Product:
    """The product of `experts` under exactly these names."""
    product = Product(*experts)
    product.names = names
    return product


def kind_of(value: object) -> str:
    return (
        f"{type(value).__name__} {value!r}"
        if isinstance(value, int | float)
        else type(value).__name__
    )


def _refuse(message: str) -> NoReturn:
    raise OperatorError(message)
