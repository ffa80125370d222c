"""How fast densities fall off: as their log-densities do far out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, distributions as D

import experts
import poe
from poe.core.space import Space
from poe.density.capabilities import is_small, tails
from poe.structure.tails import ends


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


FULL = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
GAUSSIAN = experts.Gaussian(f64(0.5, -1.0), covariance=FULL)
ROUND = experts.Gaussian(f64(3.0, 0.0), scale=[0.5, 2.0])
STRETCH = D.AffineTransform(f64(1.0, 2.0), f64(3.0, -0.5))
STEP = experts.LinearGaussian(weight=[[2.0]], bias=[1.0], scale=[0.5]).double()
ON_REAL = {
    "Gaussian": GAUSSIAN,
    "diagonal": ROUND,
    "mixture": poe.Mixture([GAUSSIAN, ROUND], f64(0.3, 0.7)),
    "of other scale": poe.Transformed(GAUSSIAN | ROUND, STRETCH),
    "and back": poe.Transformed(GAUSSIAN, D.ComposeTransform([STRETCH.inv, STRETCH, STRETCH])),
    "product": (GAUSSIAN | ROUND) * ROUND**0.5 / GAUSSIAN**0.1,
    "chunked": poe.Chunked(GAUSSIAN, 2),
    "normalised": poe.normalize(GAUSSIAN**2),
    "chain": poe.Chain(experts.Gaussian(f64(0.0), 2.0), STEP),
    "chain of mixtures": poe.Chain(
        experts.Gaussian(f64(0.0), 2.0) | experts.Gaussian(f64(0.0), 1.0), STEP
    ),
    "Normal": poe.as_expert(D.Independent(D.Normal(f64(1.0, 2.0), f64(3.0, 0.5)), 1)),
    "MultivariateNormal": poe.as_expert(D.MultivariateNormal(f64(1.0, 2.0), FULL)),
    "MixtureSameFamily": poe.as_expert(
        D.MixtureSameFamily(
            D.Categorical(f64(0.5, 0.5)),
            D.Independent(D.Normal(f64(0.0, 1.0)[:, None].expand(2, 2), 1 + FULL), 1),
        )
    ),
    "StudentT": poe.as_expert(D.Independent(D.StudentT(f64(3.0, 2.0), 0.0, 1.0), 1)),
    "Laplace": poe.as_expert(D.Independent(D.Laplace(f64(3.0, 2.0), 1.0), 1)),
}


@pytest.mark.parametrize("name", ON_REAL)
def test_curvature_is_that_of_the_log_density_far_out(name: str) -> None:
    expert = ON_REAL[name]
    found = tails(expert)
    assert found is not None
    assert found.dtype == torch.float64
    angle = torch.linspace(0, torch.pi, 101, dtype=torch.float64)
    u = torch.stack([angle.cos(), angle.sin()], 1)
    curvature = torch.einsum("ci,kij,cj->kc", u, found, u).amin(0)
    far = 1e7  # what grows slower is below 1e-6 of what grows as its square
    torch.testing.assert_close(-2 * expert(far * u) / far**2, curvature, rtol=1e-5, atol=1e-5)


class Cubic(D.Transform):
    """y = x³, of a class that is not known."""

    domain = codomain = D.constraints.real
    bijective = True

    def _inverse(self, y: Tensor) -> Tensor:
        return y.sign() * y.abs() ** (1 / 3)


@pytest.mark.parametrize(
    "bijection",
    [Cubic(), Cubic().inv, D.ComposeTransform([STRETCH, Cubic()]), D.TanhTransform(),
     D.IndependentTransform(D.ComposeTransform([D.AffineTransform(0.0, 2.0), Cubic().inv]), 1)],
)  # fmt: skip
def test_of_what_is_not_affine_nothing_is_known(bijection: D.Transform) -> None:
    assert tails(poe.Transformed(GAUSSIAN, bijection, space=poe.Real(2))) is None


GAMMA, EXPONENTIAL = experts.Gamma(f64(2.5, 0.5), [1.0, 3.0]), experts.Exponential(f64(1.0, 2.0))
ELSEWHERE = {
    "Gamma": GAMMA,
    "Exponential": EXPONENTIAL,
    "mixture": GAMMA | EXPONENTIAL,
    "D.Gamma": poe.as_expert(D.Independent(D.Gamma(f64(2.5, 0.5), f64(1.0, 3.0)), 1)),
    "Chi2": poe.as_expert(D.Independent(D.Chi2(f64(2.5, 0.5)), 1)),
    "D.Exponential": poe.as_expert(D.Independent(D.Exponential(f64(2.5, 0.5)), 1)),
    "Beta": experts.Beta(f64(2.5, 0.5), [1.0, 3.0]),
    "D.Beta": poe.as_expert(D.Independent(D.Beta(f64(2.5, 0.5), f64(1.0, 3.0)), 1)),
    "Uniform": poe.as_expert(D.Independent(D.Uniform(f64(0.0, 0.0), 1.0), 1)),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_growth_is_that_of_the_log_density_at_each_end(name: str) -> None:
    expert = ELSEWHERE[name]
    found, places = tails(expert), ends(expert.space)
    assert found is not None
    assert places is not None
    at = {"0": (f64(1e-150, 1e-300), f64(1e-150, 1e-300).log().neg()),
          "1": (1 - f64(1e-8, 1e-14), (1 - (1 - f64(1e-8, 1e-14))).log().neg()),
          "infinity": (f64(1e8, 2e8), f64(1e8, 2e8))}  # fmt: skip
    for index, growth in enumerate(found.amin(0).tolist()):
        points, scale = at[places.places[index // 2]]
        x = torch.full((2, 2), 0.4, dtype=torch.float64)
        x[:, index % 2] = points
        energy = expert.energy(x)
        measured = (energy[1] - energy[0]) / (scale[1] - scale[0])
        assert abs(measured.item() - growth) < 1e-6


def test_of_a_conditional_with_its_condition_bound() -> None:
    step = experts.LinearGaussian(weight=[[2.0], [1.0]], bias=[1.0, 0.0], scale=[0.5, 2.0])
    expected = torch.diag(f64(4.0, 0.25))[None]
    torch.testing.assert_close(tails(step.given(torch.zeros(3, 1))), expected)


ON_COUNTS = {
    "Poisson": experts.Poisson(f64(2.0, 0.3)),
    "D.Poisson": poe.as_expert(D.Independent(D.Poisson(f64(2.0, 0.3)), 1)),
    "Geometric": poe.as_expert(D.Independent(D.Geometric(f64(0.2, 0.7)), 1)),
    "of logits": poe.as_expert(D.Independent(D.Geometric(logits=f64(-1.0, 2.0)), 1)),
    "NegativeBinomial": poe.as_expert(
        D.Independent(D.NegativeBinomial(f64(0.4, 5.0), f64(0.2, 0.7)), 1)
    ),
    "of one count": poe.as_expert(D.Independent(D.NegativeBinomial(3.0, f64(0.2, 0.7)), 1)),
}


@pytest.mark.parametrize("name", ON_COUNTS)
def test_growth_on_counts_is_that_of_the_log_density_far_out(name: str) -> None:
    expert = ON_COUNTS[name]
    found = tails(expert)
    assert found is not None
    n = f64(1e4, 1e5, 1e6, 1e7)
    orders = torch.stack([torch.xlogy(n, n), n, n.log(), torch.ones_like(n)], 1)
    for element, growth in enumerate(found[0].unflatten(0, (3, 2)).T):
        x = torch.zeros(4, 2, dtype=torch.float64)
        x[:, element] = n
        measured = torch.linalg.solve(orders, expert.energy(x))[:3]
        torch.testing.assert_close(measured, growth, rtol=0, atol=2e-3)


def test_of_a_simplex() -> None:
    found = tails(experts.Dirichlet(f64(0.5, 1.0, 3.0)))
    torch.testing.assert_close(found, f64(-0.5, 0.0, 2.0)[None])
    torch.testing.assert_close(tails(poe.as_expert(D.Dirichlet(f64(0.5, 1.0, 3.0)))), found)


@pytest.mark.parametrize(
    "expert",
    [
        poe.FromLogDensity(lambda x: -x.square().sum(-1), space=poe.Real(1)),
        experts.Gaussian([0.0], 1.0) * poe.FromEnergy(lambda x: x[..., 0], space=poe.Real(1)),
        (experts.Gaussian([0.0], 1.0) | experts.Gaussian([0.0], 2.0)) ** -1,
        poe.as_expert(D.Gumbel(0.0, 1.0)),
        poe.as_expert(D.LogNormal(0.0, 1.0)),
        poe.Transformed(experts.Gaussian([0.0], 1.0), D.ExpTransform()),
        experts.Gaussian(torch.zeros(2000), 1.0),
        experts.Gaussian(torch.zeros(2, device="meta"), torch.ones(2, device="meta")),
    ],
    ids=["function", "product", "1 / mixture", "Gumbel", "LogNormal", "moved", "large", "meta"],
)
def test_what_is_not_known(expert: poe.Expert) -> None:
    assert tails(expert) is None


@pytest.mark.parametrize(("space", "small"), [(poe.Real(1024), True), (poe.Real(1025), False)])
def test_size_is_limited(space: Space, small: bool) -> None:
    assert is_small(space) == small
