"""Trajectories that fit the place: ours beside owalnuts, walnutpie and NumPyro's NUTS, in one run.

    python benchmarks/trajectories.py                            # every target, every engine
    python benchmarks/trajectories.py funnel-10 rosenbrock --draws 4000

Needs the extra ``benchmarks``, ``owalnuts`` and ``walnutpie``; an engine that is not there is left
out and named. Of each run: the ESS (bulk, ArviZ) of the worst component of x and (x − mean)² over
the rows at which the target was evaluated, warm-up included, and the sd of one component in
standard errors where it is known. float64. Ours has as many draws in all as the others; a loss is
printed as plainly as a win.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from effective import ess

import poe

Array = Any
Density = Callable[[Array, Any], Array]
"""The log-density of ``(*batch, dimension)``, by a namespace with exp, log1p and stack."""
NUM_CHAINS, WARMUP = 4, 1000


class Target(NamedTuple):
    """A density; the component whose sd is looked at, and the truth, NaN where it is unknown."""

    density: Density
    dimension: int
    component: int = 0
    sd: float = math.nan


class Counted:
    """Value and gradient, and the rows at which they were asked for."""

    def __init__(self, density: Density) -> None:
        self.density, self.rows = density, 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.rows += x[..., 0].numel()
        return self.density(x, torch)

    def at(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Of one position."""
        leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        value = self(leaf)
        return value.item(), torch.autograd.grad(value, leaf)[0].numpy()


def funnel(x: Array, xp: Any) -> Array:
    """Neal's: v ~ N(0, 3²), the others N(0, exp(v))."""
    v, rest = x[..., 0], x[..., 1:]
    necks = (rest**2).sum(-1) * xp.exp(-v) + rest.shape[-1] * v
    return -0.5 * (v / 3) ** 2 - 0.5 * necks


def banana(x: Array, xp: Any) -> Array:
    """x₀ ~ N(0, 10²), x₁ ~ N(0.03 (x₀² − 100), 1)."""
    return -0.5 * (x[..., 0] / 10) ** 2 - 0.5 * (x[..., 1] - 0.03 * (x[..., 0] ** 2 - 100)) ** 2


def rosenbrock(x: Array, xp: Any) -> Array:
    """exp(−(1 − x)² − 100 (y − x²)²)."""
    return -((1 - x[..., 0]) ** 2) - 100 * (x[..., 1] - x[..., 0] ** 2) ** 2


SCHOOLS = ((28, 15), (8, 10), (-3, 16), (7, 11), (-1, 9), (1, 11), (18, 10), (12, 18))


def schools(x: Array, xp: Any) -> Array:
    """The eight schools in their centred form: mu, log tau, eight effects."""
    mu, log_tau = x[..., 0], x[..., 1]
    value = -0.5 * (mu / 5) ** 2 - xp.log1p((xp.exp(log_tau) / 5) ** 2) + log_tau
    for i, (y, sd) in enumerate(SCHOOLS):
        effect = x[..., 2 + i]
        prior = -0.5 * ((effect - mu) * xp.exp(-log_tau)) ** 2 - log_tau
        value = value + prior - 0.5 * ((y - effect) / sd) ** 2
    return value


RETURNS = np.random.default_rng(0).standard_normal(30) * 0.8


def volatility(x: Array, xp: Any, *, is_centred: bool) -> Array:
    """Stochastic volatility: log sigma, then the log-variances h, a random walk, or its steps."""
    log_sigma = x[..., 0]
    value = -0.5 * ((log_sigma + 1.5) / 0.7) ** 2
    h = 0.0
    for i, y in enumerate(RETURNS):
        if is_centred:
            step, h = (x[..., 1 + i] - h) * xp.exp(-log_sigma), x[..., 1 + i]
            value = value - log_sigma
        else:
            step = x[..., 1 + i]
            h = h + step * xp.exp(log_sigma)
        value = value - 0.5 * step**2 - 0.5 * h - 0.5 * float(y) ** 2 * xp.exp(-h)
    return value


TARGETS = {
    "funnel-10": Target(funnel, 10, 0, 3.0),
    "funnel-30": Target(funnel, 30, 0, 3.0),
    "banana": Target(banana, 2, 0, 10.0),
    "rosenbrock": Target(rosenbrock, 2, 0, math.sqrt(0.5)),
    "schools, centred": Target(schools, 10, 1, 1.17),
    "volatility, centred": Target(lambda x, xp: volatility(x, xp, is_centred=True), 31),
    "volatility, not centred": Target(lambda x, xp: volatility(x, xp, is_centred=False), 31),
}


def ours(target: Target, draws: int, seed: int) -> tuple[np.ndarray, int]:
    """``AdaptiveStepHMC`` in coordinates that bend, 64 chains."""
    counted = Counted(target.density)
    expert = poe.FromLogDensity(counted, space=poe.Real(target.dimension))
    generator = torch.Generator().manual_seed(seed)
    initial = torch.randn(64, target.dimension, generator=generator, dtype=torch.float64)
    kernel = poe.samplers.Preconditioned(poe.samplers.AdaptiveStepHMC(num_steps=None))
    found = poe.sample(
        expert,
        draws,
        kernel=kernel,
        initial=initial,
        warmup=WARMUP // 2,
        generator=generator,
        progress=False,
    )
    return found.samples.numpy(), counted.rows


def owalnuts(target: Target, draws: int, seed: int) -> tuple[np.ndarray, int]:
    """By its paper's adaptation."""
    import owalnuts as peer

    counted = Counted(target.density)
    found = peer.sample(
        counted.at,
        target.dimension,
        chains=NUM_CHAINS,
        warmup=WARMUP,
        draws=draws // NUM_CHAINS,
        seed=seed,
        adaptation=peer.Adaptation(paper=peer.PaperAdaptation()),
    )
    return np.asarray(found.samples), counted.rows


def walnutpie(target: Target, draws: int, seed: int) -> tuple[np.ndarray, int]:
    """At its defaults, save the numbers of iterations."""
    from walnutpie import walnuts_pyfunc

    counted = Counted(target.density)
    each = draws // NUM_CHAINS
    found = walnuts_pyfunc(
        counted.at,
        num_params=target.dimension,
        num_chains=NUM_CHAINS,
        seed=seed,
        max_warmup_iter=WARMUP,
        min_sampling_iter=each,
        max_sampling_iter=each,
    )
    return np.stack([np.asarray(chain) for chain in found])[..., -target.dimension :], counted.rows


def numpyro_nuts(target: Target, draws: int, seed: int) -> tuple[np.ndarray, int]:
    """NUTS at its defaults; its leapfrog steps are its gradients."""
    import jax
    from numpyro.infer import MCMC, NUTS

    jax.config.update("jax_enable_x64", True)
    kernel = NUTS(potential_fn=lambda x: -target.density(x, jax.numpy))
    options = {"num_chains": NUM_CHAINS, "chain_method": "sequential", "progress_bar": False}
    run = MCMC(kernel, num_warmup=WARMUP, num_samples=draws // NUM_CHAINS, **options)
    start = np.random.default_rng(seed).uniform(-2, 2, (NUM_CHAINS, target.dimension))
    key = jax.random.PRNGKey(seed)
    fields = {"collect_warmup": True, "extra_fields": ("num_steps",)}
    run.warmup(key, init_params=jax.numpy.asarray(start), **fields)
    rows = int(run.get_extra_fields()["num_steps"].sum())
    run.run(key, extra_fields=("num_steps",))
    rows += int(run.get_extra_fields()["num_steps"].sum())
    return np.asarray(run.get_samples(group_by_chain=True)), rows


ENGINES: dict[str, Callable[[Target, int, int], tuple[np.ndarray, int]]] = {
    "ours": ours,
    "owalnuts": owalnuts,
    "walnutpie": walnutpie,
    "NumPyro NUTS": numpyro_nuts,
}


def measured(name: str, engine: str, draws: int, seed: int) -> float:
    """The worst ESS a gradient of one run, printed; NaN of an engine that is not there."""
    target, began = TARGETS[name], time.perf_counter()
    try:
        x, rows = ENGINES[engine](target, draws, seed)
    except ImportError as error:
        print(f"{name:24} {engine:13} not here: {error}", flush=True)
        return math.nan
    worst = ess(x)
    sd = x[..., target.component].std()
    print(
        f"{name:24} {engine:13} ESS {worst:7.0f}, {rows:9d} gradients, a gradient "
        f"{worst / rows:.2e}, sd {sd:.3f} (true {target.sd:.3f}), "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return worst / rows


def main() -> None:
    """Print every run, and of each target the ratio of ours to the best of the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--engines", nargs="*", default=list(ENGINES))
    parser.add_argument("--draws", type=int, default=16_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # what runs say of themselves is in the table
    torch.set_default_dtype(torch.float64)
    for name in options.targets:
        found = {
            engine: measured(name, engine, options.draws, options.seed)
            for engine in options.engines
        }
        others = [value for engine, value in found.items() if engine != "ours" and value == value]
        if "ours" in found and others:
            ratio = found["ours"] / max(others)
            verdict = "win" if ratio > 1 else "LOSS"
            print(f"{name}: ours over the best of the others {ratio:.1f} ({verdict})", flush=True)


if __name__ == "__main__":
    main()
