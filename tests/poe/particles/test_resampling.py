"""Resampling: each particle as often as is due, and less noise in an order through space."""

from __future__ import annotations

import torch

from poe.particles.resampling import snake_order, systematic_resample


def _counts(log_weights: torch.Tensor, num_chosen: int, g: torch.Generator) -> torch.Tensor:
    chosen = systematic_resample(log_weights, num_chosen, generator=g)
    counts = torch.zeros(log_weights.shape, dtype=torch.float64)
    return counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float64))


def test_each_particle_is_chosen_as_often_as_is_due_to_within_one() -> None:
    g = torch.Generator().manual_seed(0)
    log_weights = torch.randn(500, 30, generator=g)
    due = 20 * torch.softmax(log_weights.double(), 1)
    counts = _counts(log_weights, 20, g)
    assert (counts.sum(1) == 20).all()
    assert ((counts - due).abs() < 1.0 + 1e-9).all()


def test_on_average_exactly_as_often_as_is_due() -> None:
    g = torch.Generator().manual_seed(0)
    row = torch.tensor([[0.3, -1.0, 2.0, 0.0, -torch.inf]])
    counts = _counts(row.expand(40_000, 5), 7, g)
    due = 7 * torch.softmax(row[0].double(), 0)
    standard_error = counts.std(0) / 200.0
    assert ((counts.mean(0) - due).abs() <= 4.0 * standard_error + 1e-12).all()


def test_a_particle_without_weight_is_never_chosen() -> None:
    g = torch.Generator().manual_seed(0)
    log_weights = torch.full((200, 6), -torch.inf)
    log_weights[:, 2] = -5000.0  # only ratios matter
    assert (systematic_resample(log_weights, 9, generator=g) == 2).all()


def test_the_order_is_a_permutation_of_each_island() -> None:
    x = torch.randn(3 * 50, 4, 2, generator=torch.Generator().manual_seed(0))
    order = snake_order(x, num_islands=3, num_strips=5)
    assert torch.equal(order.sort(1).values, torch.arange(50).expand(3, 50))


def test_events_without_shape_and_of_integers_have_an_order_too() -> None:
    assert snake_order(torch.tensor([3.0, 1.0, 2.0]), 1, 2).shape == (1, 3)
    assert snake_order(torch.tensor([[3], [1], [2]]), 1, 1).tolist() == [[1, 2, 0]]


def test_in_order_the_masses_of_regions_are_kept_with_less_noise() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400 * 256, 2, generator=g)
    is_right = (x[:, 0] > 1.0).reshape(400, 256)
    flat = torch.zeros(400, 256)

    def noise(order: torch.Tensor) -> float:
        chosen = order.gather(1, systematic_resample(flat, 32, generator=g))
        kept = is_right.gather(1, chosen).double().mean(1)
        return float((kept - is_right.double().mean(1)).square().mean())

    unordered = torch.arange(256).expand(400, 256)
    assert noise(snake_order(x, 400, 6)) < 0.3 * noise(unordered)
