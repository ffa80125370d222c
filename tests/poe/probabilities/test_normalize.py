"""Experts with their normaliser: what is known, what is an estimate, and what that leaves."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

import poe
from experts import Gaussian
from poe.core.doubt import Doubt, Kind
from poe.density.capabilities import can_sample_exactly, exact_log_partition, is_normalized
from poe.density.normalized import LogPartition

X = torch.tensor([[-1.0], [0.0], [2.0]], dtype=torch.float64)


def quartic() -> poe.Expert:
    return poe.FromEnergy(lambda x: (x**4).sum(-1), space=poe.Real(1))


def estimate(value: float, std_error: float, *remarks: str) -> LogPartition:
    middle, error = torch.tensor(value), torch.tensor(std_error)
    sides = middle - 2 * error, middle + 2 * error
    doubts = tuple(Doubt(Kind.OTHER, remark) for remark in remarks)
    return LogPartition(middle, error, *sides, "a guess", ess=50.0, doubts=doubts)


def test_closed_form_is_exactly_normalised() -> None:
    p = poe.normalize(Gaussian([0.0], scale=[1.0]) ** 4)
    torch.testing.assert_close(p.log_prob(X.float()), Gaussian([0.0], scale=[0.5])(X.float()))
    assert is_normalized(p)
    assert exact_log_partition(p) == 0
    assert p.log_prob_error == 0
    assert p.log_partition.method == "closed form"


def test_quadrature_gives_the_gamma_function() -> None:
    """∫ exp(−x⁴) dx = 2 Γ(5/4)."""
    p = poe.normalize(quartic())
    expected = -(X[:, 0] ** 4) - math.log(2 * math.gamma(1.25))
    torch.testing.assert_close(p.log_prob(X), expected, rtol=0, atol=1e-9)


def test_an_estimate_is_not_claimed_as_known() -> None:
    p = poe.normalize(quartic(), estimate(0.6, 0.05))
    torch.testing.assert_close(p.log_prob(X), -(X[:, 0] ** 4) - torch.tensor(0.6).double())
    assert p.log_prob_error.item() == pytest.approx(0.05)
    assert not is_normalized(p)
    assert exact_log_partition(p) is None


def test_what_is_built_on_an_estimate_claims_no_log_prob() -> None:
    p = poe.normalize(quartic(), estimate(0.6, 0.05))
    moved = poe.Transformed(p, torch.distributions.AffineTransform(torch.ones(1), 2.0))
    mixture = poe.Mixture([p, Gaussian([0.0], scale=[1.0])])
    for expert in (moved, mixture, p * p, p**2):
        assert not hasattr(expert, "log_prob")
        assert exact_log_partition(expert) is None


def test_log_z_of_an_estimate_is_found_and_shows_what_it_is_off_by() -> None:
    p = poe.normalize(quartic(), estimate(0.6, 0.05))
    off = math.log(2 * math.gamma(1.25)) - 0.6
    assert poe.log_partition(p).value.item() == pytest.approx(off, abs=1e-6)


def test_untrusted_estimate_is_warned_of_and_a_trusted_one_is_not() -> None:
    with pytest.warns(poe.TrustWarning, match=r"log Z that FromEnergy .* only 3 draws"):
        poe.normalize(quartic(), estimate(0.6, 0.05, "only 3 draws"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        poe.normalize(quartic(), estimate(0.6, 0.05))


def test_log_z_must_be_finite() -> None:
    with pytest.raises(poe.NonFiniteError, match="finite log Z to normalise FromEnergy, got -inf"):
        poe.normalize(quartic(), estimate(-math.inf, 0.0))


def test_samples_where_the_expert_has_samples() -> None:
    p = poe.normalize(Gaussian([3.0], scale=[1.0]) ** 4)
    assert can_sample_exactly(p)
    x = p.sample(4000, generator=torch.Generator().manual_seed(0))
    assert abs(x.mean().item() - 3) < 4 * 0.5 / math.sqrt(4000)
    assert not can_sample_exactly(poe.normalize(quartic(), estimate(0.6, 0.0)))


@pytest.mark.parametrize("std_error", [0.0, 0.05])
def test_saved_and_loaded_with_all_that_is_known(tmp_path: Path, std_error: float) -> None:
    p = poe.normalize(Gaussian([0.0], scale=[1.0]) ** 2, _quiet(std_error))
    poe.save(p, tmp_path)
    loaded = poe.load(tmp_path)
    assert torch.equal(loaded(X.float()), p(X.float()))
    for mine, its in zip(p.log_partition, loaded.log_partition, strict=True):
        assert torch.equal(mine, its) if isinstance(mine, Tensor) else mine == its
    assert is_normalized(loaded) == is_normalized(p)


def _quiet(std_error: float) -> LogPartition:
    return estimate(0.6, std_error)._replace(ess=math.inf if std_error == 0 else 50.0)
