"""Exact and sliced score matching: closed forms, and that they agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import poe
from experts import Exponential, Gaussian
from poe.losses import Loss, score_matching, sliced_score_matching
from tests.seeds import seeded


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Polynomial(nn.Module):
    """θ'T(x) with T = (x₁, x₂, x₁², x₁x₂, x₂², x₁⁴, x₂⁴): an exponential family in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(7, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return statistics(x) @ self.theta


def statistics(x: Tensor) -> Tensor:
    a, b = x.unbind(-1)
    return torch.stack([a, b, a**2, a * b, b**2, a**4, b**4], -1)


def closed_form(x: Tensor) -> Tensor:
    """θ = −(E Σᵢ ∂ᵢT ∂ᵢT')⁻¹ E Σᵢ ∂ᵢ²T: Hyvarinen 2007, eq. 32, by hand for this T."""
    a, b = x.unbind(-1)
    one, zero = torch.ones_like(a), torch.zeros_like(a)
    by_a = torch.stack([one, zero, 2 * a, b, zero, 4 * a**3, zero], -1)
    by_b = torch.stack([zero, one, zero, a, 2 * b, zero, 4 * b**3], -1)
    laplacian = torch.stack([zero, zero, 2 * one, zero, 2 * one, 12 * a**2, 12 * b**2], -1)
    squares = (by_a.mT @ by_a + by_b.mT @ by_b) / len(x)
    return -torch.linalg.solve(squares, laplacian.mean(0))


def minimum(loss: Loss, theta: Tensor) -> Tensor:
    """The θ of least loss, which is quadratic in it: one Newton step."""
    (slope,) = torch.autograd.grad(loss.value, theta, create_graph=True)
    rows = [torch.autograd.grad(s, theta, retain_graph=True)[0] for s in slope]
    return theta.detach() - torch.linalg.solve(torch.stack(rows), slope.detach())


def data(n: int, seed: int = 0) -> Tensor:
    mix = torch.tensor([[1.0, 0.0], [0.4, 0.7]], dtype=torch.float64)
    z = torch.randn(n, 2, generator=rng(seed), dtype=torch.float64)
    return z @ mix.mT + torch.tensor([0.5, -0.3], dtype=torch.float64)


def test_an_exponential_family_has_its_closed_form() -> None:
    net = Polynomial()
    loss = score_matching(poe.FromLogDensity(net, space=poe.Real(2)), data(500))
    torch.testing.assert_close(minimum(loss, net.theta), closed_form(data(500)))


@pytest.mark.parametrize("method", ["exact", "sliced"])
def test_the_gaussian_of_the_data_is_recovered(method: str) -> None:
    # Of data with a Gaussian's moments: θ₁₋₅ = (P μ, −P/2), and no fourth powers.
    net = Polynomial()
    expert = poe.FromLogDensity(net, space=poe.Real(2))

    def fit(seed: int) -> Tensor:
        x = data(2000, seed)
        if method == "exact":
            return minimum(score_matching(expert, x), net.theta)
        return minimum(sliced_score_matching(expert, x, generator=rng(seed)), net.theta)

    found = torch.stack([fit(seed) for seed in range(40)])
    mix = torch.tensor([[1.0, 0.0], [0.4, 0.7]], dtype=torch.float64)
    precision = torch.linalg.inv(mix @ mix.mT)
    shift = precision @ torch.tensor([0.5, -0.3], dtype=torch.float64)
    p = precision
    truth = torch.stack([*shift, -p[0, 0] / 2, -p[0, 1], -p[1, 1] / 2, 0 * p[0, 0], 0 * p[0, 0]])
    z = (found.mean(0) - truth) / (found.std(0) / len(found) ** 0.5)
    assert (z.abs() < 4).all()


class Image(nn.Module):
    """An energy of small pictures, whose Hessian is far from diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(9, 12).double(), nn.Linear(12, 1).double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=rng(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.flatten(-3)).tanh())[..., 0]


@pytest.mark.parametrize("num_slices", [1, 5])
@seeded()
def test_sliced_agrees_with_exact_in_standard_errors(num_slices: int) -> None:
    expert = poe.FromLogDensity(Image(), space=poe.Real((1, 3, 3)))
    x = torch.randn(30, 1, 3, 3, generator=rng(), dtype=torch.float64)
    exact, g = score_matching(expert, x), rng(1)

    def gradient(loss: Loss) -> Tensor:
        grads = torch.autograd.grad(loss.value, list(expert.parameters()), materialize_grads=True)
        return torch.cat([loss.value.detach()[None], *(grad.flatten() for grad in grads)])

    losses = [sliced_score_matching(expert, x, num_slices=num_slices, generator=g)
              for _ in range(400)]  # fmt: skip
    found = torch.stack([gradient(loss) for loss in losses])
    truth, error = gradient(exact), found.std(0) / len(found) ** 0.5
    # The last bias has no say in a score: both are 0 there.
    z = torch.where(error > 0, (found.mean(0) - truth) / error, found.mean(0) - truth)
    assert (z.abs() < 4.5).all()  # 133 numbers
    for loss in losses[:3]:  # the first term is exact: the variance-reduced form
        torch.testing.assert_close(loss.parts["squared_score"], exact.parts["squared_score"])


def test_the_value_of_a_gaussian_in_closed_form() -> None:
    expert, x = Gaussian([1.0, -1.0], covariance=[[2.0, 0.5], [0.5, 1.0]]).double(), data(50)
    loss = score_matching(expert, x)
    torch.testing.assert_close(
        loss.parts["squared_score"], 0.5 * expert.score(x).square().sum(1).mean()
    )
    trace = -torch.linalg.inv(torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()).trace()
    torch.testing.assert_close(loss.parts["trace"], trace)
    torch.testing.assert_close(
        loss.value.detach(), loss.parts["squared_score"] + loss.parts["trace"]
    )


def test_linear_and_constant_densities_have_no_curvature() -> None:
    linear = poe.FromLogDensity(lambda x: 3 * x.sum(-1), space=poe.Real(2))
    constant = poe.FromLogDensity(lambda x: torch.ones(len(x)), space=poe.Real(2))
    x = torch.zeros(4, 2)
    assert score_matching(linear, x).value == 9
    assert sliced_score_matching(linear, x, generator=rng()).value == 9
    assert score_matching(constant, x).value == 0


def test_it_can_be_watched_without_gradients() -> None:
    expert, x = Gaussian([0.0, 0.0], scale=1.0), torch.zeros(4, 2)
    with torch.no_grad():
        assert score_matching(expert, x).value == -2


def test_a_derivative_that_is_no_number_is_refused_with_its_factor() -> None:
    kink = poe.FromLogDensity(lambda x: -x.square().sum(-1).sqrt(), space=poe.Real(2))
    expert = poe.Product(kink=kink, broad=Gaussian([0.0, 0.0], scale=1.0))
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(poe.NonFiniteError, match=r"1 of 2 rows of data .* expert 'kink'"):
        score_matching(expert, x)
    with pytest.raises(poe.NonFiniteError, match=r"1 of 2 rows of data .* expert 'kink'"):
        sliced_score_matching(expert, x, generator=rng())


def test_bad_arguments_are_refused_in_words() -> None:
    expert = Gaussian([0.0], scale=1.0)
    with pytest.raises(poe.PoeError, match="num_slices of at least 1"):
        sliced_score_matching(expert, torch.zeros(2, 1), num_slices=0)
    with pytest.raises(poe.PoeError, match="on Real, got Exponential on Positive"):
        score_matching(Exponential([1.0]), torch.ones(2, 1))
    with pytest.raises(poe.ShapeError, match="rows of data"):
        score_matching(expert, torch.zeros(1))
