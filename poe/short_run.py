"""Short-run Langevin: a generator with the model's gradient, and no claim to be a sampler."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from poe.advance import advance
from poe.core.errors import PoeError
from poe.core.randomness import resolve
from poe.density.expert import Expert
from poe.draws import Draws
from poe.samplers.kernel import BIASED
from poe.samplers.langevin import ULA


def short_run(
    expert: Expert,
    start: Tensor,
    num_steps: int,
    step_size: float,
    *,
    noise: float | None = None,
    generator: torch.Generator | None = None,
) -> Draws:
    r"""The ends of ``num_steps`` unadjusted Langevin steps from ``start``: a biased generator.

    .. math:: x \leftarrow x + \epsilon\, \nabla \log \tilde p(x) + \tau z, \qquad z \sim N(0, I)

    The steps are too few to forget the start, so the draws are those of the *generator* that start,
    steps and expert make together, and not of the expert: ``guarantee`` is ``"biased"``, whatever
    ε. Trained with contrastive divergence on its own draws it matches the data all the same
    (Nijkamp, Hill, Zhu & Wu 2019, section 3), if it is run as it was trained.

    - ``start`` ``(n, *event)``: where the chains begin, the generator's latent variable;
    - ``step_size`` ε, and ``noise`` τ, the Langevin √(2ε) where it is left out. Another τ > 0 is
      Langevin at temperature τ²/2ε, of ``expert ** (2 ε / τ²)`` by steps of τ²/2.

    ``samples`` ``(n, 1, *event)`` and ``log_density`` ``(n, 1)`` of the expert itself. On a
    constrained space the steps are taken in its unconstrained coordinates. Raises `PoeError` for a
    step size or noise that is not positive, `NonFiniteError` where chains explode (`advance`).

    >>> expert, g = experts.Gaussian([0.0], scale=[1.0]), torch.Generator().manual_seed(0)
    >>> short_run(expert, torch.full((5, 1), 3.0), 10, 0.1, generator=g)
    Draws(5 chains x 1 draws of shape (1,), biased, ULA(step_size=0.1))
    """
    if not 0.0 < step_size < float("inf") or (noise is not None and not 0.0 < noise < float("inf")):
        raise PoeError(
            f"expected a positive finite step_size and noise, got {step_size} and {noise}: without "
            "noise the steps climb to the modes, and draw nothing"
        )
    generator = resolve(generator, start.device)
    exponent, kernel = 1.0, ULA(step_size)
    if noise is not None:
        exponent, kernel = 2.0 * step_size / noise**2, ULA(noise**2 / 2)
    began = time.perf_counter()
    target = expert if exponent == 1.0 else expert**exponent
    found = advance(target, kernel, start, num_steps, generator=generator)
    return Draws(
        samples=found.positions[:, None],
        log_density=(found.log_density / exponent)[:, None],
        guarantee=BIASED,
        kernel=kernel,
        acceptance_rate=found.tally.accepted / num_steps,
        num_outside=found.tally.outside,
        num_undefined=found.tally.undefined,
        num_divergent=found.tally.divergent,
        num_gradients=num_steps,
        seconds=time.perf_counter() - began,
        seed=generator.initial_seed(),
        choice=f"short run of {num_steps} steps from the given start",
    )
