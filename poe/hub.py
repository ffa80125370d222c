"""Compositions on the Hugging Face Hub: pushed and pulled like any model, and never pickled."""

from __future__ import annotations

from poe.io.hub import (
    CARD as CARD,
    FILES as FILES,
    HubExpert as HubExpert,
)
