"""Pretrained experts that are shipped, each with its card, and how they are written."""

from __future__ import annotations

from experts.pretrained.loading import FAMILIES, available, load
from experts.pretrained.writing import Card, write

__all__ = ["FAMILIES", "Card", "available", "load", "write"]
