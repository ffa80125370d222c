"""Densities moved to another space: by a bijection, by noise, or by reading them in between."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions.transforms import Transform

from poe.core.arguments import checked, require
from poe.core.distribution_modules import (
    Feature,
    Opaque,
    Parts,
    is_affine,
    parts_of,
)
from poe.core.errors import PoeError, ShapeError
from poe.core.image_of_space import domain_of, moved, require_domain
from poe.core.randomness import resolve
from poe.core.space import (
    Binary,
    Categorical,
    Count,
    Interval,
    LogCholesky,
    Positive,
    PositiveDefinite,
    Real,
    Sequence as Tokens,
    Space,
    space_of,
)
from poe.density.capabilities import (
    can_sample_exactly,
    check_proper,
    conditionals,
    exact_log_partition,
    is_normalized,
    label_pairs,
    log_density_of_one_hot,
    log_prob_of,
    sampler_of,
    spin_pairs,
    tails,
)
from poe.density.expert import At, Expert, LogDensity, Sampler, require_expert
from poe.density.questions import keeps_default


class Transformed(Expert):
    """A density moved by a bijection T: log p̃(T⁻¹ y) + log |det dT⁻¹/dy|.

    The log partition stays the same, and so ``log_prob`` and ``sample`` exist where the expert has
    them.

    Args:
        expert: Of log-density log p̃, on a continuous space.
        bijection: T, a ``torch.distributions`` transform whose tensors become part of this module,
            or one of ``poe.ranges``.
        space: Where y lives; read off the bijection by default, to be given where it cannot be.

    Raises:
        PoeError: Where the expert's space is discrete, T is no bijection, or is not defined on all
            of the expert's space.
        ShapeError: Where the event shape of ``space`` is not that of T's values.

    Example:
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
        asked = require("space", space, Space | None)
        self.space = asked or image or space_of(bijection.codomain, shape)
        if self.space.event_shape != torch.Size(shape):
            raise ShapeError(f"expected a space of event shape {tuple(shape)}, got {self.space}")

    def forward(self, x: Tensor) -> Tensor:
        """log p̃(T⁻¹ x) + log |det dT⁻¹/dx|.

        Args:
            x: Positions in the new space, ``(*batch, *event)``.

        Returns:
            The unnormalised log-density, ``(*batch,)``.
        """
        return self.pull_back(x, self.expert)

    def pull_back(self, y: Tensor, density: Callable[[Tensor], Tensor]) -> Tensor:
        """Another density moved by the same bijection: density(T⁻¹ y) + log |det dT⁻¹/dy|.

        Args:
            y: Positions in the new space, ``(*batch, *event)``.
            density: A log-density on the expert's space, ``(*batch, *event) -> (*batch,)``.

        Returns:
            Its log-density at y, ``(*batch,)``.
        """
        transform = self.bijection.build()
        if isinstance(transform.inv, LogCholesky):
            # At the origin instead, so that no factorisation meets a matrix that rounding or
            # overflow made indefinite, and the gradient stays a number.
            is_inside = _is_definite(transform.inv(y.detach()))
            inner = torch.where(is_inside[..., None], y, torch.zeros_like(y))
            value = self._moved(transform, inner, density)
            return value.masked_fill(~is_inside, -torch.inf)
        return self._moved(transform, y, density)

    def _moved(self, transform: Transform, y: Tensor, density: LogDensity) -> Tensor:
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

    @torch.no_grad()
    def _sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.bijection.build()(self.expert.sample(num_samples, generator=generator))


class Dequantized(Expert):
    """A discrete expert on a continuous space, by uniform noise: log p̃(floor(y)).

    x in {0, .., k-1} becomes y = x + u with u uniform on [0, 1), so y lives on
    ``Interval(shape, 0, k)``, and of counts on ``Positive(shape)``. Exact: the log partition stays
    the same. The density is constant within a cell, so its score is zero.

    Args:
        expert: On Binary, Categorical, Count or Sequence.

    Raises:
        PoeError: For an expert on another space.

    References:
        Theis, van den Oord & Bethge (2016), A note on the evaluation of generative models, section
        3.1, arXiv:1511.01844.

    Example:
        >>> coin = poe.as_expert(torch.distributions.Bernoulli(0.25))
        >>> str(Dequantized(coin).space), Dequantized(coin)(torch.tensor([0.3, 1.9])).exp()
        ('Interval((), 0, 2)', tensor([0.7500, 0.2500]))
    """

    @checked
    def __init__(self, expert: Expert) -> None:
        super().__init__()
        self.space = _of_cells(require_expert(expert).space)
        self.expert = expert

    def forward(self, x: Tensor) -> Tensor:
        """log p̃(floor(x)), −inf outside the space.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            The unnormalised log-density, ``(*batch,)``.
        """
        return mask_outside(self.space, x, self.expert(self._cell(x)))

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

    Args:
        expert: On Binary.

    Raises:
        PoeError: For an expert on another space.
    """

    @checked
    def __init__(self, expert: Expert) -> None:
        super().__init__()
        if not isinstance(expert.space, Binary):
            raise PoeError(f"expected an expert on a Binary space, got {expert.space}")
        self.space = Interval(expert.space.event_shape, 0, 1)
        self.expert = expert

    def forward(self, x: Tensor) -> Tensor:
        """The expert's formula at real numbers, −inf outside the cube.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            The unnormalised log-density, ``(*batch,)``.
        """
        return mask_outside(self.space, x, self.expert(x))


@log_prob_of.register(Transformed)
@log_prob_of.register(Dequantized)
def _(expert: Transformed | Dequantized) -> LogDensity | None:
    return expert._log_prob if is_normalized(expert.expert) else None


@sampler_of.register(Transformed)
@sampler_of.register(Dequantized)
def _(expert: Transformed | Dequantized) -> Sampler | None:
    return expert._sample if can_sample_exactly(expert.expert) else None


@exact_log_partition.register(Transformed)
@exact_log_partition.register(Dequantized)
def _(expert: Transformed | Dequantized) -> Tensor | None:
    """The expert's own: its mass is moved, and none is lost."""
    return exact_log_partition(expert.expert)


@check_proper.register(Transformed)
@check_proper.register(Dequantized)
def _(expert: Transformed | Dequantized) -> None:
    check_proper(expert.expert)


@check_proper.register
def _(expert: At) -> None:
    """Known of maps y = a x + b, which change the integral by a factor."""
    if _affine_map(expert) is not None:
        check_proper(expert.expert)


@tails.register
def _(expert: Transformed) -> Tensor | None:
    """Known of maps y = a x + b, element by element."""
    inner = tails(expert.expert) if is_affine(expert.bijection) else None
    if inner is None or not isinstance(expert.space, Real):
        return None
    slope = 1 / _slope(expert.bijection, expert.space)
    return inner * slope * slope[:, None]


@tails.register
def _(expert: At) -> Tensor | None:
    """Known of maps y = a x + b, element by element."""
    bijection = _affine_map(expert)
    inner = tails(expert.expert) if bijection is not None else None
    if bijection is None or inner is None or not isinstance(expert.space, Real):
        return None
    slope = _slope(bijection, expert.space)
    return inner * slope * slope[:, None]


def _affine_map(expert: At) -> Parts | None:
    """The map that the expert is read through, where it is y = a x + b, element by element."""
    found = expert.generator.bijection if isinstance(expert.generator, Feature) else None
    return found if isinstance(found, Parts) and is_affine(found) else None


def _slope(bijection: Parts | Opaque, space: Space) -> Tensor:
    """a of y = a x + b, in float64 on the CPU: `(d,)`, of flattened events."""
    transform = copy.deepcopy(bijection).to("cpu", torch.float64).build()
    with torch.enable_grad():
        x = torch.zeros(space.event_shape, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(transform(x).sum(), x)[0].flatten()


def mask_outside(space: Space, x: Tensor, value: Tensor) -> Tensor:
    """The values, with -inf where x lies outside the space; NaN in x stays the value's own affair.

    Args:
        space: Where x should live.
        x: ``(*batch, *event)``.
        value: ``(*batch,)``.

    Returns:
        ``(*batch,)``.
    """
    is_nan = space.as_vector(x.isnan()).any(-1)
    return value.masked_fill(~space.contains(x) & ~is_nan, -torch.inf)


def _is_definite(x: Tensor) -> Tensor:
    """Whether matrices that came from coordinates are positive definite whoever factorises them.

    Another factorisation rounds in another way, by some k ε of the diagonal (Higham 2002, theorem
    10.3): it is asked without that much. Shapes: x ``(*batch, k, k)``; returns ``(*batch,)``.
    """
    k = x.shape[-1]
    margin = 4 * k * torch.finfo(x.dtype).eps
    within = x - margin * torch.diag_embed(x.diagonal(dim1=-2, dim2=-1))
    return PositiveDefinite(k).contains(within)


def _require_bijection(bijection: object) -> Transform:
    if isinstance(bijection, Transform) and bijection.bijective:
        return bijection
    raise PoeError(
        "expected a bijective torch.distributions.transforms.Transform, got "
        f"{type(bijection).__name__}; a map without a Jacobian goes in expert.at(map)"
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


STRUCTURE = (conditionals, spin_pairs, label_pairs, log_density_of_one_hot)
"""What is asked on finite spaces."""

keeps_default(
    At,
    "without a Jacobian its integral is another one",
    log_prob_of,
    sampler_of,
    exact_log_partition,
)
keeps_default(At, "what a map makes of single elements of z is not known", *STRUCTURE)
keeps_default(Transformed, "lives on a continuous space", *STRUCTURE)
keeps_default(Dequantized, "lives on a continuous space", *STRUCTURE)
keeps_default(Dequantized, "where the expert excludes a value, a whole cell is empty", tails)
keeps_default(
    Relaxed,
    "agrees with the expert at the corners only",
    *STRUCTURE,
    log_prob_of,
    sampler_of,
    exact_log_partition,
    check_proper,
    tails,
)
