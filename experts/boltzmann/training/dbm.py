"""Joint training of a deep Boltzmann machine: mean field on data, chains on the model."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor

from experts.boltzmann.dbm import DBM
from experts.boltzmann.training.dbm_gradient import (
    centred_gradient,
    moments,
    sweeps,
    with_odd_means,
)
from experts.boltzmann.training.loop import (
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
from experts.boltzmann.variational import mean_field
from poe.core.errors import PoeError
from poe.core.randomness import resolve

CENTRE_RATE = 0.01
"""How far the centres go towards the means of each batch."""


@torch.no_grad()
def fit_dbm(
    dbm: DBM,
    data: Tensor,
    *,
    num_epochs: int = 100,
    batch_size: int = 100,
    num_chains: int = 100,
    num_sweeps: int = 1,
    num_mean_field_steps: int = 3,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    averaged: float = 0.5,
    augment: Augment | None = None,
    generator: torch.Generator | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    report: Callable[[int, DBM], None] | None = None,
    progress: bool = True,
) -> DBM:
    """A DBM fitted to rows of bits, ``data (n, n_0)``, by stochastic approximation from ``dbm``.

    θ ← θ + u, u ← m u + η_t (g − λ θ): g the centred difference of E_q[h_l h_{l+1}'], by mean field
    at each batch, and E_p[h_l h_{l+1}'], by chains that go on from batch to batch; momentum m,
    weight decay λ (of weights only), and a learning rate that falls from η to 0 along a line, so
    that the chains catch up. It climbs the variational bound on log p(x), up to the chains' lag.

    Args:
        dbm: Where training begins; it is not changed itself.
        data: Rows of 0 and 1, ``(n, n_0)``, of any dtype, on the device of ``dbm``.
        num_epochs: How often it goes through the data.
        batch_size: Rows a batch; all of them, where there are fewer.
        num_chains: Persistent chains.
        num_sweeps: Sweeps of block Gibbs an update.
        num_mean_field_steps: Steps of mean field a batch.
        learning_rate: η, from 0 to 1.
        momentum: m, from 0 to 1.
        weight_decay: λ, from 0 to 1.
        averaged: The result is the mean of the parameters over this last share of the updates (of
            every tenth of them), in which their noise averages out; the latest where it is 0.
        augment: Called with each batch ``(n, n_0)``, of the dtype of the weights, and with the
            generator, for what to learn from in its stead: rows of 0 and 1 that might as well have
            been the data, such as pictures moved a little.
        generator: Of all that is drawn.
        checkpoint: A file, written after every epoch; where it is there, training goes on from it,
            to the same bits as without a stop.
        report: Called with the number of epochs done and a copy of the DBM of that time.
        progress: Whether a bar is shown.

    Returns:
        A DBM of the same layers.

    Raises:
        PoeError: Where data are not rows of 0 and 1, settings are out of range, or the parameters
            do not stay finite.
        StorageError: Where a checkpoint is of another training.

    References:
        Salakhutdinov & Hinton (2009), Deep Boltzmann machines, AISTATS, section 2.

        Younes (1989), Parametric inference for imperfectly observed Gibbsian fields,
        doi:10.1007/BF00341287; Tieleman (2008), Training restricted Boltzmann machines using
        approximations to the likelihood gradient, doi:10.1145/1390156.1390290 (persistent chains).

        Polyak & Juditsky (1992), Acceleration of stochastic approximation by averaging,
        doi:10.1137/0330046 (the mean).

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> data = torch.rand(500, 1, generator=g).lt(0.5).float().expand(500, 4)  # all equal
        >>> from experts.boltzmann.training import pretrain_dbm
        >>> start = pretrain_dbm(data, (4, 3, 2), num_epochs=1, generator=g, progress=False)
        >>> dbm = fit_dbm(start, data, learning_rate=0.1, generator=g, progress=False)
        >>> visible = experts.VisibleDBM(dbm)
        >>> visible(torch.ones(1, 4)) - visible(torch.tensor([[1.0, 0.0, 1.0, 1.0]])) > 2
        tensor([True])
    """
    if not isinstance(dbm, DBM):
        raise PoeError(
            f"expected a DBM to begin from, got {type(dbm).__name__}: grow_dbm makes one"
        )
    require_rows(data, dbm.layer_sizes[0])
    require_bits(data)
    counts = {
        "num_chains": num_chains,
        "num_sweeps": num_sweeps,
        "num_mean_field_steps": num_mean_field_steps,
    }
    require_counts(**counts)
    schedule = Schedule(num_epochs, batch_size, learning_rate, momentum, weight_decay, averaged)
    is_given, generator = generator is not None, resolve(generator, data.device)
    called_with = {"trainer": "fit_dbm", "dbm": dbm, "counts": counts, "schedule": schedule}
    file = checkpoint_at(
        checkpoint, generator, data, called_with, is_given=is_given, augment=augment
    )
    dbm = deepcopy(dbm).requires_grad_(False)
    state = _begun(dbm, data, num_chains, generator)
    move = partial(
        step, dbm=dbm, num_sweeps=num_sweeps, num_mean_field_steps=num_mean_field_steps,
        schedule=schedule, generator=generator,
    )  # fmt: skip
    told = None if report is None else partial(_tell, report)
    run(
        move, state, data, schedule, generator=generator, augment=augment, checkpoint=file,
        report=told, progress=progress,
    )  # fmt: skip
    return _result(state)


def step(
    state: State,
    batch: Tensor,
    rate: float,
    *,
    dbm: DBM,
    num_sweeps: int,
    num_mean_field_steps: int,
    schedule: Schedule,
    generator: torch.Generator,
) -> None:
    """Means settle on the batch, chains sweep, and the parameters go up the difference."""
    data = moments(mean_field(dbm, batch, num_mean_field_steps))
    state.kept["even"] = sweeps(dbm, state.kept["even"], num_sweeps, generator)
    model = moments(with_odd_means(dbm, state.kept["even"]))
    centres = [state.kept[f"centre.{k}"] for k in range(dbm.depth + 1)]
    for centre, mean in zip(centres, data.means, strict=True):
        centre.lerp_(mean, CENTRE_RATE)
    ascend(state, centred_gradient(data, model, centres), rate, schedule)


def _begun(dbm: DBM, data: Tensor, num_chains: int, generator: torch.Generator) -> State:
    """With chains at the mean-field distribution of some of the data."""
    rows = torch.randint(len(data), (num_chains,), generator=generator, device=data.device)
    means = mean_field(dbm, data[rows])
    even = torch.bernoulli(torch.cat(means[::2], 1), generator=generator)
    centres = {f"centre.{k}": layer.mean(0) for k, layer in enumerate(means)}
    return State(dbm.weights, dbm.biases, {"even": even, **centres})


def _result(state: State) -> DBM:
    values, depth = state.result(), len(state.weights)
    return DBM(values[:depth], values[depth:])


def _tell(report: Callable[[int, DBM], None], epoch: int, state: State) -> None:
    report(epoch, _result(state))
