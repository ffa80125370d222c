"""Maps that bend: inverses, gradients, volumes."""

from __future__ import annotations

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
