"""Examples are run as `python -m examples.NAME` does it, in the process of the tests."""

from __future__ import annotations

import re
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure


class Ran(NamedTuple):
    """What an example printed, and the figures that it saved."""

    printed: str
    figures: list[Figure]

    def rows(self, pattern: str) -> list[Any]:
        """The groups of each line that is as the pattern says."""
        return re.findall(rf"^{pattern}$", self.printed, flags=re.MULTILINE)

    def table(self, names: str, cells: str) -> dict[str, list[float]]:
        """Numbers by the name that begins a line."""
        return {name: [*map(float, rest)] for name, *rest in self.rows(rf"({names}){cells}")}

    @property
    def figure(self) -> Figure:
        """The only one."""
        (figure,) = self.figures
        return figure

    def titles(self) -> list[str]:
        """Those of the figure's axes, empty ones left out."""
        found = [axis.get_title() or axis.get_title(loc="left") for axis in self.figure.axes]
        return [title for title in found if title]

    def images(self) -> list[np.ndarray]:
        """The pixels of every image in the figure."""
        return [np.asarray(one.get_array()) for axis in self.figure.axes for one in axis.images]


Run = Callable[..., Ran]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Runs `examples.NAME` with arguments, in an empty folder."""
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    figures: list[Figure] = []
    save = Figure.savefig

    def record(figure: Figure, *arguments: Any, **settings: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **settings)

    def run_one(name: str, *arguments: str) -> Ran:
        module = f"examples.{name}"
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        if "." in name:  # a step, which may be imported already: runpy would warn
            monkeypatch.delitem(sys.modules, module, raising=False)
        capsys.readouterr()
        figures.clear()
        with warnings.catch_warnings():
            # Of matplotlib, whenever it is given a tensor: it is shown to nobody who runs a script.
            warnings.filterwarnings("ignore", "__array_", DeprecationWarning)
            runpy.run_module(module, run_name="__main__")
        return Ran(capsys.readouterr().out, list(figures))

    monkeypatch.setattr(Figure, "savefig", record)
    threads = torch.get_num_threads()
    yield run_one
    torch.set_num_threads(threads)
