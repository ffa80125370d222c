"""Training of a restricted Boltzmann machine by stochastic approximation."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from experts.boltzmann.rbm import RBM
from experts.boltzmann.training.contrastive_divergence import (
    PCD,
    Centre,
    Particles,
    contrast,
)
from experts.boltzmann.training.loop import (
    UPDATES_A_LOOK,
    Augment,
    Schedule,
    State,
    ascend,
    checkpoint_at,
    require_bits,
    require_counts,
    require_rows,
    run,
)
from experts.families.discrete import data_log_odds
from poe.core.errors import PoeError
from poe.core.randomness import resolve

PERSISTENT = PCD()
WEIGHT_SCALE = 0.01
"""The standard deviation of the first weights."""
CENTRE_RATE = 0.1
"""How far the hidden units' centre goes towards what it sees, every tenth update."""


@torch.no_grad()
def fit_rbm(
    data: Tensor,
    num_hidden: int,
    *,
    particles: Particles = PERSISTENT,
    num_epochs: int = 20,
    batch_size: int = 100,
    learning_rate: float = 0.05,
    momentum: float = 0.5,
    weight_decay: float = 1e-4,
    averaged: float = 0.2,
    augment: Augment | None = None,
    generator: torch.Generator | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    report: Callable[[int, RBM], None] | None = None,
    progress: bool = True,
) -> RBM:
    """An RBM fitted to rows of bits, ``data (n, v)``, by gradient ascent of the log-likelihood.

    θ ← θ + u, u ← m u + η_t (g − λ θ): g the centred gradient of a batch (`contrast`), with the
    model's half from ``particles``, momentum m, weight decay λ (of W only) and a learning rate that
    falls from η to 0 along a line. Visible biases begin at the data's log-odds, W at N(0, 0.01²).

    Args:
        data: Rows of 0 and 1, ``(n, v)``, of any dtype, on the device to train on; batches are made
            float32.
        num_hidden: Hidden units h.
        particles: What stands for the model in the gradient: `CD`, `PCD` or `TemperedPCD`.
        num_epochs: How often it goes through the data.
        batch_size: Rows a batch; all of them, where there are fewer.
        learning_rate: η, from 0 to 1.
        momentum: m, from 0 to 1.
        weight_decay: λ, from 0 to 1.
        averaged: The result is the mean of the parameters over this last share of the updates (of
            every tenth of them), in which their noise averages out; the latest where it is 0.
        augment: Called with each batch ``(n, v)`` and the generator, for what to learn from in its
            stead: rows of 0 and 1 that might as well have been the data, such as pictures moved a
            little.
        generator: Of all that is drawn.
        checkpoint: A file, written after every epoch; where it is there, training goes on from it,
            to the same bits as without a stop.
        report: Called with the number of epochs done and a copy of the RBM of that time.
        progress: Whether a bar is shown.

    Returns:
        An RBM with W ``(v, h)``, float32.

    Raises:
        PoeError: Where data are not rows of 0 and 1, settings are out of range, or the parameters
            do not stay finite.
        StorageError: Where a checkpoint is of another training.

    References:
        Younes (1989), Parametric inference for imperfectly observed Gibbsian fields,
        doi:10.1007/BF00341287.

        Tieleman (2008), Training restricted Boltzmann machines using approximations to the
        likelihood gradient, doi:10.1145/1390156.1390290.

        Polyak & Juditsky (1992), Acceleration of stochastic approximation by averaging,
        doi:10.1137/0330046 (the mean).

        Melchior, Fischer & Wiskott (2016), How to center deep Boltzmann machines, arXiv:1311.1354
        (the centre).

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> data = torch.randint(2, (500, 1), generator=g).expand(500, 4)  # all four are equal
        >>> rbm = fit_rbm(data, 2, batch_size=50, learning_rate=0.5, generator=g, progress=False)
        >>> rbm(torch.ones(1, 4)) - rbm(torch.tensor([[1.0, 0.0, 1.0, 1.0]])) > 2
        tensor([True])
    """
    require_rows(data)
    require_bits(data)
    require_counts(num_hidden=num_hidden)
    if isinstance(particles, type) or not hasattr(particles, "init"):
        raise PoeError(
            f"expected particles such as CD(), PCD() or TemperedPCD(), got {particles!r}: make "
            "them, with their settings"
        )
    schedule = Schedule(num_epochs, batch_size, learning_rate, momentum, weight_decay, averaged)
    is_given, generator = generator is not None, resolve(generator, data.device)
    called_with = {
        "trainer": "fit_rbm", "num_hidden": num_hidden, "particles": particles,
        "schedule": schedule,
    }  # fmt: skip
    file = checkpoint_at(
        checkpoint, generator, data, called_with, is_given=is_given, augment=augment
    )
    state = _begun(data, num_hidden, particles, generator)
    rbm = RBM(*state.parameters)  # shares its tensors with the state
    move = partial(step, rbm=rbm, particles=particles, schedule=schedule, generator=generator)
    told = None if report is None else partial(_tell, report)
    run(
        move, state, data, schedule, generator=generator, augment=augment, checkpoint=file,
        report=told, progress=progress,
    )  # fmt: skip
    return RBM(*state.result())


def step(
    state: State,
    batch: Tensor,
    rate: float,
    *,
    rbm: RBM,
    particles: Particles,
    schedule: Schedule,
    generator: torch.Generator,
) -> None:
    """Particles move, the parameters go up the gradient, and the centre follows hidden means."""
    kept = state.kept
    kept["particles"] = particles.step(rbm, batch, kept["particles"], generator=generator)
    centre = Centre(kept["visible_centre"], kept["hidden_centre"])
    gradient = contrast(rbm, batch, particles.at_model(kept["particles"]), centre)
    ascend(state, gradient, rate, schedule)
    if state.num_updates % UPDATES_A_LOOK == 0:
        kept["hidden_centre"].lerp_(rbm.hidden_probabilities(batch).mean(0), CENTRE_RATE)


def _begun(
    data: Tensor, num_hidden: int, particles: Particles, generator: torch.Generator
) -> State:
    W = torch.empty(data.shape[1], num_hidden, device=data.device)
    W.normal_(std=WEIGHT_SCALE, generator=generator)
    b, c = data_log_odds(data), W.new_zeros(num_hidden)
    kept = {
        "particles": particles.init(RBM(W, b, c), data, generator=generator).float(),
        "visible_centre": data.mean(0, dtype=torch.float64).float(),
        "hidden_centre": torch.full_like(c, 0.5),
    }
    return State([W], [b, c], kept)


def _tell(report: Callable[[int, RBM], None], epoch: int, state: State) -> None:
    report(epoch, RBM(*state.result()))
