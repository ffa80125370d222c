"""Maps that bend: inverses, gradients, volumes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import poe
from poe.core.transport import push_score
from poe.samplers import Transport
from tests.poe.core.bent import F64, funnel, score_of, seeded


def some_transport(d: int = 4) -> Transport:
    g = seeded()
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=F64)  # noqa: E731
    factor = 0.3 * normal(d, d).tril() + torch.eye(d, dtype=F64)
    matrix = torch.eye(d, dtype=F64) + 0.4 * normal(d, d)
    curves, means, log_scales = (0.4 * normal(n, d - 1) for n in (2, 2, 3))
    return Transport(normal(d), matrix, curves, means, log_scales, normal(d), factor)


def two_layers() -> Transport:
    """That map, and as the x of its u the same one with another location."""
    one = some_transport()
    other = replace(one, loc=one.loc + 1.0)
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return Transport(*(torch.stack(pair) for pair in pairs))


MAPS = {"one layer": some_transport(), "two layers": two_layers()}
every_map = pytest.mark.parametrize("transport", MAPS.values(), ids=MAPS)


@every_map
def test_one_way_undoes_the_other(transport: Transport) -> None:
    u = torch.randn(50, 2, 2, generator=seeded(), dtype=F64)
    x = transport.to_x(u)
    assert x.shape == u.shape
    torch.testing.assert_close(transport.to_u(x), u)


@every_map
def test_the_log_determinant_is_that_of_the_jacobian_up_to_a_constant(transport: Transport) -> None:
    u = torch.randn(6, 4, generator=seeded(), dtype=F64)
    jacobians = [
        torch.autograd.functional.jacobian(lambda row: transport.to_x(row[None])[0], row)
        for row in u
    ]
    log_det = torch.linalg.slogdet(torch.stack(jacobians)).logabsdet
    differences = log_det - transport.log_abs_det_at(u)
    torch.testing.assert_close(differences, transport.log_volume().expand(6))


def test_of_two_layers_the_one_next_to_u_comes_first() -> None:
    one, other = some_transport(), replace(some_transport(), loc=some_transport().loc + 1.0)
    u = torch.randn(5, 4, generator=seeded(), dtype=F64)
    torch.testing.assert_close(two_layers().to_x(u), one.to_x(other.to_x(u)))


@every_map
def test_a_score_pulled_is_the_gradient_of_the_density_in_u_and_pushed_it_is_back(
    transport: Transport,
) -> None:
    u = torch.randn(20, 4, generator=seeded(), dtype=F64)
    in_u = lambda u: funnel(transport.to_x(u)) + transport.log_abs_det_at(u)  # noqa: E731
    score = score_of(funnel, transport.to_x(u))
    pulled = transport.pull_score_at(u, score)
    torch.testing.assert_close(pulled, score_of(in_u, u))
    torch.testing.assert_close(transport.push_score_at(u, pulled), score)
    torch.testing.assert_close(push_score(transport, transport.to_x(u), pulled), score)


@every_map
def test_a_density_seen_through_it(transport: Transport) -> None:
    target = poe.FromLogDensity(funnel, space=poe.Real(4))
    u = torch.randn(20, 4, generator=seeded(), dtype=F64)
    seen = transport.whitened(target)
    log_density, score = seen.log_density_and_score(u)
    torch.testing.assert_close(log_density, seen.log_density(u))
    torch.testing.assert_close(score, score_of(seen.log_density, u))
    torch.testing.assert_close(seen.in_x(u, log_density), funnel(transport.to_x(u)))
