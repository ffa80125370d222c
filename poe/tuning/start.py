"""Where chains start."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from poe.core.errors import NonFiniteError, is_out_of_memory
from poe.core.joint_space import Joint
from poe.core.space import Count, Real, Space
from poe.density.adapt import FromDistribution, Uniform
from poe.density.checks import number_like
from poe.density.closed_forms import exact_sample, samplable_factor
from poe.density.coordinates import Coordinates, require_chains
from poe.density.expert import At, Expert, experts_in
from poe.density.nonfinite import require_start
from poe.density.transformed import Transformed
from poe.samplers.guarded import OF_PROGRAMS, Guarded, Raised
from poe.structure.edges import breadth
from poe.tuning.counts import ALL_SIZES, FEW_SIZES, counts_of_sizes
from poe.tuning.prior_parts import draw_as_read, priors_of_parts

MAX_START_ATTEMPTS = 100
MAX_FAILED_ATTEMPTS = 5
"""So often may the log-density raise an error at all starts, before it is taken for its own."""
BROAD = 10.0
"""The standard deviation of a start that shall miss no mode, in unconstrained units."""
WIDER, SPREAD_BY, MAX_WIDE = 10.0, 512, 128
"""Or in standard deviations of a factor that is one, by so many of its draws; in more dimensions
particles from so far out take long and see nothing."""
QUARTILE = 0.6745
"""Of the normal distribution."""


def start(
    target: Expert,
    num_chains: int,
    initial: Tensor | None,
    coordinates: Coordinates,
    generator: torch.Generator,
    raised: Raised,
) -> tuple[Tensor, str]:
    """Start positions in the target's space, and where they come from in words.

    Where the target raises an error at some of those drawn, these are drawn again, and it is noted
    in ``raised``. An error at all of them is its own, and one at some of those given is refused.
    """
    if initial is None:
        source = _source(target, coordinates)
        x, where = _drawn_inside(Guarded(target, raised), source, num_chains, generator)
    else:
        require_chains(target.space, initial, "`initial`")
        x, where = initial.detach().clone(), "`initial`"
    require_good_start(target, x)
    return x, where


@torch.no_grad()
def require_good_start(target: Expert, x: Tensor) -> None:
    """Refuse starts where the log-density is not finite, or raises an error.

    Args:
        target: p̃.
        x: Where chains shall start, ``(chains, *event)``.

    Raises:
        NonFiniteError: Where a position is no number, or the log-density at some is none, or raises
            an error; one that it raises at all of them is its own.
    """
    raised = Raised()
    log_density = Guarded(target, raised)(x)
    refuse_raised(raised, len(x))
    require_start(target, x, log_density, x)


@torch.no_grad()
def first_answered(target: Guarded, draw: Callable[[], Tensor]) -> Tensor:
    """Positions at some of which the log-density can be evaluated, drawn again a few times.

    Args:
        target: p̃, asked for the first time.
        draw: Draws positions, ``(n, *event)``.

    Returns:
        The first that are so. An error at all of the last ones, and one of the program at once, is
        the target's own, and is raised.
    """
    for _ in range(MAX_FAILED_ATTEMPTS):
        x = draw()
        try:
            target(x)
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, OF_PROGRAMS):
                raise
        else:
            return x
    x = draw()
    target(x)
    return x


def refuse_raised(raised: Raised, num_chains: int) -> None:
    """Refuse starts at which the log-density raised an error. Raises NonFiniteError."""
    if not raised.count:
        return
    chains = sorted(raised.latest)
    raise NonFiniteError(
        f"expected a log-density at the start of every chain, got an error at {len(chains)} of "
        f"{num_chains}, chains {', '.join(map(str, chains[:8]))}{', ...' * (len(chains) > 8)} "
        f"({raised.first}): start these where it can be evaluated, by `initial=`, or leave "
        "`initial` out"
    ) from raised.latest[chains[0]]


class _Source(NamedTuple):
    """What starts are drawn from: in words, and as an expert, or as what is read of x.

    Standard normals where there is neither.
    """

    said: str
    expert: Expert | None
    like: Tensor
    coordinates: Coordinates
    priors: tuple[At, ...] = ()

    def draw(self, num_chains: int, generator: torch.Generator) -> Tensor:
        """Positions, those drawn again that have no coordinates: singular by rounding."""
        x = self._draw(num_chains, generator)
        for _ in range(MAX_START_ATTEMPTS):
            if bool((is_known := _has_coordinates(x, self.coordinates)).all()):
                break
            again = self._draw(num_chains, generator)
            x = torch.where(is_known.reshape(-1, *([1] * (x.ndim - 1))), x, again)
        return x

    def _draw(self, num_chains: int, generator: torch.Generator) -> Tensor:
        if self.expert is not None:
            return exact_sample(self.expert, num_chains, generator)
        event_shape = self.coordinates.u_space.event_shape
        u = self.like.new_empty((num_chains, *event_shape)).normal_(generator=generator)
        if self.priors:
            u = draw_as_read(self.priors, self.coordinates, u, generator)
        return self.coordinates.to_x(u)


def _source(target: Expert, coordinates: Coordinates) -> _Source:
    like = number_like(target)
    factor = samplable_factor(target)
    if factor is not None:
        return _Source(f"draws of expert {factor[0]!r}", factor[1], like, coordinates)
    if priors := priors_of_parts(target):
        said = f"draws of {', '.join(map(repr, priors))} where they are read"
        return _Source(said, None, like, coordinates, tuple(priors.values()))
    if isinstance(target.space, Joint):
        has_counts = any(isinstance(part, Count) for part in target.space.parts)
        said = "standard normals, and any label alike" + has_counts * ", and counts of all sizes"
        return _Source(said, OfParts(target.space, like, 1.0), like, coordinates)
    if isinstance(target.space, Count):
        few = counts_of_sizes(target.space, like, FEW_SIZES)
        return _Source("counts of about 1 to 64", few, like, coordinates)
    if target.space.is_discrete:
        return _Source("any state alike", Uniform(target.space, like), like, coordinates)
    return _Source("standard normals", None, like, coordinates)


@torch.no_grad()
def _drawn_inside(
    target: Guarded, source: _Source, num_chains: int, generator: torch.Generator
) -> tuple[Tensor, str]:
    """Draws, repeated where the log-density is −inf, NaN or an error, and what they are."""
    x = first_answered(target, lambda: source.draw(num_chains, generator))
    num_undefined = 0
    for _ in range(MAX_START_ATTEMPTS):
        log_density = target(x)
        is_outside = log_density.isnan() | (log_density == -torch.inf)
        num_undefined += int(log_density.isnan().sum())
        if not is_outside.any():
            break
        again = source.draw(num_chains, generator)
        x = torch.where(is_outside.reshape(-1, *([1] * (x.ndim - 1))), again, x)
    told = f", {num_undefined} drawn again where the log-density is NaN" if num_undefined else ""
    return x, f"{source.said}{told}"


def _normal(space: Space, like: Tensor, scale: float) -> Expert:
    """N(0, scale² I) on a ``Real``."""
    zeros = like.new_zeros(space.event_shape)
    normal = Independent(Normal(zeros, torch.full_like(zeros, scale)), zeros.ndim)
    return FromDistribution(normal)


def _alike(space: Space, like: Tensor) -> Expert:
    return counts_of_sizes(space, like) if isinstance(space, Count) else Uniform(space, like)


class OfParts(Expert):
    """On a mixed state: N(0, scale² I) of the real parts, every label alike, counts of all sizes.

    >>> space = poe.Joint((poe.Real(1), poe.Binary(1)))
    >>> expert = OfParts(space, torch.zeros(()), 1.0)
    >>> expert.log_prob(torch.zeros(1, 2))  # − log(2π) / 2 − log 2
    tensor([-1.6121])
    """

    def __init__(self, space: Joint, like: Tensor, scale: float) -> None:
        super().__init__()
        self.space: Joint = space
        self.experts = nn.ModuleList(
            [
                _normal(part, like, scale) if isinstance(part, Real) else _alike(part, like)
                for part in space.parts
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """The sum over the parts: ``(*batch, n) -> (*batch,)``."""
        pairs = zip(self.experts, self.space.split(x), strict=True)
        return torch.stack([expert(part) for expert, part in pairs]).sum(0)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), the log-density itself: ``(*batch, n) -> (*batch,)``."""
        return self(x)

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, n)``."""
        draws = [
            expert.sample(num_samples, generator=generator) for expert in experts_in(self.experts)
        ]
        like = next(x for x in draws if x.is_floating_point())
        return self.space.join(*(x.to(like.dtype) for x in draws))


def _has_coordinates(x: Tensor, coordinates: Coordinates) -> Tensor:
    """Whether x has coordinates that are numbers, as a matrix that is singular by rounding has not.

    Shapes: x ``(chains, *event)``; returns ``(chains,)``.
    """
    if coordinates.is_unbounded:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    return coordinates.to_u(x).reshape(len(x), -1).isfinite().all(1)


def broad_start(target: Expert, like: Tensor) -> tuple[str, Expert]:
    """Where to start so as to miss no mode, in words and as an expert that can be sampled exactly.

    The first factor of the target that can be sampled, else N(0, 10² I) in unconstrained
    coordinates; on a finite space the uniform distribution, on counts a mixture of geometric ones.

    Args:
        target: p̃.
        like: A tensor of the dtype and on the device that is asked for.

    Returns:
        What it is, in words, and the expert.

    Raises:
        PoeError: Where no such start exists.
    """
    factor = samplable_factor(target)
    if factor is not None:
        return f"expert {factor[0]!r}", factor[1]
    if isinstance(target.space, Joint):
        return "a broad Gaussian, and all labels alike", OfParts(target.space, like, BROAD)
    if isinstance(target.space, Count):
        return ALL_SIZES, counts_of_sizes(target.space, like)
    if target.space.is_discrete:
        return "all states alike", Uniform(target.space, like)
    normal = _normal(Coordinates(target.space).u_space, like, breadth(target, BROAD))
    return "a broad Gaussian", _on(target.space, normal)


def wider_start(target: Expert, generator: torch.Generator) -> Expert | None:
    """A Gaussian ten times as wide as the factor that is the broad start, around its median.

    For modes of the other factors that draws of that one never come near.

    Args:
        target: p̃.
        generator: Of the factor's draws, by whose quartiles it is placed.

    Returns:
        It, in unconstrained coordinates normal; None on other than real spaces, in more than 128
        dimensions, where no factor is the start, and where its quartiles are one.
    """
    factor, coordinates = samplable_factor(target), Coordinates(target.space)
    space = coordinates.u_space
    if factor is None or not isinstance(space, Real) or space.event_shape.numel() > MAX_WIDE:
        return None
    u = coordinates.to_u(exact_sample(factor[1], SPREAD_BY, generator))
    low, middle, high = torch.quantile(u, u.new_tensor([0.25, 0.5, 0.75]), 0)
    sd = WIDER * (high - low) / (2 * QUARTILE)
    if not bool(((sd > 0) & sd.isfinite() & middle.isfinite()).all()):
        return None
    return _on(target.space, FromDistribution(Independent(Normal(middle, sd), middle.ndim)))


def _on(space: Space, normal: Expert) -> Expert:
    """What is normal in a space's unconstrained coordinates, in its own."""
    if Coordinates(space).is_identity:
        return normal
    return Transformed(normal, space.to_unconstrained.inv, space=space)
