"""The page: controls to the left, results to the right, and the run between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as matplotlib  # that it is missing shall be noticed before the page is served
from nicegui import run, ui

import poe
from poe.studio import draw, draws_file, pictures, words
from poe.studio.controls import Controls
from poe.studio.draw import Frame
from poe.studio.model import Composition, compose
from poe.studio.results import Results, drawn

STYLE = Path(__file__).parent / "style.css"
TITLE = "product of experts \u00b7 studio"


class Studio:
    """One visitor's page."""

    def __init__(self) -> None:
        self.composition: Composition | None = None
        self.frame: Frame | None = None
        self.is_stopping = False
        with ui.row().classes("page"):
            with ui.column().classes("left"):
                ui.label(TITLE).classes("title")
                self.controls = Controls()
                with ui.row().classes("buttons"):
                    self.sample_button = _button("Sample", "play_arrow", self.sample, "sample")
                    self.stop_button = _button("Stop", "stop", self.stop, "stop")
                    self.download_button = _button("Draws", "download", self.download, "download")
            with ui.column().classes("right"):
                self.results = Results()
        self.stop_button.props("outline").disable()
        self.download_button.props("outline").disable()
        self.download_button.tooltip("download the draws as safetensors")

    async def sample(self) -> None:
        """Run what is chosen, and show it as it goes on."""
        self.is_stopping = False
        self.sample_button.disable()
        self.download_button.disable()
        self.stop_button.enable()
        self.results.clear()
        try:
            await self._follow()
        except poe.PoeError as error:
            self.results.refuse(error)
        finally:
            self.sample_button.enable()
            self.stop_button.disable()
            if self.frame is not None and self.frame.draws is not None:
                self.download_button.enable()

    async def _follow(self) -> None:
        """The run, in another thread. What comes back is None where the server is being ended."""
        self.frame = None
        settings = self.controls.settings
        self.composition = composition = await run.io_bound(compose, self.controls.choices)
        if composition is None:
            return
        frames: Iterator[Frame] = draw.run(composition, settings)
        while not self.is_stopping and (frame := await run.io_bound(next, frames, None)):
            shown = await run.io_bound(drawn, composition, frame)
            if shown is None:
                return
            self.frame = frame
            self.results.show(shown, frame)
        if self.frame is not None and self.frame.draws is not None:
            said = await run.io_bound(words.doubts, self.frame.draws)
            self.results.conclude(said or (), was_stopped=self.is_stopping)

    def stop(self) -> None:
        """Leave off after the picture that is being made."""
        self.is_stopping = True

    def download(self) -> None:
        """Hand out the draws made so far."""
        assert self.composition is not None
        assert self.frame is not None
        ui.download.content(draws_file.content(self.composition, self.frame), "draws.safetensors")


def serve(host: str, port: int, *, opens_browser: bool) -> None:
    """Serve the page until interrupted."""

    def page() -> None:
        ui.add_css(STYLE)
        ui.colors(primary=pictures.COLORS[0])
        studio = Studio()
        ui.context.client.on_delete(studio.stop)  # a short break of the connection is none

    ui.run(
        page, host=host, port=port, title=TITLE, show=opens_browser, reload=False, favicon="\u220f"
    )


def _button(text: str, icon: str, action: Callable[[], Any], name: str) -> ui.button:
    return ui.button(text, icon=icon, on_click=action).props(
        f"no-caps no-wrap unelevated data-testid={name}"
    )
