"""Kernels on counts: one element anew from a window of values, or all at once along the score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked, require_count
from poe.core.errors import PoeError, ShapeError
from poe.core.space import Count, Space
from poe.samplers.discrete.finite import require_inside, swept
from poe.samplers.discrete.gibbs import NO_SINGLE_ELEMENT
from poe.samplers.kernel import (
    Corrected,
    Density,
    Info,
    MetropolisState,
    WithScale,
    accept,
    floats_like,
    or_nothing,
    per_chain,
    require_positive,
    where_accepted,
)
from poe.samplers.langevin import LangevinState

WINDOW = 8
"""So many values an element is drawn from."""
NUM_STRIDES = 20
"""They lie 1, 2, 4, … 2^19 apart."""
ANY_STRIDE = 0.125
"""The share of draws by any of these, so that no value is out of reach."""


WARMUP_SWEEPS = 300
POWER = 0.75
"""Of a count, by which the variance of its steps grows."""


class WindowNoise(NamedTuple):
    """The random numbers of draws of m elements from windows, no element twice.

    Shapes: site ``(chains, m)``, in order or drawn; stride ``(chains, m)``, uniforms; offset
    ``(chains, m)``, places of the present value; gumbel ``(chains, m, WINDOW)``.
    """

    site: Tensor
    stride: Tensor
    offset: Tensor
    gumbel: Tensor


class Drawn(NamedTuple):
    """Chains after some draws from windows: ``(chains, n)``, ``(chains,)``, ``(chains, tried)``."""

    x: Tensor
    log_density: Tensor
    tried: Tensor


def require_counts(space: Space, kernel: object) -> None:
    """Refuse a space whose elements are no counts. Raises PoeError."""
    if not isinstance(space, Count):
        raise PoeError(
            f"expected a space of counts, got {space}: {type(kernel).__name__} moves on poe.Count, "
            "Gibbs(space) on finitely many values"
        )


def log_stride_probability(level: Tensor, x: Tensor) -> Tensor:
    """log q(ℓ | x) of a stride 2^ℓ: even over those up to 2 (x + 1), and a little over all.

    Shapes: level and x of any that broadcast; returns float64.

    >>> level, x = torch.arange(4), torch.tensor([[0.0], [3.0]])
    >>> log_stride_probability(level, x).exp().round(decimals=3)
    tensor([[0.4440, 0.4440, 0.0060, 0.0060],
            [0.2250, 0.2250, 0.2250, 0.2250]], dtype=torch.float64)
    """
    highest = _highest(x)
    near = (1 - ANY_STRIDE) / (highest + 1).double()
    return (near * (level <= highest) + ANY_STRIDE / NUM_STRIDES).log()


def _highest(x: Tensor) -> Tensor:
    """The largest ℓ with 2^ℓ ≤ 2 (x + 1), in the shape of x."""
    return torch.frexp(x.double() + 1).exponent.clamp(max=NUM_STRIDES - 1)


def draw_window_noise(position: Tensor, sites: Tensor, generator: torch.Generator) -> WindowNoise:
    """The random numbers of draws at those sites ``(chains, m)``."""
    shape, device = sites.shape, position.device
    offset = torch.randint(WINDOW, shape, generator=generator, device=device)
    stride = floats_like(position, *shape).uniform_(generator=generator)
    waits = floats_like(position, *shape, WINDOW).exponential_(generator=generator)
    return WindowNoise(sites, stride, offset, -waits.log())


def draw_from_windows(
    target: Density, space: Space, x: Tensor, log_density: Tensor, noise: WindowNoise
) -> Drawn:
    """Each of the sites in turn from p(xᵢ | the other sites) within a window.

    Shapes: x ``(chains, n)``, log_density ``(chains,)``.
    """
    now = x.gather(1, noise.site)
    level = _level(now, noise.stride)
    values = _window(now, level, noise.offset)
    # A value that would seldom have drawn this stride counts as much less.
    prior = _log_probability(values, level).to(log_density) + noise.gumbel
    tried = []
    for site, value, weight in zip(
        noise.site.split(1, 1), values.unbind(1), prior.unbind(1), strict=True
    ):
        found = _asked(target, space, x, site, value[:, 1:].clamp(min=0))
        known = torch.cat([log_density[:, None], or_nothing(found)], 1)
        chosen = (known + weight).argmax(1, keepdim=True)
        log_density = known.gather(1, chosen).squeeze(1)
        x = x.scatter(1, site, value.gather(1, chosen))
        tried.append(found)
    return Drawn(x, log_density, torch.cat(tried, 1))


def _level(now: Tensor, uniform: Tensor) -> Tensor:
    """ℓ ~ q(· | x): ``(chains, m)``."""
    uniform = uniform.double()
    near = ((uniform - ANY_STRIDE) / (1 - ANY_STRIDE) * (_highest(now) + 1)).long()
    return torch.where(uniform < ANY_STRIDE, (uniform / ANY_STRIDE * NUM_STRIDES).long(), near)


def _window(now: Tensor, level: Tensor, offset: Tensor) -> Tensor:
    """The values of each window, the present one first: ``(chains, m, WINDOW)``."""
    stride, offset = (2**level).to(now.dtype).unsqueeze(-1), offset.unsqueeze(-1)
    place = (offset + torch.arange(WINDOW, device=now.device)) % WINDOW
    return now.unsqueeze(-1) + (place - offset).to(now.dtype) * stride


def _log_probability(values: Tensor, level: Tensor) -> Tensor:
    """log q(ℓ | v) of the values of windows, −inf of what is no count: as ``values``."""
    q = log_stride_probability(level.unsqueeze(-1), values.clamp(min=0))
    return q.masked_fill(values < 0, -torch.inf)


def _asked(target: Density, space: Space, x: Tensor, site: Tensor, values: Tensor) -> Tensor:
    """log p̃ with each of those values at the site ``(chains, 1)``: ``(chains, m)``."""
    chains, m = values.shape
    rows = x[:, None].expand(-1, m, -1)
    rows = rows.scatter(2, site[:, None].expand(-1, m, 1), values.unsqueeze(2))
    return target.log_density(rows.reshape(chains * m, *space.event_shape)).reshape(chains, m)


@checked
@dataclass(frozen=True)
class LatticeGibbs(Corrected[MetropolisState]):
    """Systematic-scan Gibbs on counts: one step draws every element from a window of values.

    Given the others, an element is drawn from p̃ restricted to eight values a stride apart, of which
    the present one x is the first to the eighth at random. All of them would have drawn this window
    as likely, but for the stride, s = 2^ℓ: drawn evenly up to 2 (x + 1), and seldom from all of 1
    to 2^19, so that steps are as large as the counts are and no value is out of reach. Hence

        P(v) ∝ p̃(v, the others) q(s | v),  v = x + s (j − offset) ≥ 0,  j = 0 … 7,

    leaves p invariant exactly, with nothing to tune. As in ``Gibbs`` elements come in order, values
    whose log-density is −inf, +inf or NaN are not drawn, and a sweep counts as accepted unless no
    element had a second value of positive density. Counts above 2^24 need float64 or integers.

    Args:
        space: Where x lives, a ``poe.Count``. A start that is not in it raises PoeError.

    Raises:
        PoeError: For another space.

    References:
        Geman & Geman (1984), Stochastic relaxation, Gibbs distributions, and the Bayesian
        restoration of images, doi:10.1109/TPAMI.1984.4767596; Neal (2003), Slice sampling, section
        4, doi:10.1214/aos/1056562461 (intervals placed at random); Tjelmeland (2004), Using all
        Metropolis-Hastings proposals to estimate mean values (one of many proposals).

    Example:
        >>> import poe
        >>> target = poe.FromEnergy(lambda x: (x - 3).square().sum(-1), space=poe.Count(2))
        >>> kernel = LatticeGibbs(target.space)
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel.gradients_per_step
        (torch.Size([5, 2]), 15)
    """

    space: Space

    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False
    way_out: ClassVar[str] = NO_SINGLE_ELEMENT

    def __post_init__(self) -> None:
        require_counts(self.space, self)

    def init(self, target: Density, x: Tensor) -> MetropolisState:
        """The state from which a chain begins.

        Args:
            target: The density to leave invariant.
            x: Positions, ``(chains, *event)``.

        Returns:
            The state there.

        Raises:
            PoeError: Where x is not in the space.
            NonFiniteError: Where the log-density is not finite.
        """
        require_inside(self.space, x)
        return super().init(target, x)

    @property
    def is_reversible(self) -> bool:
        """Only where there is no order to reverse, of one element."""
        return self.space.event_shape.numel() == 1

    @property
    def gradients_per_step(self) -> int:
        """Log-densities of every value but the present one, and that of where the sweep ends."""
        return self.space.event_shape.numel() * (WINDOW - 1) + 1

    def warmup_steps(self, num_chains: int) -> int:
        """Sweeps to come in by: there is nothing to tune.

        Args:
            num_chains: How many chains.

        Returns:
            The same for any number.
        """
        return WARMUP_SWEEPS

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> WindowNoise:
        num_sites = self.space.event_shape.numel()
        sites = torch.arange(num_sites, device=position.device).expand(len(position), -1)
        return draw_window_noise(position, sites, generator)

    @torch.no_grad()
    def transition(
        self, target: Density, state: MetropolisState, noise: Any
    ) -> tuple[MetropolisState, Info]:
        x = state.position.reshape(len(state.position), -1)
        drawn = draw_from_windows(target, self.space, x, state.log_density, noise)
        position = drawn.x.reshape(state.position.shape)
        # Asked once more where it ends: a level of a path knows its parts there by that.
        return MetropolisState(position, target.log_density(position)), swept(drawn.tried)


class LatticeNoise(NamedTuple):
    """Standard normals ``(chains, n)``, a uniform ``(chains,)``, and those of the windows."""

    normal: Tensor
    uniform: Tensor
    windows: WindowNoise


class Rounded(NamedTuple):
    """A normal of each element, rounded to whole numbers from 0 to the largest: ``(chains, n)``."""

    mean: Tensor
    spread: Tensor
    largest: float

    def draw(self, normal: Tensor) -> Tensor:
        """The whole numbers that standard normals lead to."""
        return (self.mean + self.spread * normal).round().clamp(0.0, self.largest)

    def log_density(self, y: Tensor) -> Tensor:
        """log q of all elements together, in float64: ``(chains,)``."""
        below = ((y - 0.5 - self.mean) / self.spread).masked_fill(y <= 0, -torch.inf)
        above = ((y + 0.5 - self.mean) / self.spread).masked_fill(y >= self.largest, torch.inf)
        return log_normal_between(below, above).sum(1)


def log_normal_between(below: Tensor, above: Tensor) -> Tensor:
    """log(Φ(b) − Φ(a)) of a < b, to rounding in both tails, in the shape and dtype of both.

    >>> log_normal_between(torch.tensor([-1.0, 3.0]), torch.tensor([1.0, torch.inf]))
    tensor([-0.3817, -6.6077])
    """
    is_right = below > 0
    low, high = torch.where(is_right, -above, below), torch.where(is_right, -below, above)
    log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return log_high + torch.log1p(-(log_low - log_high).exp())


@checked
@dataclass(frozen=True, eq=False)  # a preconditioner does not compare by value
class LatticeMALA(WithScale, Corrected[LangevinState]):
    """Metropolis-adjusted Langevin on counts: all elements step at once along the score.

    y = max(0, round(x + ½ σ² ∇log p̃(x) + ½ ∇·σ² + σ z)),  σᵢ² = ε gᵢ (xᵢ + 1)^¾,

    with z standard normal, ∇·σ² the derivatives of σ², and steps that grow with the counts (their
    power ¾ lies between a Poisson's variance and one that is the same everywhere, at which fewer
    steps are refused, and was the best of ½, ¾ and 1 over sizes alike and unlike), accepted with
    min(1, p̃(y) q(x|y) / p̃(x) q(y|x)), where q(y|x) is the normal's mass between y − ½ and y + ½ (of
    y = 0 all below). That is the discrete Langevin proposal for whole numbers,
    q(v|xᵢ) ∝ exp(½ ∇ᵢ log p̃(x) (v − xᵢ) − (v − xᵢ)² / (2 σᵢ²)), but for where it is rounded, and
    needs no list of values. Then ``num_windows`` elements, at random for each chain, are drawn from
    windows as in ``LatticeGibbs``: these cross what no gradient leads across.

    Args:
        space: Where x lives, a ``poe.Count``. Starts raise PoeError where x is not in it, or the
            target has no gradient in it, read at real numbers.
        step_size: ε, a number, or a tensor of shape () or (chains,); None is tuned in warm-up, to
            an acceptance rate of 0.574.
        preconditioner: g, ``(*event)``: positive; None is 1.
        num_windows: Different elements drawn from windows after each step; 0 leaves them out.

    Raises:
        PoeError: For another space, a step size that is not positive, and a negative number.
        ShapeError: For a preconditioner that is not of the event's shape.

    References:
        Zhang, Liu & Liu (2022), A Langevin-like sampler for discrete distributions, eq. 4 and
        section 4, arXiv:2206.09914; Sun et al. (2022), Optimal scaling for locally balanced
        proposals in discrete spaces, arXiv:2209.08183 (the rate).

    Example:
        >>> import poe
        >>> target = poe.FromEnergy(lambda x: (x - 3).square().sum(-1), space=poe.Count(2))
        >>> kernel = LatticeMALA(target.space, step_size=0.3)
        >>> state = kernel.init(target, torch.zeros(5, 2))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel.guarantee
        (torch.Size([5, 2]), 'asymptotically exact')
    """

    space: Space
    step_size: Tensor | float | None = None
    preconditioner: Tensor | None = None
    num_windows: int = 1

    needs_score: ClassVar[bool] = True
    target_acceptance: ClassVar[float] = 0.574
    max_scale: ClassVar[float] = 1e4

    def __post_init__(self) -> None:
        require_counts(self.space, self)
        require_positive("step_size", self.step_size)
        require_count("num_windows", self.num_windows, 0)
        shape = self.space.event_shape
        if self.preconditioner is not None and self.preconditioner.shape != shape:
            raise ShapeError(
                f"expected a preconditioner of the event's shape {tuple(shape)}, one positive "
                f"number for each element, got {tuple(self.preconditioner.shape)}"
            )

    def init(self, target: Density, x: Tensor) -> LangevinState:
        """The state from which a chain begins.

        Args:
            target: The density to leave invariant.
            x: Positions, ``(chains, *event)``.

        Returns:
            The state there.

        Raises:
            PoeError: Where x is not in the space, or the target has no gradient in it.
            NonFiniteError: Where log-density or score is not finite.
        """
        require_inside(self.space, x)
        return super().init(target, x)

    def state_at(self, target: Density, x: Tensor) -> LangevinState:
        return LangevinState(x, *target.log_density_and_score(x))

    @property
    def ends_where_it_asked(self) -> bool:
        """Where no windows follow: a chain that was refused is in one of them."""
        return self.num_windows == 0

    @property
    def is_reversible(self) -> bool:
        """Where no windows follow."""
        return self.num_windows == 0

    @property
    def gradients_per_step(self) -> int:
        """Of the proposal; with windows their log-densities too, and where the step ends."""
        return 1 + (self.num_windows * (WINDOW - 1) + 1 if self.num_windows else 0)

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> LatticeNoise:
        chains, num_sites = len(position), self.space.event_shape.numel()
        normal = floats_like(position, chains, num_sites).normal_(generator=generator)
        uniform = floats_like(position, chains).uniform_(generator=generator)
        order = floats_like(position, chains, num_sites).uniform_(generator=generator).argsort(1)
        sites = order[:, : self.num_windows]
        return LatticeNoise(normal, uniform, draw_window_noise(position, sites, generator))

    def transition(
        self, target: Density, state: LangevinState, noise: LatticeNoise
    ) -> tuple[LangevinState, Info]:
        forth, start = self._proposal(state), _in_rows(state.position)
        end = forth.draw(noise.normal.double())
        position = end.to(state.position.dtype).reshape(state.position.shape)
        proposed = self.state_at(target, position)
        log_q = self._proposal(proposed).log_density(start) - forth.log_density(end)
        log_ratio = proposed.log_density - state.log_density + log_q.to(state.log_density)
        info = accept(log_ratio, proposed.log_density, noise.uniform)
        after = LangevinState(*map(partial(where_accepted, info.is_accepted), proposed, state))
        return self._in_windows(target, after, noise.windows), info

    def _in_windows(
        self, target: Density, state: LangevinState, noise: WindowNoise
    ) -> LangevinState:
        """Some elements drawn from windows."""
        if not self.num_windows:
            return state
        x = state.position.reshape(len(state.position), -1)
        drawn = draw_from_windows(target, self.space, x, state.log_density, noise)
        return self.state_at(target, drawn.x.reshape(state.position.shape))

    def _proposal(self, state: LangevinState) -> Rounded:
        """q, in float64; where a score is no number, as if there were none."""
        x, score = _in_rows(state.position), _in_rows(state.score)
        size = per_chain(self.step_size, x)
        if self.preconditioner is not None:
            size = size * self.preconditioner.flatten().to(x)
        variance = size * (x + 1) ** POWER
        mean = x + 0.5 * variance * (score + POWER / (x + 1))
        dtype = state.position.dtype
        digits = torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps
        return Rounded(torch.where(mean.isfinite(), mean, x), variance.sqrt(), 2 / digits)


def _in_rows(x: Tensor) -> Tensor:
    """``(chains, *event)`` to ``(chains, n)`` in float64."""
    return x.reshape(len(x), -1).double()
