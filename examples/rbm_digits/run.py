"""Restricted Boltzmann machines of handwritten digits: what they learn, and how probable it is.

Of 1797 digits of 8 x 8 pixels, made black and white, four fifths train and the rest test. Two RBMs
learn them by persistent contrastive divergence: one of 14 hidden units, whose log Z is exact, so
that its learning curve is too, and one of 100, whose log Z is annealed from base rates and back.

The table shows log-probabilities of the test digits in nats, beside independent pixels, and how
well a linear classifier reads the hidden units. The picture: digits, draws of the large RBM, its
filters, and the small one's learning curve.

    python -m examples.rbm_digits [--output rbm_digits.png] [--fast]
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import experts
import poe
from examples.common import options, small_digits, wall

SIDE = 8
SMALL, LARGE = 14, 100
ROWS = {"train": slice(0, 1437), "test": slice(1437, None)}


@torch.no_grad()
def mean_log_density(rbm: poe.Expert, x: Tensor) -> float:
    """Of rows, in nats."""
    return float(rbm(x).double().mean())


def accuracy(features: Tensor, labels: Tensor) -> float:
    """Of a linear classifier fitted to the training rows, on the test rows."""
    x, y = features.numpy(), labels.numpy()
    model = LogisticRegression(max_iter=2000).fit(x[ROWS["train"]], y[ROWS["train"]])
    return float(model.score(x[ROWS["test"]], y[ROWS["test"]]))


def learn_small(x: Tensor, num_epochs: int, generator: torch.Generator) -> dict[str, list[float]]:
    """The exact log-probability of training and test rows after every tenth of the epochs."""
    curve: dict[str, list[float]] = {"epoch": [], "train": [], "test": []}

    def note(epoch: int, rbm: experts.RBM) -> None:
        if epoch % max(1, num_epochs // 10) == 0:
            log_z = float(poe.log_partition(rbm).value)
            curve["epoch"].append(epoch)
            for part, rows in ROWS.items():
                curve[part].append(mean_log_density(rbm, x[rows]) - log_z)

    experts.boltzmann.training.fit_rbm(
        x[ROWS["train"]], SMALL, num_epochs=num_epochs, report=note, generator=generator
    )
    return curve


def print_table(x: Tensor, labels: Tensor, curve: dict[str, list[float]], large: experts.RBM,
                log_z: poe.LogPartition) -> None:  # fmt: skip
    """A row for each model."""
    test = x[ROWS["test"]]
    field = experts.Bernoulli(experts.families.data_log_odds(x[ROWS["train"]]))
    value = mean_log_density(large, test) - float(log_z.value)
    print(f"{'':<22}{'test log p, nats':>20}{'error of log Z':>18}{'accuracy':>12}")
    print(f"{'independent pixels':<22}{mean_log_density(field, test):>20.2f}{'exact':>18}"
          f"{accuracy(x, labels):>12.3f}")  # fmt: skip
    print(f"{f'RBM, {SMALL} hidden units':<22}{curve['test'][-1]:>20.2f}{'exact':>18}")
    print(f"{f'RBM, {LARGE} hidden units':<22}{value:>20.2f}{float(log_z.std_error):>18.3f}"
          f"{accuracy(large.hidden_probabilities(x), labels):>12.3f}")  # fmt: skip
    print(f"bounds on its log Z: {log_z.lower:.2f} to {log_z.upper:.2f}")


def draw_figure(panels: dict[str, Tensor], curve: dict[str, list[float]], path: Path) -> None:
    """Three walls of tiles, and the learning curve."""
    figure, axes = plt.subplots(1, 4, figsize=(15, 4), layout="constrained")
    for axis, (title, rows) in zip(axes[:3], panels.items(), strict=True):
        is_signed = bool((rows < 0).any())
        limits = (-rows.abs().max(), rows.abs().max()) if is_signed else (0, 1)
        tiles = wall(rows[:100].unflatten(1, (SIDE, SIDE)), columns=10)
        colours = "RdBu_r" if is_signed else "gray_r"
        axis.imshow(tiles, cmap=colours, vmin=limits[0], vmax=limits[1])
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    for part, style in (("train", "-"), ("test", "--")):
        axes[3].plot(curve["epoch"], curve[part], style, color="#1f4680", label=part)
    axes[3].set_title(f"exact log p of the RBM of {SMALL}", fontsize=11)
    axes[3].set(xlabel="epoch", ylabel="nats a digit")
    axes[3].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = options(__doc__, fast="fewer epochs, for a quick look", output="rbm_digits.png")
    arguments = parser.parse_args()
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    x, labels = small_digits(generator)
    train = x[ROWS["train"]]
    curve = learn_small(x, 60 if arguments.fast else 100, generator)
    large = experts.boltzmann.training.fit_rbm(
        train, LARGE, num_epochs=60 if arguments.fast else 200, weight_decay=1e-3,
        generator=generator,
    )  # fmt: skip
    log_z = poe.log_partition(
        large, start=experts.Bernoulli(experts.families.data_log_odds(train)),
        method=experts.boltzmann.BaseRateAIS(num_levels=300 if arguments.fast else 2000),
        generator=generator,
    )  # fmt: skip
    print_table(x, labels, curve, large, log_z)
    chosen = torch.randint(len(train), (100,), generator=generator)
    num_sweeps = 200 if arguments.fast else 1000
    draws = experts.boltzmann.sweep(large, train[chosen], num_steps=num_sweeps, generator=generator)
    panels = {
        "digits": train[chosen],
        f"draws of the RBM of {LARGE}, {num_sweeps} sweeps on": draws,
        "its filters": large.W.T,
    }
    draw_figure(panels, curve, arguments.output)
    print(f"wrote {arguments.output} after {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
