"""A classifier of Fashion-MNIST, whose features the Frechet distance is taken on.

    python -m examples.train_energy.judge      # trains it, in minutes; prints its accuracy

It has seen the rows to learn from, clean and with noise, and no picture of any energy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from examples.common import seeded, typed
from examples.train_energy.data import NOISE, Pictures, pictures

FEATURES = 64


class Judge(nn.Module):
    """Logits of the ten classes: x (n, 28, 28) -> (n, 10), by way of 64 features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Unflatten(1, (1, 28)),
            nn.Conv2d(1, 24, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2),
            nn.Conv2d(24, 48, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2),
            nn.Conv2d(48, 64, 3, padding=1), nn.SiLU(), nn.Flatten(),
            nn.Linear(64 * 49, FEATURES), nn.SiLU(),
        )  # fmt: skip
        self.last = nn.Linear(FEATURES, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """(n, 28, 28) -> (n, 64), in pieces."""
        return torch.cat([self.body(piece) for piece in x.split(500)])

    def accuracy(self, rows: Pictures) -> float:
        """Share of the pictures whose class is found."""
        with torch.no_grad():
            found = self.last(self.features(rows.images)).argmax(-1)
        return float((found == rows.labels).double().mean())


def train(rows: Pictures, steps: int, generator: torch.Generator) -> Judge:
    """By cross-entropy, with Adam, on pictures with noise of a level from 0 to twice the data's."""
    with seeded(0):
        judge = Judge()
    optimizer = torch.optim.Adam(judge.parameters(), 2e-3)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in trange(steps, desc="judge", mininterval=5):
        index = torch.randint(len(rows.images), (128,), generator=generator)
        level = 2 * NOISE * torch.rand(128, 1, 1, generator=generator)
        x = rows.images[index] + level * torch.randn(128, 28, 28, generator=generator)
        flipped = torch.rand(128, 1, 1, generator=generator) < 0.5
        loss = F.cross_entropy(judge(torch.where(flipped, x.flip(-1), x)), rows.labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    return judge.eval().requires_grad_(False)


def load_or_train(path: Path, rows: Pictures, steps: int) -> Judge:
    """The judge that lies there, or a new one, which is then put there."""
    if path.exists():
        judge = Judge().eval().requires_grad_(False)
        judge.load_state_dict(load_file(path))
        return judge
    judge = train(rows, steps, torch.Generator().manual_seed(0))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(judge.state_dict(), path)
    return judge


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=typed(), description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--work", type=Path, default=Path("runs"), help="where it is put")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    judge = load_or_train(options.work / "judge.safetensors", pictures("train"), options.steps)
    print(f"accuracy on the 10,000 test rows: {judge.accuracy(pictures('t10k')):.4f}")


if __name__ == "__main__":
    main()
