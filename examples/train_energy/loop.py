"""The training loop: copy it, and change what you need.

An update goes down the gradient of denoising score matching, which sees the slopes near pictures;
and, where there are chains, of contrastive divergence too, by a batch of pictures with noise and as
many draws of the model: it sees what lies far from every picture. Both are least where the model is
the density of the pictures with noise.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import trange

import experts
import poe
from examples.train_energy.chains import Chains
from experts.neural import power_iterate
from poe.losses import contrastive_divergence, denoising_score_matching

Report = Callable[[int, dict[str, float]], None]
Settings = dict[str, float | str]


class State(NamedTuple):
    """All that changes in training, and that a checkpoint holds.

    ``chains`` are where the model's draws come from, None for denoising alone; ``average`` has the
    mean weights of the last updates, and is what training returns.
    """

    expert: poe.Expert
    average: poe.Expert
    optimizer: torch.optim.Optimizer
    chains: Chains | None
    generator: torch.Generator


def begin(
    expert: poe.Expert, chains: Chains | None, *, learning_rate: float, generator: torch.Generator
) -> State:
    """The state before the first update."""
    average = copy.deepcopy(expert).requires_grad_(False)
    learned = [weight for weight in expert.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(learned, learning_rate, betas=(0.9, 0.99))
    return State(expert, average, optimizer, chains, generator)


def train(
    state: State,
    images: Tensor,
    *,
    steps: int,
    noise: float,
    batch_size: int = 64,
    num_draws: int = 64,
    denoising: float = 1.0,
    regularization: float = 0.0,
    averaging: float = 0.995,
    checkpoint: Path,
    checkpoint_every: int = 100,
    report: Report | None = None,
) -> poe.Expert:
    """Train on ``images (n, *event)``, against ``num_draws`` of the chains; return the average.

    A run that finds its checkpoint goes on from it, to the same bits as without a stop. ``report``
    is called with the step and scalars, as for TensorBoard. Raises ``poe.NonFiniteError`` at the
    first energy or gradient that is not finite, or out of bounds: it names the step, the expert and
    the last good checkpoint; and ``ValueError`` for a checkpoint of a run with other settings.
    """
    settings: Settings = {
        "steps": steps,
        "noise": noise,
        "batch_size": batch_size,
        "num_draws": num_draws,
        "denoising": denoising,
        "regularization": regularization,
        "averaging": averaging,
        "chains": "none" if state.chains is None else state.chains.describe(),
        "images": float(images.double().sum()),
        "generator": digest(state.generator),
    }
    good = resume(checkpoint, state, settings)
    progress = trange(good, steps, initial=good, total=steps, mininterval=2, unit="update")
    for step in progress:
        set_learning_rate(state.optimizer, step, steps)
        try:
            scalars = update(state, images, batch_size, num_draws, noise, denoising, regularization)
        except poe.NonFiniteError as error:
            last = f"{checkpoint} (after {good} updates)" if good else "none"
            raise poe.NonFiniteError(
                f"step {step}: {error} Last good checkpoint: {last}"
            ) from error
        update_average(state, min(averaging, (1 + step) / (10 + step)))
        if step % 10 == 0:
            shown = {name: float(value) for name, value in scalars.items()}
            progress.set_postfix({k: f"{v:.4g}" for k, v in shown.items()}, refresh=False)
            if report is not None:
                report(step, shown)
        if (step + 1) % checkpoint_every == 0:
            save(checkpoint, step + 1, state, settings)
            good = step + 1
    return state.average.eval()


def update(
    state: State,
    images: Tensor,
    batch_size: int,
    num_draws: int,
    noise: float,
    denoising: float,
    regularization: float,
) -> dict[str, Tensor]:
    """One update of the weights, and its scalars."""
    expert, generator = state.expert, state.generator
    rows = torch.randint(len(images), (batch_size,), generator=generator)
    loss, scalars = denoising_score_matching(expert, images[rows], noise, generator=generator)
    loss = denoising * loss
    if state.chains is not None:
        data = images[rows] + noise * torch.randn(images[rows].shape, generator=generator)
        model = draws_of(expert, state.chains, num_draws, generator)
        contrast = contrastive_divergence(expert, data, model, regularization=regularization)
        loss, scalars = loss + contrast.value, scalars | contrast.parts
    state.optimizer.zero_grad()
    loss.backward()
    scalars["slope"] = require_finite_gradient(expert)
    state.optimizer.step()
    power_iterate(expert)
    return scalars


def draws_of(expert: poe.Expert, chains: Chains, n: int, generator: torch.Generator) -> Tensor:
    """Draws of the model, its network in half precision and its weights without a gradient."""
    learned = [weight for weight in expert.parameters() if weight.requires_grad]
    for weight in learned:
        weight.requires_grad_(False)
    try:
        return chains.draw(in_half_precision(expert), n, generator=generator)
    finally:
        for weight in learned:
            weight.requires_grad_(True)


def in_half_precision(expert: poe.Expert) -> poe.Expert:
    """Its networks under autocast; what is in closed form is left as it is."""
    if isinstance(expert, poe.Product):
        parts = {n: in_half_precision(e) for n, e in zip(expert.names, expert.experts, strict=True)}
        return poe.Product(**parts)
    return poe.Autocast(expert) if isinstance(expert, experts.NeuralEnergy) else expert


def require_finite_gradient(expert: poe.Expert) -> Tensor:
    """The gradient's norm, which must be a number."""
    learned = [weight for weight in expert.parameters() if weight.grad is not None]
    norm = nn.utils.get_total_norm([weight.grad for weight in learned])
    if not bool(norm.isfinite()):
        raise poe.NonFiniteError(f"expected a finite gradient of {expert!r}, got norm {norm}.")
    return norm


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
    """Warm up over 50 steps, hold, and fall to nothing over the second half."""
    for group in optimizer.param_groups:
        full = group.setdefault("full", group["lr"])
        group["lr"] = full * min(1.0, (step + 1) / 50, 2 * (1 - step / steps))


@torch.no_grad()
def update_average(state: State, decay: float) -> None:
    """θ̄ ← d θ̄ + (1 − d) θ; what is not learned is copied."""
    new = state.expert.state_dict()
    for name, kept in state.average.state_dict().items():
        if kept.is_floating_point():
            kept.lerp_(new[name], 1 - decay)
        else:
            kept.copy_(new[name])


def save(path: Path, step: int, state: State, settings: Settings) -> None:
    """Write a checkpoint, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {
        "settings": settings,
        "step": step,
        "expert": state.expert.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "chains": {} if state.chains is None else state.chains.state_dict(),
        "generator": state.generator.get_state(),
    }
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        torch.save(held, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def resume(path: Path, state: State, settings: Settings) -> int:
    """Load the checkpoint if there is one, of these settings; the step to go on from."""
    if not path.exists():
        return 0
    try:
        held: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:  # whatever the file is
        raise ValueError(f"{path} is no checkpoint: give another place") from error
    require_same(path, held["settings"], settings)
    state.expert.load_state_dict(held["expert"])
    state.average.load_state_dict(held["average"])
    state.optimizer.load_state_dict(held["optimizer"])
    if state.chains is not None:
        state.chains.load_state_dict(held["chains"])
    state.generator.set_state(held["generator"])
    return int(held["step"])


def digest(generator: torch.Generator) -> str:
    """What tells the state that a run begins in from others."""
    return hashlib.sha256(generator.get_state().numpy().tobytes()).hexdigest()[:16]


def require_same(path: Path, held: Settings, settings: Settings) -> None:
    """A run goes on as it began."""
    other = [f"{k} {held.get(k)}, not {v}" for k, v in settings.items() if held.get(k) != v]
    if other:
        raise ValueError(
            f"{path} is of a run with {'; '.join(other)}: give its settings to go on with it, or "
            "another place to begin anew"
        )
