"""Compositions on the Hugging Face Hub: pushed and pulled like any model, and never pickled."""

from __future__ import annotations

from poe.io.hub import (
    CARD as CARD,
)
from poe.io.hub import (
    FILES as FILES,
)
from poe.io.hub import (
    HubExpert as HubExpert,
)
