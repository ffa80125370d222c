"""What is told of draws: for a reader, for a program, and by the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from poe.cli.exit_code import ExitCode
from poe.cli.output import print_json
from poe.draws import Draws
from poe.draws.summary import Summary


def report(draws: Draws, outputs: list[Path], as_json: bool) -> ExitCode:
    """The summary on stdout, and whether to trust it."""
    summary = draws.summary()
    if as_json:
        print_json(facts(draws, summary) | {"outputs": [str(path) for path in outputs]})
    else:
        print(summary)
        if draws.choice:
            print(f"sampler: {type(draws.kernel).__name__}, {draws.choice}")
    return ExitCode.OK if is_trusted(draws, summary) else ExitCode.DOUBTFUL


def is_trusted(draws: Draws, summary: Summary) -> bool:
    """Whether nothing speaks against the draws; that exact ones are few does not."""
    if draws.guarantee == "exact":
        return not draws.doubts and not int(draws.num_nonfinite.sum())
    return not summary.warnings


def facts(draws: Draws, summary: Summary) -> dict[str, Any]:
    """The summary for a program: each statistic in the event's shape."""
    chains, length, *event = draws.samples.shape
    statistics = ("mean", "sd", "mcse", "ess_bulk", "ess_tail", "r_hat")
    rate = draws.acceptance_rate
    return {
        "guarantee": draws.guarantee,
        "is_trusted": is_trusted(draws, summary),
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
