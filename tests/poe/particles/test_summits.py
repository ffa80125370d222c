"""Summits that climbing reaches: the mass there, and what is said where particles miss it."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe import normalizers
from poe.particles.summits import find_summits

MAX_Z = 4.0


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inside(d: int) -> float:
    """Of a Gaussian's mass, by chi-squared's distribution at the quantile of the ellipsoid."""
    quantile = d * (1 - 2 / (9 * d) + 1.2816 * math.sqrt(2 / (9 * d))) ** 3
    return torch.special.gammainc(torch.tensor(d / 2), torch.tensor(quantile / 2)).item()


@pytest.mark.parametrize("d", [1, 3, 40])
def test_the_mass_of_a_gaussian(d: int) -> None:
    g = generator()
    factor = torch.randn(d, d, generator=g) / math.sqrt(d)
    target = experts.Gaussian(torch.ones(d), covariance=torch.eye(d) + factor @ factor.mT)
    (summit,) = find_summits(target, 3 * torch.randn(64, d, generator=g), g).summits
    assert (summit.log_mass.exp() - inside(d)).abs() < MAX_Z * summit.std_error * inside(d)
    drawn = summit.contains(target.sample(4000, generator=g)).double().mean()
    assert (drawn - inside(d)).abs() < MAX_Z * math.sqrt(0.09 / 4000)
    assert summit.std_error < 0.05


def test_every_mode_has_its_own_mass() -> None:
    modes = [experts.Gaussian([x, 0.0], scale=s) for x, s in ((-8.0, 1.0), (8.0, 0.5), (0.0, 0.3))]
    target, g = poe.Mixture(modes, [0.5, 0.3, 0.2]), generator()
    summits = find_summits(target, 8 * torch.randn(64, 2, generator=g), g).summits
    masses = sorted((s.log_mass.exp().item(), s.std_error.item()) for s in summits)
    for (mass, error), weight in zip(masses, (0.2, 0.3, 0.5), strict=True):
        assert abs(mass - weight * inside(2)) < MAX_Z * error * mass


def test_the_mass_does_not_rest_on_a_shape() -> None:
    # The corner of a quadrant, a plateau and a cusp: no more than all of the mass, and most of it.
    def corner(x: Tensor) -> Tensor:
        return (-x.sum(-1)).masked_fill((x <= 0).any(-1), -torch.inf)

    targets = (
        (corner, 0.0, 1.0),
        (lambda x: -(x**8).sum(-1), 2 * math.log(2 * math.gamma(1.125)), 0.3),
        (lambda x: -x.abs().sum(-1), 2 * math.log(2.0), 0.0),
    )
    for log_density, log_z, shift in targets:
        target, g = poe.FromLogDensity(log_density, space=poe.Real(2)), generator()
        x = torch.randn(64, 2, generator=g).abs() + shift
        summit = find_summits(target, x, g).summits[0]
        mass, error = (summit.log_mass - log_z).exp(), summit.std_error
        assert 0.3 < mass < 1 + MAX_Z * error * mass


def test_nowhere_to_climb() -> None:
    flat = poe.FromLogDensity(lambda x: 0.0 * x.sum(-1), space=poe.Real(2))
    assert len(find_summits(flat, torch.randn(64, 2, generator=generator()), generator()).summits)
    empty = poe.FromLogDensity(lambda x: x.sum(-1) - torch.inf, space=poe.Real(2))
    assert not find_summits(empty, torch.ones(64, 2), generator()).summits


NEEDLE = poe.Mixture([experts.Gaussian([0.0, 0.0], scale=s) for s in (3.0, 0.1)], [0.5, 0.5])


def student(x: Tensor) -> Tensor:
    """Student's t of 3 degrees of freedom, normalised."""
    log_constant = math.lgamma(2.0) - math.lgamma(1.5) - 0.5 * math.log(3 * math.pi)
    return (log_constant - 2.0 * torch.log1p(x.square() / 3.0)).sum(-1)


@pytest.mark.law
@pytest.mark.parametrize("method", [normalizers.SMC(1024), normalizers.MBAR(1024)])
def test_no_estimate_is_wrong_without_a_word(method: normalizers.Method) -> None:
    # Half of the mass is in a needle that some runs miss; tails are beyond what others have seen.
    needle = poe.FromLogDensity(NEEDLE.forward, space=poe.Real(2))
    tails = poe.FromLogDensity(student, space=poe.Real(4))
    said = ""
    for target, seed in [(t, seed) for t in (needle, tails) for seed in range(16)]:
        d = target.space.event_shape.numel()
        start = experts.Gaussian([5.0] + [0.0] * (d - 1), scale=1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", poe.TrustWarning)
            found = poe.log_partition(
                target, method=method, start=start, generator=generator(seed), progress=False
            )
        is_right = found.value.abs() < MAX_Z * found.std_error
        assert is_right or not found.is_trusted
        said += "; ".join(found.remarks)
    assert "climbing" in said
    assert "lighter" in said


def test_light_tails_are_not_said_to_be_heavy() -> None:
    target = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(4))
    for scale in (0.3, 0.8, 3.0):
        start = experts.Gaussian(torch.zeros(4), scale=scale)
        method = normalizers.MBAR(1024)
        found = poe.log_partition(target, method=method, start=start, generator=generator())
        assert found.is_trusted
        assert (found.value - 2 * math.log(2 * math.pi)).abs() < MAX_Z * found.std_error


@pytest.mark.law
def test_scouts_go_again_by_way_of_what_they_missed() -> None:
    narrow = experts.Gaussian([0.3, -0.2, 0.1], scale=0.1)
    wide = experts.Gaussian([0.0, 0.0, 0.0], scale=3.0)
    target = poe.FromLogDensity(poe.Mixture([wide, narrow], [0.5, 0.5]).forward, space=poe.Real(3))
    founds = []
    for seed in range(8):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", poe.TrustWarning)
            found = poe.log_partition(
                target, method=normalizers.MBAR(1024), generator=generator(seed), progress=False
            )
        assert found.value.abs() < math.log(2) / 2  # log 2 would be missing
        assert found.std_error < 0.15
        founds.append(found)
    assert any(found.is_trusted for found in founds)
    # Of 40 seeds 4 are beyond four of the errors they state, so of 8 more than 3 are one in 200.
    assert sum(bool(f.value.abs() > MAX_Z * f.std_error) for f in founds) <= 3


def test_a_single_number_is_an_event_too() -> None:
    target = poe.FromLogDensity(lambda x: -(x**4), space=poe.Real(()))
    method = normalizers.MBAR(256)
    found = poe.log_partition(target, method=method, generator=generator(), progress=False)
    assert (found.value - math.log(2 * math.gamma(1.25))).abs() < MAX_Z * found.std_error
