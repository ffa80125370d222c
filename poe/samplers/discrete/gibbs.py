"""Gibbs sampling of discrete spaces site by site: in order, at random, and by Metropolis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.space import Space
from poe.samplers.discrete.finite import moved, require_finite, require_inside, swept
from poe.samplers.kernel import (
    Corrected,
    Density,
    Info,
    MetropolisState,
    accept,
    or_nothing,
    where_accepted,
)

NO_SINGLE_ELEMENT = (
    "no single element can change and stay in the support, so give a kernel of larger moves"
)
"""What to do about chains that go from one value of an element to another, and never move."""


class SweepNoise(NamedTuple):
    """Standard Gumbel variables, one for each value at each site: ``(chains, sites, values)``."""

    gumbel: Tensor


@checked
@dataclass(frozen=True)
class Gibbs(Corrected[MetropolisState]):
    """Systematic-scan Gibbs: one step draws every site in turn from p(xᵢ | the other sites).

    The conditional is p̃ at the k values of the site, the others fixed, over its sum: the present
    value's log-density is known, the other k − 1 are evaluated in one call. A value is drawn as
    argmaxᵥ log p̃(v) + Gᵥ, G standard Gumbel. Sites come in row-major order, the same in every
    sweep: each draw leaves the target invariant, and so does their composition (a sweep is not
    reversible, which invariance does not need).

    A value whose log-density is −inf, +inf or NaN is not drawn; a chain whose values all are stays.
    Of ``Info``: there is no proposal to reject, so a sweep counts as accepted, whether or not a
    value changed, unless no site had a second value of positive density: such a chain is stuck.
    ``is_outside`` and ``is_undefined`` say whether any value tried was so.

    A batch of densities, one for each chain, needs k = 2: the chains then keep their order in every
    call.

    Args:
        space: Where x lives, Binary, Categorical or Sequence. A start that is not in it raises
            PoeError.

    Raises:
        PoeError: For a space without finitely many values.

    References:
        Geman & Geman (1984), Stochastic relaxation, Gibbs distributions, and the Bayesian
        restoration of images, doi:10.1109/TPAMI.1984.4767596; Gumbel (1954), Statistical theory of
        extreme values and some practical applications (the draw).

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: 2.0 * x.sum(-1), space=poe.Binary(3))
        >>> kernel = Gibbs(target.space)
        >>> state = kernel.init(target, torch.zeros(5, 3))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel.gradients_per_step
        (torch.Size([5, 3]), 4)
    """

    space: Space

    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False
    way_out: ClassVar[str] = NO_SINGLE_ELEMENT

    def __post_init__(self) -> None:
        require_finite(self.space, self)

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
    def num_values(self) -> int:
        """The values that a site may take, k."""
        assert self.space.num_values is not None
        return self.space.num_values

    @property
    def is_reversible(self) -> bool:
        """Only where there is no order to reverse, of one site."""
        return self.space.event_shape.numel() == 1

    @property
    def gradients_per_step(self) -> int:
        """Log-densities of every value but the present one, and that of where the sweep ends."""
        return self.space.event_shape.numel() * (self.num_values - 1) + 1

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> Any:
        is_float = position.is_floating_point()
        dtype = position.dtype if is_float else torch.get_default_dtype()
        shape = (len(position), self.space.event_shape.numel(), self.num_values)
        waits = torch.empty(shape, dtype=dtype, device=position.device)
        return SweepNoise(-waits.exponential_(generator=generator).log())

    @torch.no_grad()
    def transition(
        self, target: Density, state: MetropolisState, noise: Any
    ) -> tuple[MetropolisState, Info]:
        log_density, tried = state.log_density, []
        x = state.position.reshape(len(log_density), -1).clone()
        rows = torch.arange(len(x), device=x.device)
        for site, gumbel in zip(self._scan(noise), noise.gumbel.unbind(1), strict=True):
            found = self._evaluate_others(target, x, site)
            values = torch.cat([log_density[:, None], or_nothing(found)], 1)
            chosen = (values + gumbel).argmax(1, keepdim=True)
            log_density = values.gather(1, chosen).squeeze(1)
            x[rows, site] = (x[rows, site] + chosen.squeeze(1)) % self.num_values
            tried.append(found)
        position = x.reshape(state.position.shape)
        # Asked once more where it ends: a level of a path knows its parts there by that.
        return MetropolisState(position, target.log_density(position)), swept(torch.cat(tried, 1))

    def _scan(self, noise: Any) -> Iterable[int | Tensor]:
        """The sites in the order in which they are drawn, each one's number or ``(chains,)``."""
        return range(noise.gumbel.shape[1])

    def _evaluate_others(self, target: Density, x: Tensor, site: int | Tensor) -> Tensor:
        """log p̃ at every other value of a site, the next ones first: ``(chains, k - 1)``."""
        num_others, rows = self.num_values - 1, torch.arange(len(x), device=x.device)
        shifts = torch.arange(1, self.num_values, device=x.device, dtype=x.dtype)
        others = x[:, None].repeat(1, num_others, 1)
        others[rows, :, site] = (x[rows, site, None] + shifts) % self.num_values
        rows = others.reshape(len(x) * num_others, *self.space.event_shape)
        return target.log_density(rows).reshape(len(x), num_others)


class ScanNoise(NamedTuple):
    """Gumbel variables ``(chains, n, k)`` of n draws, and the site of each ``(chains, n)``."""

    gumbel: Tensor
    site: Tensor


@checked
@dataclass(frozen=True)
class RandomScanGibbs(Gibbs):
    """Gibbs at n random sites a step, drawn with replacement, for each chain its own.

    Each draw is from p(xᵢ | the other sites), as in ``Gibbs``, whose sweep visits every site once
    and mostly mixes faster; random scan is reversible, draw by draw.

    Args:
        space: Where x lives, as for ``Gibbs``.

    Raises:
        PoeError: For a space without finitely many values.

    References:
        Geman & Geman (1984), Stochastic relaxation, Gibbs distributions, and the Bayesian
        restoration of images, doi:10.1109/TPAMI.1984.4767596; Liu, Wong & Kong (1995), Covariance
        structure and convergence rate of the Gibbs sampler with various scans.

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: 2.0 * x.sum(-1), space=poe.Binary(3))
        >>> kernel = RandomScanGibbs(target.space)
        >>> state = kernel.init(target, torch.zeros(5, 3))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.shape, kernel.gradients_per_step
        (torch.Size([5, 3]), 4)
    """

    @property
    def is_reversible(self) -> bool:
        """Draw by draw."""
        return True

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> Any:
        gumbel = super().draw_noise(position, generator).gumbel
        sites, device = gumbel.shape[1], position.device
        site = torch.randint(sites, gumbel.shape[:2], generator=generator, device=device)
        return ScanNoise(gumbel, site)

    def _scan(self, noise: Any) -> Iterable[Tensor]:
        return noise.site.unbind(1)


class SiteNoise(NamedTuple):
    """A site, a shift 1 … k − 1 and a uniform for each chain: all ``(chains,)``."""

    site: Tensor
    shift: Tensor
    uniform: Tensor


@checked
@dataclass(frozen=True)
class SingleSiteMetropolis(Corrected[MetropolisState]):
    """One site drawn at random is given one of its other k − 1 values, all alike.

    The proposal is symmetric, so y is accepted with min(1, p̃(y) / p̃(x)): one evaluation a step.

    Args:
        space: Where x lives, Binary, Categorical or Sequence. A start that is not in it raises
            PoeError.

    Raises:
        PoeError: For another space.

    References:
        Metropolis et al. (1953), Equation of state calculations by fast computing machines,
        doi:10.1063/1.1699114; Newman & Barkema (1999), Monte Carlo methods in statistical physics,
        section 3.1 (of spins).

    Example:
        >>> import poe
        >>> target = poe.FromLogDensity(lambda x: 2.0 * x.sum(-1), space=poe.Binary(3))
        >>> kernel = SingleSiteMetropolis(target.space)
        >>> state = kernel.init(target, torch.zeros(5, 3))
        >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
        >>> state.position.sum(-1)  # each flip of a 0 is accepted
        tensor([1., 1., 1., 1., 1.])
    """

    space: Space

    is_reversible: ClassVar[bool] = True
    ends_where_it_asked: ClassVar[bool] = True
    needs_score: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_finite(self.space, self)

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

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> SiteNoise:
        assert self.space.num_values is not None
        chains, device = len(position), position.device
        num_sites = self.space.event_shape.numel()
        site = torch.randint(num_sites, (chains,), generator=generator, device=device)
        highest = self.space.num_values
        shift = torch.randint(1, highest, (chains,), generator=generator, device=device)
        return SiteNoise(site, shift, torch.rand(chains, generator=generator, device=device))

    @torch.no_grad()
    def transition(
        self, target: Density, state: MetropolisState, noise: SiteNoise
    ) -> tuple[MetropolisState, Info]:
        assert self.space.num_values is not None
        x = state.position.reshape(len(state.position), -1)
        site = noise.site.unsqueeze(1)
        value = moved(x.gather(1, site), noise.shift.unsqueeze(1), self.space.num_values)
        proposal = x.scatter(1, site, value).reshape(state.position.shape)
        log_density = target.log_density(proposal)
        info = accept(log_density - state.log_density, log_density, noise.uniform)
        keep = partial(where_accepted, info.is_accepted)
        return MetropolisState(*map(keep, (proposal, log_density), state)), info
