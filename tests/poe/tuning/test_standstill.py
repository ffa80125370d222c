"""Which of the chains that stand still begin anew."""

from __future__ import annotations

import torch
from torch import Tensor

import poe
from poe.tuning.standstill import are_high, in_pits, stand_still
from tests.poe.tuning.test_warmup import seeded

F64 = torch.float64


def hierarchy(x: Tensor) -> Tensor:
    """40 effects that share a scale, of which log is N(0, 1): it grows without bound."""
    log_scale, effects = x[:, 0], x[:, 1:]
    square = (effects * (-log_scale).exp()[:, None]).square().sum(1)
    return -0.5 * square - 40 * log_scale - 0.5 * log_scale.square()


def drawn(log_scale: Tensor) -> Tensor:
    effects = torch.randn(len(log_scale), 40, generator=seeded(), dtype=F64)
    return torch.cat([log_scale[:, None], log_scale.exp()[:, None] * effects], 1)


def on(log_density: object, dimension: int) -> poe.Expert:
    return poe.FromLogDensity(log_density, space=poe.Real(dimension))  # type: ignore[arg-type]


def test_a_chain_in_a_pit_has_no_mass_around_it() -> None:
    """At log scale -12 the density is e^400 times that of the middle, and the mass e^-72."""
    others = drawn(0.3 * torch.randn(60, generator=seeded(1), dtype=F64))
    stuck = drawn(torch.tensor([-12.0, -2.0], dtype=F64))
    assert hierarchy(stuck)[0] > hierarchy(others).amax() + 350
    assert in_pits(on(hierarchy, 41), stuck, others).tolist() == [True, False]


def test_a_narrow_mode_keeps_its_chain() -> None:
    """Half of the mass within a thousandth of the width: e^27 times as dense."""
    narrow = -4 * torch.tensor(1e-3, dtype=F64).log()

    def spike(x: Tensor) -> Tensor:
        square = x.square().sum(1)
        return torch.logaddexp(-0.5 * square, narrow - 0.5 * (x - 1).square().sum(1) / 1e-6)

    others = torch.randn(60, 4, generator=seeded(), dtype=F64)
    stuck = 1 + 1e-3 * torch.randn(3, 4, generator=seeded(1), dtype=F64)
    assert not in_pits(on(spike, 4), stuck, others).any()


def test_where_scores_are_no_numbers_nothing_is_told() -> None:
    def broken(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 5, (x[:, 0] - 7).sqrt(), -0.5 * x.square().sum(1))

    others = torch.randn(60, 2, generator=seeded(), dtype=F64)
    stuck = torch.tensor([[7.0, 0.0]], dtype=F64)
    assert not in_pits(on(broken, 2), stuck, others).any()


def test_high_is_beyond_what_chance_explains() -> None:
    others = torch.randn(100, generator=seeded())
    assert not are_high(others, others).any()
    assert are_high(torch.tensor([20.0]), others).all()


def test_a_chain_that_moves_once_in_fifty_steps_stands_still() -> None:
    x = torch.randn(51, 3, 2, generator=seeded())
    x[:, 0] = 0.0
    x[25:, 1] = 1.0
    x[:25, 1] = 0.0
    assert stand_still(x).tolist() == [True, True, False]
