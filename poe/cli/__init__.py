"""The command line: ``python -m poe``, one command a file."""

from __future__ import annotations

from poe.cli.command_line import main as main, parser as parser
from poe.cli.demo import chosen as chosen
