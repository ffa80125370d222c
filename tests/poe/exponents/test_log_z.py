"""log Z as a function of exponents, and its derivatives, against the moments themselves."""

from __future__ import annotations

import pytest
import torch

import poe
from experts import Gaussian
from poe.exponents.log_z import exact_log_z
from poe.exponents.newton import derivatives
from poe.normalizers.enumeration import states


def black_box(expert: poe.Expert) -> poe.Expert:
    return poe.FromLogDensity(expert.forward, space=expert.space)


def gaussians() -> poe.Product:
    narrow = Gaussian(torch.tensor([1.0, -1.0]).double(), scale=torch.tensor([0.5, 1.0]).double())
    return poe.Product(narrow, Gaussian(torch.zeros(2).double(), scale=2.0))


def test_quadrature_has_the_derivatives_of_the_closed_form() -> None:
    product, weights = gaussians(), torch.tensor([0.7, 1.6]).double()
    hidden = poe.Product(*(black_box(expert) for expert in product.experts))
    closed, by_nodes = exact_log_z(product, weights), exact_log_z(hidden, weights)
    assert closed is not None
    assert by_nodes is not None
    for w in (weights, weights + 0.2):
        torch.testing.assert_close(by_nodes(w), closed(w), rtol=0, atol=1e-5)
        for one, other in zip(derivatives(by_nodes, w), derivatives(closed, w), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_derivatives_are_moments() -> None:
    g = torch.Generator().manual_seed(0)
    field, pairs = torch.randn(6, generator=g).double(), torch.randn(6, 6, generator=g).double()
    product = poe.Product(
        poe.FromLogDensity(lambda x: x.double() @ field, space=poe.Binary(6)),
        poe.FromLogDensity(lambda x: ((x.double() @ pairs) * x).sum(-1), space=poe.Binary(6)),
    )
    weights = torch.tensor([1.5, -0.5]).double()
    log_z = exact_log_z(product, weights)
    assert log_z is not None
    said = product.contributions(states(poe.Binary(6)))
    probability = torch.softmax(said @ weights, 0)
    mean = probability @ said
    centered = said - mean
    gradient, curvature = derivatives(log_z, weights)
    torch.testing.assert_close(gradient, mean)
    torch.testing.assert_close(-curvature, centered.mT @ (probability[:, None] * centered))
    torch.testing.assert_close(log_z(weights), torch.logsumexp(said @ weights, 0))


def test_what_an_expert_excludes_has_no_say() -> None:
    product = poe.Product(
        poe.FromLogDensity(lambda x: torch.where(x[..., 0] > 0, 0.0, -torch.inf),
                           space=poe.Binary(2)),
        poe.FromLogDensity(lambda x: x.sum(-1), space=poe.Binary(2)),
    )  # fmt: skip
    log_z = exact_log_z(product, torch.ones(2).double())
    assert log_z is not None
    gradient, _ = derivatives(log_z, torch.ones(2).double())
    share = torch.sigmoid(torch.tensor(1.0)).double()
    torch.testing.assert_close(gradient, torch.stack([torch.zeros(()).double(), 1 + share]))


def test_a_mixture_has_a_closed_form_at_one_exponent_only() -> None:
    ends = [Gaussian(torch.tensor([m]).double(), scale=1.0) for m in (-2.0, 2.0)]
    product = poe.Product(poe.Mixture(ends, [0.5, 0.5]), Gaussian([1.0], scale=3.0).double())
    log_z = exact_log_z(product, torch.ones(2).double())
    assert log_z is not None
    for w in (torch.tensor([1.0, 1.0]), torch.tensor([0.9, 1.3])):
        target = poe.Product(*(e ** float(v) for e, v in zip(product.experts, w, strict=True)))
        truth = poe.log_partition(target, method=poe.normalizers.Quadrature()).value
        torch.testing.assert_close(log_z(w.double()), truth.double(), rtol=0, atol=1e-5)


def test_none_where_it_is_not_at_hand() -> None:
    energy = poe.FromEnergy(lambda x: x.square().sum(-1), space=poe.Real(4))
    assert exact_log_z(poe.Product(energy), torch.ones(1).double()) is None


def test_improper_is_refused() -> None:
    product = poe.Product(Gaussian([0.0], scale=1.0), Gaussian([1.0], scale=1.0))
    with pytest.raises(poe.ImproperError):
        exact_log_z(product, torch.tensor([1.0, -2.0]).double())
