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


def trained() -> Discriminator:
    g = torch.Generator().manual_seed(0)
    real, fake = (expert.sample(20_000, generator=g) for expert in (DATA, MODEL))
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
    return Discriminator(net, MODEL.space).requires_grad_(False)


@seeded()
def test_trained_logit_corrects_the_generator_to_the_data() -> None:
    """Logistic regression of 40,000 draws: a coefficient is known to within a few hundredths."""
    g = torch.Generator().manual_seed(1)
    corrected = MODEL * trained()
    draws = poe.sample(corrected, 8000, num_chains=64, generator=g, progress=False)
    x = draws.samples.flatten(0, 1)
    assert (x.mean(0) - DATA.loc).abs().max() < 0.06
    assert (x.std(0) - torch.tensor([0.5, 1.0])).abs().max() < 0.06
    log_z = poe.log_partition(corrected, generator=g)
    assert abs(log_z.value.item()) < 0.05  # the log-ratio of two densities that are normalised


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
