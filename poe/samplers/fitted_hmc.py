"""Hamiltonian Monte Carlo of the kind that fits, which warm-up finds out."""

from __future__ import annotations

from dataclasses import dataclass

from poe.core.arguments import checked
from poe.samplers.adaptive_step import AdaptiveStepHMC
from poe.samplers.hmc import SplitHMC
from poe.samplers.kernel import Kernel
from poe.samplers.questions import Learned, Setting
from poe.samplers.repeated import Repeated


@checked
@dataclass(frozen=True)
class FittedHMC(SplitHMC):
    """HMC split around a Gaussian, or in steps that fit the place where one size does not.

    ``SplitHMC`` until warm-up has learned more; then that, or ``AdaptiveStepHMC`` where the scale
    of the score varies along the chains (``Learned.has_varying_scale``). Step size and number of
    steps are left out as well, and where chains mix slowly, draws are several steps apart.

    Example:
        >>> FittedHMC().filled(Learned(scale=0.5, num_steps=3, has_varying_scale=True))
        AdaptiveStepHMC(step_size=0.5, num_steps=3, jitter=0.3)
        >>> type(FittedHMC().filled(Learned(scale=0.5, num_steps=3))).__name__
        'SplitHMC'
    """

    num_steps: int | None = None

    @property
    def missing(self) -> frozenset[Setting]:
        """All settings, and the kind."""
        return frozenset({Setting.SCALE, Setting.NUM_STEPS, Setting.INTEGRATOR})

    def filled(self, learned: Learned) -> Kernel:  # type: ignore[override]
        """The kind that fits, with what it leaves out as learned."""
        kind = AdaptiveStepHMC if learned.has_varying_scale else SplitHMC
        kernel = kind(num_steps=None).filled(learned)
        return kernel if learned.num_repeats == 1 else Repeated(kernel, learned.num_repeats)
