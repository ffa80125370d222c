"""How log Z is found: one method a file, and `log_partition`, which chooses one."""

from __future__ import annotations

from poe.normalizers.choose import log_partition

__all__ = ["log_partition"]
