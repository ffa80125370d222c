"""A deep Boltzmann machine of binarised digits: the lower bound on its test log-probability.

    python benchmarks/dbm_digits.py binarized_mnist.npz [--epochs 500] [--checkpoints directory]
        [--output directory] [--levels 10000] [--validate] [--fast]

The file has arrays ``train`` and ``test`` of packed bits (numpy.packbits along rows of 784). Hidden
layers of 500 and 1000 units are pre-trained with doubled weights on ``train`` and then trained
together: first on digits that are turned, stretched, sheared and moved a little, anew each time,
since there is but one draw of each digit's bits and they would be learned by heart; then for a
tenth as many epochs on the digits as they are. log Z is by annealed importance sampling from base
rates and back. Training can be stopped and goes on from the checkpoints. With ``--validate`` the
last 5000 rows of ``train`` are kept apart and stand in for ``test``: settings were chosen so.

Salakhutdinov & Hinton 2009 report a bound of -84.62 nats for layers of this size; they drew the
bits of a digit anew each time that it was shown.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import experts
import poe

GOAL = -85.0
LAYERS = 784, 500, 1000
SIDE = 28


class Phase(NamedTuple):
    """One call of ``experts.fit_dbm``."""

    name: str
    num_epochs: int
    learning_rate: float
    augment: Callable[[Tensor, torch.Generator], Tensor] | None


def digits(path: Path) -> tuple[Tensor, Tensor]:
    """Rows of bits to train on and to test on: uint8 ``(n, 784)``."""
    with np.load(path) as file:
        train, test = (np.unpackbits(file[name], axis=1) for name in ("train", "test"))
    return torch.from_numpy(train), torch.from_numpy(test)


def distorted(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture ``(n, 784)`` turned, stretched, sheared and moved a little; bits stay bits."""
    turn, wide, high, shear, right, down = torch.randn(6, len(rows), generator=generator)
    turn, wide, high = 0.05 * turn, 1 + 0.04 * wide, 1 + 0.04 * high
    across = torch.stack([turn.cos() * wide, 0.06 * shear - turn.sin(), 0.02 * right], 1)
    along = torch.stack([turn.sin(), turn.cos() * high, 0.02 * down], 1)
    shape = len(rows), 1, SIDE, SIDE
    places = F.affine_grid(torch.stack([across, along], 1), shape, align_corners=False)
    moved = F.grid_sample(rows.view(shape), places, mode="nearest", align_corners=False)
    return moved.view_as(rows)


def trained(train: Tensor, phases: Sequence[Phase], directory: Path | None) -> experts.DBM:
    """Layer by layer, and then all layers together."""
    g = torch.Generator().manual_seed(0)
    dbm = experts.pretrain_dbm(train, LAYERS, num_epochs=2, generator=g)
    began = time.perf_counter()

    def report(epoch: int, dbm: experts.DBM) -> None:
        if epoch % 20 == 0:
            print(f"  epoch {epoch} after {time.perf_counter() - began:.0f} s", flush=True)

    for k, phase in enumerate(phases):
        dbm = experts.fit_dbm(
            dbm,
            train,
            num_epochs=phase.num_epochs,
            learning_rate=phase.learning_rate,
            augment=phase.augment,
            generator=torch.Generator().manual_seed(2 + k),
            checkpoint=None if directory is None else directory / f"{phase.name}.safetensors",
            report=report,
        )
    return dbm


def base_rates(dbm: experts.DBM, train: Tensor) -> experts.Bernoulli:
    """Independent even layers, with the means that they have by mean field on some of the data."""
    means = torch.cat(experts.mean_field(dbm, train[:5000])[::2], 1).mean(0)
    return experts.Bernoulli(means.clamp(1e-4, 1 - 1e-4).logit())


def annealed(dbm: experts.DBM, train: Tensor, num_levels: int) -> poe.LogPartition:
    """log Z, up and down."""
    method = experts.BaseRateAIS(num_chains=128, num_levels=num_levels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)  # printed below
        return poe.log_partition(
            dbm,
            method=method,
            start=base_rates(dbm, train),
            generator=torch.Generator().manual_seed(1),
        )


def report(dbm: experts.DBM, log_z: poe.LogPartition, rows: Tensor, name: str) -> float:
    """Print the mean bound on log p of the rows ``(n, 784)``; the mean itself."""
    visible = experts.VisibleDBM(dbm)
    with torch.no_grad():
        values = torch.cat([visible(part) for part in rows.split(1000)]).double()
    bound = (values.mean() - log_z.value.double()).item()
    error = (values.std() / math.sqrt(len(rows))).item()
    lower, upper = (values.mean() - end.double() for end in (log_z.upper, log_z.lower))
    print(
        f"  bound on the log-probability of {len(rows)} {name} rows: {bound:.3f} +- "
        f"{log_z.std_error:.3f} for log Z (+- {error:.3f} for the choice of rows), {lower:.3f} to "
        f"{upper:.3f} by the bounds on log Z"
    )
    return bound


def main() -> None:
    """Train, or go on, and print what is known of log Z and of the test set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=500, help="of the joint training")
    parser.add_argument("--levels", type=int, default=10_000, help="of the annealing")
    parser.add_argument("--checkpoints", type=Path, help="a directory for those of the training")
    parser.add_argument("--output", type=Path, help="a directory to save the expert in")
    parser.add_argument("--validate", action="store_true", help="leave the test rows alone")
    parser.add_argument("--fast", action="store_true", help="a tenth of the rows, few epochs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # On AMD's processors this chooses a library twice as fast. Where it may round the factors to
    # bfloat16, training is still the same to its noise; what is printed is in full precision.
    torch.set_float32_matmul_precision("medium")
    train, test = digits(arguments.data)
    if arguments.validate:
        train, test = train[:-5000], train[-5000:]
    if arguments.fast:
        train, test = train[:6000], test[:1000]
        arguments.epochs, arguments.levels = 10, 1000
    if arguments.checkpoints is not None:
        arguments.checkpoints.mkdir(parents=True, exist_ok=True)
    phases = (
        Phase("distorted", arguments.epochs, 0.006, distorted),
        Phase("as_they_are", max(1, arguments.epochs // 10), 0.002, None),
    )
    dbm = trained(train, phases, arguments.checkpoints)
    if arguments.output is not None:
        poe.save(dbm, arguments.output)
    torch.set_float32_matmul_precision("highest")
    began = time.perf_counter()
    log_z = annealed(dbm, train, arguments.levels)
    print(
        f"  log Z {log_z.value:.3f} +- {log_z.std_error:.3f}, bounds {log_z.lower:.3f} to "
        f"{log_z.upper:.3f} ({log_z.upper - log_z.lower:.3f} apart), ess {log_z.ess:.1f}, "
        f"{time.perf_counter() - began:.0f} s"
    )
    for remark in log_z.remarks:
        print(f"  not to be trusted: {remark}")
    report(dbm, log_z, train[: len(test)], "training")
    bound = report(dbm, log_z, test, "test")
    print(f"  goal {GOAL}: {'reached' if bound >= GOAL else 'not reached'}")


if __name__ == "__main__":
    main()
