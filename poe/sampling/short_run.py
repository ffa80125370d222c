"""A given number of steps of one kernel: from noise, or from where a chain stands."""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.doubt import warn
from poe.core.errors import NonFiniteError, PoeError
from poe.core.randomness import resolve
from poe.density.coordinates import Coordinates, require_chains
from poe.density.expert import Expert
from poe.density.nonfinite import Rows, require_finite
from poe.density.trials import require_score_once
from poe.density.wrappers import require_precision
from poe.draws import Draws
from poe.draws.verdict import tell
from poe.samplers.guarded import Guarded, Raised, guarded
from poe.samplers.kernel import BIASED, Kernel, require_inside, require_kernel, started, stepped
from poe.samplers.langevin import ULA
from poe.samplers.questions import starts_with_score
from poe.sampling.tally import Tally
from poe.tuning.start import refuse_raised


@checked
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
    ε. Trained with contrastive divergence on its own draws it matches the data all the same, if it
    is run as it was trained. On a constrained space the steps are taken in its unconstrained
    coordinates.

    Args:
        expert: p̃.
        start: Where the chains begin, the generator's latent variable, ``(n, *event)``.
        num_steps: At least 1.
        step_size: ε, positive.
        noise: τ, positive; the Langevin √(2ε) where it is left out. Another is Langevin at
            temperature τ²/2ε, of ``expert ** (2 ε / τ²)`` by steps of τ²/2.
        generator: Of all that is drawn; a fresh one, seeded by the system, by default.

    Returns:
        Draws ``(n, 1, *event)``, with ``log_density`` ``(n, 1)`` of the expert itself.

    Raises:
        PoeError: For a step size or noise that is not positive.
        NonFiniteError: Where chains explode, as in `advance`.
        GradientError: Where the expert's score is lost, whole or in part.

    References:
        Nijkamp, Hill, Zhu & Wu (2019), Learning non-convergent non-persistent short-run MCMC toward
        energy-based model, section 3, arXiv:1904.09770.

    Example:
        >>> expert, g = experts.Gaussian([0.0], scale=[1.0]), torch.Generator().manual_seed(0)
        >>> short_run(expert, torch.full((5, 1), 3.0), 10, 0.1, generator=g)
        Draws(5 chains x 1 draws of shape (1,), biased, ULA(step_size=0.1))
    """
    if not 0.0 < step_size < float("inf") or (noise is not None and not 0.0 < noise < float("inf")):
        raise PoeError(
            f"expected a positive finite step_size and noise, got {step_size} and {noise}: without "
            "noise the steps climb to the modes, and draw nothing"
        )
    require_chains(expert.space, start, "`start`")
    generator = resolve(generator, start.device)
    exponent, kernel = 1.0, ULA(step_size)
    if noise is not None:
        square = noise * noise  # which overflows to inf, where noise**2 raises an error
        exponent, kernel = 2.0 * step_size / square, ULA(min(square, sys.float_info.max) / 2)
        if exponent < 1e-30:
            raise PoeError(f"expected a step_size that counts beside noise, got {step_size}")
    began = time.perf_counter()
    target = expert if exponent == 1.0 else expert**exponent
    found = advance(target, kernel, start, num_steps, generator=generator)
    draws = Draws(
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
    tell(draws)
    return draws


class Advanced(NamedTuple):
    """Where chains are after some steps, and what befell them on the way.

    Args:
        positions: Detached, in the expert's own space, ``(chains, *event)``.
        log_density: log p̃ there, ``(chains,)``.
        tally: For each chain how many proposals were accepted, outside, undefined, divergent.
    """

    positions: Tensor
    log_density: Tensor
    tally: Tally


@checked
def advance(
    expert: Expert,
    kernel: Kernel,
    x: Tensor,
    num_steps: int,
    *,
    generator: torch.Generator | None = None,
) -> Advanced:
    """The chains at ``x`` after ``num_steps`` steps of the kernel, as it is.

    No warm-up, and no claim: draws of the expert if the chains began at such and the kernel is
    exact. From data they are what CD-k needs, from a `ReplayBuffer` what persistent CD needs. On a
    constrained space the chains move in its unconstrained coordinates, as in `poe.sample`, and a
    step size is one there. Start and end are checked to be finite, and of an expert that is new the
    score by differences; these checks are the only synchronisations with the device.

    Args:
        expert: p̃.
        kernel: With its settings.
        x: Where the chains begin, ``(chains, *event)``.
        num_steps: At least 1.
        generator: Of all that is drawn; a fresh one, seeded by the system, by default.

    Returns:
        Where the chains ended, and what befell them.

    Raises:
        NonFiniteError: Where a chain starts at a log-density or a score that is not finite, or ends
            so: it exploded, or left the support unadjusted. It names the experts.
        GradientError: Where the score that the kernel asks for is lost, whole or in part.
        ShapeError: For x of no or several batch dimensions.
        DtypeError: For an expert of half-precision numbers, and inside ``torch.autocast``.
        PoeError: For fewer than one step.

    Example:
        >>> expert, g = experts.Gaussian([0.0], scale=[1.0]), torch.Generator().manual_seed(0)
        >>> kernel = poe.samplers.ULA(0.1)
        >>> advance(expert, kernel, torch.full((5, 1), 3.0), 40, generator=g).positions.shape
        torch.Size([5, 1])
    """
    if num_steps < 1:
        raise PoeError(f"expected at least one step, got {num_steps}")
    require_kernel(kernel)
    require_chains(expert.space, x, "x")
    require_precision(expert)
    generator = resolve(generator, x.device)
    coordinates, raised = Coordinates(expert.space), Raised()
    target = guarded(expert, coordinates, raised)
    u = coordinates.to_u(x.detach().clone())
    if starts_with_score(kernel, target, u):
        require_score_once(expert, target, coordinates.pull, u)
    state = _begun(kernel, target, u)
    tally = Tally.none(len(x), x.device)
    for _ in range(num_steps):
        state, info = stepped(kernel, target, state, generator=generator)
        flags = Tally(info.is_accepted, info.is_outside, info.is_undefined, info.is_divergent)
        tally = tally.plus(flags)
    require_inside(kernel, expert.space, state.position)
    positions = coordinates.to_x(state.position)
    log_density = coordinates.log_density_of_x(state.position, positions, state.log_density)
    is_at_a_point = positions.reshape(len(positions), -1).isfinite().all(1)
    said = torch.where(is_at_a_point, log_density, torch.nan)
    where = f"chains after {num_steps} steps of {kernel}"
    require_finite(Rows(expert, where, positions, said))
    warn(raised.doubts())
    return Advanced(positions, log_density, tally)


def _begun(kernel: Kernel, target: Guarded, u: Tensor) -> Any:
    """The state at the start, where the density raises no error."""
    try:
        return started(kernel, target, u)
    except NonFiniteError:
        refuse_raised(target.raised, len(u))
        raise
