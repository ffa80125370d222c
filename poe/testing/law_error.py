"""The error that a broken law raises."""

from __future__ import annotations


class LawError(AssertionError):
    """An expert or a kernel breaks a law; the message has the numbers."""
