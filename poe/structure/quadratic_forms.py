"""Whether min_p u' P_p u + max_n u' N_n u is positive in every direction u, and where not."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MARGIN = 1e-9
"""What counts as zero, where each coordinate has a sum of absolute curvatures of 1."""
_NUM_ROUNDS = 40
_SHRINKING = 0.75  # of the steps; above 1/2, so that a wrong one can be taken back


class Verdict(NamedTuple):
    """Whether the form is positive everywhere, and a direction ``(d,)`` in which it is negative.

    Neither where it is too close to zero, or where no direction was found.
    """

    is_positive: bool
    direction: Tensor | None


def decide(positive: Tensor, negative: Tensor) -> Verdict:
    """Is f(u) = min_p u' P_p u + max_n u' N_n u positive, for symmetric P and N ``(·, d, d)``?

    Proven positive where each P_p + Σ_n λ_n N_n is positive definite for some weights λ of its own,
    as a maximum is no less than a mean; proven negative by a u. In up to two dimensions, and for up
    to two N, one or the other is found where f is not close to 0 (for two by Yuan's lemma: Yuan
    1990, "On a subproblem of trust region algorithms", lemma 2.3); beyond, f < 0 may be missed.

    >>> decide(torch.eye(2)[None], -torch.diag(torch.tensor([0.5, 2.0]))[None]).direction.abs()
    tensor([0., 1.])
    """
    scale = _scale(positive, negative)
    form = _Form(positive * scale * scale[:, None], negative * scale * scale[:, None])
    is_positive = True
    for index in range(len(positive)):
        if not form.is_covered(index):
            covered, u = form.search(index)
            if u is not None:
                return Verdict(False, torch.nn.functional.normalize(scale * u, dim=0))
            is_positive = is_positive and covered
    return Verdict(is_positive, None)


class _Form(NamedTuple):
    positive: Tensor
    negative: Tensor

    def along(self, u: Tensor) -> Tensor:
        """f of each row of u ``(c, d)``: ``(c,)``."""
        lowest = ((u @ self.positive) * u).sum(-1).amin(0)
        return lowest + ((u @ self.negative) * u).sum(-1).amax(0)

    def is_covered(self, index: int) -> bool:
        """Whether one N alone makes this P positive definite."""
        sums = self.positive[index] + self.negative
        sums.diagonal(dim1=-2, dim2=-1).sub_(MARGIN)
        return bool((torch.linalg.cholesky_ex(sums).info == 0).any())

    def search(self, index: int) -> tuple[bool, Tensor | None]:
        """Whether a mean of the N covers this P, and a direction in which f is negative.

        The mean moves, by ever smaller steps, to the N that takes least away where it is lowest.
        """
        mean, best = self.negative.mean(0), None
        for step in range(1, _NUM_ROUNDS + 1):
            curvatures, vectors = torch.linalg.eigh(self.positive[index] + mean)
            if curvatures[0] > MARGIN:
                return True, None
            lowest = vectors[:, 0]
            best = lowest if best is None else self.lowest_in_plane(best, lowest)
            if len(curvatures) > 1:
                best = self.lower(best, self.lowest_in_plane(lowest, vectors[:, 1]))
            value = self.along(best[None])
            if value < -MARGIN:
                return False, best
            if len(curvatures) <= 2 or len(self.negative) == 1:  # there is no more to be found
                return bool(value > MARGIN), None
            chosen = ((self.negative @ lowest) @ lowest).argmax()
            mean = mean + _SHRINKING**step * (self.negative[chosen] - mean)
        return False, None

    def lower(self, u: Tensor, v: Tensor) -> Tensor:
        """The one in which f is lower."""
        return torch.stack([u, v])[self.along(torch.stack([u, v])).argmin()]

    def lowest_in_plane(self, u: Tensor, v: Tensor) -> Tensor:
        """The direction in the plane of two in which f is lowest, exactly.

        There it is the lowest of one P + N, or a place where two N are equal.
        """
        across = v - (v @ u) * u
        if across.norm() < 1e-7:
            return u
        basis = torch.stack([u, across / across.norm()], 1)
        flat = _Form(basis.mT @ self.positive @ basis, basis.mT @ self.negative @ basis)
        first, second = torch.triu_indices(len(self.negative), len(self.negative), 1)
        mean, size, phase = _waves((flat.positive[:, None] + flat.negative).flatten(0, 1))
        minima = phase + torch.pi
        mean, size, phase = _waves(flat.negative[first] - flat.negative[second])
        crossing = (-mean / size.clamp(min=1e-300)).clamp(-1, 1).acos()
        angles = torch.cat([minima, phase + crossing, phase - crossing]) / 2
        circle = torch.stack([angles.cos(), angles.sin()], 1)
        return basis @ circle[flat.along(circle).argmin()]


def _waves(forms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """2 x 2 forms on the circle at angle θ: mean + size cos(2 θ − phase)."""
    a, b, c = forms[:, 0, 0], forms[:, 0, 1], forms[:, 1, 1]
    half = (a - c) / 2
    return (a + c) / 2, torch.hypot(half, b), torch.atan2(b, half)


def _scale(positive: Tensor, negative: Tensor) -> Tensor:
    """Units in which each coordinate's curvatures, without their signs, add up to 1: ``(d,)``."""
    sizes = [forms.diagonal(dim1=-2, dim2=-1).abs().amax(0) for forms in (positive, negative)]
    total = sizes[0] + sizes[1]
    return torch.where(total > 0, total, 1).rsqrt()
