"""Markov kernels: settings in a frozen dataclass, ``init`` and ``step`` over all chains at once."""

from __future__ import annotations

from poe.samplers.annealed import AnnealedLangevin, AnnealedState
from poe.samplers.hmc import HMC
from poe.samplers.kernel import Info, Kernel, Noise, State, TunableKernel
from poe.samplers.langevin import MALA, ULA, LangevinState
from poe.samplers.metropolis import MetropolisHastings, MetropolisState

__all__ = [
    "HMC",
    "MALA",
    "ULA",
    "AnnealedLangevin",
    "AnnealedState",
    "Info",
    "Kernel",
    "LangevinState",
    "MetropolisHastings",
    "MetropolisState",
    "Noise",
    "State",
    "TunableKernel",
]
