"""``python -m poe demo``: the main job, digits that three experts agree on."""

from __future__ import annotations

import argparse
import importlib.util
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from poe.cli.terminal import ExitCode, finite, seed
from poe.demo.attributes import CLASSES, SLANTS, THICKNESSES, Combination

DEMO = """\
Compose three pretrained experts of handwritten digits, each of which knows one attribute only (an
autoregressive model the class, a normalizing flow the slant, a neural energy the thickness of the
stroke), and sample what all three agree on: p(x|class) p(x|slant) p(x|thickness) / p(x)^k.
Writes demo.png and demo.json, and prints the table.

  python -m poe demo                                       every combination
  python -m poe demo --digit 7 --slant right --thickness thick      one combination
  python -m poe demo --fast                                a few short chains: only a check
"""


def add(commands: Any) -> None:
    """Add the command's parser."""
    demo = commands.add_parser(
        "demo",
        help="the main job: class AND slant AND thickness of handwritten digits",
        description=DEMO,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--digit", choices=CLASSES, help="one class; give all three attributes")
    demo.add_argument("--slant", choices=SLANTS)
    demo.add_argument("--thickness", choices=THICKNESSES)
    demo.add_argument("--prior-exponent", type=finite, metavar="K", help="default: the plan's")
    demo.add_argument("--seed", type=seed, default=0)
    demo.add_argument("--fast", action="store_true", help="few short chains: a check, no figures")
    demo.add_argument("--output", type=Path, default=Path("demo"), help="folder (default demo)")
    demo.set_defaults(run=run)


def chosen(options: argparse.Namespace, top: argparse.ArgumentParser) -> Combination | None:
    """The combination asked for, or None for all."""
    asked = (options.digit, options.slant, options.thickness)
    if asked == (None, None, None):
        return None
    if None in asked:
        top.error("give --digit, --slant and --thickness together, or none of them")
    return Combination(
        CLASSES.index(options.digit),
        SLANTS.index(options.slant),
        THICKNESSES.index(options.thickness),
    )


def require_libraries() -> None:
    """Exit with the remedy where one is missing that is needed only after minutes."""
    for library in ("matplotlib", "scipy", "skimage"):
        if importlib.util.find_spec(library) is None:
            raise SystemExit(
                f'python -m poe demo needs {library}: pip install "product-of-experts[demo]"'
            )


def run(options: argparse.Namespace, top: argparse.ArgumentParser) -> ExitCode:
    """Make the picture and the table."""
    # Imports took processor time before this clock was first read: count them too.
    began = time.perf_counter() - time.process_time()
    combination = chosen(options, top)
    require_libraries()

    # Only now, so that help and refusals come without loading a model.
    from poe.demo.plan import FAST, Plan
    from poe.demo.run import run as make

    plan = FAST if options.fast else Plan()
    plan = plan if combination is None else plan.only(combination)
    plan = replace(plan, seed=options.seed)
    if options.prior_exponent is not None:
        plan = replace(plan, prior_exponent=options.prior_exponent)
    make(plan, options.output, began)
    return ExitCode.OK
