"""New experts from old: mixtures, moved densities, factors read through a map, and bridges."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributions.transforms import Transform

from poe.errors import NormalizationError, PoeError, ShapeError
from poe.expert import (
    Expert,
    Product,
    Tempered,
    dtype_of,
    experts_in,
    require_expert,
    shared_space,
)
from poe.moved import domain_of, moved, require_domain
from poe.parts import Feature, is_affine, parts_of
from poe.properties import (
    Simplified,
    check_proper,
    distribute,
    exact_log_partition,
    is_normalized,
    simplify,
)
from poe.randomness import resolve
from poe.space import Binary, Categorical, Count, Interval, Positive, Real, Space, space_of
from poe.space import Sequence as Tokens
from poe.tails import tails

MAX_COMPONENTS = 1024
"""A product of mixtures with more than these is not multiplied out."""


class Mixture(Expert):
    """The disjunction of experts: log sum_k w_k p_k(x), with weights that sum to 1.

    Each component needs `log_prob`, or an estimate of its log partition in `log_partitions`
    (None for the others): unnormalised densities have no common scale to be added on. Raises
    `NormalizationError` otherwise; `poe.any_of` estimates what is missing. `log_prob` exists where
    nothing was estimated, `sample` where every component has one.

    >>> m = Mixture([experts.Gaussian([0.0], 1.0), experts.Gaussian([4.0], 1.0)], [0.25, 0.75])
    >>> m.log_prob(torch.zeros(1, 1))
    tensor([-2.3042])
    """

    weights: Tensor

    def __init__(
        self,
        experts: Sequence[Expert],
        weights: Sequence[float] | Tensor | None = None,
        *,
        log_partitions: Sequence[float | None] | None = None,
    ) -> None:
        super().__init__()
        components = [require_expert(expert) for expert in experts]
        if not components:
            raise PoeError("expected at least one component in a mixture, got none")
        self.experts = nn.ModuleList(components)
        names = tuple(type(expert).__name__ for expert in components)
        self.space = shared_space(names, components, "mixture")
        self.estimates = tuple(
            None if estimate is None else float(estimate)
            for estimate in log_partitions or [None] * len(components)
        )
        _require_scale(components, self.estimates)
        self.register_buffer(
            "weights", _as_weights(weights, len(components), dtype_of(self.experts))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self._weighted(x), -1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """w_k p_k(x) / p(x), 0 where p(x) is: `(*batch, *event) -> (n_experts, *batch)`."""
        values = self._weighted(x)
        is_outside = (values == -torch.inf).all(-1, keepdim=True)
        return values.softmax(-1).masked_fill(is_outside, 0).movedim(-1, 0)

    def extra_repr(self) -> str:
        return f"{len(self.experts)} components"

    def __getattr__(self, name: str) -> Any:
        if name == "log_prob" and _is_known_sum(self) and self._is_normalized():
            return self.__call__
        if name == "sample" and all(
            hasattr(expert, "sample") for expert in experts_in(self.experts)
        ):
            return self._sample
        return super().__getattr__(name)

    def _is_normalized(self) -> bool:
        return all(is_normalized(expert) for expert in experts_in(self.experts))

    def _weighted(self, x: Tensor) -> Tensor:
        """log w_k p_k(x): `(*batch, n_experts)`."""
        values = torch.stack([self._component(k, x) for k in range(len(self.experts))], -1)
        return values + self.weights.log().to(values.dtype)

    def _component(self, k: int, x: Tensor) -> Tensor:
        expert, estimate = experts_in(self.experts)[k], self.estimates[k]
        return expert.log_prob(x) if estimate is None else expert(x) - estimate

    def _sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        generator = resolve(generator, self.weights.device)
        chosen = torch.multinomial(self.weights, num_samples, True, generator=generator)
        parts = [
            expert.sample(int((chosen == k).sum()), generator=generator)
            for k, expert in enumerate(experts_in(self.experts))
        ]
        # Sorted by component, then put back where each component was chosen.
        return torch.cat(parts)[chosen.argsort(stable=True).argsort()]


@distribute.register
def _(factor: Mixture, others: Sequence[Expert]) -> Simplified | None:
    """(Σ wₖ pₖ) q = Σ wₖ Zₖ (pₖ q / Zₖ), with the log Zₖ of each product in closed form."""
    mixtures = [factor, *(other for other in others if isinstance(other, Mixture))]
    count = math.prod(len(mixture.experts) for mixture in mixtures)
    if count > MAX_COMPONENTS or not _is_known_sum(factor):
        return None
    parts: list[Expert] = []
    log_weights: list[Tensor] = []
    for component, weight in zip(experts_in(factor.experts), factor.weights, strict=True):
        simple, log_constant = simplify(Product(component, *others))
        if isinstance(simple, Product | Tempered):
            return None
        before, after = exact_log_partition(component), exact_log_partition(simple)
        if before is None or after is None:
            return None
        inner = simple if _is_known_sum(simple) else Mixture([simple])
        parts += experts_in(inner.experts)
        log_weights.append(
            inner.weights.double().log() + (weight.log() + log_constant + after - before)
        )
    return _weighted(parts, torch.cat(log_weights))


@check_proper.register
def _(expert: Mixture) -> None:
    for component, weight in zip(experts_in(expert.experts), expert.weights, strict=True):
        if not weight.is_meta and weight > 0:
            check_proper(component)


@tails.register
def _(expert: Mixture) -> Tensor | None:
    components = zip(experts_in(expert.experts), expert.weights.tolist(), strict=True)
    found = [tails(component) for component, weight in components if weight > 0]
    known = [part for part in found if part is not None]
    # Components that differ in their location alone have the same tails.
    return torch.cat(known).unique(dim=0) if known and len(known) == len(found) else None


def _weighted(parts: Sequence[Expert], log_weights: Tensor) -> Simplified | None:
    """The mixture with these weights; None where one is too small for a number.

    It may count far from the others' components, and a simpler form says the same everywhere.
    """
    total = log_weights.logsumexp(0)
    weights = (log_weights - total).exp()
    if bool(((weights == 0) & log_weights.isfinite()).any()):
        return None
    mixture = Mixture(parts, weights)
    mixture.weights = weights  # in float64, of the larger range
    return Simplified(mixture, total.to(dtype_of(mixture.experts)))


def _is_known_sum(expert: Expert) -> TypeGuard[Mixture]:
    """Whether it is a mixture whose components are all normalised."""
    return isinstance(expert, Mixture) and all(e is None for e in expert.estimates)


def either(a: Expert, b: Expert) -> Mixture:
    """`a | b`: every component counts the same, so `a | b | c` has weights 1/3, 1/3, 1/3."""
    first, second = _components(a), _components(b)
    total = len(first) + len(second)
    weights = [len(first) / total * w for _, w in first]
    weights += [len(second) / total * w for _, w in second]
    return Mixture([expert for expert, _ in [*first, *second]], weights)


class Transformed(Expert):
    """A density moved by a bijection T: log p̃(T^-1 y) + log |det dT^-1/dy|.

    `bijection` is a `torch.distributions` transform whose tensors become part of this module, or
    one of `poe.ranges`. The log partition stays the same, and so `log_prob` and `sample` exist
    where the expert has them. The new space is read off the bijection; give `space` where it cannot
    be. Raises PoeError where the bijection is not defined on all of the expert's space.

    >>> from torch.distributions.transforms import ExpTransform
    >>> log_normal = Transformed(experts.Gaussian([0.0], 1.0), ExpTransform())
    >>> str(log_normal.space), log_normal.log_prob(torch.ones(1, 1))
    ('Positive(1)', tensor([-0.9189]))
    """

    def __init__(self, expert: Expert, bijection: Transform, *, space: Space | None = None) -> None:
        super().__init__()
        source = require_expert(expert).space
        if source.is_discrete:
            raise PoeError(f"expected an expert on a continuous space, got {source}")
        require_domain(_require_bijection(bijection), source)
        self.expert = expert
        self.bijection = parts_of(bijection)
        shape = bijection.forward_shape(source.event_shape)
        image = moved(source, bijection)
        self._is_cut = image is None and domain_of(bijection, source) is not None
        self.space = space or image or space_of(bijection.codomain, shape)
        if self.space.event_shape != torch.Size(shape):
            raise ShapeError(f"expected a space of event shape {tuple(shape)}, got {self.space}")

    def forward(self, x: Tensor) -> Tensor:
        return self.pull_back(x, self.expert)

    def __getattr__(self, name: str) -> Any:
        if name == "log_prob" and is_normalized(self.expert):
            return self._log_prob
        if name == "sample" and hasattr(self.expert, "sample"):
            return self._sample
        return super().__getattr__(name)

    def pull_back(self, y: Tensor, density: Callable[[Tensor], Tensor]) -> Tensor:
        """density(T^-1 y) + log |det dT^-1/dy|: `(*batch, *event) -> (*batch,)`."""
        transform = self.bijection.build()
        x = transform.inv(y)
        jacobian = transform.log_abs_det_jacobian(x, y)
        batch = self.space.batch_shape(y)
        if jacobian.ndim > len(batch):
            jacobian = jacobian.flatten(len(batch)).sum(-1)
        value = density(x) - jacobian
        if self._is_cut:  # the new space is wider than what the bijection reaches
            value = mask_outside(self.expert.space, x, value)
        if isinstance(self.space, Real):
            return value
        return mask_outside(self.space, y, value)

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.pull_back(x, self.expert.log_prob)

    def _sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.bijection.build()(self.expert.sample(num_samples, generator=generator))


@check_proper.register
def _(expert: Transformed) -> None:
    check_proper(expert.expert)


@tails.register
def _(expert: Transformed) -> Tensor | None:
    """Known of maps y = a x + b, element by element."""
    inner = tails(expert.expert) if is_affine(expert.bijection) else None
    if inner is None or not isinstance(expert.space, Real):
        return None
    transform = copy.deepcopy(expert.bijection).to("cpu", torch.float64).build()
    with torch.enable_grad():
        y = torch.zeros(expert.space.event_shape, dtype=torch.float64, requires_grad=True)
        slope = torch.autograd.grad(transform.inv(y).sum(), y)[0].flatten()
    return inner * slope * slope[:, None]


class At(Expert):
    """A factor read through a map G, without a Jacobian: z -> log p̃(G(z)).

    This weighs z by what the expert says of G(z); it is no change of variables (for that use
    `Transformed`). G is an `nn.Module`, or a bijection that is read as a mere feature. `space` is
    where z lives; without it, `generator.space`, or what the bijection takes there, is used.

    >>> doubled = torch.nn.Linear(1, 1, bias=False)
    >>> torch.nn.init.constant_(doubled.weight, 2.0).item()
    2.0
    >>> experts.Gaussian([2.0], 1.0).at(doubled, poe.Real(1))(torch.ones(1, 1)).detach()
    tensor([-0.9189])
    """

    def __init__(
        self, expert: Expert, generator: nn.Module | Transform, space: Space | None = None
    ) -> None:
        super().__init__()
        if isinstance(generator, Transform):
            space = space or moved(require_expert(expert).space, generator.inv)
            generator = Feature(generator)
        if not isinstance(generator, nn.Module):
            raise PoeError(f"expected an nn.Module G, got {type(generator).__name__}")
        self.space = _input_space(generator) if space is None else space
        self.expert = require_expert(expert)
        self.generator = generator

    def forward(self, z: Tensor) -> Tensor:
        return self.expert(self.generator(z))


class Dequantized(Expert):
    """A discrete expert on a continuous space, by uniform noise: log p̃(floor(y)).

    x in {0, .., k-1} becomes y = x + u with u uniform on [0, 1), so y lives on
    `Interval(shape, 0, k)`, and of counts on `Positive(shape)`. Exact: the log partition stays the
    same (Theis et al. 2016, sec. 3.1). The density is constant within a cell, so its score is zero.

    >>> coin = poe.as_expert(torch.distributions.Bernoulli(0.25))
    >>> str(Dequantized(coin).space), Dequantized(coin)(torch.tensor([0.3, 1.9])).exp()
    ('Interval((), 0, 2)', tensor([0.7500, 0.2500]))
    """

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        self.space = _of_cells(require_expert(expert).space)
        self.expert = expert

    def forward(self, x: Tensor) -> Tensor:
        return mask_outside(self.space, x, self.expert(self._cell(x)))

    def __getattr__(self, name: str) -> Any:
        if name == "log_prob" and is_normalized(self.expert):
            return self._log_prob
        if name == "sample" and hasattr(self.expert, "sample"):
            return self._sample
        return super().__getattr__(name)

    def _cell(self, y: Tensor) -> Tensor:
        top = None if self.expert.space.num_values is None else self.expert.space.num_values - 1
        cell = y.detach().floor().clamp(0, top)
        return cell.long() if isinstance(self.expert.space, Categorical | Tokens) else cell

    def _log_prob(self, x: Tensor) -> Tensor:
        return mask_outside(self.space, x, self.expert.log_prob(self._cell(x)))

    def _sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        x = self.expert.sample(num_samples, generator=generator)
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        generator = resolve(generator, x.device)
        return x + torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)


class Relaxed(Expert):
    """A binary expert's own formula read at real numbers in [0, 1]: y -> log p̃(y).

    Biased: it agrees with the expert at the corners of the cube only, and its log partition is
    another one. For experts whose formula is smooth in x (RBM, Ising, neural energies).
    """

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        if not isinstance(expert.space, Binary):
            raise PoeError(f"expected an expert on a Binary space, got {expert.space}")
        self.space = Interval(expert.space.event_shape, 0, 1)
        self.expert = expert

    def forward(self, x: Tensor) -> Tensor:
        return mask_outside(self.space, x, self.expert(x))


def mask_outside(space: Space, x: Tensor, value: Tensor) -> Tensor:
    """`value`, with -inf where x lies outside `space`; NaN in x stays the value's own affair."""
    is_nan = space.as_vector(x.isnan()).any(-1)
    return value.masked_fill(~space.contains(x) & ~is_nan, -torch.inf)


def _components(expert: Expert) -> list[tuple[Expert, float]]:
    if not _is_known_sum(expert):
        return [(expert, 1.0)]
    return list(zip(experts_in(expert.experts), expert.weights.tolist(), strict=True))


def _require_bijection(bijection: object) -> Transform:
    if isinstance(bijection, Transform) and bijection.bijective:
        return bijection
    raise PoeError(
        "expected a bijective torch.distributions.transforms.Transform, got "
        f"{type(bijection).__name__}; a map without a Jacobian goes in expert.at(map)"
    )


def _require_scale(experts: list[Expert], estimates: tuple[float | None, ...]) -> None:
    if len(estimates) != len(experts):
        raise ShapeError(f"expected {len(experts)} log partitions, got {len(estimates)}")
    for expert, estimate in zip(experts, estimates, strict=True):
        if estimate is None and not hasattr(expert, "log_prob"):
            raise NormalizationError(
                f"expected normalised components, but {type(expert).__name__} has no log_prob; "
                "give an estimate in log_partitions=, for example poe.log_partition(expert).value"
            )


def _as_weights(weights: Sequence[float] | Tensor | None, count: int, dtype: torch.dtype) -> Tensor:
    if weights is None:
        return torch.full((count,), 1 / count, dtype=dtype)
    tensor = torch.as_tensor(weights, dtype=dtype)
    if tensor.shape != (count,):
        raise ShapeError(f"expected weights of shape ({count},), got {tuple(tensor.shape)}")
    if not bool((tensor >= 0).all()) or abs(float(tensor.sum()) - 1) > 1e-5:
        raise PoeError(
            f"expected weights >= 0 that sum to 1, got {tensor.tolist()}; use w / w.sum()"
        )
    return tensor


def _input_space(generator: nn.Module) -> Space:
    space = getattr(generator, "space", None)
    if isinstance(space, Space):
        return space
    raise PoeError(
        f"expected to know where the input of {type(generator).__name__} lives; "
        "use expert.at(generator, poe.Real(...))"
    )


def _of_cells(space: Space) -> Space:
    """Where x + u lives, with u uniform on [0, 1)."""
    if isinstance(space, Binary | Categorical | Tokens):
        return Interval(space.event_shape, 0, space.num_values)
    if isinstance(space, Count):
        return Positive(space.event_shape)
    raise PoeError(
        f"expected an expert on a Binary, Categorical, Count or Sequence space, got {space}"
    )
