"""Learn a field of experts from pictures, by its recovery likelihood.

Each picture x is noised to y = x + s e, at a level s drawn anew for each batch, and the gradient of
log p(x | y) ascended: that of log p̃ at x, less its mean over p(x | y). The mean is taken at chains
of block Gibbs that begin at x, so that no draw of the prior itself is ever needed (Gao et al.
2021, "Learning energy-based models by diffusion recovery likelihood").

    python -m examples.restoration.train_field [--steps 1500] [--output field.pt]
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import experts
import poe
from examples.restoration.pictures import random_patches, training_pictures

SIZE = 36
BATCH = 6
SWEEPS = 1
NOISE = (0.03, 0.12)
SOLVER_STEPS = 100
BROAD = 0.5
"""Standard deviation of the Gaussian that makes the prior proper."""


def cosines(size: int) -> Tensor:
    """All products of cosines but the constant one, of norm 1: ``(size² - 1, size, size)``."""
    place, frequency = torch.arange(size) + 0.5, torch.arange(size)[:, None]
    rows = (math.pi * frequency * place / size).cos() * (2 / size) ** 0.5
    rows[0] /= 2**0.5
    return torch.einsum("ai,bj->abij", rows, rows).reshape(size**2, size, size)[1:]


def new_field(
    size: int, shape: tuple[int, int], pictures: list[Tensor], generator: torch.Generator
) -> experts.FieldOfExperts:
    """Filters that are cosines, each with an expert of the shape that its responses have.

    That would be the maximum of the likelihood, were the responses independent.
    """
    scales = torch.logspace(math.log10(0.008), math.log10(0.5), 9)
    filters = cosines(size)
    x = random_patches(pictures, 64, SIZE, generator)
    logits = torch.zeros(len(filters), len(scales))
    for _ in range(20):  # expectation-maximisation of the weights
        field = experts.FieldOfExperts(filters, logits, scales, (SIZE, SIZE))
        shares = field.log_terms(field.bank(x)).softmax(0).mean((1, 3, 4))
        logits = (shares.T + 1e-4).log()
    return experts.FieldOfExperts(nn.Parameter(filters), nn.Parameter(logits), scales, shape)


def prior(field: experts.FieldOfExperts) -> poe.Product:
    """The field, and a broad Gaussian about grey, which makes it proper."""
    centre = torch.full(tuple(field.space.event_shape), 0.5)
    return poe.Product(field=field, broad=experts.Gaussian(centre, scale=BROAD))


def recovered(
    field: experts.FieldOfExperts, x: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draws of p(x | y) for a noised x, and the shares of accepted steps ``(n,)``."""
    low, high = (math.log(level) for level in NOISE)
    level = math.exp(low + (high - low) * torch.rand((), generator=generator).item())
    y = x + level * torch.randn(x.shape, generator=generator)
    kernel, target = posterior_kernel(field, y, level)
    state, accepted = kernel.init(target, x), torch.zeros(len(x))
    for _ in range(SWEEPS):
        state, info = kernel.step(target, state, generator=generator)
        accepted = accepted + info.is_accepted / SWEEPS
    return state.position, accepted


def posterior_kernel(
    field: experts.FieldOfExperts, y: Tensor, level: float
) -> tuple[poe.samplers.ScaleMixtureGibbs, poe.Expert]:
    """Block Gibbs of p(x | y), y one for each chain: as a factor about y, elementwise."""
    broad = prior(field)
    [seen] = poe.scale_mixtures(experts.Gaussian(y[0], scale=level))
    factors = (*poe.scale_mixtures(broad), seen._replace(target=y))
    density = poe.FromLogDensity(
        lambda x: broad(x) - 0.5 * ((x - y) / level).square().sum((1, 2)), space=broad.space
    )
    return poe.samplers.ScaleMixtureGibbs(factors, num_steps=SOLVER_STEPS), density


def train(steps: int, size: int, output: Path, seed: int = 0) -> experts.FieldOfExperts:
    """The averaged field after so many updates of Adam."""
    generator = torch.Generator().manual_seed(seed)
    pictures = training_pictures()
    field = new_field(size, (SIZE, SIZE), pictures, generator)
    average = copy.deepcopy(field).requires_grad_(False)
    groups = [
        {"params": [field.bank.filters], "lr": 3e-3},
        {"params": [field.logits], "lr": 3e-2},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-4)
    began, gap, share = time.perf_counter(), 0.0, 1.0
    for step in range(steps):
        x = random_patches(pictures, BATCH, SIZE, generator)
        x = x + (torch.rand(x.shape, generator=generator) - 0.5) / 255  # undo the rounding
        with torch.no_grad():
            model, accepted = recovered(field, x, generator)
        loss = (field(model) - field(x)).mean() / SIZE**2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            field.bank.filters -= field.bank.filters.mean((1, 2), keepdim=True)
            decay = min(0.99, (1 + step) / (10 + step))
            for kept, new in zip(average.parameters(), field.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        gap += 0.02 * (loss.item() - gap)
        share += 0.02 * (accepted.mean().item() - share)
        if step % 50 == 0:
            seconds = time.perf_counter() - began
            print(f"{step:5d}  gap {gap:+.4f}  accepted {share:.2f}  {seconds:.0f} s", flush=True)
            torch.save(average.state_dict(), output)
    torch.save(average.state_dict(), output)
    return average


def main() -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--size", type=int, default=3, help="the side of a filter")
    parser.add_argument("--output", type=Path, default=Path("field.pt"))
    arguments = parser.parse_args()
    train(arguments.steps, arguments.size, arguments.output)


if __name__ == "__main__":
    main()
