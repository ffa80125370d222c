"""The parser of ``python -m poe``, and what is done with its answer."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from poe.cli import (
    demo,
    experts,
    inspect,
    partition,
    ratio,
    sample,
    studio,
)
from poe.cli.terminal import MEANING, BadInput, ExitCode
from poe.core.errors import PoeError

DESCRIPTION = """\
Products of pretrained experts, written down in small TOML files: one table for each expert.

  [experts.digit]
  shipped = "digits-class"  # or saved = "folder", as poe.save wrote it
  given = "7"               # the label of a conditional: p(x | given)
  noise_level = 0.2         # of experts of noised data; left out, their own

  [experts.not_thick]
  shipped = "digits-thickness"
  given = "thick"
  noise_level = 0.2
  density_ratio = true      # p(x | given) / p(x), what x says of the label
  exponent = -0.5           # 1 where it is left out; negative for NOT

`kind = "Gaussian"`, with its parameters beside it, is a family of `experts` or a distribution of
torch.distributions. [experts.NAME.or.INNER] and [experts.NAME.and.INNER] nest; in an OR each may
have a `weight`, and needs its `log_partition` where the normaliser is not known.
"""


def parser() -> argparse.ArgumentParser:
    """The parser of ``python -m poe``."""
    top = argparse.ArgumentParser(
        "python -m poe",
        description=DESCRIPTION,
        epilog=MEANING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    for command in (demo, sample, ratio, partition, inspect, experts, studio):
        command.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    top = parser()
    options = top.parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = int(options.run(options, top))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _say(options, f"{where}{error.strerror or error}", ExitCode.BAD_INPUT)
    except BadInput as error:
        return _say(options, str(error), ExitCode.BAD_INPUT)
    except PoeError as error:
        return _say(options, str(error), ExitCode.FAILED)
    except RuntimeError as error:  # of a network, or of torch
        return _say(options, f"{type(error).__name__}: {error}", ExitCode.FAILED)
    except KeyboardInterrupt:
        return _say(options, "interrupted", ExitCode.INTERRUPTED)


def _say(options: argparse.Namespace, text: str, code: ExitCode) -> ExitCode:
    line = " ".join(text.split())
    print(f"python -m poe {options.command}: {line}", file=sys.stderr)
    return code
