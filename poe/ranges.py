"""Bridges between ranges and sizes: named bijections, and maps that are features only."""

from __future__ import annotations

from poe.core.ranges import (
    Floats as Floats,
    Indices as Indices,
    Rescale as Rescale,
    Resize as Resize,
    logit as logit,
)
