"""Where an interrupted run is kept, and the command that goes on from there."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path


def default_checkpoint(options: argparse.Namespace) -> Path:
    """Beside the first output; without one here, told apart by the composition and the seed."""
    if options.output:
        first: Path = options.output[0]
        return first.with_name(f"{first.name}.checkpoint")
    return Path(f"{options.composition.stem}.seed{options.seed}.checkpoint")


def how_to_go_on(options: argparse.Namespace, checkpoint: Path) -> str:
    """What to do after an interruption."""
    command = shlex.join(["python", "-m", "poe", *options.arguments])
    if not checkpoint.exists():
        return f"interrupted, with nothing to go on from. To start afresh:\n\n    {command}\n"
    return (
        f"interrupted; what was done is in {checkpoint}. To go on from there, to the same bits:\n\n"
        f"    {command}\n"
    )


def forget(checkpoint: Path) -> None:
    """Remove the checkpoint of a run that is done, and that of its tempering."""
    for path in (checkpoint, checkpoint.with_name(f"{checkpoint.name}.tempering")):
        path.unlink(missing_ok=True)
