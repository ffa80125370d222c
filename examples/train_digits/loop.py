"""One training loop for all the shipped experts: Adam, averaged weights, resumable checkpoints."""

from __future__ import annotations

import argparse
import copy
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import trange

from examples.common import typed

Loss = Callable[[nn.Module, torch.Generator], Tensor]

AVERAGING = 0.999


def train(
    module: nn.Module,
    loss: Loss,
    *,
    steps: int,
    learning_rate: float,
    checkpoint: Path,
    stop: int | None = None,
) -> nn.Module:
    """Minimise ``loss(module, generator)`` and return the averaged module.

    The learning rate falls over ``steps`` updates; ``stop`` ends the run before they are done.

    A checkpoint is written every 500 steps; a run that finds one continues from it with the same
    bits. Raises ``ValueError`` at the first loss that is not finite, and for the checkpoint of a
    run with other settings.
    """
    average = copy.deepcopy(module).requires_grad_(False)
    optimizer = torch.optim.Adam(module.parameters(), learning_rate, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(0)
    settings = {"steps": steps, "learning_rate": learning_rate}
    start = resume(checkpoint, module, average, optimizer, generator, settings)
    progress = trange(start, stop or steps, initial=start, total=stop or steps, mininterval=5)
    running = 0.0
    for step in progress:
        optimizer.param_groups[0]["lr"] = learning_rate * schedule(step, steps)
        value = loss(module, generator)
        if not value.isfinite():
            raise ValueError(f"step {step}: loss {value.item()}; last good state in {checkpoint}")
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        update_average(average, module, min(AVERAGING, (1 + step) / (10 + step)))
        running += (value.item() - running) / min(step - start + 1, 100)
        if step % 25 == 0:
            progress.set_postfix(loss=f"{running:.3f}", refresh=False)
        if (step + 1) % 500 == 0:
            save(checkpoint, step + 1, module, average, optimizer, generator, settings)
    return average.eval()


def schedule(step: int, steps: int) -> float:
    """Warm up over 200 steps, or half of fewer, then fall along a cosine to 2 % of the rate."""
    fraction = step / steps
    return min(1.0, (step + 1) / min(200, steps / 2)) * (
        0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fraction))
    )


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    for kept, new in zip(average.parameters(), module.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def save(
    path: Path,
    step: int,
    module: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    settings: dict[str, float],
) -> None:
    state = {
        "settings": settings,
        "step": step,
        "module": module.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
    }
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        torch.save(state, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def resume(
    path: Path,
    module: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    settings: dict[str, float],
) -> int:
    """Load the checkpoint if there is one, of these settings; the step to go on from."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # whatever the file is
        raise ValueError(f"{path} is no checkpoint: give another place") from error
    if state.get("settings") != settings:
        raise ValueError(f"{path} is of a run with {state.get('settings')}, not {settings}")
    module.load_state_dict(state["module"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["generator"])
    return int(state["step"])


def arguments(description: str | None, steps: int) -> argparse.Namespace:
    """The command line that all training scripts share."""
    parser = argparse.ArgumentParser(prog=typed(), description=description)
    parser.add_argument("--steps", type=int, default=steps, help=f"updates (default {steps})")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of checkpoints")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    return options


def noise_levels(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Log-uniform noise levels: (n,)."""
    u = torch.rand(n, generator=generator)
    return low * (high / low) ** u


def batch(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Random indices below n: (size,)."""
    return torch.randint(n, (size,), generator=generator)
