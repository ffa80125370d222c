"""Kernel Stein discrepancy: against a double loop, at exact draws, and where it must tell."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import poe
from poe.diagnostics import (
    squared_stein_discrepancy,
    stein as module,
    stein_discrepancy,
    stein_test,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def stein_kernel(x: Tensor, s: Tensor, y: Tensor, t: Tensor, length: float) -> Tensor:
    """k_p by automatic differentiation of the kernel itself."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (length**2 + (x - y).square().sum()) ** -0.5

    by_x, by_y = torch.func.grad(kernel, 0), torch.func.grad(kernel, 1)
    trace = torch.func.jacrev(by_x, 1)(x, y).trace()
    return s @ t * kernel(x, y) + s @ by_y(x, y) + t @ by_x(x, y) + trace


@pytest.mark.parametrize("length", [1.0, 0.4])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_equal_to_a_double_loop(
    length: float, is_weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, scores = normals(2, 6, 3) + 5, normals(2, 6, 3, seed=1)
    log_weights = normals(2, 6, seed=2) if is_weighted else None
    w = torch.full((12,), 1 / 12.0) if log_weights is None else log_weights.flatten().softmax(0)
    total = diagonal = torch.zeros(())
    flat, s = x.reshape(12, 3), scores.reshape(12, 3)
    for i, j in itertools.product(range(12), repeat=2):
        term = w[i] * w[j] * stein_kernel(flat[i], s[i], flat[j], s[j], length)
        total = total + term
        diagonal = diagonal + (term if i == j else 0)
    unbiased = (total - diagonal) / (1 - w.square().sum())
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 60)  # blocks of five rows
    options = {"log_weights": log_weights, "length": length}
    torch.testing.assert_close(stein_discrepancy(x, scores, **options), total.sqrt())
    torch.testing.assert_close(squared_stein_discrepancy(x, scores, **options), unbiased)


def test_the_bootstrap_statistic_is_n_times_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normals(3, 20, 2)
    expected = 60 * stein_discrepancy(x, -x).square()
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 60 * 7)
    result = stein_test(x, -x, generator=generator())
    torch.testing.assert_close(result.statistic, expected)


def test_exact_draws_have_no_discrepancy_on_average() -> None:
    values = torch.stack(
        [squared_stein_discrepancy(x, -x) for x in (normals(4, 25, 2, seed=i) for i in range(300))]
    )
    assert abs(values.mean() / values.std() * 300**0.5) < 4


def test_weights_mend_draws_of_another_law() -> None:
    """Draws of N(0, 4) weighted to N(0, 1): near 0 on average; unweighted, far from it."""
    weighted, unweighted = [], []
    for seed in range(100):
        x = 2 * normals(4, 50, 1, seed=seed)
        log_weights = (-0.5 * x.square() + x.square() / 8).sum(-1)
        weighted.append(squared_stein_discrepancy(x, -x, log_weights=log_weights))
        unweighted.append(squared_stein_discrepancy(x, -x))
    # The ratio of sums has a bias of the order 1 / n: compare on the scale of the wrong law.
    assert torch.stack(weighted).mean().abs() < torch.stack(unweighted).mean() / 20


@pytest.mark.parametrize(
    "wrong",
    [lambda x: x + 0.5, lambda x: 1.6 * x, lambda x: 0.6 * x],
    ids=["shifted", "too wide", "too narrow"],
)
def test_draws_of_another_law_are_found(wrong: object) -> None:
    x = wrong(normals(4, 100, 2))  # type: ignore[operator]
    assert stein_test(x, -x, generator=generator()).p_value < 0.01


def test_p_values_of_exact_draws_are_uniform() -> None:
    """The bootstrap's level: 10 % of 200 exact samples have p < 0.1."""
    p = torch.stack(
        [
            stein_test(x, -x, num_resamples=199, generator=generator(i)).p_value
            for i, x in ((i, normals(4, 25, 1, seed=i)) for i in range(200))
        ]
    )
    for level in (0.1, 0.5):
        fraction = (p <= level).double().mean()
        assert abs(fraction - level) < 4 * (level * (1 - level) / 200) ** 0.5


def test_autocorrelated_draws_need_fewer_flips() -> None:
    """AR(0.9): independent signs reject exact chains too often, signs that seldom flip do not."""
    often, seldom = [], []
    for seed in range(25):
        x = normals(4, 150, 1, seed=seed)
        for t in range(1, 150):
            x[:, t] = 0.9 * x[:, t - 1] + (1 - 0.81) ** 0.5 * x[:, t]
        options = {"num_resamples": 199, "generator": generator(seed)}
        often.append(stein_test(x, -x, **options).p_value)  # type: ignore[arg-type]
        seldom.append(stein_test(x, -x, flip_probability=0.03, **options).p_value)  # type: ignore[arg-type]
    assert (torch.stack(often) < 0.05).double().mean() > 0.4
    assert (torch.stack(seldom) < 0.05).double().mean() < 0.05 + 4 * (0.05 * 0.95 / 25) ** 0.5


def test_signs_begin_as_fair_coins_and_flip_now_and_then() -> None:
    signs = module._signs(torch.zeros(3, 50, 1), 4000, 0.1, generator()).reshape(3, 50, 4000)
    assert (signs.abs() == 1).all()
    assert (signs[:, 0].mean(1).abs() < 4 / 4000**0.5).all()
    flips = (signs[:, 1:] != signs[:, :-1]).double().mean()
    assert abs(flips - 0.1) < 4 * (0.1 * 0.9 / (3 * 49 * 4000)) ** 0.5


def test_the_same_seed_gives_the_same_p_value() -> None:
    x = normals(2, 30, 1)
    one, two = (stein_test(x, -x, generator=generator(5)).p_value for _ in range(2))
    assert one == two


def test_errors_say_what_was_expected() -> None:
    x = normals(2, 10, 3)
    with pytest.raises(poe.ShapeError, match="of one shape"):
        stein_discrepancy(x, x[..., :2])
    with pytest.raises(poe.ShapeError, match=r"\(chains, draws\) = \(2, 10\)"):
        stein_discrepancy(x, x, log_weights=torch.zeros(20))
    with pytest.raises(poe.PoeError, match="positive finite length"):
        stein_discrepancy(x, x, length=0.0)
    with pytest.raises(poe.PoeError, match="flip probability"):
        stein_test(x, x, flip_probability=0.9)
