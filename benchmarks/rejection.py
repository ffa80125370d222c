"""The demo's alternative, with more samples than the demo has time for.

    python benchmarks/rejection.py

Rejection: of as many samples of the class expert as a chain of the demo's conjunction evaluates
that expert's density, the one that the other two experts like best. Prints how often the attributes
hold.
"""

from __future__ import annotations

import argparse

import torch

from poe.demo.attributes import HELD_OUT, TRAINING_COMBINATIONS
from poe.demo.conjunction import load_experts
from poe.demo.evaluate import held, rates
from poe.demo.judge import load_judge
from poe.demo.plan import LONG
from poe.demo.rejection import best_of, draw_pool
from poe.demo.report import Report, Row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=4, help="of each combination (default 4)")
    parser.add_argument("--seed", type=int, default=100)
    options = parser.parse_args()
    parts, judge = load_experts(), load_judge()
    generator = torch.Generator().manual_seed(options.seed)
    pools = [draw_pool(parts, LONG.evaluations, generator) for _ in range(options.samples)]
    rows = []
    for name, group in (("training", TRAINING_COMBINATIONS), ("held out", HELD_OUT)):
        best = torch.cat([best_of(parts, pool, group) for pool in pools])
        found = held(best, group * len(pools), judge)
        rows.append(Row(f"rejection, {name}", len(best), rates(found)))
    print(Report(rows, {}, {}).table())


if __name__ == "__main__":
    main()
