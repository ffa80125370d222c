"""What the samplers are measured on: the formulas once, for every engine.

a: a rotated 100-d Gaussian of condition number 10⁴; b: a ring of eight Gaussians of unequal
weights; c: a product of three experts in 32-d (a Gaussian, a neural energy, and Student's t in each
dimension).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = Any
"""A numpy, torch or jax array."""
Energy = Callable[[Array], Array]


class Operations(NamedTuple):
    """The few operations that torch and jax call by different names."""

    array: Callable[[np.ndarray], Array]
    linear: Callable[[Array, Array, Array], Array]
    tanh: Callable[[Array], Array]
    log1p: Callable[[Array], Array]
    logsumexp: Callable[[Array, int], Array]


@dataclass(frozen=True)
class Target:
    """A density by the energies of its factors, with what is known of it.

    ``energies(operations)``: one function a factor, ``(*batch, dimension) -> (*batch,)``;
    ``variance`` ``(dimension,)``: the true ones; ``log_partition``: of exp(− sum of the energies).
    """

    name: str
    dimension: int
    energies: Callable[[Operations], dict[str, Energy]]
    variance: np.ndarray
    log_partition: float


def _rotated_covariance(dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """The variances along the axes, and the rotation: ``(d,)``, ``(d, d)``."""
    normal = np.random.default_rng(0).standard_normal((dimension, dimension))
    q, r = np.linalg.qr(normal)
    return np.logspace(-2, 2, dimension), q * np.sign(np.diag(r))


AXIS_VARIANCE, ROTATION = _rotated_covariance(100)


def _gaussian(operations: Operations) -> dict[str, Energy]:
    precision = operations.array((ROTATION / AXIS_VARIANCE) @ ROTATION.T)
    return {"gaussian": lambda x: 0.5 * (x * (x @ precision)).sum(-1)}


RING_SD = 0.35
RING_WEIGHTS = np.arange(1, 9) / 36
_ANGLES = 2 * np.pi * np.arange(8) / 8
RING_MEANS = 4.0 * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)


def _ring_variance() -> np.ndarray:
    mean = RING_WEIGHTS @ RING_MEANS
    return RING_SD**2 + RING_WEIGHTS @ (RING_MEANS - mean) ** 2


def _ring(operations: Operations) -> dict[str, Energy]:
    means = operations.array(RING_MEANS)
    log_weights = operations.array(np.log(RING_WEIGHTS) - np.log(2 * np.pi * RING_SD**2))

    def energy(x: Array) -> Array:
        squares = ((x[..., None, :] - means) ** 2).sum(-1)
        return -operations.logsumexp(log_weights - 0.5 * squares / RING_SD**2, -1)

    return {"ring": energy}


def _three_experts(operations: Operations) -> dict[str, Energy]:
    """The order of the draws from the random generator is part of the definition."""
    rng, d = np.random.default_rng(42), 32
    index = np.arange(d)
    precision = operations.array(np.linalg.inv(0.9 ** np.abs(index[:, None] - index)))
    w1 = operations.array(rng.standard_normal((64, d)) * 1.5 / np.sqrt(d))
    b1 = operations.array(0.5 * rng.standard_normal(64))
    w2 = operations.array(rng.standard_normal((64, 64)) * 1.5 / 8)
    b2 = operations.array(0.5 * rng.standard_normal(64))
    w3 = operations.array(0.5 * rng.standard_normal(64))
    center = operations.array(0.5 * rng.standard_normal(d))

    def network(x: Array) -> Array:
        hidden = operations.tanh(operations.linear(x, w1, b1))
        hidden = operations.tanh(operations.linear(hidden, w2, b2))
        return hidden @ w3 + 0.05 * (x * x).sum(-1)

    return {
        "gaussian": lambda x: 0.5 * (x * (x @ precision)).sum(-1),
        "network": network,
        "student": lambda x: 2.5 * operations.log1p((x - center) ** 2 / 4.0).sum(-1),
    }


# As measured once by long runs; log Z below has a standard error of 0.0008.
THREE_EXPERTS_VARIANCE = np.array([
    0.27748, 0.24985, 0.22078, 0.20422, 0.19113, 0.18502, 0.17687, 0.17904,
    0.18068, 0.19223, 0.20044, 0.20116, 0.19715, 0.18726, 0.19322, 0.21141,
    0.20614, 0.20885, 0.18748, 0.18657, 0.20182, 0.18043, 0.19267, 0.20951,
    0.22064, 0.24577, 0.21699, 0.19297, 0.18999, 0.19603, 0.22798, 0.27211,
])  # fmt: skip

TARGETS = {
    target.name: target
    for target in (
        Target(
            "a",
            100,
            _gaussian,
            np.diag((ROTATION * AXIS_VARIANCE) @ ROTATION.T),
            0.5 * float(np.log(2 * np.pi * AXIS_VARIANCE).sum()),
        ),
        Target("b", 2, _ring, _ring_variance(), 0.0),
        Target("c", 32, _three_experts, THREE_EXPERTS_VARIANCE, -7.3696),
    )
}


def torch_operations(dtype: Any = None) -> Operations:
    """Of torch, float32 by default."""
    import torch

    return Operations(
        lambda values: torch.tensor(values, dtype=dtype or torch.float32),
        torch.nn.functional.linear,
        torch.tanh,
        torch.log1p,
        torch.logsumexp,
    )


def jax_operations() -> Operations:
    """Of jax, in float32; for one position, to be mapped over chains by ``jax.vmap``."""
    import jax
    import jax.numpy as jnp

    return Operations(
        lambda values: jnp.asarray(values, jnp.float32),
        lambda x, weight, bias: weight @ x + bias,
        jnp.tanh,
        jnp.log1p,
        jax.nn.logsumexp,
    )


def summed(energies: dict[str, Energy]) -> Energy:
    """The energy of the product."""
    parts = list(energies.values())
    return lambda x: sum(part(x) for part in parts)


def as_expert(target: Target) -> Any:
    """The target for ``poe.sample``: a black-box energy a factor, so no closed form is in sight."""
    import poe

    space = poe.Real(target.dimension)
    parts = {
        name: poe.FromEnergy(energy, space=space)
        for name, energy in target.energies(torch_operations()).items()
    }
    return poe.Product(**parts) if len(parts) > 1 else next(iter(parts.values()))
