"""Draws to download: as `poe.load_draws` reads them, with what they are of in the header."""

from __future__ import annotations

from poe.draws.store import packed_draws
from poe.studio.draw import Frame
from poe.studio.model import Composition


def content(composition: Composition, frame: Frame) -> bytes:
    """The draws as `poe.save_draws` writes them; the header says the formula and its experts.

    Raises ValueError where there are no draws yet.
    """
    if frame.draws is None:
        raise ValueError("expected a frame with draws, got one on the way to a start")
    chosen = [one._asdict() for one in composition.choices]
    return packed_draws(frame.draws, {"formula": composition.formula, "experts": chosen})
