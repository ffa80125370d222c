"""A deep Boltzmann machine of binarised digits: the lower bound on its test log-probability.

    python benchmarks/dbm_digits.py binarized_mnist.npz [--checkpoints directory]
        [--output directory] [--levels 10000] [--fast]

The file is as in ``binary_digits.py``. The RBM of 500 units that ``rbm_digits.py`` trains gets a
blank layer of 500 more, and all layers are trained together: first on digits that are turned,
stretched, sheared and moved a little, anew each time, since there is but one draw of each digit's
bits, and they would be learned by heart; then for a third as many epochs on the digits as they
are. log Z is by annealed importance sampling from base rates and back. Training can be stopped and
goes on from the checkpoints.

Salakhutdinov & Hinton 2009 report a bound of -84.62 nats for layers of 500 and 1000; they drew the
bits of a digit anew each time that it was shown.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import rbm_digits
import torch
from binary_digits import digits, distorted
from torch import Tensor

import experts
import poe

GOAL = -85.0
NUM_UNITS = 500
"""Of the second hidden layer."""


class Phase(NamedTuple):
    """One call of ``experts.boltzmann.training.fit_dbm``."""

    name: str
    num_epochs: int
    learning_rate: float
    augment: Callable[[Tensor, torch.Generator], Tensor] | None


def phases(num_epochs: int) -> tuple[Phase, Phase]:
    """With the rates for what an RBM has settled on, which is not to be shaken up."""
    return (
        Phase("dbm_distorted", num_epochs, 0.004, distorted),
        Phase("dbm_as_they_are", max(1, num_epochs // 3), 0.001, None),
    )


def trained(rbm: experts.RBM, train: Tensor, num_epochs: int, directory: Path) -> experts.DBM:
    """All layers together, from the RBM under a blank layer."""
    dbm = experts.boltzmann.training.grow_dbm(
        rbm, NUM_UNITS, generator=torch.Generator().manual_seed(1)
    )
    began = time.perf_counter()

    def report(epoch: int, dbm: experts.DBM) -> None:
        if epoch % 10 == 0:
            print(f"  epoch {epoch} after {time.perf_counter() - began:.0f} s", flush=True)

    for k, phase in enumerate(phases(num_epochs)):
        dbm = experts.boltzmann.training.fit_dbm(
            dbm,
            train,
            num_epochs=phase.num_epochs,
            learning_rate=phase.learning_rate,
            augment=phase.augment,
            generator=torch.Generator().manual_seed(2 + k),
            checkpoint=directory / f"{phase.name}.safetensors",
            report=report,
        )
    return dbm


def base_rates(dbm: experts.DBM, train: Tensor) -> experts.Bernoulli:
    """Independent even layers, with the means that they have by mean field on some of the data."""
    means = torch.cat(experts.boltzmann.mean_field(dbm, train[:5000])[::2], 1).mean(0)
    return experts.Bernoulli(means.clamp(1e-4, 1 - 1e-4).logit())


def annealed(dbm: experts.DBM, train: Tensor, num_levels: int) -> poe.LogPartition:
    """log Z, up and down."""
    method = experts.boltzmann.BaseRateAIS(num_chains=128, num_levels=num_levels)
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
    parser.add_argument("--epochs", type=int, default=60, help="on distorted digits")
    parser.add_argument("--levels", type=int, default=10_000, help="of the annealing")
    parser.add_argument("--checkpoints", type=Path, help="a directory for those of the training")
    parser.add_argument("--output", type=Path, help="a directory to save the expert in")
    parser.add_argument("--fast", action="store_true", help="a tenth of the rows, few epochs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # On AMD's processors this chooses a library twice as fast. Where it may round the factors to
    # bfloat16, training is still the same to its noise; what is printed is in full precision.
    torch.set_float32_matmul_precision("medium")
    train, test = digits(arguments.data)
    num_rbm_epochs = rbm_digits.EPOCHS[500]
    if arguments.fast:
        train, test = train[:6000], test[:1000]
        arguments.epochs, arguments.levels, num_rbm_epochs = 3, 1000, 10
    with tempfile.TemporaryDirectory() as scratch:
        directory = arguments.checkpoints or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        rbm = rbm_digits.trained(train, 500, num_rbm_epochs, directory / "rbm_500.safetensors")
        dbm = trained(rbm, train, arguments.epochs, directory)
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
