"""Words that experts agree on: a causal transformer, two constraints and a classifier.

The transformer has learned p(word), letter by letter, from a list of English words; a classifier
has learned from the same list which of them are names. The product asks for a word of the
transformer's that ends in "er", contains a "k" and is a name. Four ways to draw from it:

- rejection: words of the transformer, kept if both constraints hold and with probability
  p(name | word). Exact, and nearly all words are thrown away;
- letter by letter: each next letter reweighted by what the constraints and the classifier say of
  the prefix, then drawn, as constrained decoding does. Every step looks right, and the words are
  of **another distribution**;
- sequential Monte Carlo over positions: the same proposals, with the weights that make them draws
  of the product, and without and with moves that rewrite a suffix.

The table holds them against rejection, and says what each effective draw costs.

The list is Debian's (package wamerican), fetched by apt-get, which needs no root and installs
nothing, or a file with a word a line.

    python -m examples.words_by_agreement [--fast] [--words FILE] [--seed 0]
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import experts
import poe
from examples.common import CACHE, fetch_debian, options, seeded
from poe.diagnostics import normalized_weights

LETTERS = ".abcdefghijklmnopqrstuvwxyz"  # a word ends in dots
END, LENGTH = 0, 10
SUFFIX, LETTER = "er", "k"
SPACE = poe.Sequence(len(LETTERS), LENGTH)
NUM_ISLANDS = 16


def fetch(cache: Path) -> Path:
    """The list of words, downloaded and unpacked unless it is there."""
    found = cache / "usr/share/dict/american-english"
    if not found.exists():
        fetch_debian(["wamerican"], cache, "give a file with a word a line by --words FILE")
    return found


def read(file: Path) -> tuple[Tensor, Tensor]:
    """Words of 3 to 10 plain letters as tokens (n, 10), and whether they are names (n,)."""
    lines = file.read_text(encoding="utf-8").split()
    kept = [w for w in lines if w.isascii() and w.isalpha() and w[1:].islower()]
    kept = [w for w in kept if 3 <= len(w) <= LENGTH]
    tokens = torch.tensor([[LETTERS.index(c) for c in w.lower().ljust(LENGTH, ".")] for w in kept])
    return tokens, torch.tensor([int(w[0].isupper()) for w in kept])


def spelled(x: Tensor) -> str:
    """One word of tokens (10,)."""
    return "".join(LETTERS[i] for i in x.tolist()).rstrip(".")


class NameNet(nn.Module):
    """Logits of no name and of a name: one-hot letters (n, 10, 27) -> (n, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(len(LETTERS), 32)
        self.see = nn.Conv1d(32, 64, kernel_size=4, padding=3)
        self.out = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, z: Tensor) -> Tensor:
        return self.out(F.relu(self.see(self.embed(z).mT)).amax(-1))


def train(
    tokens: Tensor, is_name: Tensor, num_steps: int, generator: torch.Generator
) -> tuple[experts.CausalTransformer, experts.Classifier]:
    """Both networks, on the same batches."""
    with seeded(generator.initial_seed()):
        model = experts.CausalTransformer(len(LETTERS), LENGTH, width=48, num_heads=4, num_layers=2)
        classifier = experts.Classifier(NameNet(), SPACE)
    parameters = [*model.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(parameters, 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_steps)
    for step in range(num_steps):
        rows = torch.randint(len(tokens), (128,), generator=generator)
        x, label = tokens[rows], is_name[rows]
        words = -model.log_prob(x).mean()
        names = -classifier.log_density(x, label).mean()
        optimizer.zero_grad()
        (words + names).backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == num_steps - 1:
            print(f"step {step}: {words:.2f} nats a word, {names:.3f} nats a label", flush=True)
    return model.requires_grad_(False).eval(), classifier.requires_grad_(False).eval()


def ends_in(suffix: Tensor, x: Tensor) -> Tensor:
    """Whether words (n, 10) end in these letters: (n,)."""
    length = (x != END).sum(1, keepdim=True)
    places = length - len(suffix) + torch.arange(len(suffix))
    is_ended = ((x == END).cummax(1).values == (x == END)).all(1)  # no letter after a dot
    return is_ended & (places >= 0).all(1) & (x.gather(1, places.clamp(min=0)) == suffix).all(1)


def matched(suffix: Tensor, prefix: Tensor) -> Tensor:
    """How many letters at the end of prefixes (n, t) are the first ones of the suffix: (n,)."""
    found = torch.zeros(len(prefix), dtype=torch.long)
    for size in range(1, min(len(suffix), prefix.shape[1]) + 1):
        is_same = (prefix[:, -size:] == suffix[:size]).all(1)
        found = torch.where(is_same, size, found)
    return found


class Wishes(NamedTuple):
    """The constraints, and what they say of prefixes."""

    suffix: poe.Expert
    letter: poe.Expert
    ahead: poe.Twist


def wishes() -> Wishes:
    """Ends in the suffix, contains the letter; ahead of the end, a bonus for what is there."""
    suffix = torch.tensor([LETTERS.index(c) for c in SUFFIX])
    letter = LETTERS.index(LETTER)

    def allow(is_allowed: Tensor) -> Tensor:
        return torch.where(is_allowed, 0.0, -torch.inf)

    def ahead(prefix: Tensor) -> Tensor:
        has_letter, part = (prefix == letter).any(1), matched(suffix, prefix)
        is_over = (prefix == END).any(1)
        room = LENGTH - prefix.shape[1]
        missing = len(suffix) - part + torch.where(has_letter, 0, 1)
        padded = F.pad(prefix, (0, room))
        is_open = torch.where(is_over, ends_in(suffix, padded) & has_letter, missing <= room)
        bonus = 2.0 * has_letter + 1.5 * torch.where(is_over, len(suffix), part)
        return bonus + allow(is_open)

    return Wishes(
        poe.FromLogDensity(lambda x: allow(ends_in(suffix, x)), space=SPACE),
        poe.FromLogDensity(lambda x: allow((x == letter).any(1)), space=SPACE),
        poe.OnPrefixes(ahead, SPACE),
    )


class Row(NamedTuple):
    """One way to draw: words of the transformer that it cost, log Z, means with their errors."""

    name: str
    num_words: int
    log_z: tuple[float, float]
    length: tuple[float, float]
    log_prob: tuple[float, float]
    spread: float
    words: list[str]


def features(model: poe.Expert, x: Tensor) -> Tensor:
    """Length of the words and their log-probability for the transformer: (..., 2)."""
    flat = x.reshape(-1, LENGTH)
    values = torch.stack([(flat != END).sum(1).float(), model(flat)], -1)
    return values.double().reshape(*x.shape[:-1], 2)


def by_rejection(
    model: experts.CausalTransformer, rest: poe.Expert, num_words: int, generator: torch.Generator
) -> Row:
    """Words kept with the probability that the other experts give them: exact."""
    kept = []
    for first in range(0, num_words, 20_000):
        x = model.sample(min(20_000, num_words - first), generator=generator)
        kept.append(x[torch.rand(len(x), generator=generator) < rest(x).exp()])
    x = torch.cat(kept)
    rate = len(x) / num_words
    seen = features(model, x)
    means, errors = seen.mean(0).tolist(), (seen.std(0) / math.sqrt(len(x))).tolist()
    log_z = (math.log(rate), math.sqrt((1 - rate) / len(x)))
    spread = seen[:, 0].var().item()
    pairs = list(zip(means, errors, strict=True))
    return Row("rejection", num_words, log_z, *pairs, spread, [spelled(row) for row in x[:8]])


def by_islands(
    name: str, model: poe.Expert, draws: poe.Draws, cost: int, generator: torch.Generator
) -> Row:
    """Weighted means, their errors by the spread of the islands."""
    assert draws.log_weights is not None
    weights = normalized_weights(draws.log_weights)
    seen = features(model, draws.samples)
    means = (weights[..., None] * seen).sum((0, 1))
    residual = (weights[..., None] * (seen - means)).sum(1)
    islands = len(residual)
    errors = (residual.square().sum(0) * islands / (islands - 1)).sqrt()
    spread = (weights * (seen[..., 0] - means[0]).square()).sum().item()
    shown = torch.multinomial(weights.flatten(), 8, True, generator=generator)
    words = [spelled(row) for row in draws.samples.flatten(0, 1)[shown]]
    found = draws.log_partition
    log_z = (math.nan, math.nan) if found is None else (float(found.value), float(found.std_error))
    pairs = list(zip(means.tolist(), errors.tolist(), strict=True))
    return Row(name, cost * seen[..., 0].numel(), log_z, *pairs, spread, words)


def letter_by_letter(
    target: poe.Product, local: poe.LocalProduct, num_samples: int, generator: torch.Generator
) -> poe.Draws:
    """Draws of the local product, those that satisfy the constraints, as if they were the target's.

    In islands of equal weights, so that errors are told alike.
    """
    x = local.sample(2 * num_samples, generator=generator)
    values = target(x)
    x, values = x[values > -torch.inf], values[values > -torch.inf]
    size = len(x) // NUM_ISLANDS
    x, values = (part[: size * NUM_ISLANDS] for part in (x, values))
    shape = (NUM_ISLANDS, size)
    even = torch.zeros(shape, dtype=torch.float64)
    return poe.Draws(x.reshape(*shape, -1), values.reshape(shape), "biased", log_weights=even)


def print_table(rows: list[Row]) -> None:
    """One line for each way; z against rejection, in standard errors of the difference."""
    exact = rows[0]
    print(
        f"\n{'':<18}{'log Z':>16}{'mean length':>16}{'z':>7}{'log p(word)':>18}{'z':>7}"
        f"{'words an effective draw':>26}"
    )
    for row in rows:
        cells = [f"{row.name:<18}", f"{_pair(row.log_z, 3):>16}"]
        for mine, theirs, width in (
            (row.length, exact.length, 16),
            (row.log_prob, exact.log_prob, 18),
        ):
            error = math.hypot(mine[1], theirs[1])
            z = "" if row is exact else f"{(mine[0] - theirs[0]) / error:.1f}"
            cells.append(f"{_pair(mine, 2):>{width}}{z:>7}")
        effective = row.spread / row.length[1] ** 2
        print("".join(cells) + f"{row.num_words / effective:>26.0f}")
    for row in rows:
        print(f"{row.name:<18}{' '.join(row.words)}")


def _pair(value: tuple[float, float], digits: int) -> str:
    if math.isnan(value[0]):
        return "-"
    return f"{value[0]:.{digits}f} +- {value[1]:.{digits}f}"


def _spent(began: tuple[float, float]) -> str:
    clock, processor = began
    return f"{time.perf_counter() - clock:.0f} s ({time.process_time() - processor:.0f} s of CPU)"


def main() -> None:
    parser = options(__doc__, fast="less training and fewer words")
    parser.add_argument("--words", type=Path, help="a file with a word a line")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    began = (time.perf_counter(), time.process_time())
    generator = torch.Generator().manual_seed(arguments.seed)
    tokens, is_name = read(arguments.words or fetch(CACHE / "words"))
    print(f"{len(tokens)} words, {is_name.float().mean():.0%} of them names")
    model, classifier = train(tokens, is_name, 200 if arguments.fast else 2000, generator)
    print(f"trained after {_spent(began)}")

    wish, name = wishes(), classifier.given(1)
    rest = poe.Product(suffix=wish.suffix, letter=wish.letter, name=name)
    target = poe.Product(words=model) * rest
    local = poe.LocalProduct(SPACE, [*poe.twists(target), wish.ahead])
    count = 1_000 if arguments.fast else 16_000
    rows = [by_rejection(model, rest, 25 * count, generator)]
    biased = letter_by_letter(target, local, count, generator)
    rows.append(by_islands("letter by letter", model, biased, 2, generator))
    for title, num_moves in (("SMC", 0), ("SMC and 3 moves", 3)):
        draws = poe.smc_over_positions(
            target,
            count,
            twists=(wish.ahead,),
            num_moves=num_moves,
            generator=generator,
            progress=False,
        )
        rows.append(by_islands(title, model, draws, 1 + num_moves, generator))
    print_table(rows)
    print(f"{_spent(began)} in all")


if __name__ == "__main__":
    main()
