"""Kernels on finite spaces: total variation to enumerated products, and what evaluations buy.

    python benchmarks/discrete_kernels.py [--fast] [--only distances | efficiency]

The first table: ½ Σ |found − truth| over all states of a product (up to 2^16 of them), above its
mean for as many independent draws, where every chain gives one draw. Chains start at states drawn
uniformly, inside the support.

The other tables: from a stationary start every kernel spends the same number of evaluations of the
target, a score counted as three of them (one forward and one backward pass, which is twice as long;
counted once, as in the papers, the kernels that use it would be three times as good). RMSE is that
of a chain's mean of each element about the truth, and

    ESS = Σᵢ var(xᵢ) / Σᵢ E(mean of xᵢ − E xᵢ)²

the number of independent draws with that error. Truth, variances and starts come from a long run of
block Gibbs. Single-site Gibbs asks for the whole log-density at each site, as it must of any target
that does not say how its elements go together; block Gibbs is for those that do.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor

import experts
import poe
from poe.density.adapt import Uniform
from poe.density.capabilities import conditionals, label_pairs
from poe.density.expert import Expert
from poe.normalizers.enumeration import states
from poe.samplers import (
    DMALA,
    DULA,
    BlockGibbs,
    ChromaticGibbs,
    Gibbs,
    GibbsWithGradients,
    LabelClusters,
    ParallelTempering,
    PathAuxiliary,
    RandomScanGibbs,
    SingleSiteMetropolis,
)
from poe.samplers.kernel import Kernel
from poe.tuning.warmup import needs_tuning

SCORE = 3
"""How many evaluations of the log-density a score counts as."""
TUNING = 600
INFORMED = (GibbsWithGradients, DMALA, DULA, PathAuxiliary)


def randn(*shape: int, seed: int) -> Tensor:
    """Standard normals of their own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def at_most(count: int, size: int) -> Expert:
    """A constraint: −inf where more than so many elements are 1."""
    return poe.FromLogDensity(
        lambda x: torch.zeros_like(x[:, 0]).masked_fill(x.sum(-1) > count, -torch.inf),
        space=poe.Binary(size),
    )


def rbm_and_ising(size: int) -> Expert:
    """An RBM of as many hidden units times an Ising model of all pairs."""
    hidden = size // 2
    weights = 0.7 * randn(size, hidden, seed=1)
    rbm = experts.RBM(weights, 0.5 * randn(size, seed=2), 0.5 * randn(hidden, seed=3))
    matrix = (0.15 * randn(size, size, seed=4)).triu(1)
    return rbm * experts.Ising(matrix, 0.2 * randn(size, seed=5))


def potts(space: poe.Space, num_sites: int, num_values: int) -> Expert:
    """One-hot couplings of neighbours on a ring, and no two neighbours of value 1."""
    coupling = 0.8 * randn(num_sites, num_values, num_values, seed=6)

    def ring(z: Tensor) -> Tensor:
        return torch.einsum("...iu,iuv,...iv->...", z, coupling, z.roll(-1, -2))

    def apart(z: Tensor) -> Tensor:
        is_excluded = (z[..., 1] * z.roll(-1, -2)[..., 1] > 0.5).any(-1)
        return torch.zeros_like(z[..., 0, 0]).masked_fill(is_excluded, -torch.inf)

    return poe.FromOneHot(ring, space=space) * poe.FromOneHot(apart, space=space)


def enumerable(is_fast: bool) -> dict[str, Expert]:
    """Products of which all states are known."""
    size, sites = (8, 4) if is_fast else (16, 8)
    space = poe.Categorical((sites,), 4)
    logits = 0.5 * randn(sites, 4, seed=7)
    return {
        f"RBM x Ising, 2^{size} states": rbm_and_ising(size),
        f"RBM x Ising x at most {size // 2}, 2^{size}": rbm_and_ising(size)
        * at_most(size // 2, size),
        f"classes x Potts x apart, 4^{sites} states": experts.Categorical(logits)
        * potts(space, sites, 4),
        f"Potts x apart on tokens, 3^{sites}": potts(poe.Sequence(3, sites), sites, 3),
        f"Potts grid x classes, 4^{sites}": experts.Potts.grid((2, sites // 2), 0.8, 4)
        * experts.Categorical(logits.reshape(2, sites // 2, 4)),
    }


class Entry(NamedTuple):
    """A kernel and how many of its steps count as converged."""

    name: str
    kernel: Kernel
    num_steps: int


def entries(target: Expert) -> Iterator[Entry]:
    """Every kernel that moves on the target."""
    space, n = target.space, target.space.event_shape.numel()
    found = conditionals(target) if isinstance(space, poe.Binary) else None
    yield Entry("Gibbs", Gibbs(space), 20)
    if found is not None:
        yield Entry("BlockGibbs", BlockGibbs(found), 50)
    pairs = label_pairs(target)
    if pairs is not None:
        yield Entry("ChromaticGibbs", ChromaticGibbs(pairs), 50)
        yield Entry("LabelClusters", LabelClusters(pairs), 50)
    yield Entry("RandomScanGibbs", RandomScanGibbs(space), 30)
    yield Entry("SingleSiteMetropolis", SingleSiteMetropolis(space), 50 * n)
    yield Entry("GibbsWithGradients", GibbsWithGradients(space), 20 * n)
    yield Entry("DMALA", DMALA(space), 200)
    yield Entry("PathAuxiliary", PathAuxiliary(space), 200)
    inner = GibbsWithGradients(space)
    tempering = ParallelTempering(Uniform(space), inner, (0.0, 0.5, 1.0))
    yield Entry("ParallelTempering of it", tempering, 10 * n)
    yield Entry("DULA (biased), step 0.2", DULA(space, 0.2), 200)


def tuned(target: Expert, kernel: Kernel, x: Tensor, g: torch.Generator) -> Kernel:
    """With what it leaves out, learned by chains at x."""
    if not needs_tuning(kernel):
        return kernel
    return poe.warm_up(target, kernel, x, poe.Warmup(TUNING), generator=g)[0]


def starts(target: Expert, chains: int, g: torch.Generator) -> Tensor:
    """Uniform draws inside the support."""
    x = Uniform(target.space).sample(chains, generator=g)
    for _ in range(100):
        is_outside = (target(x) == -torch.inf).reshape(-1, *([1] * (x.ndim - 1)))
        x = torch.where(is_outside, Uniform(target.space).sample(chains, generator=g), x)
    return x


def frequencies(target: Expert, x: Tensor) -> Tensor:
    """Of every state, in the order of the table."""
    k, n = target.space.num_values or 0, x[0].numel()
    places = (x.reshape(len(x), -1).long() * k ** torch.arange(n - 1, -1, -1)).sum(1)
    return torch.bincount(places, minlength=k**n).double() / len(x)


def floor_of(truth: Tensor, count: int) -> float:
    """The mean of ½ Σ |found − truth| of independent draws; exact where p is small or count large.

    E |B − np| of a binomial is 2 (1 − p)^(n − m) p^(m + 1) (m + 1) C(n, m + 1), m = ⌊np⌋.
    """
    p = truth[truth > 0]
    m = (count * p).floor()
    n = torch.tensor(float(count), dtype=p.dtype)
    log_choose = (n + 1).lgamma() - (m + 2).lgamma() - (n - m).lgamma()
    log_mean = math.log(2) + (n - m) * (-p).log1p() + (m + 1) * p.log() + (m + 1).log() + log_choose
    return 0.5 * (log_mean.exp().sum() / count).item()


def distances(target: Expert, chains: int, stretch: float) -> None:
    """Print the total variation of every kernel's draws to the table."""
    truth = target(states(target.space)).double().softmax(0)
    floor = floor_of(truth, chains)
    g = torch.Generator().manual_seed(0)
    draws = torch.multinomial(truth, chains, replacement=True, generator=g)
    found = torch.bincount(draws, minlength=len(truth)).double() / chains
    line("independent draws", 0.5 * (found - truth).abs().sum().item(), floor, "", 0.0)
    for entry in entries(target):
        began = time.process_time()
        x = starts(target, chains, g)
        kernel = tuned(target, entry.kernel, x[:500], g)
        state: Any = kernel.init(target, x)
        for _ in range(math.ceil(stretch * entry.num_steps)):
            state, _ = kernel.step(target, state, generator=g)
        distance = 0.5 * (frequencies(target, state.position) - truth).abs().sum().item()
        line(entry.name, distance, floor, setting(kernel), time.process_time() - began)


def line(name: str, distance: float, floor: float, note: str, seconds: float) -> None:
    """One row of the first table."""
    print(
        f"  {name:26} {distance:7.4f} {distance - floor:+8.4f}  {seconds:6.1f} s  {note}",
        flush=True,
    )


def setting(kernel: Kernel) -> str:
    """What was tuned, or nothing."""
    scale = getattr(kernel, "scale_setting", None)
    return "" if scale is None else f"tuned to {float(scale):.3g}"


class Reference(NamedTuple):
    """What a long run of block Gibbs says: E x and var x ``(n,)``, and positions to start from."""

    mean: Tensor
    variance: Tensor
    start: Tensor


def reference(target: Expert, chains: int, num_sweeps: int, g: torch.Generator) -> Reference:
    """Block Gibbs in many chains, the first tenth left out."""
    found = conditionals(target)
    assert found is not None
    kernel = BlockGibbs(found)
    total, burn_in = torch.zeros(()), num_sweeps // 10
    state: Any = kernel.init(target, Uniform(target.space).sample(8 * chains, generator=g))
    for sweep in range(num_sweeps + burn_in):
        state, _ = kernel.step(target, state, generator=g)
        if sweep >= burn_in:
            total = total + state.position.flatten(1).double().mean(0)
    mean = total / num_sweeps
    return Reference(mean, mean * (1 - mean), state.position[:chains])


def evaluations_per_step(kernel: Any) -> int:
    """A score counts as ``SCORE`` evaluations."""
    weight = SCORE if isinstance(kernel, INFORMED) else 1
    return weight * int(kernel.gradients_per_step)


def efficiency(target: Expert, chains: int, num_evaluations: int, num_sweeps: int) -> None:
    """Print what every kernel makes of the same number of evaluations."""
    g = torch.Generator().manual_seed(0)
    truth = reference(target, chains, num_sweeps, g)
    per_gibbs = math.nan
    for entry in entries(target):
        if isinstance(entry.kernel, ParallelTempering | RandomScanGibbs):
            continue
        kernel = tuned(target, entry.kernel, truth.start, g)
        num_steps = max(1, num_evaluations // evaluations_per_step(kernel))
        began, total = time.process_time(), torch.zeros(())
        state: Any = kernel.init(target, truth.start)
        for _ in range(num_steps):
            state, _ = kernel.step(target, state, generator=g)
            total = total + state.position.flatten(1)
        seconds = time.process_time() - began
        squared = ((total / num_steps).double() - truth.mean).square().mean(0)
        ess = (truth.variance.sum() / squared.sum()).item()
        spent = num_steps * evaluations_per_step(kernel)
        per_thousand = 1000 * ess / spent
        if isinstance(kernel, Gibbs):
            per_gibbs = per_thousand
        print(
            f"  {entry.name:26} {per_thousand:9.3f} {per_thousand / per_gibbs:8.2f} "
            f"{0.5 * math.log10(squared.mean().item()):8.2f} {ess * chains / seconds:10.0f}  "
            f"{setting(kernel)}",
            flush=True,
        )


def digits_rbm(num_hidden: int, num_epochs: int) -> Expert:
    """An RBM that has learned 1797 digits of 8 x 8 bits."""
    bits = (torch.from_numpy(load_digits().data) > 7).float()
    g = torch.Generator().manual_seed(11)
    return experts.boltzmann.training.fit_rbm(
        bits, num_hidden, num_epochs=num_epochs, generator=g, progress=False
    )


def models(is_fast: bool) -> dict[str, Expert]:
    """What the samplers of the papers were tried on."""
    name = "RBM 64 x 100, learned from digits"
    found: dict[str, Expert] = {name: digits_rbm(100, 20 if is_fast else 200)}
    for scale in (0.1, 0.3):
        weights, c = scale * randn(100, 50, seed=8), 0.5 * randn(50, seed=10)
        rbm = experts.RBM(weights, 0.5 * randn(100, seed=9), c)
        found[f"RBM 100 x 50, weights of size {scale}"] = rbm
    for coupling, field, sides in ((0.2, 0.2, (5, 10, 20, 30)), (0.4, 0.0, (5, 10, 20))):
        for side in sides[:2] if is_fast else sides:
            grid = experts.Ising.grid((side, side), coupling, field, periodic=True)
            found[f"Ising {side} x {side}, coupling {coupling}, field {field}"] = grid
    return found


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--fast", action="store_true", help="small targets and short runs")
    parser.add_argument("--only", choices=("distances", "efficiency"), help="one part alone")
    arguments = parser.parse_args()
    is_fast, only = arguments.fast, arguments.only
    torch.set_num_threads(1)
    chains, stretch = (10_000, 0.7) if is_fast else (20_000, 1.0)
    for name, target in enumerable(is_fast).items() if only != "efficiency" else ():
        print(f"{name}, {chains} draws: total variation, and above that of independent ones")
        distances(target, chains, stretch)
    for name, target in models(is_fast).items() if only != "distances" else ():
        print(name)
        print(f"  {'kernel':26} ESS/1000 evaluations, over Gibbs, log10 RMSE, ESS/s")
        efficiency(target, 64, 2_000 if is_fast else 4_000, 500 if is_fast else 1_000)


if __name__ == "__main__":
    main()
