"""The page, clicked through in a real headless Chromium."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from poe.files.tensor_file import read
from tests.poe.studio.browser import CHROMIUM, Browser, chromium, find

pytest.importorskip("nicegui", reason='needs NiceGUI: pip install "product-of-experts[studio]"')
pytest.importorskip("matplotlib")
if CHROMIUM is None:
    pytest.skip(
        "no Chromium found: on Debian, apt-get install --no-install-recommends chromium",
        allow_module_level=True,
    )

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ("digits-class", "digits-slant", "digits-thickness", "digits-prior")
IS_DONE = f"!{find('sample')}.disabled && {find('words')}.innerText.includes('draws of 256')"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a studio of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "poe", "studio", "--no-browser", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    # NiceGUI takes a process that pytest's variable is handed down to for one of its own tests.
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=file, stderr=file
        )
    try:
        yield _ready(f"http://127.0.0.1:{port}/", process, log)
    finally:
        process.terminate()
        process.wait(30)


def _ready(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 240.0) -> str:
    end = time.monotonic() + seconds
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=60).close()
            return url
        except urllib.error.URLError:
            time.sleep(0.2)


@pytest.fixture(scope="module")
def browser(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One with the page open."""
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        found.open(address)
        found.wait(f"window.socket?.connected && {find('sample')} !== null")
        yield found
        assert not found.errors


def draws_of(browser: Browser, folder: Path) -> tuple[dict[str, object], torch.Tensor]:
    """What is said of the draws that a press on the button downloads, and their samples."""
    path = folder / "draws.safetensors"
    path.unlink(missing_ok=True)
    browser.download_to(folder)
    browser.click("download")
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, "no file was downloaded within 120 s"
        time.sleep(0.1)
    facts, tensors = read(path)
    assert tensors["log_density"].shape == tensors["samples"].shape[:2]
    return {**facts["draws"], **facts["about"]}, tensors["samples"]


def sample(browser: Browser) -> None:
    """Press the button, and wait for the end."""
    browser.click("sample")
    browser.wait(f"{find('sample')}.disabled")
    browser.wait(IS_DONE)


def choose_ring_and_bar(browser: Browser) -> None:
    """Tick two boxes, untick those that the page opens with, and move a slider."""
    for name in (*DIGITS, "ring", "bar"):
        browser.click(f"box-{name}")
    browser.wait(f"{find('formula')}.innerText === 'p(x) \u221d ring \u00b7 bar'")
    browser.click("slider-bar", across=0.75)
    browser.wait(f"{find('formula')}.innerText === 'p(x) \u221d ring \u00b7 bar\u00b9\u00b7\u2075'")


@pytest.mark.process
def test_from_a_choice_to_the_draws(browser: Browser, tmp_path: Path) -> None:
    choose_ring_and_bar(browser)
    browser.type_into("num-draws", "15")
    sample(browser)
    assert browser.text("words") == "HMC: 15 of 15 draws of 256 chains"
    assert browser.text("guarantee") == "asymptotically exact"
    assert "corrected by Metropolis" in browser.text("meaning")
    assert "256 chains \u00d7 15 draws" in browser.text("facts")
    for picture in ("draws", "contributions", "trace"):
        assert browser.evaluate(f"{find(picture)}.naturalWidth") > 400
        assert browser.evaluate(f"{find(picture)}.getBoundingClientRect().bottom") < 800
    assert not browser.evaluate(f"!!{find('error')}.offsetParent")

    header, first = draws_of(browser, tmp_path)
    assert header["formula"] == "ring \u00b7 bar^1.5"
    assert header["guarantee"] == "asymptotically exact"
    assert header["seed"] == 0
    assert first.shape == (256, 15, 2)

    sample(browser)
    assert torch.equal(draws_of(browser, tmp_path)[1], first)
    browser.type_into("seed", "7")
    sample(browser)
    header, other = draws_of(browser, tmp_path)
    assert header["seed"] == 7
    assert not torch.equal(other, first)


@pytest.mark.process
def test_two_spaces_are_refused_on_the_page(browser: Browser) -> None:
    browser.click("box-fashion-energy")
    browser.wait(f"{find('formula')}.innerText.includes('fashion')")
    browser.click("sample")
    browser.wait(f"!!{find('error')}.offsetParent")
    said = browser.text("error")
    assert "These experts live on different spaces" in said
    assert "Real(2)" in said
    assert "Real((28, 28))" in said
    browser.click("box-fashion-energy")


@pytest.mark.process
def test_infinite_mass_is_refused_on_the_page(browser: Browser) -> None:
    browser.click("slider-bar", across=0.05)
    browser.wait(f"{find('formula')}.innerText.startsWith('p(x) \u221d ring / bar')")
    browser.click("sample")
    browser.wait(f"{find('error')}.innerText.includes('infinite mass')")
    assert "bar ** -" in browser.text("error")
    browser.click("slider-bar", across=0.75)


@pytest.mark.process
def test_a_run_can_be_stopped_and_its_draws_kept(browser: Browser, tmp_path: Path) -> None:
    browser.type_into("num-draws", "100000")
    browser.click("sample")
    browser.wait(f"{find('words')}.innerText.includes('of 100000 draws')")
    browser.click("stop")
    browser.wait(f"{find('words')}.innerText.startsWith('stopped')")
    _, samples = draws_of(browser, tmp_path)
    assert 10 <= samples.shape[1] < 100_000
