"""The fit of a map that bends, to positions and scores and to what lies ahead."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import poe
from poe.core import transport_fit
from poe.core.errors import PoeError
from poe.core.transport_fit import Fit, Rows, evenly, misfit, without_curved_necks
from poe.samplers import Dense, Transport, fit_affine, fit_transport
from tests.poe.core.bent import (
    BENT,
    F64,
    banana,
    draw_banana,
    draw_funnel,
    draw_rosenbrock,
    draw_schools,
    funnel,
    rosenbrock,
    schools,
    score_of,
    seeded,
)


@pytest.mark.slow
@pytest.mark.parametrize("name", BENT)
def test_what_bends_comes_out_nearly_normal(name: str) -> None:
    density, draw = BENT[name]
    x = draw(1000, seeded())
    score = score_of(density, x)
    transport = fit_transport(x, score)
    assert isinstance(transport, Transport)
    assert misfit(transport, x, score) < 0.05 * misfit(fit_affine(x, score), x, score)


@pytest.mark.slow
def test_a_parabola_is_taken_where_it_explains_the_scores() -> None:
    x = draw_banana(1000, seeded())
    score = score_of(banana, x)
    assert misfit(fit_transport(x, score), x, score) < 1e-3


@pytest.mark.slow
def test_a_neck_that_no_position_is_in_is_foretold() -> None:
    """Fitted where v > -3; in the neck below the others are standard normal all the same."""
    x = draw_funnel(3000, seeded())
    x = x[x[:, 0] > -3][:2000]
    transport = fit_transport(x, score_of(funnel, x))
    neck = draw_funnel(40_000, seeded(1))
    neck = neck[(neck[:, 0] > -6) & (neck[:, 0] < -4)]
    u = transport.to_u(neck)[:, 1:]
    # Its location, which grows like exp(-v / 2) in units of the scale, is known to a third of it.
    assert u.mean(0).abs().max() < 0.4
    assert (u.std(0).log().abs() < 0.2).all()


@pytest.mark.slow
def test_a_gaussian_gets_the_affine_map() -> None:
    x = torch.randn(1000, 4, generator=seeded(), dtype=F64)
    assert isinstance(fit_transport(x, -x), Dense)


@pytest.mark.parametrize(("count", "d"), [(500, 1), (79, 4), (1200, 51)])
def test_where_it_cannot_be_fitted_there_is_the_affine_map(count: int, d: int) -> None:
    x = torch.randn(count, d, generator=seeded(), dtype=F64)
    affine, found = fit_affine(x, -x), fit_transport(x, -x)
    assert type(found) is type(affine)
    torch.testing.assert_close(found.to_u(x), affine.to_u(x))


def test_positions_that_are_not_finite_are_refused() -> None:
    x = torch.full((100, 2), torch.nan)
    with pytest.raises(PoeError, match="finite"):
        fit_transport(x, x)


def test_the_fit_keeps_the_dtype_and_leaves_the_gradient_mode_alone() -> None:
    x = draw_rosenbrock(200, seeded()).float()
    with torch.no_grad():
        transport = fit_transport(x, score_of_float(x))
    assert isinstance(transport, Transport)
    assert transport.to_u(x).dtype == torch.float32
    assert not transport.matrix.requires_grad


@torch.enable_grad()
def score_of_float(x: Tensor) -> Tensor:
    return score_of(rosenbrock, x)


def test_scores_of_a_normal_have_no_misfit() -> None:
    x = torch.randn(100, 3, generator=seeded(), dtype=F64)
    unit = Dense(torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64))
    assert misfit(unit, x, -x) == 0.0
    assert misfit(unit, x, -2 * x) == pytest.approx(((1 + x.square()).sqrt() - 1).mean().item())


def neck_of_schools(low: float, high: float) -> Tensor:
    log_scale = torch.empty(500, dtype=F64).uniform_(low, high, generator=seeded(1))
    return draw_schools(log_scale, seeded(2))


@pytest.mark.slow
def test_the_neck_of_a_hierarchy_is_found_where_scores_ahead_can_be_asked() -> None:
    """Positions where the scale is at least e^-2.5, and the neck where it is e^-6 to e^-4: from
    positions alone the map leads past it by many scales."""
    log_scale = 0.8 + torch.randn(3000, generator=seeded(), dtype=F64)
    x = draw_schools(log_scale[log_scale > -2.5], seeded(3))
    target = poe.FromLogDensity(schools, space=poe.Real(10))
    score, neck = score_of(schools, x), neck_of_schools(-6.0, -4.0)
    of_neck = score_of(schools, neck)
    blind, seeing = fit_transport(x, score), fit_transport(x, score, target)
    assert misfit(blind, neck, of_neck) > 3.0
    assert misfit(seeing, neck, of_neck) < 1.0
    assert misfit(seeing, x, score) < 1.5 * misfit(blind, x, score)


@pytest.mark.slow
def test_a_few_positions_far_in_a_neck_are_fitted_with_the_others() -> None:
    log_scale = 0.8 + torch.randn(1500, generator=seeded(), dtype=F64)
    log_scale[:75] = -6.5
    x = draw_schools(log_scale, seeded(3))
    score = score_of(schools, x)
    transport = fit_transport(x, score)
    assert misfit(transport, x[:75], score[:75]) < 0.5
    assert misfit(transport, x[75:], score[75:]) < 0.1


@pytest.mark.slow
def test_two_groups_with_a_scale_each_take_two_layers() -> None:
    x = torch.cat([draw_funnel(2000, seeded()), draw_funnel(2000, seeded(1))], 1)
    both = lambda x: funnel(x[..., :5]) + funnel(x[..., 5:])  # noqa: E731
    score = score_of(both, x)
    transport = fit_transport(x, score)
    assert isinstance(transport, Transport)
    assert len(transport.layers) == 2
    assert misfit(transport, x, score) < 0.02 * misfit(fit_affine(x, score), x, score)


def squares(x: Tensor, b: float) -> Tensor:
    bent = x[..., 1:] - x[..., :-1].square()
    return -(x[..., 0] - 1).square() - b * bent.square().sum(-1)


def draw_squares(count: int, b: float, d: int) -> Tensor:
    noise = torch.randn(d, count, generator=seeded(), dtype=F64) / math.sqrt(2 * b)
    x = [1 + noise[0] * math.sqrt(b)]
    for each in noise[1:]:
        x.append(x[-1].square() + each)
    return torch.stack(x, 1)


@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize(("d", "b"), [(3, 5.0), (4, 10.0), (4, 100.0), (5, 100.0)])
def test_of_a_chain_of_squares_each_is_undone_by_itself(d: int, b: float, is_turned: bool) -> None:
    mixed = torch.randn(d, d, generator=seeded(1), dtype=F64)
    turn = torch.linalg.qr(mixed).Q if is_turned else torch.eye(d, dtype=F64)
    x = draw_squares(2000, b, d) @ turn.mT
    score = score_of(lambda x: squares(x @ turn, b), x)
    transport = fit_transport(x, score)
    assert isinstance(transport, Transport)
    assert len(transport.layers) == d - 1
    assert misfit(transport, x, score) < 0.05


def test_a_chain_of_squares_is_known_beyond_all_positions() -> None:
    x = draw_squares(4000, 10.0, 4)
    score = score_of(lambda x: squares(x, 10.0), x)
    is_far = x[:, 0] > 1.5
    transport = fit_transport(x[~is_far], score[~is_far])
    assert misfit(transport, x[is_far], score[is_far]) < 0.01


def test_in_single_precision_a_map_is_as_exact_as_x() -> None:
    x = draw_squares(2000, 10.0, 4).float()
    score = score_of(lambda x: squares(x, 10.0), x)
    transport = fit_transport(x, score)
    u = transport.to_u(x)
    assert u.dtype == transport.pull_score_at(u, score).dtype == torch.float32
    torch.testing.assert_close(transport.to_x(u), x, rtol=1e-5, atol=1e-5)


def test_of_five_valleys_side_by_side_four_layers_undo_four() -> None:
    x = torch.cat([draw_rosenbrock(2000, seeded(k)) for k in range(5)], 1)
    score = score_of(lambda x: rosenbrock(x.reshape(-1, 5, 2)).sum(1), x)
    transport = fit_transport(x, score)
    assert misfit(transport, x, score) < 0.3 * misfit(fit_affine(x, score), x, score)


def test_places_ahead_where_a_target_is_not_defined_are_left_out() -> None:
    x = draw_funnel(500, seeded())
    broken = lambda x: torch.where(x[..., 0] < -6, torch.nan, funnel(x))  # noqa: E731
    target = poe.FromLogDensity(broken, space=poe.Real(5))
    transport = fit_transport(x, score_of(funnel, x), target)
    assert misfit(transport, x, score_of(funnel, x)) < 0.1


def test_no_parabola_stays_where_a_scale_varies() -> None:
    """s = 0.2 t varies by 0.6 from t = -1.5 to 1.5, and s = 0.5 t by 1.5 > 1."""
    eye, twos = torch.eye(3, dtype=F64), torch.full((2, 2), 2.0, dtype=F64)
    log_scales = torch.tensor([[0.0, 0.0], [0.2, 0.5], [0.0, 0.0]], dtype=F64)
    found = without_curved_necks(Fit(eye, twos, twos, log_scales))
    assert found.curves.tolist() == [[2.0, 2.0], [2.0, 0.0]]


def test_where_the_algebra_of_every_begun_fit_fails_the_map_is_affine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise torch.linalg.LinAlgError

    monkeypatch.setattr(transport_fit, "_begun", failing)
    x = draw_funnel(300, seeded())
    assert isinstance(fit_transport(x, score_of(funnel, x)), Dense)


def rows_at(first: Tensor) -> Rows:
    y = torch.stack([first, torch.zeros_like(first)], 1)
    return Rows(y, -y)


def unbent(d: int) -> Fit:
    zeros = torch.zeros(3, d - 1, dtype=F64)
    return Fit(torch.eye(d, dtype=F64), zeros[:2], zeros[:2], zeros)


def test_of_crowded_places_some_rows_count_and_of_empty_ones_all() -> None:
    """Twenty places from 0 to 1, each of 100 rows: 1001 rows at 0 are thinned by 11, three stay."""
    first = torch.cat([torch.zeros(1001, dtype=F64), torch.tensor([0.97, 0.98, 1.0], dtype=F64)])
    kept = evenly(unbent(2), rows_at(first)).y[:, 0]
    assert (kept == 0).sum() == 91
    assert kept[kept > 0].tolist() == [0.97, 0.98, 1.0]


def test_rows_all_at_one_place_are_thinned_as_one() -> None:
    assert len(evenly(unbent(2), rows_at(torch.full((300,), 2.0, dtype=F64))).y) == 100
