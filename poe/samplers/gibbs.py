"""Gibbs sampling of discrete spaces: site by site from the conditional, with no gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from poe.errors import PoeError
from poe.samplers.kernel import Corrected, Density, Info
from poe.samplers.metropolis import MetropolisState
from poe.space import Space


class SweepNoise(NamedTuple):
    """Standard Gumbel variables, one for each value at each site: ``(chains, sites, values)``."""

    gumbel: Tensor


class _Sweep(NamedTuple):
    """Where a sweep stands: x ``(chains, sites)``, the rest ``(chains,)``."""

    x: Tensor
    log_density: Tensor
    is_free: Tensor
    is_outside: Tensor
    is_undefined: Tensor


@dataclass(frozen=True)
class Gibbs(Corrected[MetropolisState]):
    """Systematic-scan Gibbs: one step draws every site in turn from p(xᵢ | the other sites).

    The conditional is p̃ at the k values of the site, the others fixed, over its sum: the present
    value's log-density is known, the other k − 1 are evaluated in one call. A value is drawn as
    argmaxᵥ log p̃(v) + Gᵥ, G standard Gumbel. Sites come in row-major order, the same in every
    sweep: each draw leaves the target invariant, and so does their composition (a sweep is not
    reversible, which invariance does not need).

    ``space``: where x lives, Binary, Categorical or Sequence.

    A value whose log-density is −inf, +inf or NaN is not drawn; a chain whose values all are stays.
    Of ``Info``: there is no proposal to reject, so a sweep counts as accepted, whether or not a
    value changed, unless no site had a second value of positive density: such a chain is stuck.
    ``is_outside`` and ``is_undefined`` say whether any value tried was so.

    A batch of densities, one for each chain, needs k = 2: the chains then keep their order in every
    call. Raises PoeError for a space without finitely many values.

    Source: Geman & Geman 1984; the draw: Gumbel 1954.

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: 2.0 * x.sum(-1), space=poe.Binary(3))
    >>> kernel = Gibbs(target.space)
    >>> state = kernel.init(target, torch.zeros(5, 3))
    >>> state, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
    >>> state.position.shape, kernel.gradients_per_step
    (torch.Size([5, 3]), 4)
    """

    space: Space

    def __post_init__(self) -> None:
        if self.space.num_values is None:
            raise PoeError(
                f"expected a space of finitely many values a site, got {self.space}: Gibbs moves "
                "on Binary, Categorical and Sequence"
            )

    @property
    def num_values(self) -> int:
        """The values that a site may take, k."""
        assert self.space.num_values is not None
        return self.space.num_values

    @property
    def gradients_per_step(self) -> int:
        """How often a sweep evaluates the target's log-density: never a score."""
        return self.space.event_shape.numel() * (self.num_values - 1) + 1

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> SweepNoise:
        """A Gumbel variable for each chain, site and value."""
        is_float = position.is_floating_point()
        dtype = position.dtype if is_float else torch.get_default_dtype()
        shape = (len(position), self.space.event_shape.numel(), self.num_values)
        waits = torch.empty(shape, dtype=dtype, device=position.device)
        return SweepNoise(-waits.exponential_(generator=generator).log())

    @torch.no_grad()
    def state_at(self, target: Density, x: Tensor) -> MetropolisState:
        """Position and log-density."""
        return MetropolisState(x, target.log_density(x))

    @torch.no_grad()
    def _transition(
        self, target: Density, state: MetropolisState, noise: SweepNoise
    ) -> tuple[MetropolisState, Info]:
        no = torch.zeros_like(state.log_density, dtype=torch.bool)
        x = state.position.reshape(len(no), -1)
        sweep = _Sweep(x, state.log_density, no, no, no)
        for site, gumbel in enumerate(noise.gumbel.unbind(1)):
            sweep = self._redraw(target, sweep, site, gumbel)
        position = sweep.x.reshape(state.position.shape)
        # Asked once more where it ends: a level of a path knows its parts there by that.
        moved = MetropolisState(position, target.log_density(position))
        is_free = sweep.is_free
        probability = is_free.to(state.log_density.dtype)
        return moved, Info(probability, is_free, sweep.is_outside, sweep.is_undefined, no)

    def _redraw(self, target: Density, sweep: _Sweep, site: int, gumbel: Tensor) -> _Sweep:
        """One site drawn from its conditional; gumbel ``(chains, k)``, the first of the present."""
        x, log_density, is_free, is_outside, is_undefined = sweep
        others = self._others(x, site)
        rows = others.reshape(len(x) * (self.num_values - 1), *self.space.event_shape)
        tried = target.log_density(rows).reshape(others.shape[:2])
        undefined = tried.isnan() | (tried == torch.inf)
        outside = tried == -torch.inf
        values = torch.cat([log_density[:, None], tried.masked_fill(undefined, -torch.inf)], 1)
        chosen = (values + gumbel).argmax(1, keepdim=True)
        candidates = torch.cat([x[:, None], others], 1)
        return _Sweep(
            candidates.take_along_dim(chosen[..., None], 1).squeeze(1),
            values.take_along_dim(chosen, 1).squeeze(1),
            is_free | ~(undefined | outside).all(1),
            is_outside | outside.any(1),
            is_undefined | undefined.any(1),
        )

    def _others(self, x: Tensor, site: int) -> Tensor:
        """The same x with every other value at a site: ``(chains, k - 1, sites)``."""
        shifts = torch.arange(1, self.num_values, device=x.device, dtype=x.dtype)
        others = x[:, None].repeat(1, self.num_values - 1, 1)
        others[..., site] = (x[:, site, None] + shifts) % self.num_values
        return others
