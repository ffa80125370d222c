"""Exponents by maximum likelihood, with particles that follow the product as it learns."""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from poe.core.arguments import checked
from poe.core.errors import AdaptationError, PoeError
from poe.core.randomness import resolve
from poe.density.capabilities import check_proper
from poe.density.expert import Product
from poe.diagnostics.weights import kish_ess
from poe.exponents.fitted import (
    SAME,
    Estimate,
    FittedExponents,
    never_worse,
    said,
    sandwich,
    split,
    weighted,
)
from poe.exponents.log_score import log_score_loss
from poe.normalizers.levels import schedule
from poe.particles.islands import Particles
from poe.structure.proper import is_proper
from poe.tuning.prepared import prepared_particles

MAX_STEPS = 100
MAX_HALVINGS = 60
WORTH = 0.5
"""The share of the particles that must be left by the weights of one step."""


@checked
def fit_exponents_by_likelihood(
    product: Product,
    x: Tensor,
    *,
    num_particles: int = 4096,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> FittedExponents:
    """The w that maximise the likelihood w' mean l(x) − log Z(w) of points x.

    l(x) ``(k,)`` is what the experts say. The gradient is mean l(x) − E_w l and the Hessian
    −Cov_w l, both taken from particles at the present product. They begin at the product as given,
    and after each Newton step sequential Monte Carlo takes them on to the following one, so they
    are draws of it at any speed of learning (persistent chains lag behind). Steps are cut to what
    half of the particles survive, and end where the gradient is as small as its error.

    One point in five is held out. Where the learned product is not surely better there than the
    best expert alone, by the bounds of ``poe.log_partition`` on both, or where its log Z is not to
    be trusted, that expert's weights are returned with a ``TrustWarning``.

    Args:
        product: The product, whose exponents are the start.
        x: Points, ``(n, *event)``, n >= 2.
        num_particles: At least so many.
        generator: The source of randomness; a fresh one by default.
        progress: Whether to show a bar on stderr.

    Returns:
        The exponents, their errors, and how they did on the points held out.

    Raises:
        ShapeError: Where n < 2.
        NonFiniteError: Where an expert is not finite at a point.
        ImproperError: Where the product as given is known to be improper.
        AdaptationError: Where the steps do not come to an end.

    References:
        The gradient: Hinton (2002), Training products of experts by minimizing contrastive
        divergence, eq. 4, doi:10.1162/089976602760128018.

        Particles that follow a learner: Carbone, Hua, Coste & Vanden-Eijnden (2023), Efficient
        training of energy-based models using Jarzynski equality, arXiv:2305.19414.

    Example:
        >>> product = poe.Product(a=experts.Gaussian([0.0], scale=[1.0]),
        ...                       b=experts.Gaussian([4.0], scale=[1.0]))
        >>> g = torch.Generator().manual_seed(0)
        >>> x = experts.Gaussian([2.0], scale=[1.0]).sample(4000, generator=g)
        >>> fit_exponents_by_likelihood(product, x, generator=g).weights.round(decimals=1)
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    if num_particles < 1:
        raise PoeError(f"expected num_particles >= 1, got {num_particles}")
    check_proper(product)
    generator = resolve(generator, x.device)
    fit, held_out = split(product, x, generator)
    values = said(product, fit)
    learner = _Learner(product, num_particles, generator)
    with tqdm(disable=not progress, unit="step", delay=2, leave=False, file=sys.stderr) as bar:
        moments = learner.climb(values.mean(0), bar)
    std_error = sandwich(moments.covariance, values, moments.noise)
    return never_worse(
        product,
        Estimate(learner.weights, std_error),
        log_score_loss(held_out, generator, progress=progress),
        "-log p a point, nats",
    )


class _Moments(NamedTuple):
    """Of what the experts say under the product: mean, covariance, and the mean's error squared."""

    mean: Tensor
    covariance: Tensor
    noise: Tensor


class _Learner:
    """Weights, and particles that are draws of the product with these."""

    def __init__(self, product: Product, num_particles: int, generator: torch.Generator) -> None:
        self.product = product
        self.weights = torch.ones(len(product.names), dtype=torch.float64)
        remedy = "fit the exponents for one condition at a time"
        begin, start = prepared_particles(product, None, remedy=remedy, generator=generator)
        self.run = Particles(product, start, schedule(num_particles), generator)
        self.kernel = begin.choice.kernel
        self.run.follow(start, product, self.kernel, _no_report)

    def climb(self, mean: Tensor, bar: tqdm) -> _Moments:
        """Newton steps, until the gradient is as small as its error."""
        for _ in range(MAX_STEPS):
            values = self._said()
            moments = _moments(values, self.run.log_z)
            gradient = mean - moments.mean
            inverse = torch.linalg.pinv(moments.covariance, rtol=SAME, hermitian=True)
            gain = float(gradient @ inverse @ gradient) / 2
            bar.set_postfix_str(f"to gain {gain:.3g} nats", refresh=False)
            bar.update()
            if 2 * gain <= float((inverse @ moments.noise).trace()):
                return moments
            self._step(self._survived(values, inverse @ gradient))
        raise AdaptationError(
            f"expected the exponents to settle within {MAX_STEPS} steps, got a likelihood that "
            f"still rises by {gain:.3g} nats a step; give more particles, or fewer experts"
        )

    def _step(self, step: Tensor) -> None:
        following = self.weights + step
        start, end = (weighted(self.product, w) for w in (self.weights, following))
        self.run.follow(start, end, self.kernel, _no_report)
        self.weights = following

    def _survived(self, values: Tensor, step: Tensor) -> Tensor:
        """The step, halved until half of the particles survive it and the product stays proper."""
        for _ in range(MAX_HALVINGS):
            change = values @ step
            if kish_ess(change.flatten()) >= WORTH * change.numel() and self._is_proper(step):
                return step
            step = step / 2
        raise AdaptationError(
            "expected a step that half of the particles survive, got none; give more particles"
        )

    def _is_proper(self, step: Tensor) -> bool:
        """Unless it is known not to be."""
        return is_proper(weighted(self.product, self.weights + step)) is not False

    def _said(self) -> Tensor:
        """What the experts say at the particles: ``(islands, n, k)``."""
        x = self.run.coordinates.to_x(self.run.position)
        return said(self.product, x).unflatten(0, (len(self.run.log_z), -1))


def _moments(values: Tensor, log_weights: Tensor) -> _Moments:
    """Over islands ``(islands, n, k)`` of those log weights; the error is the islands' spread."""
    share = torch.softmax(log_weights.cpu(), 0)
    means = values.mean(1)
    mean = share @ means
    centered = (values - mean).flatten(0, 1)
    each = (share / values.shape[1]).repeat_interleave(values.shape[1])
    away = share[:, None] * (means - mean)
    islands = len(share)
    return _Moments(
        mean, centered.mT @ (each[:, None] * centered), away.mT @ away * islands / (islands - 1)
    )


def _no_report(temperature: float, acceptance: float) -> None:
    """The steps have a bar of their own."""
