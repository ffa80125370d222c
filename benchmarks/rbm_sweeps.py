"""Block-Gibbs sweeps a second of an RBM, beside scikit-learn's, on one thread.

    python benchmarks/rbm_sweeps.py

784 x 500 units, float32, the same weights. A sweep draws the hidden layer, then the visible one;
ours also works out the log-density where it ends, a third product of matrices beside the two that a
sweep needs. Rounds in which the two take turns; median, least and most of the rounds.
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
from poe.conditionals import conditionals
from poe.samplers import BlockGibbs

VISIBLE, HIDDEN = 784, 500


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


def rates(calls: list[Callable[[], None]], rounds: int, repeats: int) -> list[list[float]]:
    """Sweeps a second of each call, round by round; the first round is left out."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, own in zip(calls, found, strict=True):
            began = time.perf_counter()
            for _ in range(repeats):
                call()
            own.append(repeats / (time.perf_counter() - began))
    return [own[1:] for own in found]


def main() -> None:
    """Print sweeps a second of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rbm = made_rbm()
    print(f"{'chains':>6}  {'ours':>22}  {'scikit-learn':>22}  ratio")
    for chains, repeats in ((100, 40), (1000, 5)):
        with threadpool_limits(1):
            calls = [our_sweep(rbm, chains), their_sweep(rbm, chains)]
            ours, theirs = rates(calls, rounds, repeats)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        columns = "  ".join(f"{spread(own):>22}" for own in (ours, theirs))
        print(f"{chains:>6}  {columns}  {spread(ratios)}")


def spread(values: list[float]) -> str:
    """Median (least to most)."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
