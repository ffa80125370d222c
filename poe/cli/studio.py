"""``python -m poe studio``: serve the page."""

from __future__ import annotations

import argparse
from typing import Any

from poe.cli.terminal import ExitCode, new_command, port

DESCRIPTION = """\
A web page on this machine: choose experts, set their exponents with sliders, and watch their
product being sampled, with what each expert says, the energy and the guarantee; download the draws.

  python -m poe studio                     at http://127.0.0.1:8080, in the browser
  python -m poe studio --port 9000 --no-browser

Needs NiceGUI and matplotlib: pip install "product-of-experts[studio]"
"""


def add(commands: Any) -> None:
    """Add the command's parser."""
    line = "a web page: choose experts, and watch their product sampled"
    studio = new_command(commands, "studio", line, DESCRIPTION)
    studio.add_argument("--host", default="127.0.0.1", help="address (default: this machine only)")
    studio.add_argument("--port", type=port, default=8080)
    studio.add_argument("--no-browser", action="store_true", help="open no browser")
    studio.set_defaults(run=run)


def run(options: argparse.Namespace, top: argparse.ArgumentParser) -> ExitCode:
    """Serve the page until interrupted. Exits with the remedy where an extra is missing."""
    try:
        from poe.studio.page import serve
    except ImportError as error:
        if error.name not in ("nicegui", "matplotlib"):
            raise
        raise SystemExit(
            f'python -m poe studio needs {error.name}: pip install "product-of-experts[studio]"'
        ) from error
    serve(options.host, options.port, opens_browser=not options.no_browser)
    return ExitCode.OK
