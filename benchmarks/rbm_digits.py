"""RBMs of binarised digits: test log-probability by annealed importance sampling, and its bounds.

    python benchmarks/rbm_digits.py binarized_mnist.npz [--checkpoint file.safetensors]

The file is as in ``binary_digits.py``. Two RBMs are trained on all of ``train`` by persistent
contrastive divergence: with 20 hidden units, where log Z is exact, and with 500. These see digits
that are turned, stretched, sheared and moved a little, anew each time: there is but one draw of
each digit's bits, and they would learn them by heart. Salakhutdinov & Murray 2008 report -86.34
nats for 500 hidden units trained by CD-25; they drew the bits anew. ``--tune`` trains on all but
the last 10,000 rows and scores those in place of the test set.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path

import torch
from binary_digits import digits, distorted
from torch import Tensor

import experts
import poe

VALIDATION = 10_000
EPOCHS = {20: 30, 500: 250}
"""Of each number of hidden units."""
FAST = {6: 1, 30: 1}
MOMENTUM = 0.0
AVERAGED = 0.3
MAX_EXACT = 25


def trained(data: Tensor, num_hidden: int, num_epochs: int, checkpoint: Path | None) -> experts.RBM:
    """By PCD with 100 chains, one sweep an update."""
    augment = distorted if num_hidden > MAX_EXACT else None
    return experts.boltzmann.training.fit_rbm(
        data, num_hidden, num_epochs=num_epochs, momentum=MOMENTUM, averaged=AVERAGED,
        augment=augment, checkpoint=checkpoint, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip


def annealed(rbm: experts.RBM, data: Tensor, num_levels: int) -> tuple[poe.LogPartition, float]:
    """log Z from the data's base rates, and the seconds it took."""
    began = time.perf_counter()
    base = experts.Bernoulli(experts.families.data_log_odds(data))
    method = experts.boltzmann.BaseRateAIS(num_chains=128, num_levels=num_levels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)  # printed below
        found = poe.log_partition(
            rbm, start=base, method=method, generator=torch.Generator().manual_seed(1)
        )
    return found, time.perf_counter() - began


def report(rbm: experts.RBM, found: poe.LogPartition, test: Tensor) -> None:
    """log Z with its bounds, and the mean log-probability of the test rows."""
    with torch.no_grad():
        values = torch.cat([rbm(rows.float()) for rows in test.split(1000)]).double()
    mean = (values.mean() - found.value.double()).item()
    spread = (values.std() / math.sqrt(len(values))).item()
    lower, upper = (values.mean() - bound.double() for bound in (found.upper, found.lower))
    print(
        f"  log Z {found.value:.3f} +- {found.std_error:.3f}, bounds {found.lower:.3f} to "
        f"{found.upper:.3f} ({found.upper - found.lower:.3f} apart), ess {found.ess:.1f}"
    )
    for remark in found.remarks:
        print(f"  not to be trusted: {remark}")
    print(
        f"  log-probability of {len(values)} rows: {mean:.3f} +- {found.std_error:.3f} for log Z "
        f"(+- {spread:.3f} for the choice of rows), bounds {lower:.3f} to {upper:.3f}"
    )


def draw_figure(rbm: experts.RBM, data: Tensor, path: Path) -> None:
    """Rows of data, what 2000 sweeps make of them, and filters: 100 of each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = data[:100].float()
    g = torch.Generator().manual_seed(2)
    draws = experts.boltzmann.sweep(rbm, rows, num_steps=2000, generator=g)
    panels = {"digits": rows, "draws, 2000 sweeps on": draws, "filters": rbm.W.T[:100]}
    figure, axes = plt.subplots(1, 3, figsize=(15, 5), layout="constrained")
    for axis, (title, pictures) in zip(axes, panels.items(), strict=True):
        # Each row of the file holds its picture column by column.
        wall = pictures.reshape(10, 10, 28, 28).permute(0, 3, 1, 2).reshape(280, 280)
        limit = float(wall.abs().quantile(0.999))
        is_signed = bool((wall < 0).any())
        axis.imshow(wall, cmap="RdBu_r" if is_signed else "gray_r",
                    vmin=-limit if is_signed else 0, vmax=limit)  # fmt: skip
        axis.set_title(title)
        axis.set_axis_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Train both, and print what is known of log Z and of the test set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("path", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="where training of the 500 may be resumed")
    parser.add_argument("--levels", type=int, default=10_000)
    parser.add_argument("--output", type=Path, help="a picture of digits, draws and filters")
    parser.add_argument("--tune", action="store_true", help="never look at the test set")
    parser.add_argument("--fast", action="store_true", help="for tests: few rows, units and epochs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = digits(options.path)
    if options.tune:
        train, test = train[:-VALIDATION], train[-VALIDATION:]
    if options.fast:
        train, test = train[:1000], test[:1000]
    levels = 100 if options.fast else options.levels
    for num_hidden, num_epochs in (FAST if options.fast else EPOCHS).items():
        checkpoint = options.checkpoint if num_hidden > MAX_EXACT else None
        rbm = trained(train, num_hidden, num_epochs, checkpoint)
        found, seconds = annealed(rbm, train, levels)
        print(f"{num_hidden} hidden units, {num_epochs} epochs; annealed in {seconds:.0f} s")
        report(rbm, found, test)
        if num_hidden <= MAX_EXACT:
            exact = poe.log_partition(rbm).value
            print(f"  exact log Z {exact:.3f}: annealed is off by {found.value - exact:+.3f}")
    if options.output is not None:
        draw_figure(rbm, train, options.output)


if __name__ == "__main__":
    main()
