"""The laws that experts and kernels keep, shipped for users' own."""

from __future__ import annotations

from poe.testing.kernel_laws import check_kernel
from poe.testing.law_error import LawError

__all__ = ["LawError", "check_kernel"]
