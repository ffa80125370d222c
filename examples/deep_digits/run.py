"""A deep Boltzmann machine of small digits, where all that is only bounded elsewhere is exact.

1,797 handwritten digits of 8 x 8 pixels (scikit-learn), black or white. Layers of 64, 16 and 12
units are pre-trained one by one with doubled weights and then trained together. With 16 units in
the odd layer log Z is a sum over 2^16 states, and so are exact draws and log p(x): the table sets
them beside the bound that mean field gives, and beside an RBM of 16 hidden units.

    python -m examples.deep_digits [--output deep_digits.png] [--fast]
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from torch import Tensor

import experts
import poe
from examples.common import options, small_digits, wall

SIDE, HIDDEN, TOP = 8, 16, 12


def digits(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Bits to train on and to test on: (1500, 64), (297, 64)."""
    x, _ = small_digits(generator)
    return x[:1500], x[1500:]


def log_probabilities(dbm: experts.DBM, rows: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x) at the rows (n, 64), and its bound by mean field: (n,) each."""
    visible, log_z = experts.VisibleDBM(dbm), poe.log_partition(dbm, progress=False).value
    exact = poe.log_density_bounds(visible, rows).lower
    return exact - log_z, visible(rows) - log_z


def trained(
    sizes: tuple[int, ...], train: Tensor, test: Tensor, num_epochs: int, g: torch.Generator
) -> tuple[experts.DBM, dict[int, tuple[float, float]]]:
    """The model, and by epoch the mean of log p(x) over training and test rows."""
    curve = {}

    def report(epoch: int, dbm: experts.DBM) -> None:
        if epoch % (num_epochs // 5) == 0:
            both = torch.cat([train[: len(test)], test])
            values = log_probabilities(dbm, both)[0]
            curve[epoch] = (float(values[: len(test)].mean()), float(values[len(test) :].mean()))

    start = experts.boltzmann.training.pretrain_dbm(
        train, sizes, num_epochs=10, generator=g, progress=False
    )
    report(0, start)
    dbm = experts.boltzmann.training.fit_dbm(
        start,
        train,
        num_epochs=num_epochs,
        batch_size=50,
        num_chains=200,
        generator=g,
        report=report,
        progress=False,
    )
    return dbm, curve


def faces_of_draws(dbm: experts.DBM, count: int, g: torch.Generator) -> Tensor:
    """p(x = 1 | h1) for exact draws of the hidden layers: (count, 64)."""
    draws = poe.sample(dbm, count, generator=g, progress=False)
    print(f"{count} draws of the deep Boltzmann machine: {draws.guarantee}")
    layers = dbm.split(draws.samples.flatten(0, 1))
    layers[1] = torch.bernoulli(dbm.log_odds(layers, 1).sigmoid(), generator=g)
    return dbm.log_odds(layers, 0).sigmoid()


def tiled(rows: Tensor, columns: int) -> Tensor:
    """Pictures (n, 64) side by side."""
    return wall(rows.unflatten(1, (SIDE, SIDE)), columns)


def draw_figure(
    dbm: experts.DBM, curves: dict[str, dict[int, tuple[float, float]]], panels: dict[str, Tensor],
    path: Path,
) -> None:  # fmt: skip
    """Digits, draws, what the hidden units like, and log p(x) by epoch."""
    filters = {
        f"{HIDDEN} units of layer 1: their weights to x": tiled(dbm.W0.mT, 4),
        f"{TOP} units of layer 2: through layer 1": tiled((dbm.W0 @ dbm.W1).mT, 4),
    }
    figure, axes = plt.subplots(1, 5, figsize=(17, 3.9), layout="constrained")
    for axis, (title, rows) in zip(axes, panels.items(), strict=False):
        axis.imshow(tiled(rows, 6), cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(title, fontsize=10)
    for axis, (title, picture) in zip(axes[2:], filters.items(), strict=False):
        limit = float(picture[~picture.isnan()].abs().max())
        axis.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set_title(title, fontsize=10)
    for axis in axes[:4]:
        axis.set_axis_off()
    for colour, (name, curve) in zip(("#8a8a8a", "#1f4680"), curves.items(), strict=True):
        for k, (rows, style) in enumerate((("training", "--"), ("test", "-"))):
            values = [pair[k] for pair in curve.values()]
            axes[4].plot(list(curve), values, style, color=colour, label=f"{name}, {rows}")
    axes[4].set(xlabel="epoch", title="mean of log p(x), exact, nats")
    axes[4].set_ylim(bottom=max(min(a for a, _ in c.values()) for c in curves.values()) - 5)
    axes[4].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = options(__doc__, fast="few epochs, for a quick look", output="deep_digits.png")
    arguments = parser.parse_args()
    began, g = time.perf_counter(), torch.Generator().manual_seed(0)
    train, test = digits(g)
    rates = train.mean(0).clamp(1 / len(train), 1 - 1 / len(train))
    alone = (test * rates.log() + (1 - test) * (1 - rates).log()).sum(1).mean()
    print(f"{'mean over test digits, nats':<28}{'log p(x)':>10}{'bound':>10}")
    print(f"{'pixels by themselves':<28}{alone:>10.2f}")
    curves, dbm = {}, None
    for name, sizes in {
        "RBM": (SIDE**2, HIDDEN),
        "deep Boltzmann machine": (SIDE**2, HIDDEN, TOP),
    }.items():
        dbm, curves[name] = trained(sizes, train, test, 20 if arguments.fast else 300, g)
        exact, bound = (values.mean() for values in log_probabilities(dbm, test))
        print(f"{name:<28}{exact:>10.2f}{bound:>10.2f}")
    panels = {"digits": train[:36], "exact draws: p(x | h1)": faces_of_draws(dbm, 36, g)}
    draw_figure(dbm, curves, panels, arguments.output)
    print(f"wrote {arguments.output} after {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
