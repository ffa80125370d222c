"""Maps that bend: inverses, gradients, volumes; and the fit of one to positions and scores."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import poe
from poe.core.errors import PoeError
from poe.core.transport import push_score
from poe.core.transport_fit import misfit
from poe.samplers import Dense, Transport, fit_affine, fit_transport

F64 = torch.float64
Density = Callable[[Tensor], Tensor]
Draw = Callable[[int, torch.Generator], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_transport(d: int = 4) -> Transport:
    g = seeded()
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=F64)  # noqa: E731
    factor = 0.3 * normal(d, d).tril() + torch.eye(d, dtype=F64)
    matrix = torch.eye(d, dtype=F64) + 0.4 * normal(d, d)
    curves, means, log_scales = (0.4 * normal(n, d - 1) for n in (2, 2, 3))
    return Transport(normal(d), matrix, curves, means, log_scales, normal(d), factor)


def funnel(x: Tensor) -> Tensor:
    v, rest = x[..., 0], x[..., 1:]
    necks = rest.square().sum(-1) * (-v).exp() + rest.shape[-1] * v
    return -0.5 * (v / 3).square() - 0.5 * necks


def draw_funnel(count: int, g: torch.Generator, d: int = 5) -> Tensor:
    v, rest = (torch.randn(count, n, generator=g, dtype=F64) for n in (1, d - 1))
    return torch.cat([3 * v, (1.5 * v).exp() * rest], 1)


def banana(x: Tensor) -> Tensor:
    bent = x[:, 1] - 0.02 * (x[:, 0].square() - 100.0)
    return -0.5 * (x[:, 0] / 10.0).square() - 0.5 * bent.square()


def draw_banana(n: int, generator: torch.Generator) -> Tensor:
    first, bent = torch.randn(2, n, generator=generator)
    return torch.stack([10.0 * first, bent + 2.0 * (first.square() - 1.0)], 1)


def rosenbrock(x: Tensor) -> Tensor:
    return -(1 - x[..., 0]).square() - 100 * (x[..., 1] - x[..., 0].square()).square()


def draw_rosenbrock(count: int, g: torch.Generator) -> Tensor:
    x, z = torch.randn(2, count, generator=g, dtype=F64)
    x = 1 + x / math.sqrt(2)
    return torch.stack([x, x.square() + z / math.sqrt(200)], 1)


def rotated(density: Density, draw: Draw, d: int) -> tuple[Density, Draw]:
    turn = torch.linalg.qr(torch.randn(d, d, generator=seeded(1), dtype=F64)).Q
    scale = torch.logspace(-2, 2, d, dtype=F64)
    return lambda x: density((x / scale) @ turn), lambda n, g: (draw(n, g) @ turn.mT) * scale


def score_of(density: Density, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(density(leaf).sum(), leaf)[0]


def gaussian(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


def test_one_way_undoes_the_other() -> None:
    transport = some_transport()
    u = torch.randn(50, 2, 2, generator=seeded(), dtype=F64)
    x = transport.to_x(u)
    assert x.shape == u.shape
    torch.testing.assert_close(transport.to_u(x), u)


def test_the_log_determinant_is_that_of_the_jacobian_up_to_a_constant() -> None:
    transport = some_transport()
    u = torch.randn(6, 4, generator=seeded(), dtype=F64)
    jacobians = [
        torch.autograd.functional.jacobian(lambda row: transport.to_x(row[None])[0], row)
        for row in u
    ]
    log_det = torch.linalg.slogdet(torch.stack(jacobians)).logabsdet
    differences = log_det - transport.log_abs_det_at(u)
    torch.testing.assert_close(differences, differences[:1].expand(6))


def test_a_score_pulled_is_the_gradient_of_the_density_in_u_and_pushed_it_is_back() -> None:
    transport = some_transport()
    u = torch.randn(20, 4, generator=seeded(), dtype=F64)
    in_u = lambda u: funnel(transport.to_x(u)) + transport.log_abs_det_at(u)  # noqa: E731
    score = score_of(funnel, transport.to_x(u))
    pulled = transport.pull_score_at(u, score)
    torch.testing.assert_close(pulled, score_of(in_u, u))
    torch.testing.assert_close(transport.push_score_at(u, pulled), score)
    torch.testing.assert_close(push_score(transport, transport.to_x(u), pulled), score)


def test_a_density_seen_through_it() -> None:
    target = poe.FromLogDensity(funnel, space=poe.Real(4))
    transport = some_transport()
    u = torch.randn(20, 4, generator=seeded(), dtype=F64)
    seen = transport.whitened(target)
    log_density, score = seen.log_density_and_score(u)
    torch.testing.assert_close(log_density, seen.log_density(u))
    torch.testing.assert_close(score, score_of(seen.log_density, u))
    torch.testing.assert_close(seen.in_x(u, log_density), funnel(transport.to_x(u)))


FUNNEL, ROSENBROCK = (funnel, draw_funnel), (rosenbrock, draw_rosenbrock)
BENT: dict[str, tuple[Density, Draw]] = {
    "funnel": FUNNEL,
    "funnel, v last": (lambda x: funnel(x.flip(-1)), lambda n, g: draw_funnel(n, g).flip(-1)),
    "funnel, rotated and in raw units": rotated(*FUNNEL, 5),
    "Rosenbrock": ROSENBROCK,
    "Rosenbrock, rotated and in raw units": rotated(*ROSENBROCK, 2),
}


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
