"""Now ``experts.tables``: this name goes with the next release."""

from __future__ import annotations

from poe.core.imports import found_when_asked

__getattr__ = found_when_asked(__name__, moved=dict.fromkeys(["ProductDetector"], "experts.tables"))
