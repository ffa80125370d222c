"""Block-Gibbs sweeps and epochs of training a second of an RBM, beside scikit-learn's.

    python benchmarks/rbm_sweeps.py [--threads 2]

784 x 500 units, float32, the same weights. A sweep draws the hidden layer, then the visible one;
the kernel also works out the log-density where it ends, from log-odds that the next sweep needs. An
epoch is one of persistent contrastive divergence on 2000 rows, in batches of 10, as BernoulliRBM
has it, or 100, with as many chains. Rounds in which all take turns; median, least and most of the
rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.neural_network import BernoulliRBM
from threadpoolctl import threadpool_limits

import experts
from experts.boltzmann.training import RBMFeatures
from poe.density.capabilities import conditionals
from poe.samplers import BlockGibbs

VISIBLE, HIDDEN = 784, 500
ROWS = 2000
PAUSE = 0.2
"""Seconds between turns: threads of the other's library wait in a loop for a while after theirs."""


def made_rbm() -> experts.RBM:
    """Weights of the size that training gives: N(0, 0.1²), biases N(0, 1)."""
    g = torch.Generator().manual_seed(0)
    weights = 0.1 * torch.randn(VISIBLE, HIDDEN, generator=g)
    return experts.RBM(weights, *(torch.randn(n, generator=g) for n in (VISIBLE, HIDDEN)))


def our_sweep(rbm: experts.RBM, chains: int) -> Callable[[], None]:
    """One step of every chain, from where the last one ended."""
    found, g = conditionals(rbm), torch.Generator().manual_seed(1)
    assert found is not None
    kernel = BlockGibbs(found)
    state = kernel.init(rbm, torch.zeros(chains, VISIBLE))

    def sweep() -> None:
        nonlocal state
        state, _ = kernel.step(rbm, state, generator=g)

    return sweep


def bare_sweep(rbm: experts.RBM, chains: int) -> Callable[[], None]:
    """The same without a log-density: what training and annealing use."""
    x, g = torch.zeros(chains, VISIBLE), torch.Generator().manual_seed(1)

    def one() -> None:
        nonlocal x
        x = experts.boltzmann.sweep(rbm, x, generator=g)

    return one


def their_sweep(rbm: experts.RBM, chains: int) -> Callable[[], None]:
    """One call of ``BernoulliRBM.gibbs`` with the same weights."""
    peer = BernoulliRBM(HIDDEN)
    peer.components_ = np.ascontiguousarray(rbm.W.T.numpy())
    peer.intercept_visible_, peer.intercept_hidden_ = rbm.b.numpy(), rbm.c.numpy()
    peer.random_state_ = np.random.RandomState(1)
    v = np.zeros((chains, VISIBLE), dtype=np.float32)

    def sweep() -> None:
        nonlocal v
        v = peer.gibbs(v)

    return sweep


def rates(calls: list[Callable[[], object]], rounds: int, repeats: int) -> list[list[float]]:
    """Sweeps a second of each call, round by round; the first round is left out."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, own in zip(calls, found, strict=True):
            time.sleep(PAUSE)
            call()
            began = time.perf_counter()
            for _ in range(repeats):
                call()
            own.append(repeats / (time.perf_counter() - began))
    return [own[1:] for own in found]


def epochs(batch: int) -> dict[str, Callable[[], object]]:
    """One epoch of training by each."""
    g = torch.Generator().manual_seed(0)
    data = torch.rand(ROWS, VISIBLE, generator=g).lt(0.3).float()
    rows = data.numpy()
    settings = {"batch_size": batch, "n_iter": 1, "random_state": 0}
    return {
        "fit_rbm": lambda: experts.boltzmann.training.fit_rbm(
            data,
            HIDDEN,
            particles=experts.boltzmann.training.PCD(batch),
            num_epochs=1,
            batch_size=batch,
            generator=g,
            progress=False,
        ),
        "RBMFeatures": lambda: RBMFeatures(HIDDEN, **settings).fit(rows),
        "BernoulliRBM": lambda: BernoulliRBM(HIDDEN, **settings).fit(rows),
    }


def show(name: str, calls: dict[str, Callable[[], object]], rounds: int, repeats: int) -> None:
    """Rates of all, and the ratio of each to the last one's."""
    found = dict(zip(calls, rates(list(calls.values()), rounds, repeats), strict=True))
    *_, theirs = found.values()
    for own, values in found.items():
        ratios = [a / b for a, b in zip(values, theirs, strict=True)]
        print(f"{name:>22}  {own:>13}  {spread(values):>22}  {spread(ratios)}")


def main() -> None:
    """Print rates of all, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rbm = made_rbm()
    print(f"{'':>22}  {'':>13}  {'a second':>22}  over BernoulliRBM")
    with threadpool_limits(options.threads):
        for chains, repeats in ((100, 40), (1000, 5)):
            sweeps = {
                "BlockGibbs": our_sweep(rbm, chains),
                "sweep": bare_sweep(rbm, chains),
                "BernoulliRBM": their_sweep(rbm, chains),
            }
            show(f"{chains} chains, sweeps", sweeps, options.rounds, repeats)
        for batch in (10, 100):
            show(f"batches of {batch}, epochs", epochs(batch), options.rounds, 1)


def spread(values: list[float]) -> str:
    """Median (least to most)."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
