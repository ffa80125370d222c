"""A discriminator's logit: what corrects a generator to the data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import poe
from experts import Discriminator, Gaussian
from tests.seeds import seeded

DATA, MODEL = Gaussian([1.0, 0.0], scale=[0.5, 1.0]), Gaussian([0.0, 0.0], scale=[1.0, 1.0])


class Squares(nn.Module):
    """x and x²: what the log-ratio of two Gaussians is linear in."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.square()], -1)


def trained(n: int, seed: int = 0) -> tuple[Discriminator, Tensor]:
    """A logistic regression of 2 n draws, and what it makes of the model: μ, σ and log Z."""
    g = torch.Generator().manual_seed(seed)
    real, fake = (expert.sample(n, generator=g) for expert in (DATA, MODEL))
    layer = nn.Linear(4, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    net = nn.Sequential(Squares(), layer)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.softplus(-net(real)).mean() + F.softplus(net(fake)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    discriminator = Discriminator(net, MODEL.space).requires_grad_(False)
    corrected = MODEL * discriminator  # a Gaussian again, which two points tell
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    linear, at_one = corrected.score(x)
    precision = linear - at_one
    height = (linear.square() / precision + (2 * torch.pi / precision).log()).sum() / 2
    found = [linear / precision, precision.rsqrt(), corrected(x[:1]) + height]
    return discriminator, torch.cat(found)


@seeded()
def test_trained_logit_corrects_the_generator_to_the_data() -> None:
    """Sixteen times: what they make of it is the data's but for the standard error of the mean."""
    found = torch.stack([trained(4000, seed)[1] for seed in range(16)])
    truth = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0])
    assert ((found.mean(0) - truth).abs() < 4 * found.std(0) / 16**0.5).all()


@pytest.mark.law
@seeded()
def test_draws_are_of_the_corrected_generator() -> None:
    g = torch.Generator().manual_seed(1)
    discriminator, known = trained(4000)
    corrected = MODEL * discriminator
    draws = poe.sample(corrected, 8000, num_chains=64, generator=g, progress=False)
    summary = draws.summary()
    assert ((summary.mean - known[:2]).abs() < 4 * summary.mcse).all()
    error = poe.diagnostics.mcse_sd(draws.samples)
    assert ((summary.sd - known[2:4]).abs() < 4 * error).all()
    log_z = poe.log_partition(corrected, generator=g)
    torch.testing.assert_close(log_z.value.float(), known[4], rtol=0, atol=1e-5)


@seeded()
def test_best_logit_needs_no_density_of_the_generator() -> None:
    """z ~ N(0, 1) and x = 2 z + 1; data N(3, 1): p(z) = N(1, 1/4), by the logit at G alone."""
    generator = nn.Linear(1, 1).requires_grad_(False)
    generator.weight.fill_(2.0)
    generator.bias.fill_(1.0)
    data, model = Gaussian([3.0], scale=[1.0]), Gaussian([1.0], scale=[2.0])

    class Best(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (data(x) - model(x))[..., None]

    latent = Gaussian([0.0], scale=[1.0])
    posterior = latent * Discriminator(Best(), model.space).at(generator, latent.space)
    z = torch.linspace(-2, 2, 9)[:, None]
    torch.testing.assert_close(posterior(z), Gaussian([1.0], scale=[0.5])(z))


@seeded()
def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(poe.ShapeError, match="Linear layer of one output"):
        Discriminator(nn.Linear(2, 2), MODEL.space)(torch.zeros(3, 2))
