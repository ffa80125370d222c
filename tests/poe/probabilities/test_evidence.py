"""Ratios of the evidence of whole compositions."""

from __future__ import annotations

import math

import pytest
import torch

import poe
from experts import Gaussian
from poe.core.doubt import Doubt, Kind
from poe.density.normalized import LogPartition


def overlap(one: Gaussian, other: Gaussian) -> float:
    """log ∫ N N = log N(m1; m2, S1 + S2)."""
    spread = torch.distributions.MultivariateNormal(other.loc, one.covariance + other.covariance)
    return spread.log_prob(one.loc).item()


A = Gaussian([0.0, 1.0], covariance=[[2.0, 0.3], [0.3, 1.0]])
B = Gaussian([1.0, 0.0], scale=[0.5, 1.0])
C = Gaussian([-3.0, 2.0], scale=[1.0, 2.0])


def test_gaussians_in_closed_form() -> None:
    found = poe.evidence_ratio(A * B, A * C)
    assert found.value.item() == pytest.approx(overlap(A, B) - overlap(A, C), abs=1e-5)
    assert found.std_error == 0
    assert found.lower == found.upper == found.value
    assert found.is_trusted
    assert found.confidence == 1


def test_by_quadrature() -> None:
    hidden = poe.FromLogDensity(lambda x: A(x.float()).to(x), space=poe.Real(2))
    found = poe.evidence_ratio(hidden * B, hidden * C)
    truth = overlap(A, B) - overlap(A, C)
    assert abs(found.value.item() - truth) < 1e-5 + 3 * found.std_error.item()
    assert found.lower - 1e-5 <= truth <= found.upper + 1e-5


def guess(value: float, error: float, *remarks: str) -> LogPartition:
    v, e = torch.tensor(value), torch.tensor(error)
    doubts = tuple(Doubt(Kind.OTHER, remark) for remark in remarks)
    return LogPartition(v, e, v - 2 * e, v + 3 * e, "guess", confidence=0.95, doubts=doubts)


def test_errors_bounds_and_remarks_of_both_sides() -> None:
    found = poe.evidence_ratio(guess(2.0, 0.3), guess(-1.0, 0.4, "too few draws"))
    assert found.value == 3
    assert found.std_error.item() == pytest.approx(0.5)
    assert found.lower.item() == pytest.approx(1.4 - 0.2)
    assert found.upper.item() == pytest.approx(2.9 + 1.8)
    assert found.confidence == pytest.approx(0.9)
    assert found.remarks == ("denominator: too few draws",)
    assert not found.is_trusted


def test_estimator_and_generator_are_used() -> None:
    def by_particles(target: poe.Expert) -> LogPartition:
        draws = poe.smc(target, 4000, generator=g, progress=False)
        assert draws.log_partition is not None
        return draws.log_partition

    g = torch.Generator().manual_seed(0)
    d = 6
    a, b, c = (Gaussian(torch.full((d,), m), scale=1.0) for m in (0.0, 1.0, 2.0))
    bump = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(d))
    found = poe.evidence_ratio(bump * b, bump * c, estimator=by_particles)
    truth = overlap(a, b) - overlap(a, c)
    assert 0 < found.std_error < 0.5
    assert abs(found.value.item() - truth) < 4 * found.std_error.item()


def test_two_spaces_are_refused() -> None:
    with pytest.raises(poe.SpaceMismatchError):
        poe.evidence_ratio(A, Gaussian([0.0], scale=[1.0]))


def test_improper_is_refused() -> None:
    with pytest.raises(poe.ImproperError):
        poe.evidence_ratio(A, A / B / B)
    assert math.isfinite(poe.evidence_ratio(A * B, B).value)
