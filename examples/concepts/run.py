"""Compose concepts that were learned apart: AND, OR, NOT, nested, and chains of three objects.

Prints three tables and draws a picture. What a sample shows is measured from its pixels.

    python -m examples.concepts [--fast] [--output concepts.png]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from examples.common import options
from examples.concepts import compositions, data
from examples.concepts.evaluate import (
    Chain,
    Made,
    Plan,
    asked,
    make_all_six,
    make_alternatives,
    make_chains,
    make_formulas,
    paper_noise,
    place_spread,
    places,
    reject,
)
from examples.concepts.formula import And, Formula, Not, Or, Over
from examples.concepts.picture import Row, draw_rows
from examples.concepts.read_out import centres
from examples.concepts.sampling import Schedule
from examples.concepts.weights import WEIGHTS

FAST = Plan(4, 4, 4, Schedule(levels=20, per_level=1, at_target=1))
SHOWN = 12


def percent(true: Tensor) -> str:
    """The share of true ones."""
    return f"{100 * true.float().mean():.1f}"


def with_error(true: Tensor) -> str:
    """The same with its standard error."""
    rate = true.float().mean()
    return f"{100 * rate:.1f} ± {100 * (rate * (1 - rate) / len(true)).sqrt():.1f}"


def ratio(new: Tensor, old: Tensor) -> str:
    """Of two shares of 1 among 0 and 1, with its standard error."""
    if not new.any() or not old.any():
        return "not defined"
    found = new.mean() / old.mean()
    error = found * ((1 / new.mean() - 1) / len(new) + (1 / old.mean() - 1) / len(old)).sqrt()
    return f"{found:.2f} ± {error:.2f}"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def header(*cells: str) -> str:
    return f"\n{line(*cells)}\n{'|---' * len(cells)}|"


def groups_of(n: int) -> dict[str, slice]:
    return {"seen": slice(0, n // 2), "held out": slice(n // 2, n)}


def print_all_six(found: Sequence[tuple[Made, Tensor]]) -> None:
    """One row for each way and group of combinations."""
    names = tuple(data.FACTORS)
    print(header("made by", "of", "n", *names, "all six, whole", "overlap", "spread", "noise"))
    for made, labels in found:
        for group, rows in groups_of(len(labels)).items():
            held = (made.reading.labels == labels)[rows].T
            right = with_error(made.is_right[rows])
            overlap = f"{made.reading.overlap[rows].mean():.2f}"
            spread = f"{place_spread(made):.2f}".replace("nan", "none right")
            extra = overlap, spread, f"{paper_noise(made.ink[rows]):.3f}"
            print(line(made.name, group, str(len(held.T)), *map(percent, held), right, *extra))
    print()
    for made, labels in found:
        seen, new = (made.is_right[rows].float() for rows in groups_of(len(labels)).values())
        draws = made.draws
        assert draws.acceptance_rate is not None
        print(
            f"{made.name}: held out / seen {ratio(new, seen)}; {draws.guarantee}; "
            f"acceptance at the target {draws.acceptance_rate.mean():.2f}; {draws.seconds:.0f} s"
        )


def print_rejection(accepted: Tensor) -> None:
    """How many of the combinations asked for turn up among as many draws of p(x)."""
    for group, rows in groups_of(len(accepted)).items():
        share = 100 * accepted[rows].float().mean()
        print(
            f"rejection, {group}: {with_error(accepted.any(1)[rows])} % of the combinations turn "
            f"up in {accepted.shape[1]} draws of p(x); one accepts {share:.2f} % of the draws"
        )


def labels_in(formula: Formula) -> list[Formula]:
    """The labels that a formula is made of."""
    match formula:
        case And(left, right) | Or(left, right) | Over(left, right):
            return labels_in(left) + labels_in(right)
        case Not(part):
            return [part]
    return [formula]


def print_formulas(found: Sequence[tuple[Formula, Made]]) -> None:
    """How often each holds, and the shares of its labels beside those that are due."""
    training = data.random_labels(20_000, torch.Generator().manual_seed(0), held_out=False)
    print(header("formula", "holds, whole", "shares among the whole (due)"))
    for formula, made in found:
        whole = made.reading.labels[made.reading.is_whole]
        weight = formula.ratio(training)
        shares = [
            f"{part} {percent(part.holds(whole))} "
            f"({100 * (weight * part.holds(training)).sum() / weight.sum():.0f})"
            for part in labels_in(formula)
        ]
        print(line(str(formula), with_error(made.is_right), ", ".join(shares)))


def print_chains(found: Sequence[Chain]) -> None:
    print(header("three objects", "each place", "all three places", "objects in a picture"))
    for chain in found:
        count = sum(len(one) for one in centres(chain.ink)) / len(chain.ink)
        print(line(chain.name, percent(chain.hits), with_error(chain.hits.all(1)), f"{count:.2f}"))


def title(labels: Tensor) -> str:
    """What is asked for, in words."""
    words = [one[i] for one, i in zip(data.FACTORS.values(), labels.tolist(), strict=True)]
    shape, colour, size, x, y, rotation = words
    return f"{size} {colour}\n{shape}\n{y} {x}\n{rotation}"


def draw_picture(
    path: Path,
    six: Sequence[tuple[Made, Tensor]],
    composed: Sequence[tuple[Formula, Made]],
    chains: Sequence[Chain],
    cells: Tensor,
) -> None:
    """A row for each way and group, each formula, and the chains with the places asked for."""
    rows = []
    for group in groups_of(0):
        for made, labels in six:
            which = groups_of(len(labels))[group]
            ink, right = made.ink[which][:SHOWN], made.is_right[which][:SHOWN]
            above = [title(one) for one in labels[which][:SHOWN]] if made is six[0][0] else None
            rows.append(Row(f"{made.name},\n{group}", ink, right, above))
    for formula, made in composed:
        name = str(formula).replace(" AND ", "\nAND ").replace(" OR ", "\nOR ")
        rows.append(Row(name, made.ink[:SHOWN], made.is_right[:SHOWN]))
    first = chains[0]
    right = first.hits.all(1)[:SHOWN]
    rows.append(Row("an object at each\nof three crosses", first.ink[:SHOWN], right, None, cells))
    draw_rows(path, rows)


def main() -> None:
    parser = options(__doc__, fast="few and short chains", output="concepts.png")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the weights")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plan = FAST if arguments.fast else Plan()
    concepts = compositions.load(arguments.weights)
    labels, fewer = asked(plan, plan.chains), asked(plan, plan.alternative_chains)
    cells = places(plan)
    six = [(make_all_six(concepts, labels, plan), labels)]
    six += [(made, fewer) for made in make_alternatives(concepts, fewer, plan)]
    print_all_six(six)
    print_rejection(reject(concepts, fewer, plan))
    composed = make_formulas(concepts, plan)
    print_formulas(composed)
    chains = make_chains(concepts, cells, plan)
    print_chains(chains)
    draw_picture(arguments.output, six, composed, chains, cells)
    print(f"\nwrote {arguments.output}")


if __name__ == "__main__":
    main()
