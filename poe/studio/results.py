"""The right column of the page: the draws as they come, and what is to be said of them."""

from __future__ import annotations

from typing import NamedTuple

from nicegui import ui

import poe
from poe.studio import pictures, words
from poe.studio.draw import Frame
from poe.studio.model import Composition

BLANK = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E"
"""What stands where no picture is yet."""


class Shown(NamedTuple):
    """The pictures of a frame, as URLs."""

    draws: str
    contributions: str
    trace: str


def drawn(composition: Composition, frame: Frame) -> Shown:
    """Draw them."""
    product = composition.product
    return Shown(
        pictures.data_url(pictures.draws(product, frame)),
        pictures.data_url(pictures.contributions(product.names, frame.contributions)),
        pictures.data_url(pictures.trace(frame)),
    )


class Results:
    """What a run shows while it goes on."""

    def __init__(self) -> None:
        with ui.column().classes("refusal").props("data-testid=error") as self.refusal:
            self.refusal_title = ui.label().classes("refusal-title")
            self.refusal_text = ui.label()
        with ui.row().classes("progress"):
            self.words = ui.label("Choose experts and press Sample.").props("data-testid=words")
            self.bar = ui.linear_progress(0.0, show_value=False, size="4px")
        with ui.row().classes("board"):
            self.draws = _picture("draws", "The draws")
            with ui.column().classes("side"):
                with ui.column().classes("guarantee"):
                    self.guarantee = ui.label("no draws yet").classes("badge")
                    self.guarantee.props("data-testid=guarantee")
                    self.meaning = ui.label().props("data-testid=meaning")
                    self.verdict = ui.label().props("data-testid=verdict")
                    self.facts = ui.label().classes("facts").props("data-testid=facts")
                ui.label("Contribution of each expert").classes("caption")
                self.contributions = _picture("contributions", "Contributions of the experts")
                ui.label("Energy of each chain").classes("caption")
                self.trace = _picture("trace", "The energy of each chain")
        self.doubts = ui.column().classes("doubts").props("data-testid=doubts")
        self.refusal.set_visibility(False)
        self._say_guarantee(None)

    def clear(self) -> None:
        """Before a new run."""
        self.refusal.set_visibility(False)
        self.doubts.clear()
        self._say_guarantee(None)
        for name in Shown._fields:
            _set_source(getattr(self, name), BLANK)
        self.words.set_text("loading the experts")
        self.bar.set_value(0.0)

    def show(self, shown: Shown, frame: Frame) -> None:
        """A frame, and its pictures."""
        self.words.set_text(frame.words)
        self.bar.set_value(frame.fraction)
        for name in Shown._fields:
            _set_source(getattr(self, name), getattr(shown, name))
        self._say_guarantee(frame.draws)

    def conclude(self, said: tuple[str, ...], *, was_stopped: bool) -> None:
        """At the end of a run: what there is to doubt."""
        with self.doubts:
            for text in said:
                ui.label(text).classes("doubt").tooltip(text)
        if was_stopped:
            self.words.set_text(f"stopped \u2013 {self.words.text}")

    def refuse(self, error: poe.PoeError) -> None:
        """Say why there is nothing to see."""
        self.refusal.set_visibility(True)
        self.refusal_title.set_text(words.title(error))
        self.refusal_text.set_text(str(error))
        self.words.set_text("nothing was sampled")

    def _say_guarantee(self, draws: poe.Draws | None) -> None:
        kind = "none" if draws is None else draws.guarantee.split()[0]
        self.guarantee.classes(replace=f"badge {kind}")
        self.guarantee.set_text("no draws yet" if draws is None else draws.guarantee)
        self.meaning.set_text("" if draws is None else words.meaning(draws))
        self.verdict.set_text("" if draws is None else words.verdict(draws))
        self.facts.set_text("" if draws is None else words.facts(draws))


def _picture(name: str, alternative: str) -> ui.element:
    image = ui.element("img").classes(f"picture {name}")
    return image.props(f'data-testid={name} alt="{alternative}" src="{BLANK}"')


def _set_source(image: ui.element, source: str) -> None:
    image.props(f'src="{source}"')
