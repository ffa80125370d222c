"""Experts from what is there already: distributions, functions on a space, finite spaces."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, OneHotCategorical, VonMises
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from poe.core.arguments import checked, told
from poe.core.distribution_modules import Opaque, Parts, parts_of
from poe.core.errors import AdaptationError, DtypeError, PoeError
from poe.core.randomness import borrowed, resolve
from poe.core.space import (
    Binary,
    Categorical,
    Interval,
    Real,
    Space,
    space_of,
)
from poe.density.capabilities import (
    Conditionals,
    LabelPairs,
    SpinPairs,
    conditionals,
    label_pairs,
    spin_pairs,
)
from poe.density.checks import floats_of
from poe.density.conditional import Conditional
from poe.density.expert import Expert
from poe.density.one_hot import OneHotLogDensity, one_hot
from poe.density.transformed import mask_outside


@singledispatch
def as_expert(source: object) -> Any:
    """An expert with the same density as ``source``; lossless adaptations only.

    What is a density only given a condition becomes a ``poe.Conditional``. Knows experts and
    ``torch.distributions``; other families register theirs (``as_expert.register(YourClass)``), and
    ``import experts`` those of other libraries.

    Args:
        source: What is to be adapted; an expert comes back as it is.

    Returns:
        An expert, or a ``poe.Conditional``.

    Raises:
        AdaptationError: Where something would have to be guessed: a bare function or network says
            neither its sign nor its space.

    Example:
        >>> normal = as_expert(torch.distributions.Normal(0.0, 1.0))
        >>> str(normal.space), normal.log_prob(torch.tensor([0.0]))
        ('Real(())', tensor([-0.9189]))
    """
    refuse(source)


def refuse(source: object) -> NoReturn:
    """Raise `AdaptationError`: nobody has registered what `source` is."""
    if isinstance(source, nn.Module) or callable(source):
        raise AdaptationError(
            f"cannot tell what {type(source).__name__} returns or where x lives; use "
            "poe.FromLogDensity(fn, space=...) or poe.FromEnergy(fn, space=...)"
        )
    raise AdaptationError(
        f"cannot adapt {type(source).__name__}; known are experts, torch.distributions and what "
        "is registered with poe.as_expert.register, as `import experts` does for other libraries"
    )


@as_expert.register
def _(source: Expert | Conditional) -> Expert | Conditional:
    return source


@as_expert.register
def _(source: Distribution) -> Expert:
    return FromDistribution(source)


class FromLogDensity(Expert):
    """An expert from a function: log p̃(x) = fn(x).

    Args:
        fn: ``(*batch, *event) -> (*batch,)``. An ``nn.Module`` becomes part of the expert, and
            moves and learns with it.
        space: Where x lives.

    Raises:
        AdaptationError: Where ``fn`` is no function, or ``space`` no space.

    Example:
        >>> quartic = FromLogDensity(lambda x: -(x**4).sum(-1), space=poe.Real(1))
        >>> quartic.score(torch.ones(1, 1))
        tensor([[-4.]])
    """

    def __init__(self, fn: Callable[[Tensor], Tensor], *, space: Space) -> None:
        super().__init__()
        self.space = _require_space(space)
        self.fn = _require_callable(fn)

    def forward(self, x: Tensor) -> Tensor:
        """fn(x).

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            The unnormalised log-density, ``(*batch,)``.
        """
        return self.fn(x)


class FromEnergy(Expert):
    """An expert from an energy: log p̃(x) = −fn(x).

    Args:
        fn: The energy, ``(*batch, *event) -> (*batch,)``. An ``nn.Module`` becomes part of the
            expert, and moves and learns with it.
        space: Where x lives.

    Raises:
        AdaptationError: Where ``fn`` is no function, or ``space`` no space.

    Example:
        >>> FromEnergy(lambda x: x.square().sum(-1), space=poe.Real(1))(torch.ones(1, 1))
        tensor([-1.])
    """

    def __init__(self, fn: Callable[[Tensor], Tensor], *, space: Space) -> None:
        super().__init__()
        self.space = _require_space(space)
        self.fn = _require_callable(fn)

    def forward(self, x: Tensor) -> Tensor:
        """−fn(x).

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            The unnormalised log-density, ``(*batch,)``.
        """
        energy = self.fn(x)
        if not hasattr(energy, "__neg__"):
            raise DtypeError(f"expected the energy to return a tensor, got {told(energy)}")
        return -energy


class FromDistribution(Expert):
    """A ``torch.distributions`` distribution: normalised, sampled exactly, −inf off its support.

    Its tensors that require a gradient become parameters and learn, others become buffers; ``.to``
    moves both. What was broadcast or computed from others learns as it came out. Its support is the
    space: at the edge of ``Positive``, at 0, the log-density is −inf.

    Args:
        distribution: One distribution, of batch shape ``()``.

    Raises:
        AdaptationError: For a batch of distributions, which is no single density (wrap it in
            ``torch.distributions.Independent``), a support that is no space here, and an unknown
            constructor.
    """

    @checked
    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        if distribution.batch_shape:
            count = len(distribution.batch_shape)
            raise AdaptationError(
                f"expected one distribution, got a batch of shape "
                f"{tuple(distribution.batch_shape)}; use torch.distributions.Independent("
                f"distribution, {count}) for their product"
            )
        self.space = _space_of_distribution(distribution)
        self.parts = parts_of(distribution)
        _require_rebuilt(self.parts, distribution)

    def forward(self, x: Tensor) -> Tensor:
        """The distribution's log-density, −inf off its support.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        floats = x if x.is_floating_point() else x.to(self._dtype())
        if isinstance(self.space, Categorical):  # what is no index cannot be looked up
            value = self.parts.build().log_prob(floats.clamp(0, self.space.k - 1))
            return mask_outside(self.space, floats, value)
        value = self.parts.build().log_prob(floats)
        return value if isinstance(self.space, Real) else mask_outside(self.space, floats, value)

    def log_prob(self, x: Tensor) -> Tensor:
        """The distribution's log-density; equals ``log_density``.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        return self(x)

    @checked
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws; the global generator is left alone.

        Args:
            num_samples: How many.
            generator: The source of randomness; a fresh one by default.

        Returns:
            Draws, ``(num_samples, *event)``.
        """
        tensors = (*self.parameters(), *self.buffers())
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        with borrowed(resolve(generator, device)):
            # Some of torch's refuse to draw nothing.
            return self.parts.build().sample((max(num_samples, 1),))[:num_samples]

    def _dtype(self) -> torch.dtype:
        tensors = [*self.parameters(), *self.buffers()]
        return tensors[0].dtype if tensors else torch.get_default_dtype()


def _space_of_distribution(distribution: Distribution) -> Space:
    if isinstance(distribution, VonMises):  # a density on the circle, though torch says "real"
        return Interval((), -math.pi, math.pi)
    kind = type(distribution).__name__
    if isinstance(distribution, OneHotCategorical):
        raise AdaptationError(
            f"cannot adapt {kind}, whose one-hot vectors are no space here: "
            "torch.distributions.Categorical(probs) is the same on indices"
        )
    if isinstance(distribution, ExpRelaxedCategorical):
        raise AdaptationError(
            f"cannot adapt {kind}, a density on a surface: take "
            "torch.distributions.RelaxedOneHotCategorical, which is one on the simplex"
        )
    try:
        support = distribution.support
    except NotImplementedError:
        support = None
    if support is None:
        raise AdaptationError(
            f"{kind} does not say what its support is; use "
            "poe.FromLogDensity(distribution.log_prob, space=...)"
        )
    try:
        return space_of(support, distribution.event_shape)
    except PoeError as error:
        raise AdaptationError(f"cannot adapt {kind}: {error}") from error


def _require_rebuilt(parts: Parts | Opaque, distribution: Distribution) -> None:
    """A distribution of an unusual class may need more than its parameters to be built again."""
    try:
        parts.build()
    except TypeError as error:
        raise AdaptationError(
            f"cannot tell how {type(distribution).__name__} is constructed ({error}); use "
            "poe.FromLogDensity(distribution.log_prob, space=...)"
        ) from error


def _require_space(space: object) -> Space:
    if isinstance(space, Space):
        return space
    raise AdaptationError(f"expected space=poe.Real(...) or another space, got {space!r}")


def _require_callable(fn: Any) -> Any:
    if callable(fn) and not isinstance(fn, Expert | type):
        return fn
    _refuse_function(fn)


def _refuse_function(fn: object) -> NoReturn:
    raise AdaptationError(
        f"expected a function of x that returns a log-density or an energy, got {told(fn)}; "
        "an Expert needs no adaptation, and of a class make an instance"
    )


class FromOneHot(Expert):
    """An expert from a function of one-hot events: log p̃(x) = fn(z), z the encoding of x.

    z has the dtype of the module's numbers, else the default one. Its gradient in z is what kernels
    that follow a score go by.

    Args:
        fn: z ``(*batch, *event, k)`` to ``(*batch,)``. An ``nn.Module`` becomes part of the expert.
        space: Categorical or Sequence, with k values.

    Raises:
        PoeError: For another space.

    Example:
        >>> first = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.5, 0.0]])
        >>> expert = FromOneHot(lambda z: (z * first).sum((-2, -1)), space=poe.Categorical((2,), 3))
        >>> expert(torch.tensor([[0, 1]])), expert.score(torch.tensor([[0, 1]])).shape
        (tensor([1.5000]), torch.Size([1, 2, 3]))
    """

    @checked
    def __init__(self, fn: OneHotLogDensity, *, space: Space) -> None:
        super().__init__()
        if isinstance(space, Binary) or space.num_values is None:
            raise PoeError(
                "expected poe.Categorical or poe.Sequence, whose values have a one-hot encoding, "
                f"got {space}; on others use poe.FromLogDensity(fn, space=...)"
            )
        self.space = space
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """fn(z) of the one-hot encoding z of x.

        Args:
            x: Indices, ``(*batch, *event)``.

        Returns:
            The unnormalised log-density, ``(*batch,)``.
        """
        assert self.space.num_values is not None
        return self.log_density_of_one_hot(one_hot(x, self.space.num_values, floats_of(self)))

    def log_density_of_one_hot(self, z: Tensor) -> Tensor:
        """The function itself, fn(z).

        Args:
            z: One-hot vectors, or what lies between, ``(*batch, *event, k)``.

        Returns:
            The unnormalised log-density, ``(*batch,)``.
        """
        return self.fn(z)


class Uniform(Expert):
    """p(x) = k^(−d): every state of a finite space alike, k values at each of d elements.

    x is taken to be one of them: it is not checked. Draws have the dtype and device of ``like`` on
    Binary; on other spaces they are int64. Raises PoeError for a space of infinitely many values.

    >>> expert = Uniform(poe.Categorical((2,), 3))
    >>> expert.log_prob(torch.tensor([[0, 2]]))  # − log 9
    tensor([-2.1972])
    >>> expert.sample(4, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2])
    """

    zero: Tensor

    def __init__(self, space: Space, like: Tensor | None = None) -> None:
        super().__init__()
        if space.num_values is None:
            raise PoeError(
                f"expected a start for {space}, whose elements have infinitely many values, so "
                "that no distribution over it is uniform: give one, by `initial=` in poe.sample or "
                "`start=` in poe.smc, and a kernel that moves there, by `kernel=`."
            )
        self.space, self.num_values = space, space.num_values
        self.register_buffer("zero", torch.zeros(()) if like is None else like.new_zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        log_num_states = self.space.event_shape.numel() * math.log(self.num_values)
        return self.zero.new_full(self.space.batch_shape(x), -log_num_states)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), the log-density itself: ``(*batch, *event) -> (*batch,)``."""
        return self(x)

    def log_density_of_one_hot(self, z: Tensor) -> Tensor:
        """The same, of one-hot events ``(*batch, *event, k)``."""
        return self(z.argmax(-1))

    @checked
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, *event)``."""
        device = self.zero.device
        shape = (num_samples, *self.space.event_shape)
        generator = resolve(generator, device)
        x = torch.randint(self.num_values, shape, generator=generator, device=device)
        return x.to(self.zero.dtype) if isinstance(self.space, Binary) else x


@conditionals.register
def _(expert: Uniform) -> Conditionals | None:
    """Both values of a binary element alike."""
    if not isinstance(expert.space, Binary):
        return None
    edges = torch.zeros((2, 0), dtype=torch.int64, device=expert.zero.device)
    return Conditionals(edges, 0, lambda x, uniforms: torch.zeros_like)


@spin_pairs.register
def _(expert: Uniform) -> SpinPairs | None:
    """No couplings, and no fields."""
    if not isinstance(expert.space, Binary):
        return None
    edges = torch.zeros((2, 0), dtype=torch.int64, device=expert.zero.device)
    num_sites = expert.space.event_shape.numel()
    return SpinPairs(edges, expert.zero.new_zeros(0), expert.zero.new_zeros(num_sites))


@label_pairs.register
def _(expert: Uniform) -> LabelPairs:
    """No couplings, and fields of 0."""
    edges = torch.zeros((2, 0), dtype=torch.int64, device=expert.zero.device)
    fields = expert.zero.new_zeros((expert.space.event_shape.numel(), expert.num_values))
    return LabelPairs(edges, expert.zero.new_zeros(0), fields)
