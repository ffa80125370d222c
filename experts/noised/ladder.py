"""A whole composition read at other levels of noise."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

import poe
from experts.noised.conditional import NoisyGiven
from poe.core.arguments import checked
from poe.density.expert import named_product
from poe.density.questions import keeps_default, own_question


@own_question
def at_noise_level(expert: poe.Expert, noise_level: float | Tensor) -> poe.Expert:
    """The same composition with every expert read at another level of noise.

    Weights are shared. A product of densities of noised data is *not* the density of the noised
    product, and a mixture keeps the log partitions it was given: use it to find good starts, and
    end on the target itself.

    Args:
        expert: An expert with noise levels, or powers, products and mixtures of such.
        noise_level: σ, one number or ``(batch,)``, one for each chain.

    Returns:
        The composition at that level.

    Raises:
        PoeError: For an expert without noise levels.

    References:
        Du et al. (2023), Reduce, reuse, recycle: compositional generation with energy-based
        diffusion models and MCMC, section 3, arXiv:2302.11552.
    """
    raise poe.PoeError(
        f"expected an expert with noise levels, or a product of such, got {type(expert).__name__}: "
        "give a ladder for it by hand, as poe.samplers.AnnealedLangevin((first, ..., last))"
    )


@at_noise_level.register
def _(expert: NoisyGiven, noise_level: float | Tensor) -> poe.Expert:
    return expert.conditional.at_noise_level(noise_level).given(expert.condition)


@at_noise_level.register
def _(expert: poe.Tempered, noise_level: float | Tensor) -> poe.Expert:
    return at_noise_level(expert.expert, noise_level) ** expert.exponent


@at_noise_level.register
def _(expert: poe.Product, noise_level: float | Tensor) -> poe.Expert:
    factors: list[poe.Expert] = list(expert.experts)  # type: ignore[arg-type]
    moved = [at_noise_level(factor, noise_level) for factor in factors]
    return named_product(expert.names, moved)


@at_noise_level.register
def _(expert: poe.Mixture, noise_level: float | Tensor) -> poe.Expert:
    components: list[poe.Expert] = list(expert.experts)  # type: ignore[arg-type]
    moved = [at_noise_level(one, noise_level) for one in components]
    return poe.Mixture(moved, expert.weights, log_partitions=expert.estimates)


@checked
def noise_ladder(expert: poe.Expert, noise_levels: Sequence[float]) -> tuple[poe.Expert, ...]:
    """The composition at each noise level, for ``poe.samplers.AnnealedLangevin``.

    Args:
        expert: As of ``at_noise_level``.
        noise_levels: σ of each rung, from broad to sharp.

    Returns:
        One expert for each level, in that order.

    Raises:
        PoeError: For an expert without noise levels.
    """
    return tuple(at_noise_level(expert, level) for level in noise_levels)


keeps_default(poe.Expert, "PoeError, which asks for a ladder by hand", at_noise_level)
