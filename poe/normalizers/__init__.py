"""How log Z is found: one method a file, and `log_partition`, which chooses one."""

from __future__ import annotations

from poe.normalizers.annealed import AIS
from poe.normalizers.choose import log_partition
from poe.normalizers.exact import ClosedForm, Enumeration, Quadrature
from poe.normalizers.importance import Bridge, ImportanceSampling
from poe.normalizers.problem import Method
from poe.normalizers.sequential import MBAR, SMC, ThermodynamicIntegration
from poe.normalizers.truncation import Truncation

__all__ = [
    "AIS",
    "MBAR",
    "SMC",
    "Bridge",
    "ClosedForm",
    "Enumeration",
    "ImportanceSampling",
    "Method",
    "Quadrature",
    "ThermodynamicIntegration",
    "Truncation",
    "log_partition",
]
