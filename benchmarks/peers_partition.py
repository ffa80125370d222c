"""Peers' log Z from the same broad Gaussian: ebmkit's AIS, blackjax's adaptive tempered SMC.

Each is given settings on a small grid, and the best of them, by its error, is the one that counts.
"""

from __future__ import annotations

import math

from targets import TARGETS, jax_operations, summed, torch_operations

BROAD = 10.0
LEAPFROG = 5


def ebmkit(
    target: str, budget: int, runs: int, num_temps: int, step_size: float
) -> list[list[float]]:
    """log Z of so many seeds, and the evaluations that each took: one a gradient or an energy."""
    return [_ebmkit(target, budget, seed, num_temps, step_size) for seed in range(runs)]


def blackjax(
    target: str, budget: int, runs: int, ess: float, step_size: float
) -> list[list[float]]:
    """The same; particles are such that the budget is met, or passed."""
    return [_blackjax(target, budget, seed, ess, step_size) for seed in range(runs)]


def _ebmkit(target: str, budget: int, seed: int, num_temps: int, step_size: float) -> list[float]:
    import torch
    from ebm.ais import ais_log_z
    from ebm.samplers import HMC

    torch.manual_seed(seed)
    each = num_temps * (LEAPFROG + 3)  # gradients, both ends of the acceptance ratio, the weight
    chains = max(16, budget // each)
    result = ais_log_z(
        summed(TARGETS[target].energies(torch_operations())),
        (TARGETS[target].dimension,),
        base_scale=BROAD,
        n_temps=num_temps,
        n_chains=chains,
        sampler=HMC(step_size=step_size, leapfrog_steps=LEAPFROG, steps=1),
        schedule="geometric",
    )
    return [result.log_z, float(chains * each)]


def _blackjax(target: str, budget: int, seed: int, ess: float, step_size: float) -> list[float]:
    import blackjax as peer
    import jax
    import jax.numpy as jnp
    from blackjax.smc import extend_params, resampling

    d, moves = TARGETS[target].dimension, 3
    energy = summed(TARGETS[target].energies(jax_operations()))

    def log_prior(x: jax.Array) -> jax.Array:
        return -0.5 * jnp.sum((x / BROAD) ** 2) - d * math.log(BROAD * math.sqrt(2 * math.pi))

    algorithm = peer.adaptive_tempered_smc(
        log_prior,
        lambda x: -energy(x) - log_prior(x),
        peer.hmc.build_kernel(),
        peer.hmc.init,
        extend_params({
            "step_size": step_size,
            "inverse_mass_matrix": jnp.ones(d),
            "num_integration_steps": LEAPFROG,
        }),
        resampling.systematic,
        ess,
        num_mcmc_steps=moves,
    )  # fmt: skip
    step = jax.jit(algorithm.step)

    def run(num_particles: int, key: jax.Array) -> tuple[float, int]:
        key, first = jax.random.split(key)
        state = algorithm.init(BROAD * jax.random.normal(first, (num_particles, d)))
        log_z, levels = 0.0, 0
        while float(state.tempering_param) < 1.0 and levels < 1000:
            key, now = jax.random.split(key)
            state, info = step(now, state)
            log_z, levels = log_z + float(info.log_likelihood_increment), levels + 1
        return log_z, levels

    key = jax.random.key(seed)
    _, levels = run(64, key)
    particles = max(64, budget // (levels * moves * (LEAPFROG + 1)))
    log_z, levels = run(particles, key)
    return [log_z, float(particles * levels * moves * (LEAPFROG + 1))]
