"""Pretrained experts that are shipped, each with its card."""

from __future__ import annotations

from experts.pretrained.loading import FAMILIES, available, load

__all__ = ["FAMILIES", "available", "load"]
