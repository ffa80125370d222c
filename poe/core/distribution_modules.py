"""A distribution or a transform as a module, so that its tensors move, learn and are saved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Distribution,
    GeneralizedPareto,
    Independent,
    MixtureSameFamily,
    TransformedDistribution,
    constraints,
    transforms,
)
from torch.distributions.transforms import Transform

from poe.core.ranges import Rescale
from poe.core.space import LogCholesky, StickBreaking

# The constructor's arguments of each transform, with the attribute that holds each.
_TRANSFORM_ARGUMENTS: dict[type[Transform], dict[str, str]] = {
    transforms.AffineTransform: {"loc": "loc", "scale": "scale", "event_dim": "_event_dim"},
    transforms.ComposeTransform: {"parts": "parts"},
    transforms.ExpTransform: {},
    transforms.IndependentTransform: {
        "base_transform": "base_transform",
        "reinterpreted_batch_ndims": "reinterpreted_batch_ndims",
    },
    transforms.PowerTransform: {"exponent": "exponent"},
    transforms.ReshapeTransform: {"in_shape": "in_shape", "out_shape": "out_shape"},
    transforms.SigmoidTransform: {},
    transforms.SoftplusTransform: {},
    transforms.StickBreakingTransform: {},
    transforms.TanhTransform: {},
    transforms._InverseTransform: {"transform": "_inv"},
    LogCholesky: {"k": "k"},
    StickBreaking: {},
    Rescale: {name: name for name in ("low", "high", "to_low", "to_high")},
}
_DISTRIBUTION_ARGUMENTS: dict[type[Distribution], dict[str, str]] = {
    Independent: {
        "base_distribution": "base_dist",
        "reinterpreted_batch_ndims": "reinterpreted_batch_ndims",
    },
    MixtureSameFamily: {
        "mixture_distribution": "mixture_distribution",
        "component_distribution": "component_distribution",
    },
    TransformedDistribution: {"base_distribution": "base_dist", "transforms": "transforms"},
}
_OF_OTHERS = (
    transforms.ComposeTransform,
    transforms.IndependentTransform,
    transforms._InverseTransform,
)
# Parametrisations of one and the same thing: the first that is stored decides.
_ALTERNATIVES = (
    ("probs", "logits"),
    ("covariance_matrix", "precision_matrix", "scale_tril"),
)
KINDS: dict[str, type] = {kind.__qualname__: kind for kind in _TRANSFORM_ARGUMENTS} | {
    name: getattr(torch.distributions, name)
    for name in torch.distributions.__all__
    if isinstance(getattr(torch.distributions, name), type)
    and issubclass(getattr(torch.distributions, name), Distribution)
}


class Parts(nn.Module):
    """The class and the constructor's arguments of a distribution or transform, as a module.

    Tensors that require a gradient become parameters (`nn.Parameter`s stay the ones they are, also
    where a distribution keeps a view of them), others buffers; inner distributions and transforms
    become inner `Parts`. `build()` makes the object from the present tensors.

    >>> affine = torch.distributions.AffineTransform(torch.zeros(2), torch.ones(2))
    >>> parts_of(affine).to(torch.float64).build()(torch.zeros(2)).dtype
    torch.float64
    """

    def __init__(self, kind: type, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.kind = kind
        self.names = tuple(arguments)
        for name, value in arguments.items():
            if isinstance(value, list):
                value = nn.ModuleList(value)
            value = _learned(value) if isinstance(value, Tensor) else value
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    @property
    def may_be_infinite(self) -> tuple[str, ...]:
        """The arguments of which nobody here knows whether an infinity means something."""
        return self.names

    def arguments(self) -> dict[str, Any]:
        """The present arguments; inner objects as `Parts`."""
        values = ((name, getattr(self, name)) for name in self.names)
        return {n: list(v) if isinstance(v, nn.ModuleList) else v for n, v in values}

    def build(self) -> Any:
        """The distribution or transform; distributions unvalidated, as off-support x is legal."""
        arguments = {name: _built(value) for name, value in self.arguments().items()}
        if self.kind is TransformedDistribution:
            return OnSupport(**arguments, validate_args=False)
        if issubclass(self.kind, Distribution):
            arguments["validate_args"] = False
        return _MENDED.get(self.kind, self.kind)(**arguments)

    def is_same_as(self, other: object) -> bool:
        """Whether the other is of the same class and arguments.

        >>> maps = transforms.AffineTransform(0.0, 2.0), transforms.AffineTransform(0.0, 2.0)
        >>> parts_of(maps[0]).is_same_as(parts_of(maps[1]))
        True
        """
        if not isinstance(other, Parts) or (self.kind, self.names) != (other.kind, other.names):
            return False
        pairs = zip(self.arguments().values(), other.arguments().values(), strict=True)
        return all(_is_same(mine, others) for mine, others in pairs)

    def extra_repr(self) -> str:
        return self.kind.__name__


class OnSupport(TransformedDistribution):
    """A transformed distribution that is −inf where its base excludes T⁻¹(x).

    `torch.distributions` evaluates the base's formula there, which can be any number.

    >>> exponential = torch.distributions.Exponential(1.0, validate_args=False)
    >>> moved = OnSupport(exponential, [transforms.AffineTransform(1, 2)])
    >>> moved.log_prob(torch.tensor([0.0, 1.0]))
    tensor([   -inf, -0.6931])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x): `(*batch, *event) -> (*batch,)`."""
        log_prob = super().log_prob(value)
        support = self.base_dist.support
        # A bijection from a simplex meets no other points, save by rounding.
        if support is None or support is constraints.simplex or _is_real(support):
            return log_prob
        z = value
        for transform in reversed(self.transforms):
            z = transform.inv(z)
        event = tuple(range(-len(self.event_shape), 0))
        is_nan = value.isnan().any(event) if event else value.isnan()
        return log_prob.masked_fill(~support.check(z) & ~is_nan, -torch.inf)


class AnyPrecisionGeneralizedPareto(GeneralizedPareto):
    """A generalised Pareto distribution in any dtype, on any device.

    That of torch 2.13 compares its concentration with a number of the default dtype on the CPU.

    >>> one = torch.ones((), dtype=torch.float64)
    >>> AnyPrecisionGeneralizedPareto(0 * one, one, 0 * one).log_prob(2 * one)
    tensor(-2., dtype=torch.float64)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x), e^(−z) where the concentration is 0: `(*batch,) -> (*batch,)`."""
        z = (value - self.loc) / self.scale
        shape = self.concentration
        is_exponential = torch.isclose(shape, torch.zeros_like(shape))
        divisor = shape.masked_fill(is_exponential, 1)
        power = 1 / divisor + torch.ones_like(z)
        of_power = torch.where(power == 0, power, power * torch.log1p(divisor * z))
        return -self.scale.log() - torch.where(is_exponential, z, of_power)


# What is built in place of classes whose own log-density fails.
_MENDED: dict[type, type] = {GeneralizedPareto: AnyPrecisionGeneralizedPareto}


def _is_real(support: constraints.Constraint) -> bool:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is constraints.real or support is constraints.real_vector


class Opaque(nn.Module):
    """A transform of a class unknown here: used as it is, neither moved nor saved."""

    def __init__(self, source: Transform) -> None:
        super().__init__()
        self.source = source

    def build(self) -> Any:
        """The transform itself."""
        return self.source


class Feature(nn.Module):
    """A bijection as a map of features: x -> T(x), and no Jacobian anywhere.

    >>> Feature(torch.distributions.transforms.ExpTransform())(torch.zeros(1))
    tensor([1.])
    """

    def __init__(self, bijection: Transform | Parts | Opaque) -> None:
        super().__init__()
        self.bijection = parts_of(bijection) if isinstance(bijection, Transform) else bijection

    def forward(self, x: Tensor) -> Tensor:
        return self.bijection.build()(x)


def parts_of(source: Distribution | Transform) -> Parts | Opaque:
    """Take a distribution or transform apart."""
    if isinstance(source, OnSupport):
        table = _DISTRIBUTION_ARGUMENTS[TransformedDistribution]
    elif isinstance(source, Distribution):
        table = _DISTRIBUTION_ARGUMENTS.get(type(source)) or _stored_arguments(source)
    elif type(source) in _TRANSFORM_ARGUMENTS:
        table = _TRANSFORM_ARGUMENTS[type(source)]
    else:
        return Opaque(source)
    return Parts(
        _own_kind(source), {name: _taken_apart(getattr(source, key)) for name, key in table.items()}
    )


def _own_kind(source: Distribution | Transform) -> type:
    """Its class as torch names it, of what was built here too."""
    if isinstance(source, OnSupport):
        return TransformedDistribution
    names = {mended: kind for kind, mended in _MENDED.items()}
    return names.get(type(source), type(source))


def _stored_arguments(distribution: Distribution) -> dict[str, str]:
    names = [name for name in distribution.arg_constraints if _is_stored(distribution, name)]
    for group in _ALTERNATIVES:
        spare = [name for name in names if name in group][1:]
        names = [name for name in names if name not in spare]
    # Some constructors take more than the constrained parameters.
    names += [name for name in ("total_count", "temperature") if hasattr(distribution, name)]
    return {name: name for name in dict.fromkeys(names)}


def _is_stored(distribution: Distribution, name: str) -> bool:
    # Lazily derived parametrisations are not stored until someone asks for them; derived
    # distributions (LogNormal, Gumbel) answer for their parameters by plain properties.
    is_plain_property = isinstance(getattr(type(distribution), name, None), property)
    return name in vars(distribution) or is_plain_property


def _learned(tensor: Tensor) -> Tensor:
    """The parameter that a tensor is, or is a view of; one of its own where it was computed."""
    if isinstance(tensor, nn.Parameter) or not tensor.requires_grad:
        return tensor
    base = tensor._base
    if base is not None and base.is_leaf and base.shape == tensor.shape:
        tensor = base  # `torch.distributions` keeps broadcast views of what it is given
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor if tensor.is_leaf else tensor.detach().clone())


def _taken_apart(value: Any) -> Any:
    if isinstance(value, Distribution | Transform):
        return parts_of(value)
    if isinstance(value, list):
        return [parts_of(part) for part in value]
    return tuple(value) if isinstance(value, torch.Size) else value


def _is_same(value: Any, other: Any) -> bool:
    if isinstance(value, Parts):
        return value.is_same_as(other)
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_is_same, value, other))
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return value is other or (not value.is_meta and torch.equal(value, other))
    return type(value) is type(other) and not isinstance(value, Opaque) and bool(value == other)


def _built(value: Any) -> Any:
    if isinstance(value, Parts | Opaque):
        return value.build()
    return [part.build() for part in value] if isinstance(value, list) else value


def is_affine(parts: Parts | Opaque) -> bool:
    """Whether it is a map y = a x + b, element by element.

    >>> is_affine(parts_of(torch.distributions.AffineTransform(1.0, 2.0)))
    True
    """
    if isinstance(parts, Opaque):
        return False
    if parts.kind not in _OF_OTHERS:
        return parts.kind is transforms.AffineTransform
    inner = (part for part in parts.modules() if isinstance(part, Parts | Opaque))
    return all(is_affine(part) for part in inner if part is not parts)
