"""Jumps between modes that are tuned: the Gaussians, the step size, and what chains then do."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import poe
from poe.samplers.preconditioned import Gaussians
from poe.tuning.jumps import tune_jumps


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


NARROW = 0.2
FAR = torch.tensor([9.0, 0.0, 0.0])


def log_density(x: Tensor) -> Tensor:
    """.6 N(0, I) + .4 N(far, .2² I)."""
    broad = math.log(0.6) - 0.5 * x.square().sum(-1)
    narrow = math.log(0.4) - 0.5 * ((x - FAR) / NARROW).square().sum(-1) - 3 * math.log(NARROW)
    return torch.logaddexp(broad, narrow)


TARGET = poe.FromLogDensity(log_density, space=poe.Real(3))


def test_gaussians_come_to_fit_the_modes_and_chains_to_be_in_each_as_they_should() -> None:
    wrong = Gaussians(torch.stack([torch.ones(3), FAR]), 0.5 * torch.eye(3).expand(2, 3, 3))
    start = FAR.expand(40, 3)
    tuned = tune_jumps(TARGET, wrong, start, num_steps=240, generator=seeded())
    scales = tuned.kernel.factor.diagonal(dim1=1, dim2=2)
    assert torch.allclose(scales, torch.tensor([[1.0], [NARROW]]).expand(2, 3), rtol=0.05)
    assert torch.allclose(tuned.kernel.loc, torch.stack([torch.zeros(3), FAR]), atol=0.1)
    share = (tuned.label == 1).double()
    error = share.mean(0).std() / math.sqrt(share.shape[1])
    assert abs(share.mean() - 0.4) < 4 * error
    assert error < 0.02  # chains come and go
    assert tuned.num_gradients > 2 * 240


def test_a_gaussian_without_positions_stays_as_it_was() -> None:
    away = Gaussians(torch.stack([torch.zeros(3), 50 + FAR]), torch.eye(3).expand(2, 3, 3))
    start = torch.randn(20, 3, generator=seeded())
    tuned = tune_jumps(TARGET, away, start, num_steps=60, generator=seeded())
    assert torch.equal(tuned.kernel.loc[1], away.loc[1])
    assert torch.equal(tuned.kernel.factor[1], away.factor[1])
