"""Experts of several families, ready to be multiplied."""

from __future__ import annotations

from experts.exponential import Gaussian

__all__ = ["Gaussian"]
