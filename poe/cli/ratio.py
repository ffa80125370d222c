"""``python -m poe ratio``: how much likelier one point is than another, and who says so."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poe.cli.terminal import (
    NON_FINITE,
    BadInput,
    ExitCode,
    add_composition,
    add_json,
    new_command,
    positive,
    print_json,
    table,
)

if TYPE_CHECKING:
    from torch import Tensor

    from poe.density.expert import Product

DESCRIPTION = f"""\
log p(x) - log p(x') for each row x of one file and the same row x' of another, and what each expert
adds to it. No normaliser is needed. A file with one row only is compared with every row of the
other.

Files: .safetensors (a tensor named "samples", as `sample --output` writes it, or one alone), .npy
(without pickle), .csv (the numbers of one event in each line, after a line of names or not).

{NON_FINITE}

  python -m poe ratio examples/compositions/gaussians.toml examples/compositions/points.csv \\
      examples/compositions/origin.csv
  python -m poe ratio examples/compositions/not.toml examples/compositions/points.csv \\
      examples/compositions/origin.csv --json
"""


def add(commands: Any) -> None:
    """Add the command's parser."""
    line = "log p(x) - log p(x') of rows in files, expert by expert"
    command = new_command(commands, "ratio", line, DESCRIPTION)
    add_composition(command)
    command.add_argument("x", type=Path, help="a file with the points x")
    command.add_argument("x_prime", type=Path, metavar="x'", help="a file with the points x'")
    command.add_argument(
        "--at-once", type=positive, default=256, help="rows evaluated together (256)"
    )
    add_json(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace, top: argparse.ArgumentParser) -> ExitCode:
    """Compare, and print."""
    import torch

    import poe
    from poe.cli.composition import read

    product = read(options.composition).product()
    x, x_prime = pairs(options, product)
    with torch.no_grad():
        parts = poe.log_ratio_contributions(product, x, x_prime, rows_at_once=options.at_once)
    values = parts.sum(-1)
    if options.json:
        print_json({"experts": product.names, "log_ratio": values, "contributions": parts})
    else:
        print(as_table(product.names, values, parts))
    return ExitCode.OK


def pairs(options: argparse.Namespace, product: Product) -> tuple[Tensor, Tensor]:
    """The points of both files, as many of each."""
    from poe.cli.points import read_rows
    from poe.density.checks import floats_of

    dtype = floats_of(product)
    x, x_prime = (read_rows(path, product.space, dtype) for path in (options.x, options.x_prime))
    if len(x) != len(x_prime) and 1 not in (len(x), len(x_prime)):
        raise BadInput(
            f"expected as many rows in {options.x} and {options.x_prime}, or one in either; got "
            f"{len(x)} and {len(x_prime)}"
        )
    count = max(len(x), len(x_prime))
    return x.expand(count, *x.shape[1:]), x_prime.expand(count, *x_prime.shape[1:])


def as_table(names: tuple[str, ...], values: Tensor, parts: Tensor) -> str:
    """A row for each pair: the log-ratio, and what each expert adds."""
    rows = [
        [str(index), *(f"{number:.4f}" for number in (value, *each))]
        for index, (value, each) in enumerate(zip(values.tolist(), parts.tolist(), strict=True))
    ]
    return table(["row", "log ratio", *names], rows)
