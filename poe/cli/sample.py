"""``python -m poe sample``: draw from a composition and report on the draws."""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poe.cli.remedies import in_options
from poe.cli.terminal import (
    NON_FINITE,
    BadInput,
    ExitCode,
    add_composition,
    add_json,
    add_quiet,
    add_seed,
    new_command,
    note,
    positive,
    print_json,
)
from poe.core.doubt import as_facts
from poe.core.errors import PoeError, StorageError
from poe.draws import Draws
from poe.draws.store import FORMAT as DRAWS
from poe.draws.summary import Summary
from poe.files.atomic import require_room
from poe.files.own import require_own_picture
from poe.files.tensor_file import format_of, require_own, sha256
from poe.sampling.driver import beside
from poe.sampling.multimodality import TEMPERING
from poe.sampling.run_checkpoint import FORMAT

if TYPE_CHECKING:
    from poe.core.space import Space
    from poe.density.expert import Product
    from poe.draws import Draws
    from poe.samplers.kernel import Kernel
    from poe.samplers.ladder import AnnealedLangevin
    from poe.sampling.reached import Reached


def default_checkpoint(options: argparse.Namespace) -> Path:
    """Beside the first output; without one here, told apart by the composition and the seed."""
    if options.output:
        first: Path = options.output[0]
        return first.with_name(f"{first.name}.checkpoint")
    place = sha256(os.path.realpath(options.composition).encode())[:8]
    return Path(f"{options.composition.stem}-{place}.seed{options.seed}.checkpoint")


def how_to_go_on(options: argparse.Namespace, checkpoint: Path | None) -> str:
    """What to do after an interruption."""
    command = shlex.join(["python", "-m", "poe", *options.arguments])
    if checkpoint is None or not checkpoint.exists():
        return f"interrupted, with nothing to go on from. To start afresh:\n\n    {command}\n"
    return (
        f"interrupted; what was done is in {checkpoint}. To go on from there, to the same bits:\n\n"
        f"    {command}\n"
    )


def chosen_checkpoint(options: argparse.Namespace) -> Path | None:
    """Where the run is kept; None, with a note, where nobody named a place and there is none.

    Raises BadInput where a file that is no checkpoint is there.
    """
    checkpoint: Path = options.checkpoint or default_checkpoint(options)
    try:
        require_room(checkpoint)
    except StorageError as error:
        if options.checkpoint is not None:
            raise BadInput(f"{checkpoint}: {error}") from error
        note("sample", f"goes without a checkpoint: {error}")
        return None
    for path in kept(checkpoint):
        with as_bad_input(path):
            require_own(path, FORMAT)
    return checkpoint


def kept(checkpoint: Path | None) -> tuple[Path, ...]:
    """The checkpoint of a run, and that of its tempering."""
    return () if checkpoint is None else (checkpoint, beside(checkpoint, TEMPERING))


def stamps(checkpoint: Path | None) -> dict[Path, tuple[int, int] | None]:
    """What tells whether a file was written since."""
    return {path: stamp(path) for path in kept(checkpoint)}


def stamp(path: Path) -> tuple[int, int] | None:
    """The file's number and its time; None where there is none."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def forget(before: dict[Path, tuple[int, int] | None]) -> None:
    """Remove the checkpoints of a run that is done: those that it wrote, and no other file."""
    for path, known in before.items():
        real = Path(os.path.realpath(path))
        if stamp(real) != known and real.is_file() and format_of(real) == FORMAT:
            real.unlink(missing_ok=True)


@contextmanager
def as_bad_input(path: Path) -> Iterator[None]:
    """A file that cannot be written, or is another's, was named by an argument."""
    try:
        yield
    except StorageError as error:
        raise BadInput(f"{path}: {error}") from error


def report(draws: Draws, outputs: list[Path], as_json: bool) -> ExitCode:
    """The summary on stdout, and whether to trust it."""
    doubts = tuple(map(in_options, draws.verdict.doubts))
    summary = replace(draws.summary(), verdict=draws.verdict._replace(doubts=doubts))
    if as_json:
        print_json(facts(draws, summary) | {"outputs": [str(path) for path in outputs]})
    else:
        print(summary)
        if draws.choice:
            name = "independent draws" if draws.kernel is None else type(draws.kernel).__name__
            print(f"sampler: {name}, {draws.choice}")
    return ExitCode.OK if draws.is_trusted else ExitCode.DOUBTFUL


def facts(draws: Draws, summary: Summary) -> dict[str, Any]:
    """The summary for a program: each statistic in the event's shape."""
    chains, length, *event = draws.samples.shape
    statistics = ("mean", "sd", "mcse", "ess_bulk", "ess_tail", "r_hat")
    rate = draws.acceptance_rate
    return {
        "guarantee": draws.guarantee,
        "verdict": str(summary.verdict),
        "is_trusted": draws.is_trusted,
        "doubts": as_facts(summary.doubts),
        "remarks": summary.warnings,
        "choice": draws.choice,
        "kernel": None if draws.kernel is None else type(draws.kernel).__name__,
        "seed": draws.seed,
        "chains": chains,
        "draws": length,
        "event_shape": event,
        "warmup": draws.num_warmup,
        "acceptance_rate": None if rate is None else rate.mean(),
        "seconds": draws.seconds,
        **{name: getattr(summary, name) for name in statistics},
    }


DESCRIPTION = f"""\
Draw from the product that a composition describes, by the sampler that fits it or by one of your
choice, and say what the draws are worth: mean, sd, ESS, R-hat, the guarantee, and remarks.

Ctrl-C leaves a checkpoint, and the message has the command that goes on from it (the same one);
the run then gives the same bits as one that was not interrupted. Exact draws need none. Code 3
means that the run has not arrived: chains that disagree by more than chance explains (R-hat), draws
worth few independent ones (ESS), chains that are stuck or lost; or that chains of a handful of
draws show nothing at all. That a right run is short is no reason.

{NON_FINITE}

  python -m poe sample examples/compositions/gaussians.toml --num 10000
  python -m poe sample examples/compositions/not.toml --output draws.safetensors --json
  python -m poe sample examples/compositions/not.toml --kernel "HMC(num_steps=8)" --warmup 500
  python -m poe sample examples/compositions/not.toml --num 1000 --until "Reached(ess=400)"
  python -m poe sample examples/compositions/digits.toml --num 16 --chains 16 \\
      --noise-ladder 0.6,0.3 --steps-per-level 4 --output digits.safetensors --output digits.png
"""

SUFFIXES = (".safetensors", ".png")


def add(commands: Any) -> None:
    """Add the command's parser."""
    line = "draws of a composition, with what they are worth"
    command = new_command(commands, "sample", line, DESCRIPTION)
    add_composition(command)
    command.add_argument("--num", type=positive, default=4000, help="draws, at least (4000)")
    add_seed(command)
    command.add_argument(
        "--kernel", help='by its name in poe.samplers, such as "MALA(step_size=0.1)"; else chosen'
    )
    command.add_argument(
        "--noise-ladder",
        type=levels,
        metavar="A,B,...",
        help="walk down these levels of noise first, which experts of noised data have",
    )
    command.add_argument("--steps-per-level", type=positive, default=100, help="on it (100)")
    command.add_argument(
        "--until",
        metavar="REACHED",
        help='go on from --num until it is enough, such as "Reached(ess=400, max_seconds=60)"',
    )
    command.add_argument(
        "--chains", type=positive, help="default: 4 to 128, by --num and dimension"
    )
    command.add_argument("--warmup", type=positive, help="steps before the first draw")
    command.add_argument(
        "--output",
        type=Path,
        action="append",
        default=[],
        help="a .safetensors for the draws, or a .png for a grid of pictures; may be repeated",
    )
    command.add_argument(
        "--checkpoint", type=Path, help="default: beside the first output, or here, by its name"
    )
    add_json(command)
    add_quiet(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace, top: argparse.ArgumentParser) -> ExitCode:
    """Draw, write, and report."""
    import poe
    from poe.cli.composition import read
    from poe.cli.settings import classes, named

    product = read(options.composition).product()
    require_writable(options.output, product.space)
    checkpoint = chosen_checkpoint(options)
    require_distinct(options.composition, *options.output, *kept(checkpoint))
    kernel = None
    if options.kernel is not None:
        kernel = named(options.kernel, classes(poe.samplers, "step"), product.space)
    if options.noise_ladder is not None:
        kernel = down_the_ladder(product, kernel, options)
    until = None
    if options.until is not None:
        until = named(options.until, {"Reached": poe.Reached}, product.space)
    before = stamps(checkpoint)
    try:
        draws = draw(product, kernel, until, options, checkpoint)
        write(draws, options.output, options.quiet)
    except KeyboardInterrupt:
        note("sample", how_to_go_on(options, checkpoint))
        return ExitCode.INTERRUPTED
    forget(before)
    return report(draws, options.output, options.json)


def levels(text: str) -> tuple[float, ...]:
    """Numbers between commas."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected numbers between commas, such as 0.6,0.3, got {text!r}"
        ) from error


def down_the_ladder(
    product: Product, kernel: Kernel | None, options: argparse.Namespace
) -> AnnealedLangevin:
    """The kernel (MALA, where there is none) at each level of noise, and then at the product."""
    import experts
    from poe.samplers import MALA, AnnealedLangevin

    try:
        ladder = experts.noised.noise_ladder(product, options.noise_ladder)
    except PoeError as error:
        raise BadInput(f"--noise-ladder: {error}") from error
    return AnnealedLangevin(ladder, kernel or MALA(), options.steps_per_level)


def draw(
    product: Product,
    kernel: Kernel | None,
    until: Reached | None,
    options: argparse.Namespace,
    checkpoint: Path | None,
) -> Draws:
    """What ``poe.sample`` gives; what it warns of is in the summary as well."""
    import torch

    import poe

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)
        return poe.sample(
            product,
            options.num,
            kernel=kernel,
            num_chains=options.chains,
            warmup=options.warmup,
            generator=torch.Generator().manual_seed(options.seed),
            progress=not options.quiet,
            checkpoint=checkpoint,
            until=until,
        )


def require_writable(outputs: list[Path], space: Space) -> None:
    """Raise BadInput for an output that could not be written, before anything is drawn."""
    from poe.cli.points import require_pictures

    for path in outputs:
        if path.suffix not in SUFFIXES:
            raise BadInput(f"{path}: expected an output that ends in {' or '.join(SUFFIXES)}")
        if path.suffix == ".png":
            require_pictures(space)
        with as_bad_input(path):
            require_room(path)
            require_own_picture(path) if path.suffix == ".png" else require_own(path, DRAWS)


def require_distinct(*paths: Path) -> None:
    """Raise BadInput where two of the files are one: by links, or but for upper and lower case."""
    for one, other in itertools.combinations(paths, 2):
        names = [os.path.realpath(path).casefold() for path in (one, other)]
        is_linked = one.exists() and other.exists() and one.samefile(other)
        if names[0] == names[1] or is_linked:
            raise BadInput(
                f"expected a file each for composition, outputs and checkpoint, got {one} and "
                f"{other}, which are one: give another name"
            )


def write(draws: Draws, outputs: list[Path], quiet: bool) -> None:
    """Every file that was asked for."""
    from poe.cli import points as picture
    from poe.draws.store import save_draws

    for path in outputs:
        try:
            (picture.write if path.suffix == ".png" else save_draws)(draws, path)
        except OSError as error:
            raise StorageError(f"{path}: expected to write there, got {error}") from error
        if not quiet:
            note("sample", f"wrote {path}")
