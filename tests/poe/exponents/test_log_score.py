"""Exponents by the cross-validated log score, where log Z is at hand."""

from __future__ import annotations

import warnings

import pytest
import torch

import poe
from experts import Gaussian
from poe.exponents import fit_exponents_by_log_score as fit
from poe.exponents.log_score import _cross_validated, _exact_fit, _spread
from poe.exponents.log_z import exact_log_z
from poe.normalizers.enumeration import states


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def black_box(expert: poe.Expert) -> poe.Expert:
    return poe.FromLogDensity(expert.forward, space=expert.space)


@pytest.mark.law
def test_by_quadrature_as_in_closed_form() -> None:
    experts = [Gaussian(torch.tensor([m, 0.0]).double(), scale=s) for m, s in ((-1, 1), (3, 2))]
    x = Gaussian(torch.tensor([0.5, 0.0]).double(), scale=0.8).sample(200, generator=seeded(0))
    closed = fit(poe.Product(*experts), x, generator=seeded(0))
    by_nodes = fit(poe.Product(*map(black_box, experts)), x, generator=seeded(0))
    torch.testing.assert_close(by_nodes.weights, closed.weights, rtol=0, atol=1e-4)
    torch.testing.assert_close(by_nodes.std_error, closed.std_error, rtol=1e-3, atol=0)
    assert by_nodes.criterion == closed.criterion


def test_the_gradient_is_zero_at_the_maximum() -> None:
    product = poe.Product(Gaussian(torch.zeros(1).double(), scale=1.0),
                          black_box(Gaussian(torch.ones(1).double(), scale=2.0)))  # fmt: skip
    x = torch.randn(100, 1, generator=seeded(0)).double() + 1
    said = product.contributions(x)
    weights, log_z = _exact_fit(product, said)
    w = weights.clone().requires_grad_()
    gradient = said.mean(0) - torch.autograd.grad(log_z(w), w)[0]
    assert gradient.abs().max() < 1e-4 * said.std(0).max()


@pytest.mark.law
def test_shrinkage_helps_where_points_are_few() -> None:
    # Truly the product as given, by eight experts, from 16 points.
    g = seeded(0)
    tables = torch.randn(8, 64, generator=g).double()
    place = 2 ** torch.arange(6)
    product = poe.Product(
        *(poe.FromLogDensity(lambda x, t=t: t[(x.long() * place).sum(-1)], space=poe.Binary(6))
          for t in tables)
    )  # fmt: skip
    everywhere = product.contributions(states(poe.Binary(6)))
    probability = torch.softmax(everywhere.sum(1), 0)
    gains = []
    for seed in range(30):
        rows = torch.multinomial(probability, 16, True, generator=seeded(seed))
        said = everywhere[rows]
        likeliest, log_z = _exact_fit(product, said)
        strength = _cross_validated(said, log_z, likeliest)
        shrunk, _ = _exact_fit(product, said, strength)
        mean = probability @ everywhere
        gains.append((shrunk - likeliest) @ mean - log_z(shrunk) + log_z(likeliest))
    gain = torch.stack(gains)
    assert gain.mean() > 4 * gain.std() / 30**0.5


def test_much_shrinkage_leaves_the_product_as_it_is() -> None:
    product = poe.Product(Gaussian([0.0], scale=1.0), Gaussian([1.0], scale=2.0))
    said = product.contributions(torch.randn(50, 1, generator=seeded(0)) + 2).double()
    far, _ = _exact_fit(product, said)
    near, _ = _exact_fit(product, said, strength=1e6)
    assert (far - 1).abs().max() > 0.1
    torch.testing.assert_close(near, torch.ones(2).double(), rtol=0, atol=1e-3)
    assert _spread(said[:1]).abs().max() == 0


def test_steps_stop_short_of_what_is_improper() -> None:
    # The data are broader than any proper power of the narrow expert alone allows.
    product = poe.Product(narrow=Gaussian([0.0], scale=0.5), wide=Gaussian([0.0], scale=1.0))
    x = 3 * torch.randn(100, 1, generator=seeded(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)
        found = fit(product, x, generator=seeded(0))
    assert exact_log_z(product, found.weights) is not None
    assert found.loss < 1.05 * -float(Gaussian([0.0], scale=3.0).log_prob(x).mean())


def test_without_log_z_it_is_refused() -> None:
    energies = [poe.FromEnergy(lambda x, p=p: (x.abs() ** p).sum(-1), space=poe.Real(4))
                for p in (2, 4)]  # fmt: skip
    with pytest.raises(poe.NormalizationError, match="fit_exponents_by_likelihood"):
        fit(poe.Product(*energies), torch.randn(10, 4, generator=seeded(0)))
