"""Exponents by maximum likelihood with particles, against the likelihood in closed form."""

from __future__ import annotations

import warnings

import pytest
import torch

import poe
from experts import Gaussian
from poe.exponents import fit_exponents_by_likelihood as fit
from poe.exponents.fitted import said, split
from poe.exponents.log_score import _exact_fit


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def black_box(expert: poe.Expert) -> poe.Expert:
    return poe.FromLogDensity(expert.forward, space=expert.space)


@pytest.mark.law
def test_particles_find_the_likeliest_exponents() -> None:
    experts = [
        Gaussian([-1.0] * 5, scale=1.0),
        Gaussian([2.0] * 5, scale=[0.5, 1.0, 1.5, 2.0, 3.0]),
    ]
    x = Gaussian([0.0] * 5, scale=0.7).sample(300, generator=seeded(0))
    product, hidden = poe.Product(*experts), poe.Product(*map(black_box, experts))
    differences = []
    for seed in range(10):
        found = fit(hidden, x, generator=seeded(seed), num_particles=2048, progress=False)
        exact, _ = _exact_fit(product, said(product, split(product, x, seeded(seed))[0]))
        differences.append(found.weights - exact)
        assert found.is_learned
    difference = torch.stack(differences)
    assert (difference.mean(0).abs() < 4 * difference.std(0) / 10**0.5).all()
    assert (difference.std(0) < 0.1).all()


def test_far_from_where_it_begins() -> None:
    # The variance of the product is that of the points, 400 times smaller than as given.
    product = poe.Product(black_box(Gaussian([0.0], scale=1.0)))
    x = 0.05 * torch.randn(400, 1, generator=seeded(0))
    found = fit(product, x, generator=seeded(0), progress=False)
    fitted, _ = split(product, x, seeded(0))
    exact = 1 / fitted.square().mean()
    # Of 4096 draws x² has a relative standard error of (2 / 4096)^1/2, were they independent;
    # what the run says of all its error contains that, and the spread of the 320 points.
    assert found.std_error[0] > exact * (2 / 320) ** 0.5
    assert (found.weights[0] - exact).abs() < 4 * exact * (2 / 4096) ** 0.5


@pytest.mark.law
def test_on_a_discrete_space() -> None:
    g = seeded(0)
    field, pairs = torch.randn(30, generator=g), torch.randn(30, 30, generator=g) / 8
    product = poe.Product(
        poe.FromLogDensity(lambda x: x @ field, space=poe.Binary(30)),
        poe.FromLogDensity(lambda x: ((x @ pairs) * x).sum(-1), space=poe.Binary(30)),
    )
    draws = poe.smc(poe.Product(*(e**w for e, w in zip(product.experts, (0.5, 1.5), strict=True))),
                    4000, generator=g, progress=False)  # fmt: skip
    x = draws.samples.flatten(0, 1)
    found = fit(product, x, generator=g, progress=False)
    z = (found.weights - torch.tensor([0.5, 1.5])) / found.std_error
    assert (z.abs() < 4).all()
    assert found.is_learned


def test_an_expert_without_a_normaliser_is_infinitely_bad_alone() -> None:
    # What a classifier says of x, times what x is like: only together do they have a log Z.
    product = poe.Product(
        prior=Gaussian([0.0], scale=1.0),
        label=poe.FromLogDensity(lambda x: -torch.nn.functional.softplus(-3 * x).sum(-1),
                                 space=poe.Real(1)),
    )  # fmt: skip
    x = Gaussian([0.0], scale=1.0).sample(600, generator=seeded(0))
    x = x[x[:, 0] > 0]
    found = fit(product, x, generator=seeded(0), progress=False)
    assert found.alone[1] == torch.inf
    assert found.is_learned
    assert found.loss < found.alone[0]


def test_an_improper_product_is_refused() -> None:
    product = Gaussian([0.0], scale=1.0) / Gaussian([0.0], scale=0.5)
    with pytest.raises(poe.ImproperError):
        fit(product, torch.zeros(10, 1))


@pytest.mark.law
def test_too_few_particles_are_said_to_be() -> None:
    product = poe.Product(black_box(Gaussian([0.0] * 4, scale=1.0)),
                          black_box(Gaussian([30.0] * 4, scale=0.1)))  # fmt: skip
    x = Gaussian([0.0] * 4, scale=1.0).sample(50, generator=seeded(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)
        found = fit(product, x, generator=seeded(0), num_particles=128, progress=False)
    assert found.loss <= found.alone.min()
