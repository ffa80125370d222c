"""A run of a composition, picture by picture."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

import poe
from poe.density.capabilities import can_sample_exactly, simplify
from poe.studio.model import Composition
from poe.studio.offer import Recipe


class Settings(NamedTuple):
    """How long to sample, from which seed, and whether steps are corrected by Metropolis."""

    seed: int = 0
    num_draws: int = 20
    """Of each chain."""
    is_corrected: bool = True


class Frame(NamedTuple):
    """Where a run stands.

    - ``words``: what it is doing; ``fraction`` of it is done, between 0 and 1;
    - ``x`` ``(chains, *event)``: where the chains are;
    - ``contributions`` ``(chains, experts)``: what each expert of the product says there;
    - ``energy`` ``(chains, frames)``: −log p̃(x) so far, of ``num_before`` frames before the draws;
    - ``draws``: those made so far, or None while the chains are on their way to a start.
    """

    words: str
    fraction: float
    x: Tensor
    contributions: Tensor
    energy: Tensor
    num_before: int
    draws: poe.Draws | None = None


def run(composition: Composition, settings: Settings) -> Iterator[Frame]:
    """The frames of a run: the way to a start, then draws. The same seed gives the same draws.

    A product that can be sampled exactly is. Whoever stops early has the first draws of the whole
    run. Raises the errors of ``poe.sample``.

    >>> from poe.studio.model import Choice, compose
    >>> *_, last = run(compose([Choice("bar"), Choice("spots")]), Settings(num_draws=4))
    >>> last.draws
    Draws(256 chains x 4 draws of shape (2,), exact)
    """
    if settings.num_draws < 1:
        raise poe.PoeError(f"expected at least one draw of a chain, got {settings.num_draws}")
    generator = torch.Generator().manual_seed(settings.seed)
    if can_sample_exactly(simplify(composition.product).expert):
        yield from _exact(composition, settings, generator)
    else:
        yield from _chains(composition, settings, generator)


def _exact(
    composition: Composition, settings: Settings, generator: torch.Generator
) -> Iterator[Frame]:
    product, recipe = composition.product, composition.recipe
    draws: poe.Draws | None = None
    for count in _pieces(settings.num_draws, recipe):
        with _told_by_the_page():
            piece = poe.sample(
                product,
                count * recipe.num_chains,
                num_chains=recipe.num_chains,
                generator=generator,
                progress=False,
            )
        draws = joined(draws, piece)
        yield _frame(product, "independent, exact draws", draws, settings.num_draws)


def _chains(
    composition: Composition, settings: Settings, generator: torch.Generator
) -> Iterator[Frame]:
    product, recipe = composition.product, composition.recipe
    energies: list[Tensor] = []
    x, share = torch.empty(0), recipe.num_steps / (recipe.num_steps + settings.num_draws)
    for words, x, num_steps in recipe.approach(generator):
        said = contributions(product, x)
        energies.append(-said.sum(-1))
        fraction = share * num_steps / max(1, recipe.num_steps)
        yield Frame(words, fraction, x, said, torch.stack(energies, 1), len(energies))
    before = torch.stack(energies, 1)
    kernel = recipe.corrected if settings.is_corrected else recipe.unadjusted
    draws: poe.Draws | None = None
    for count in _pieces(settings.num_draws, recipe):
        with _told_by_the_page():
            piece = poe.sample(
                product,
                count * recipe.num_chains,
                kernel=kernel,
                warmup=0 if draws else recipe.warmup,
                initial=x,
                generator=generator,
                progress=False,
            )
        assert piece.kernel is not None
        draws, kernel, x = joined(draws, piece), piece.kernel, piece.samples[:, -1]
        frame = _frame(product, type(kernel).__name__, draws, settings.num_draws)
        yield frame._replace(
            fraction=share + (1 - share) * frame.fraction,
            energy=torch.cat([before, frame.energy], 1),
            num_before=before.shape[1],
        )


@contextmanager
def _told_by_the_page() -> Iterator[None]:
    """What is doubtful about a piece is judged of all of them together, and shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)
        yield


def _pieces(num_draws: int, recipe: Recipe) -> Iterator[int]:
    """How many draws of a chain come between pictures."""
    for first in range(0, num_draws, recipe.draws_a_frame):
        yield min(recipe.draws_a_frame, num_draws - first)


def _frame(product: poe.Product, words: str, draws: poe.Draws, num_draws: int) -> Frame:
    done, x = draws.samples.shape[1], draws.samples[:, -1]
    words = f"{words}: {done} of {num_draws} draws of {len(x)} chains"
    said = contributions(product, x)
    return Frame(words, done / num_draws, x, said, -draws.log_density, 0, draws)


@torch.no_grad()
def contributions(product: poe.Product, x: Tensor) -> Tensor:
    """What each expert says: ``(chains, experts)``."""
    return product.contributions(x)


def joined(first: poe.Draws | None, then: poe.Draws) -> poe.Draws:
    """Draws, and those of the same chains that the same kernel went on to make."""
    if first is None:
        return then
    length, more = first.samples.shape[1], then.samples.shape[1]
    rate = first.acceptance_rate
    if rate is not None and then.acceptance_rate is not None:
        rate = (length * rate + more * then.acceptance_rate) / (length + more)
    return replace(
        first,
        samples=torch.cat([first.samples, then.samples], 1),
        log_density=torch.cat([first.log_density, then.log_density], 1),
        acceptance_rate=rate,
        num_outside=_sum(first.num_outside, then.num_outside),
        num_undefined=_sum(first.num_undefined, then.num_undefined),
        num_divergent=_sum(first.num_divergent, then.num_divergent),
        num_gradients=first.num_gradients + then.num_gradients,
        seconds=first.seconds + then.seconds,
        sampling_seconds=first.sampling_seconds + then.sampling_seconds,
        doubts=tuple(dict.fromkeys([*first.doubts, *then.doubts])),
    )


def _sum(first: Tensor | None, then: Tensor | None) -> Tensor | None:
    return None if first is None or then is None else first + then
