"""From where chains were thrown to where the mass is: an optimiser's paths, and normals along them.

The top of a density may be far from its mass, at the end of a funnel, say. So each path of L-BFGS
is left where a normal distribution fits best that has the curvature seen on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from poe.core.affine import Affine, Diagonal, fit_affine
from poe.samplers.kernel import Density
from poe.samplers.preconditioned import Whitened

HISTORY = 8
"""The changes of position and score that a path remembers."""
ROUNDS = 4
EVALUATIONS = 60
"""Of each path in a round, the draws aside."""
EVERY, AT_FIRST = 3, 8
"""After so many evaluations each a normal is tried; at first, while steps are long, after all."""
NUM_DRAWS = 4
"""Of each normal that is tried."""
NEAR = 0.05
"""A path ends where a Newton step would gain no more, in nats."""
SUFFICIENT = 1e-4
"""The share of the gain that the score promises, of which a step must bring as much."""
SHORTEST = 1e-12
"""A path ends where such a part of a step brings nothing."""
CURVED = 1e-10
"""The least cosine of a step and the change of the score that tells of curvature."""
GAIN = 1.0
"""Another round is worth it where the last one raised the evidence by as much, in nats."""
LOST, LOST_BY_DIMENSION = 5.0, 0.1
"""A path has arrived nowhere that ends LOST + d / 10 nats of evidence below the best: what it found
has less than a hundredth of the mass, and a normal may fit there by so much worse than elsewhere.
"""
BETTER_HALF = 0.5


class Found(NamedTuple):
    """What the paths from some starts came to.

    Args:
        position: Draws of the best normals, ``(chains, *event)``.
        num_restarted: How many chains start at draws of others' normals, since their own path ended
            where there is no mass to speak of.
        num_evaluations: Of positions, over all paths.
    """

    position: Tensor
    num_restarted: int
    num_evaluations: int


class Curvature(NamedTuple):
    """What L-BFGS remembers of each path: S and Y, ``(paths, HISTORY, d)``, the latest last.

    Those that are zero count as not there.
    """

    steps: Tensor
    changes: Tensor

    @classmethod
    def none(cls, like: Tensor) -> Curvature:
        """Nothing remembered, of paths at ``(paths, d)``."""
        nothing = like.new_zeros((len(like), HISTORY, like.shape[1]))
        return cls(nothing, nothing)

    @property
    def is_known(self) -> Tensor:
        """Whether there is any: ``(paths,)``."""
        return (self.steps[:, -1] != 0).any(-1)

    @property
    def products(self) -> Tensor:
        """sᵀy, 1 where there is none: ``(paths, HISTORY)``."""
        products = (self.steps * self.changes).sum(-1)
        return torch.where(products > 0, products, 1.0)

    @property
    def scale(self) -> Tensor:
        """γ = sᵀy / yᵀy of the latest, 1 where there is none: ``(paths, 1)``."""
        step, change = self.steps[:, -1], self.changes[:, -1]
        gamma = (step * change).sum(-1, keepdim=True) / change.square().sum(-1, keepdim=True)
        return torch.where(gamma > 0, gamma, 1.0)

    def applied(self, vector: Tensor) -> Tensor:
        """H v, with H what stands for the inverse of the negative Hessian: ``(paths, d)``."""
        products, weights = self.products, []
        for k in reversed(range(HISTORY)):
            weight = (self.steps[:, k] * vector).sum(-1) / products[:, k]
            vector = vector - weight[:, None] * self.changes[:, k]
            weights.append(weight)
        vector = self.scale * vector
        for k, weight in zip(range(HISTORY), reversed(weights), strict=True):
            back = (self.changes[:, k] * vector).sum(-1) / products[:, k]
            vector = vector + (weight - back)[:, None] * self.steps[:, k]
        return vector

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws of N(0, H), by H₊ = (1 − s yᵀ/sᵀy) H (1 − y sᵀ/sᵀy) + s sᵀ/sᵀy.

        Shapes: ``(paths, count, d)``.
        """
        paths, _, d = self.steps.shape
        noise = self.steps.new_empty((paths, count, d + HISTORY)).normal_(generator=generator)
        draws, products = self.scale.sqrt()[:, None] * noise[..., :d], self.products
        for k in range(HISTORY):
            step, change = self.steps[:, None, k], self.changes[:, None, k]
            product = products[:, k, None, None]
            along = (change * draws).sum(-1, keepdim=True) / product
            draws = draws + step * (noise[..., d + k, None] / product.sqrt() - along)
        return draws

    def log_normal(self, x: Tensor) -> Tensor:
        """The log-density of N(0, H) at ``(paths, count, d)``, by the compact form of H⁻¹.

        H⁻¹ = σ − Wᵀ M⁻¹ W with W = (σ S, Y), M = ((σ SSᵀ, L), (Lᵀ, −D)), σ = 1 / γ, and S Yᵀ of
        diagonal D and strictly lower part L.
        """
        sigma, d = 1.0 / self.scale[:, :, None], x.shape[-1]
        wide = torch.cat([sigma * self.steps, self.changes], 1)
        middle = self._middle(sigma)
        seen = x @ wide.mT
        squares = sigma[..., 0] * x.square().sum(-1)
        squares = squares - (seen * torch.linalg.solve(middle, seen.mT).mT).sum(-1)
        after = torch.linalg.slogdet(middle - wide @ wide.mT / sigma).logabsdet
        log_det = d * sigma[:, 0, 0].log() + after - torch.linalg.slogdet(middle).logabsdet
        return 0.5 * (log_det[:, None] - squares - d * math.log(2 * math.pi))

    def _middle(self, sigma: Tensor) -> Tensor:
        """M, with ones for what is not there: ``(paths, 2 HISTORY, 2 HISTORY)``."""
        is_none = (self.steps == 0).all(-1).to(sigma.dtype)
        top = sigma * (self.steps @ self.steps.mT) + is_none.diag_embed()
        lower = (self.steps @ self.changes.mT).tril(-1)
        rows = (
            torch.cat([top, lower], 2),
            torch.cat([lower.mT, -self.products.diag_embed()], 2),
        )
        return torch.cat(rows, 1)

    def with_step(self, step: Tensor, change: Tensor, is_new: Tensor) -> Curvature:
        """One more pair remembered, and the oldest forgotten, where it is new."""
        kept = is_new[:, None, None]
        return Curvature(
            torch.where(kept, torch.cat([self.steps[:, 1:], step[:, None]], 1), self.steps),
            torch.where(kept, torch.cat([self.changes[:, 1:], change[:, None]], 1), self.changes),
        )


class Paths:
    """Paths of L-BFGS up a density, side by side, each with steps of its own length.

    >>> import poe
    >>> target = poe.FromLogDensity(lambda x: -(x - 7.0).square().sum(-1), space=poe.Real(2))
    >>> paths = Paths(target, torch.zeros(1, 2))
    >>> while not paths.is_over.all():
    ...     paths.advance()
    >>> paths.position, paths.num_evaluations
    (tensor([[7.0000, 7.0000]]), 4)
    """

    def __init__(self, density: Density, u: Tensor) -> None:
        self.density = density
        self.position = u
        self.log_density, self.score = density.log_density_and_score(u)
        self.curvature = Curvature.none(u)
        self.length = 1.0 / self.score.norm(dim=1).clamp(min=1.0)
        """The part of the step that is tried next."""
        self.is_over = ~(self.log_density.isfinite() & self.score.isfinite().all(1))
        self.num_evaluations = 1

    def advance(self) -> None:
        """Try one step of each path: taken where it gains enough, shortened where it does not."""
        direction = self.curvature.applied(self.score)
        slope = (direction * self.score).sum(1)
        self.is_over = self.is_over | ~(slope > NEAR) | (self.length < SHORTEST)
        trial = self.position + self.length[:, None] * direction
        trial = torch.where(self.is_over[:, None], self.position, trial)
        log_density, score = self.density.log_density_and_score(trial)
        self.num_evaluations += 1
        gain, promised = log_density - self.log_density, self.length * slope
        is_taken = (gain >= SUFFICIENT * promised) & score.isfinite().all(1) & ~self.is_over
        step, change = trial - self.position, self.score - score
        is_curved = (step * change).sum(1) > CURVED * step.norm(dim=1) * change.norm(dim=1)
        self.curvature = self.curvature.with_step(step, change, is_taken & is_curved)
        # Without curvature twice as far; what failed, to the top of a parabola through both ends.
        shorter = (0.5 * promised / (promised - gain)).nan_to_num(0.1).clamp(0.1, 0.5)
        longer = torch.where(is_curved, 1.0, 2.0 * self.length)
        self.length = torch.where(is_taken, longer, shorter * self.length).to(trial.dtype)
        self.position = torch.where(is_taken[:, None], trial, self.position)
        self.log_density = torch.where(is_taken, log_density, self.log_density)
        self.score = torch.where(is_taken[:, None], score, self.score)

    def followed(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """To their ends, with draws and evidence of each path's normal every now and then."""
        for step in range(1, EVALUATIONS):
            self.advance()
            is_over = bool(self.is_over.all())
            if is_over or step <= AT_FIRST or step % EVERY == 0:
                yield self.normals(generator)
            if is_over:
                return

    def normals(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws of each path's normal N(x + H ∇, H), and its evidence, −inf where H is not known.

        The evidence is the mean of log p̃ − log q over the draws: a lower bound of log Z.

        Shapes: ``(paths, NUM_DRAWS, d)`` and ``(paths,)``.
        """
        noise = self.curvature.draw(NUM_DRAWS, generator)
        draws = (self.position + self.curvature.applied(self.score))[:, None] + noise
        log_density = self.density.log_density(draws.flatten(0, 1)).unflatten(0, draws.shape[:2])
        self.num_evaluations += NUM_DRAWS
        evidence = (log_density - self.curvature.log_normal(noise)).mean(1)
        is_known = self.curvature.is_known & evidence.isfinite()
        return draws, evidence.where(is_known, -torch.inf).to(draws.dtype)


class Flat(NamedTuple):
    """A density of events as one of rows of d numbers in float64, in which paths are reckoned."""

    density: Density
    like: Tensor
    """Events as it takes them, ``(n, *event)``."""

    def log_density(self, x: Tensor) -> Tensor:
        """log p̃: ``(n, d) -> (n,)``."""
        return self.density.log_density(self.events(x)).double()

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p̃ and its gradient, ``(n,)`` and ``(n, d)``."""
        log_density, score = self.density.log_density_and_score(self.events(x))
        return log_density.double(), score.reshape(x.shape).double()

    def events(self, x: Tensor) -> Tensor:
        """``(n, d) -> (n, *event)``."""
        return x.reshape(-1, *self.like.shape[1:]).to(self.like.dtype)


class Best(NamedTuple):
    """The best normal of each path: draws ``(paths, NUM_DRAWS, d)``, and its evidence."""

    draws: Tensor
    evidence: Tensor

    def or_those(self, draws: Tensor, evidence: Tensor) -> Best:
        """Those of others, where they are better."""
        is_better = evidence > self.evidence
        return Best(
            draws.where(is_better[:, None, None], self.draws),
            evidence.where(is_better, self.evidence),
        )

    @property
    def level(self) -> Tensor:
        """What three quarters of the paths do not reach: ()."""
        return self.evidence.sort().values[3 * (len(self.evidence) - 1) // 4]


def find_mass(density: Density, u: Tensor, num_chains: int, generator: torch.Generator) -> Found:
    """Draws near the mass that paths from u lead to.

    In a few rounds, each in coordinates in which the ends of the better half of all paths are
    round, as far as positions and scores tell; no more than the evidence grows by.

    Args:
        density: In unconstrained coordinates.
        u: Where paths begin, ``(paths, *event)``.
        num_chains: How many draws are asked for.
        generator: Of the draws of normals.

    Returns:
        As many draws, of the paths in turn.

    References:
        Zhang, Carpenter, Gelman & Vehtari (2022), Pathfinder: parallel quasi-Newton variational
        inference, algorithms 1 to 4, arXiv:2108.03782; Byrd, Nocedal & Schnabel (1994),
        Representations of quasi-Newton matrices and their use in limited memory methods, theorem
        2.3, doi:10.1007/BF01582063 (the compact form).

    Example:
        >>> import poe
        >>> far = poe.FromLogDensity(
        ...     lambda x: -((x - 1000.0) / 10).square().sum(-1) / 2, space=poe.Real(2)
        ... )
        >>> g = torch.Generator().manual_seed(0)
        >>> found = find_mass(far, torch.randn(8, 2, generator=g), 100, g)
        >>> (found.position.mean() - 1000.0).abs() < 4 * 10 / 200**0.5, found.num_restarted
        (tensor(True), 0)
    """
    flat = Flat(density, u)
    u = u.reshape(len(u), -1).double()
    best = Best(u[:, None].repeat(1, NUM_DRAWS, 1), u.new_full(u.shape[:1], -torch.inf))
    affine: Affine = Diagonal(torch.zeros_like(u[0]), torch.ones_like(u[0]))
    position, num_evaluations = u, 0
    for _ in range(ROUNDS):
        before = best.level
        paths = Paths(Whitened(flat, affine), affine.to_u(position))
        for draws, evidence in paths.followed(generator):
            in_x = affine.to_x(draws.flatten(0, 1)).reshape(draws.shape)
            best = best.or_those(in_x, evidence + affine.log_abs_det())
        num_evaluations += paths.num_evaluations * len(u)
        position = affine.to_x(paths.position)
        if not best.level > before + GAIN:
            break
        affine = _composed(affine, paths)
    source, number, num_restarted = _shared(best, paths.log_density, num_chains)
    position = flat.events(best.draws[source, number])
    return Found(position, num_restarted, num_evaluations)


def _composed(affine: Affine, paths: Paths) -> Affine:
    """The map fitted in coordinates u, as one from x."""
    count = max(2, round(BETTER_HALF * len(paths.position)))
    better = paths.log_density.nan_to_num(-torch.inf).topk(min(count, len(paths.position))).indices
    x, score = affine.to_x(paths.position[better]), affine.push_score(paths.score[better])
    return fit_affine(x, score)


def _shared(best: Best, log_density: Tensor, num_chains: int) -> tuple[Tensor, Tensor, int]:
    """Of each chain whose draw it starts at, and which: its own path's, if that arrived.

    Of a path without any normal the height stands for the mass around.
    """
    evidence = best.evidence.where(best.evidence > -torch.inf, log_density)
    evidence, d = evidence.nan_to_num(-torch.inf), best.draws.shape[2]
    arrived = (evidence >= evidence.max() - (LOST + LOST_BY_DIMENSION * d)).nonzero().flatten()
    every = torch.arange(num_chains, device=evidence.device)
    own, number = every % len(evidence), every // len(evidence) % NUM_DRAWS
    is_lost = ~torch.isin(own, arrived)
    return torch.where(is_lost, arrived[every % len(arrived)], own), number, int(is_lost.sum())
