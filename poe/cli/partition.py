"""``python -m poe partition``: log Z of a composition, with its error and bounds."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from poe.cli.terminal import (
    NON_FINITE,
    ExitCode,
    add_composition,
    add_json,
    add_quiet,
    add_seed,
    new_command,
    print_json,
)

if TYPE_CHECKING:
    from poe.density.normalized import LogPartition

DESCRIPTION = f"""\
log Z, the logarithm of the integral (or sum) of the product over its space: in closed form, by
enumeration, by quadrature, or estimated, whichever fits first. Code 3 means that there is a remark.

{NON_FINITE}

  python -m poe partition examples/compositions/gaussians.toml
  python -m poe partition examples/compositions/not.toml --json
  python -m poe partition examples/compositions/not.toml --method "AIS(num_samples=128)"
"""


def add(commands: Any) -> None:
    """Add the command's parser."""
    command = new_command(commands, "partition", "log Z with its error and bounds", DESCRIPTION)
    add_composition(command)
    command.add_argument(
        "--method", help='by its name in poe.normalizers, such as "MBAR()"; else chosen'
    )
    add_seed(command)
    add_json(command)
    add_quiet(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace, top: argparse.ArgumentParser) -> ExitCode:
    """Find log Z, and print what is known of it."""
    import torch

    import poe
    from poe.cli.composition import read
    from poe.cli.settings import classes, named
    from poe.core.doubt import as_facts
    from poe.normalizers.choose import find_log_partition

    product = read(options.composition).product()
    method = None
    if options.method is not None:
        method = named(options.method, classes(poe.normalizers, "__call__"), product.space)
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(options.seed)
    found = find_log_partition(product, method, None, generator, not options.quiet)
    if options.json:
        seconds = time.perf_counter() - began
        told = {"doubts": as_facts(found.doubts), "remarks": found.remarks}
        print_json({**found._asdict(), **told, "is_trusted": found.is_trusted, "seconds": seconds})
    else:
        print(as_text(found))
    return ExitCode.OK if found.is_trusted else ExitCode.DOUBTFUL


def as_text(found: LogPartition) -> str:
    """Line by line."""
    lines = [
        f"log Z           {float(found.value):.6g}",
        f"standard error  {float(found.std_error):.3g}",
        f"bounds          {float(found.lower):.6g} to {float(found.upper):.6g}"
        f" (together {found.confidence:.0%})",
        f"method          {found.method}",
    ]
    if found.rests_on:
        lines.append(f"                {found.rests_on}")
    return "\n".join([*lines, *(f"! {remark}" for remark in found.remarks)])
