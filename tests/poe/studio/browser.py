"""A headless Chromium, driven by its devtools protocol: just what the page's test needs."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTH, HEIGHT = 1280, 800


class Browser:
    """One tab. Elements are named by their ``data-testid``."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)
        self.errors: list[str] = []
        """What the page's scripts threw."""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its result."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=120))
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return dict(message["result"])

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 240.0) -> Any:
        """The value of an expression, once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"{script} was not true within {seconds:g} s"
            time.sleep(0.1)
        return value

    def open(self, url: str) -> None:
        """Go to a page."""
        self.call("Page.navigate", url=url)

    def text(self, name: str) -> str:
        """What an element shows."""
        return str(self.evaluate(f"{find(name)}?.innerText ?? ''"))

    def click(self, name: str, across: float = 0.5) -> None:
        """Press the mouse on an element, at that share of its width."""
        self.click_at(find(name), across)

    def click_at(self, element: str, across: float = 0.5) -> None:
        """The same, of an element by its expression."""
        self.wait(f"{element} !== null", 20)
        box = self.evaluate(
            f"(e => {{ e.scrollIntoView({{block: 'nearest'}}); const b = e.getBoundingClientRect();"
            f" return [b.x, b.y, b.width, b.height]; }})({element})"
        )
        place = {"x": box[0] + across * box[2], "y": box[1] + box[3] / 2}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def type_into(self, name: str, text: str) -> None:
        """Replace what an input holds, key by key."""
        self.click(name)
        self.evaluate("document.activeElement.select()")
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
            )

    def download_to(self, folder: Path) -> None:
        """Where downloads go."""
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def screenshot(self, path: Path) -> None:
        """The visible part of the page."""
        found = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))


def find(name: str) -> str:
    """An element by its ``data-testid``, as an expression."""
    return f"document.querySelector('[data-testid=\"{name}\"]')"


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser of its own profile, ended with the block."""
    from websockets.sync.client import connect

    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", "--no-first-run",
        "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}", "about:blank",
    ]  # fmt: skip
    log = open(folder / "chromium.log", "wb")  # noqa: SIM115
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        port = _port(folder / "profile" / "DevToolsActivePort")
        with connect(_tab(port), max_size=None, open_timeout=60) as socket:
            browser = Browser(socket)
            for domain in ("Page", "Runtime"):
                browser.call(f"{domain}.enable")
            browser.call(
                "Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT,
                deviceScaleFactor=1, mobile=False,
            )  # fmt: skip
            yield browser
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def _port(file: Path, seconds: float = 120.0) -> int:
    """Where the browser listens: it writes that down once it does."""
    end = time.monotonic() + seconds
    while not file.exists() or "\n" not in file.read_text():
        assert time.monotonic() < end, f"Chromium did not start within {seconds:g} s"
        time.sleep(0.1)
    return int(file.read_text().splitlines()[0])


def _tab(port: int) -> str:
    """The address of the first tab."""
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=60) as answer:
        tabs = json.load(answer)
    return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
