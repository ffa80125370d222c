"""The laws that experts and kernels keep, shipped for users' own."""

from __future__ import annotations

from poe.testing.expert_laws import EXPERT_LAWS, check_expert
from poe.testing.kernel_laws import check_kernel
from poe.testing.law_error import LawError

__all__ = ["EXPERT_LAWS", "LawError", "check_expert", "check_kernel"]
