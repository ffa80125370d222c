"""A deep Boltzmann machine of binarised digits: the lower bound on its test log-probability.

    python benchmarks/dbm_digits.py binarized_mnist.npz [--start rbm] [--epochs 40]
        [--rbm rbm.safetensors] [--checkpoint dbm.safetensors] [--output directory] [--fast]

The file has arrays ``train`` and ``test`` of packed bits (numpy.packbits along rows of 784). Two
hidden layers are trained together on all of ``train``; log Z is by annealed importance sampling
from base rates and back. They start either from an RBM of 500 units, the one of
``benchmarks/rbm_digits.py``, whose checkpoint ``--rbm`` names, under a blank layer of 500 more; or,
with ``--start pretrained``, from layers of 500 and 1000 units pre-trained with doubled weights.
Training can be stopped and goes on from the checkpoints. Salakhutdinov & Hinton 2009 report a bound
of -84.62 nats for 500 and 1000 units (their digits were binarised at random too).
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import experts
import poe

GOAL = -85.0
RATES = {"rbm": 0.002, "pretrained": 0.005}
"""Learning rates of the joint training: what an RBM has settled on is not to be shaken up."""
WEIGHT_DECAY = {"rbm": 1e-3, "pretrained": 3e-4}
"""From an RBM, 1e-4 with a rate of 0.003 left training rows 3.1 nats above test rows."""


def digits(path: Path) -> tuple[Tensor, Tensor]:
    """Rows of bits to train on and to test on: uint8 ``(n, 784)``."""
    with np.load(path) as file:
        train, test = (np.unpackbits(file[name], axis=1) for name in ("train", "test"))
    return torch.from_numpy(train), torch.from_numpy(test)


def start_of(kind: str, train: Tensor, rbm_epochs: int, rbm_checkpoint: Path | None) -> experts.DBM:
    """What joint training begins at."""
    g = torch.Generator().manual_seed(0)
    if kind == "pretrained":
        return experts.pretrain_dbm(train, (784, 500, 1000), num_epochs=2, generator=g)
    rbm = experts.fit_rbm(
        train, 500, num_epochs=rbm_epochs, momentum=0.0, checkpoint=rbm_checkpoint, generator=g
    )
    return experts.grow_dbm(rbm, 500, generator=torch.Generator().manual_seed(1))


def trained(start: experts.DBM, train: Tensor, arguments: argparse.Namespace) -> experts.DBM:
    """All layers together."""
    began = time.perf_counter()

    def report(epoch: int, dbm: experts.DBM) -> None:
        print(f"  epoch {epoch} after {time.perf_counter() - began:.0f} s", flush=True)

    return experts.fit_dbm(
        start,
        train,
        num_epochs=arguments.epochs,
        learning_rate=arguments.rate or RATES[arguments.start],
        weight_decay=WEIGHT_DECAY[arguments.start],
        generator=torch.Generator().manual_seed(2),
        checkpoint=arguments.checkpoint,
        report=report,
    )


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
    parser.add_argument("--start", choices=RATES, default="rbm")
    parser.add_argument("--epochs", type=int, default=40, help="of the joint training")
    parser.add_argument("--rate", type=float, help="learning rate of the joint training")
    parser.add_argument("--levels", type=int, default=5000, help="of the annealing")
    parser.add_argument("--rbm", type=Path, help="checkpoint of the RBM's training")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint of the joint training")
    parser.add_argument("--output", type=Path, help="a directory to save the expert in")
    parser.add_argument("--fast", action="store_true", help="a tenth of the rows, few epochs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # On AMD's processors this chooses a library twice as fast. Where it may round the factors to
    # bfloat16, training is still the same to its noise; what is printed is in full precision.
    torch.set_float32_matmul_precision("medium")
    train, test = digits(arguments.data)
    rbm_epochs = 250
    if arguments.fast:
        train, test = train[:6000], test[:1000]
        arguments.epochs, arguments.levels, rbm_epochs = 3, 1000, 10
    start = start_of(arguments.start, train, rbm_epochs, arguments.rbm)
    dbm = trained(start, train, arguments)
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
