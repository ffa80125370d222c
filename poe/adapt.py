"""Experts from what is already there: distributions, and functions with a stated space."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    TransformedDistribution,
)
from torch.distributions.transforms import Transform

from poe.algebra import mask_outside
from poe.bijection import Bijection
from poe.errors import AdaptationError
from poe.expert import Expert
from poe.randomness import borrowed, resolve
from poe.space import Real, Space, space_of


@singledispatch
def as_expert(source: object) -> Expert:
    """An expert with the same density as `source`; lossless adaptations only.

    Knows experts and `torch.distributions`; other families register theirs
    (`as_expert.register(YourClass)`). Raises `AdaptationError` where something would have to be
    guessed: a bare function or network says neither its sign nor its space.

    >>> normal = as_expert(torch.distributions.Normal(0.0, 1.0))
    >>> str(normal.space), normal.log_prob(torch.tensor([0.0]))
    ('Real(())', tensor([-0.9189]))
    """
    if isinstance(source, nn.Module) or callable(source):
        raise AdaptationError(
            f"cannot tell what {type(source).__name__} returns or where x lives; use "
            "poe.FromLogDensity(fn, space=...) or poe.FromEnergy(fn, space=...)"
        )
    raise AdaptationError(
        f"cannot adapt {type(source).__name__}; known are experts, torch.distributions and what "
        "is registered with poe.as_expert.register"
    )


@as_expert.register
def _(source: Expert) -> Expert:
    return source


@as_expert.register
def _(source: Distribution) -> Expert:
    return FromDistribution(source)


class FromLogDensity(Expert):
    """An expert from a function: log p̃(x) = fn(x), `(*batch, *event) -> (*batch,)`.

    Where `fn` is an `nn.Module` it becomes part of the expert, and moves and learns with it.

    >>> quartic = FromLogDensity(lambda x: -(x**4).sum(-1), space=poe.Real(1))
    >>> quartic.score(torch.ones(1, 1))
    tensor([[-4.]])
    """

    def __init__(self, fn: Callable[[Tensor], Tensor], *, space: Space) -> None:
        super().__init__()
        self.space = _require_space(space)
        self.fn = _require_callable(fn)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x)


class FromEnergy(Expert):
    """An expert from an energy: log p̃(x) = -fn(x), `(*batch, *event) -> (*batch,)`.

    >>> FromEnergy(lambda x: x.square().sum(-1), space=poe.Real(1))(torch.ones(1, 1))
    tensor([-1.])
    """

    def __init__(self, fn: Callable[[Tensor], Tensor], *, space: Space) -> None:
        super().__init__()
        self.space = _require_space(space)
        self.fn = _require_callable(fn)

    def forward(self, x: Tensor) -> Tensor:
        return -self.fn(x)


class FromDistribution(Expert):
    """A `torch.distributions` distribution: normalised, sampled exactly, -inf off its support.

    Its parameters become buffers, so `.to` moves them. A batch of distributions is no single
    density: wrap it in `torch.distributions.Independent` first.
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        if distribution.batch_shape:
            count = len(distribution.batch_shape)
            raise AdaptationError(
                f"expected one distribution, got a batch of shape "
                f"{tuple(distribution.batch_shape)}; use torch.distributions.Independent("
                f"distribution, {count}) for their product"
            )
        self.space = space_of(distribution.support, distribution.event_shape)
        self.parts = DistributionParts(distribution)

    def forward(self, x: Tensor) -> Tensor:
        distribution = self.parts.distribution()
        floats = x if x.is_floating_point() else x.to(self.parts.dtype)
        value = distribution.log_prob(floats)
        return value if isinstance(self.space, Real) else mask_outside(self.space, floats, value)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x): `(*batch, *event) -> (*batch,)`; equals `log_density`."""
        return self(x)

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: `(num_samples, *event)`; the global generator is put back after."""
        device = next((tensor.device for tensor in self.buffers()), torch.device("cpu"))
        with borrowed(resolve(generator, device)):
            return self.parts.distribution().sample((num_samples,))


class DistributionParts(nn.Module):
    """The defining tensors of a distribution, as a tree of modules that can rebuild it."""

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self.kind = type(distribution)
        self.arguments: dict[str, Any] = {}
        for name, value in _defining_arguments(distribution).items():
            self._keep(name, value)

    def distribution(self) -> Distribution:
        """The distribution with this module's present tensors, unvalidated: off-support is legal."""
        names = [*self.arguments, *self._modules, *self._parameters, *self._buffers]
        return self.kind(**{name: self._value(name) for name in names}, validate_args=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        tensors = (tensor.dtype for tensor in [*self.parameters(), *self.buffers()])
        return next(tensors, torch.get_default_dtype())

    def extra_repr(self) -> str:
        return self.kind.__name__

    def _keep(self, name: str, value: Any) -> None:
        if isinstance(value, Distribution):
            self.add_module(name, DistributionParts(value))
        elif isinstance(value, list):
            self.add_module(name, nn.ModuleList([Bijection(part) for part in value]))
        elif isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Tensor):
            self.register_buffer(name, value)
        else:
            self.arguments[name] = value

    def _value(self, name: str) -> Any:
        value = self.arguments[name] if name in self.arguments else getattr(self, name)
        if isinstance(value, DistributionParts):
            return value.distribution()
        if isinstance(value, nn.ModuleList):
            return [part.transform() for part in value]
        return value


def _defining_arguments(distribution: Distribution) -> dict[str, Any]:
    """The constructor arguments of `distribution`, one parametrisation of it."""
    if isinstance(distribution, Independent):
        return {
            "base_distribution": distribution.base_dist,
            "reinterpreted_batch_ndims": distribution.reinterpreted_batch_ndims,
        }
    if isinstance(distribution, MixtureSameFamily):
        return {
            "mixture_distribution": distribution.mixture_distribution,
            "component_distribution": distribution.component_distribution,
        }
    if type(distribution) is TransformedDistribution:
        transforms: list[Transform] = list(distribution.transforms)
        return {"base_distribution": distribution.base_dist, "transforms": transforms}
    alternatives = ("probs", "logits"), ("covariance_matrix", "precision_matrix", "scale_tril")
    names = [name for name in distribution.arg_constraints if _is_stored(distribution, name)]
    for group in alternatives:
        for extra in [name for name in names if name in group][1:]:
            names.remove(extra)
    extras = ("total_count",) if hasattr(distribution, "total_count") else ()
    return {name: getattr(distribution, name) for name in dict.fromkeys([*names, *extras])}


def _is_stored(distribution: Distribution, name: str) -> bool:
    # Lazily derived parametrisations live on the class until someone asks for them; derived
    # distributions (LogNormal, Gumbel) answer for their parameters by plain properties.
    return name in vars(distribution) or isinstance(getattr(type(distribution), name, None), property)


def _require_space(space: object) -> Space:
    if isinstance(space, Space):
        return space
    raise AdaptationError(f"expected space=poe.Real(...) or another space, got {space!r}")


def _require_callable(fn: Any) -> Any:
    if callable(fn) and not isinstance(fn, Expert):
        return fn
    _refuse(fn)


def _refuse(fn: object) -> NoReturn:
    raise AdaptationError(
        f"expected a function of x that returns a log-density or an energy, got "
        f"{type(fn).__name__}; an Expert needs no adaptation"
    )
