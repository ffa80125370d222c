"""Denoising score matching: its minimiser is the score of the noised data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import poe
from experts import Exponential, Gaussian, ImageFlow
from poe.losses import denoising_score_matching, multiscale_denoising_score_matching
from tests.seeds import seeded


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Quadratic(nn.Module):
    """log p̃(x) = −a x²/2 + b x, whose score is linear in (a, b): a Gaussian of precision a."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (-0.5 * self.a * x.square() + self.b * x).sum(-1)


def minimised(loss_of: object, net: Quadratic) -> Tensor:
    """The (a, b) of least loss, which is quadratic in them: one Newton step from anywhere."""
    parameters = [net.a, net.b]
    value = loss_of()  # type: ignore[operator]
    slope = torch.stack(torch.autograd.grad(value, parameters, create_graph=True))
    rows = [torch.stack(torch.autograd.grad(s, parameters, retain_graph=True)) for s in slope]
    at = torch.stack([p.detach() for p in parameters])
    return at - torch.linalg.solve(torch.stack(rows), slope.detach())


def fits(loss_of: object, num_fits: int) -> tuple[Tensor, Tensor]:
    found = torch.stack([loss_of(seed) for seed in range(num_fits)])  # type: ignore[operator]
    return found.mean(0), found.std(0) / num_fits**0.5


@pytest.mark.parametrize("noise_level", [0.3, 1.5])
def test_the_minimiser_is_the_score_of_the_noised_gaussian(noise_level: float) -> None:
    loc, scale = 0.7, 0.8
    net = Quadratic()
    expert = poe.FromLogDensity(net, space=poe.Real(1))

    def fit(seed: int) -> Tensor:
        g = rng(seed)
        data = loc + scale * torch.randn(4000, 1, generator=g, dtype=torch.float64)
        return minimised(
            lambda: denoising_score_matching(expert, data, noise_level, generator=g).value, net
        )

    mean, error = fits(fit, 60)
    precision = 1 / (scale**2 + noise_level**2)
    z = (mean - torch.tensor([precision, precision * loc], dtype=torch.float64)) / error
    assert (z.abs() < 4).all()
    assert (error < 0.01).all()


def test_the_value_in_closed_form_and_the_denoising_error() -> None:
    # Of the exact score the residual is σ s + z, and Tweedie's estimate has the posterior variance.
    g, sigma, scale = rng(), 0.5, 2.0
    data = scale * torch.randn(100_000, 1, generator=g, dtype=torch.float64)
    noised = Gaussian(torch.zeros(1), scale=(scale**2 + sigma**2) ** 0.5).double()
    value, parts = denoising_score_matching(noised, data, sigma, generator=g)
    posterior = sigma**2 * scale**2 / (sigma**2 + scale**2)
    error = posterior * (2 / len(data)) ** 0.5  # the square of a Gaussian
    assert abs(parts["denoising_error"] - posterior) < 4 * error
    torch.testing.assert_close(value.detach() * 2 * sigma**2, parts["denoising_error"])


def test_a_level_for_each_row() -> None:
    # Data at 0: the score of the noised data is −x̃/σ², which each row has at its own level.
    levels = torch.tensor([0.1, 1.0, 3.0])
    expert = poe.FromEnergy(lambda x: x.square().sum(-1) / (2 * levels.square()), space=poe.Real(2))
    data = torch.zeros(3, 2)
    assert denoising_score_matching(expert, data, levels, generator=rng()).value < 1e-10
    assert denoising_score_matching(expert, data, levels.flip(0), generator=rng()).value > 0.1


def test_the_ladder_is_the_mean_over_its_levels_in_standard_errors() -> None:
    levels = torch.tensor([0.2, 1.0, 4.0], dtype=torch.float64)
    data = torch.randn(400, 1, generator=rng(5), dtype=torch.float64)

    def at_level(level: Tensor) -> poe.Expert:
        return poe.FromLogDensity(lambda x: -x.square().sum(-1) / (2 + level), space=poe.Real(1))

    g = rng()
    found = torch.stack(
        [multiscale_denoising_score_matching(at_level, data, levels, generator=g).value.detach()
         for _ in range(400)]
    )  # fmt: skip
    each = torch.stack(
        [torch.stack([denoising_score_matching(at_level(level), data, level, generator=g)
                      .value.detach() for level in levels]).mean() for _ in range(400)]
    )  # fmt: skip
    error = ((found.var() + each.var()) / 400) ** 0.5
    assert abs(found.mean() - each.mean()) < 4 * error


class ByLevel(poe.Conditional):
    """Data at 0, noised: the condition is the level."""

    space = poe.Real(2)

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        return -x.square().sum(-1) / (2 * condition.square())


def test_the_ladder_of_a_conditional_on_the_level() -> None:
    levels = torch.tensor([0.1, 1.0, 10.0])
    data = torch.zeros(200, 2)
    found = multiscale_denoising_score_matching(ByLevel().given, data, levels, generator=rng())
    assert found.value < 1e-10


@seeded()
def test_the_ladder_of_a_noisy_conditional() -> None:
    flow = ImageFlow((4, 4), ["left", "right"], noise_level=0.1, layers=2, hidden=8)
    data, label = (
        torch.rand(6, 4, 4, generator=rng()),
        torch.tensor([0, 1, 0, 1, 1, 0]),
    )
    value, _ = multiscale_denoising_score_matching(
        lambda level: flow.at_noise_level(level).given(label),
        data,
        torch.tensor([0.1, 0.4]),
        generator=rng(),
    )
    value.backward()
    grads = [p.grad for p in flow.parameters() if p.requires_grad]
    assert sum(float(grad.abs().sum()) for grad in grads if grad is not None) > 0


def test_the_same_seed_gives_the_same_bits() -> None:
    expert, data = Gaussian([0.0], scale=1.0), torch.zeros(5, 1)
    one, two = (denoising_score_matching(expert, data, 0.5, generator=rng()) for _ in range(2))
    assert torch.equal(one.value, two.value)


def test_a_score_that_is_no_number_is_refused_with_its_factor() -> None:
    # √|x| has an infinite slope at 0 alone, and NaN below 0.
    root = poe.FromLogDensity(lambda x: x.sqrt().sum(-1), space=poe.Real(1))
    expert = poe.Product(broad=Gaussian([0.0], scale=3.0), root=root)
    with pytest.raises(poe.NonFiniteError, match=r"of 50 rows of noised data .* expert 'root'"):
        denoising_score_matching(expert, torch.zeros(50, 1), 0.5, generator=rng())


def test_bad_arguments_are_refused_in_words() -> None:
    expert, data = Gaussian([0.0], scale=1.0), torch.zeros(5, 1)
    with pytest.raises(poe.PoeError, match="positive finite noise level, got 0"):
        denoising_score_matching(expert, data, 0)
    with pytest.raises(poe.ShapeError, match=r"shape \(\) or \(5,\)"):
        denoising_score_matching(expert, data, torch.ones(3))
    with pytest.raises(poe.ShapeError, match="noise_levels of shape"):
        multiscale_denoising_score_matching(lambda level: expert, data, torch.tensor(0.5))
    with pytest.raises(poe.PoeError, match="on Real"):
        denoising_score_matching(Exponential([1.0]), data, 0.5)
