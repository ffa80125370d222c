"""ESS, R-hat and MCSE are ArviZ's numbers, component by component, on arrays of every kind."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from poe import diagnostics

arviz = diagnostics.import_arviz()
arviz.Numba.disable_numba()  # where Numba is there, NumPy 2.4 refuses what ArviZ makes of it

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "ess_bulk": (diagnostics.ess_bulk, "ess", "bulk"),
    "ess_tail": (diagnostics.ess_tail, "ess", "tail"),
    "ess_mean": (diagnostics.ess_mean, "ess", "mean"),
    "r_hat": (diagnostics.r_hat, "rhat", "rank"),
    "mcse_mean": (diagnostics.mcse_mean, "mcse", "mean"),
    "mcse_sd": (diagnostics.mcse_sd, "mcse", "sd"),
}


def normals(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def autoregressive(coefficient: float, *shape: int) -> Tensor:
    """x_t = coefficient * x_{t-1} + noise along the draws, from its own stationary law."""
    noise = normals(*shape)
    x = noise.clone()
    x[:, 0] /= math.sqrt(1 - coefficient**2)
    for t in range(1, shape[1]):
        x[:, t] += coefficient * x[:, t - 1]
    return x


def stuck_chain() -> Tensor:
    x = normals(4, 60, 2)
    x[1] = x[1, :1]
    return x


def one_odd_draw_out() -> Tensor:
    """Constant, but for the middle draw, which splitting leaves out."""
    x = torch.ones(4, 5, 1, dtype=torch.float64)
    x[:, 2] = torch.arange(4.0)[:, None]
    return x


ARRAYS: dict[str, Callable[[], Tensor]] = {
    "independent": lambda: normals(4, 500, 3),
    "float32, with ties by rounding": lambda: normals(50, 300, 2, dtype=torch.float32),
    "many short chains": lambda: normals(300, 8, 2),
    "slow": lambda: autoregressive(0.97, 4, 400, 3),
    "antithetic": lambda: autoregressive(-0.7, 4, 200, 3),
    "strongly antithetic": lambda: autoregressive(-0.99, 4, 101, 3),
    "slow and long": lambda: autoregressive(0.999, 2, 3001, 2),
    "one chain": lambda: autoregressive(0.5, 1, 99, 2),
    "two chains": lambda: autoregressive(0.5, 2, 21, 40),
    "heavy tails": lambda: normals(4, 100, 2) / normals(4, 100, 1),
    "far from zero": lambda: normals(4, 100, 2) * 1e-4 + 1e4,
    "two values": lambda: (autoregressive(0.9, 4, 100, 3) > 0.3).double(),
    "two values, equally often": lambda: normals(4, 100, 3).argsort(1).remainder(2),
    "a rare value": lambda: (normals(4, 100, 3) > 2).double(),
    "few values": lambda: autoregressive(0.8, 4, 100, 3).mul(1.3).round(),
    "zeros of both signs": lambda: normals(4, 50, 2).round() * -1.0,
    "integers": lambda: normals(4, 50, 2).mul(3).long(),
    "chains apart": lambda: normals(4, 100, 2) + 3 * torch.arange(4.0)[:, None, None],
    "chains of all scales": lambda: normals(4, 100, 2) * (1 + torch.arange(4.0)[:, None, None]),
    "a trend": lambda: normals(4, 100, 2) + torch.arange(100.0)[:, None] / 30,
    "a stuck chain": stuck_chain,
    "the middle draw alone": one_odd_draw_out,
    "no event dimension": lambda: normals(4, 100),
    "two event dimensions": lambda: normals(3, 50, 2, 3),
    **{f"{n} draws": (lambda n=n: autoregressive(0.3, 5, n, 30)) for n in range(4, 17)},
}  # fmt: skip


def by_arviz(function: str, method: str, samples: Tensor) -> Tensor:
    columns = samples.double().reshape(*samples.shape[:2], -1).numpy()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        values = [
            float(getattr(arviz, function)(columns[:, :, i], method=method))
            for i in range(columns.shape[2])
        ]
    return torch.tensor(values, dtype=torch.float64).reshape(samples.shape[2:])


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_equal_to_arviz(name: str, array: str) -> None:
    ours, function, method = FUNCTIONS[name]
    samples = ARRAYS[array]()
    expected = by_arviz(function, method, samples)
    torch.testing.assert_close(ours(samples), expected, rtol=1e-6, atol=0.0, equal_nan=True)
