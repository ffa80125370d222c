"""blackjax on our targets: ChEES, MEADS and NUTS, in one compiled loop each (float32)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from blackjax.adaptation.base import get_filter_adapt_info_fn
from effective import Run
from targets import TARGETS, jax_operations, summed

Step = Callable[[Any, Any], tuple[Any, Any]]


class Warm(NamedTuple):
    """A sampler after its warm-up: ``step(keys, states)`` moves every chain."""

    state: Any
    step: Step
    compile_seconds: float
    seconds: float
    gradients: float
    steps_per_draw: int = 1


def _compile(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    return compiled, time.perf_counter() - began


def _time(compiled: Any, *arguments: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    result = jax.block_until_ready(compiled(*arguments))
    return result, time.perf_counter() - began


def _trajectory_lengths() -> Any:
    return get_filter_adapt_info_fn(info_keys={"num_integration_steps"})


def _chees(log_density: Any, x: Any, key: Any, warmup: int, draws: int, mass: str | None) -> Warm:
    adaptation = blackjax.chees_adaptation(
        log_density,
        len(x),
        mass_matrix_estimation=mass,
        adaptation_info_fn=_trajectory_lengths(),
    )

    def warm_up(key: Any, x: Any) -> Any:
        return adaptation.run(key, x, 0.1, optax.adam(0.025), warmup, max_sampling_steps=draws)

    # The parameters hold functions, which a compiled call cannot return: once for them, once timed.
    (state, parameters), info = warm_up(key, x)
    compiled, compile_seconds = _compile(lambda key, x: warm_up(key, x)[0][0], key, x)
    _, seconds = _time(compiled, key, x)
    lengths = jnp.asarray(info.info.num_integration_steps).reshape(warmup, -1).max(-1)
    step = jax.vmap(blackjax.dhmc(log_density, **parameters).step)
    return Warm(state, step, compile_seconds, seconds, float(lengths.sum()))


def _meads(log_density: Any, x: Any, key: Any, warmup: int) -> Warm:
    adaptation = blackjax.meads_adaptation(
        log_density, len(x), adaptation_info_fn=get_filter_adapt_info_fn()
    )
    compiled, compile_seconds = _compile(lambda key, x: adaptation.run(key, x, warmup)[0], key, x)
    (state, parameters), seconds = _time(compiled, key, x)
    step = jax.vmap(blackjax.ghmc(log_density, **parameters).step)
    # A step moves three folds of four. Ten steps a draw: one costs a single gradient.
    return Warm(state, step, compile_seconds, seconds, 0.75 * warmup, steps_per_draw=10)


def _nuts(log_density: Any, x: Any, key: Any, warmup: int) -> Warm:
    adaptation = blackjax.window_adaptation(
        blackjax.nuts,
        log_density,
        is_mass_matrix_diagonal=True,
        adaptation_info_fn=_trajectory_lengths(),
    )

    def warm_up(keys: Any, x: Any) -> Any:
        (state, parameters), info = jax.vmap(lambda k, x: adaptation.run(k, x, warmup))(keys, x)
        kept = {name: parameters[name] for name in ("step_size", "inverse_mass_matrix")}
        return state, kept, info.info.num_integration_steps

    keys = jax.random.split(key, len(x))
    compiled, compile_seconds = _compile(warm_up, keys, x)
    (state, parameters, lengths), seconds = _time(compiled, keys, x)
    kernel = blackjax.nuts.build_kernel()

    def step(keys: Any, state: Any) -> Any:
        move = jax.vmap(lambda k, s, p: kernel(k, s, log_density, **p))
        return move(keys, state, parameters)

    return Warm(state, step, compile_seconds, seconds, float(lengths.sum(1).mean()))


def _draw(warm: Warm, key: Any, chains: int, draws: int) -> tuple[Any, Any, float, float]:
    """Positions ``(draws, chains, d)``, gradients a chain, seconds to compile and to draw."""

    def step(state: Any, key: Any) -> Any:
        state, info = warm.step(jax.random.split(key, chains), state)
        return state, getattr(info, "num_integration_steps", jnp.ones(chains, jnp.int32))

    def draw(state: Any, key: Any) -> Any:
        state, lengths = jax.lax.scan(step, state, jax.random.split(key, warm.steps_per_draw))
        return state, (state.position, lengths.sum(0))

    def run(state: Any, key: Any) -> Any:
        return jax.lax.scan(draw, state, jax.random.split(key, draws))[1]

    compiled, compile_seconds = _compile(run, warm.state, key)
    times = []
    for _ in range(2):  # the faster of two runs
        (positions, lengths), seconds = _time(compiled, warm.state, key)
        times.append(seconds)
    return positions, lengths, compile_seconds, min(times)


def run(sampler: str, target: str, chains: int, draws: int, warmup: int, seed: int) -> Run:
    """One sampler on one target, started at N(0, I).

    "chees" estimates a diagonal mass matrix, its better setting on our targets; "chees_identity"
    does without.
    """
    energy = summed(TARGETS[target].energies(jax_operations()))

    def log_density(x: Any) -> Any:
        return -energy(x)

    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (chains, TARGETS[target].dimension))
    samplers: dict[str, Callable[[], Warm]] = {
        "chees": lambda: _chees(log_density, x, keys[1], warmup, draws, "diagonal"),
        "chees_identity": lambda: _chees(log_density, x, keys[1], warmup, draws, None),
        "meads": lambda: _meads(log_density, x, keys[1], 4 * warmup),
        "nuts": lambda: _nuts(log_density, x, keys[1], warmup),
    }
    warm = samplers[sampler]()
    positions, lengths, compile_seconds, seconds = _draw(warm, keys[2], chains, draws)
    return Run(
        samples=np.asarray(positions).transpose(1, 0, 2),
        compile_seconds=warm.compile_seconds + compile_seconds,
        warmup_seconds=warm.seconds,
        sampling_seconds=seconds,
        warmup_gradients=warm.gradients,
        gradients=float(lengths.sum(0).mean()),
    )
