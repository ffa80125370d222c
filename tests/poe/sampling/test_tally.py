"""What a run watches on its way: chains that run off, and none that merely moved late or far."""

from __future__ import annotations

import warnings

import pytest
import torch

import experts
import poe
from poe.core.doubt import Kind, kinds

NORMAL = experts.Gaussian([0.0], scale=[1.0])
WALK, MALA = poe.samplers.MetropolisHastings, poe.samplers.MALA


def quartic(rate: float, dimension: int = 1) -> poe.Expert:
    """Proper for sure, which nothing here can tell: so its chains are watched."""
    broad = experts.Gaussian([0.0] * dimension, scale=[1.0] * dimension)
    energy = poe.FromEnergy(lambda x: (rate * x**4).sum(-1), space=poe.Real(dimension))
    return energy / broad**0.1


def is_accused(target: poe.Expert, seed: int, **options: object) -> bool:
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)
        draws = poe.sample(target, 400, generator=generator, progress=False, **options)
    return Kind.GROWING in kinds(draws.doubts)


@pytest.mark.law
@pytest.mark.parametrize("num_chains", [1, 4])
@pytest.mark.parametrize("dimension", [1, 5])
@pytest.mark.parametrize("kernel", [WALK(3.0), WALK(), MALA()], ids=["rejects", "walk", "mala"])
def test_chains_of_a_proper_target_are_not_accused(
    kernel: poe.samplers.Kernel, dimension: int, num_chains: int
) -> None:
    target = quartic(1.0, dimension)
    options = {"kernel": kernel, "num_chains": num_chains, "warmup": 50}
    accused = [seed for seed in range(15) if is_accused(target, seed, **options)]
    assert not accused


def test_chains_that_begin_closer_together_than_they_settle_are_not_accused() -> None:
    start = torch.full((4, 1), 1e-4)
    options = {"kernel": WALK(1.0), "warmup": 200}
    assert not any(is_accused(quartic(1.0), seed, initial=start, **options) for seed in range(5))


@pytest.mark.parametrize("num_chains", [1, 4])
@pytest.mark.parametrize(
    ("kernel", "warmup"),
    [(poe.samplers.ULA(0.1), 50), (MALA(0.1), 50), (poe.samplers.ULA(0.1), 4000)],
    ids=["exploding", "driven", "long gone"],
)
@pytest.mark.law
def test_chains_that_run_off_are_accused(
    kernel: poe.samplers.Kernel, warmup: int, num_chains: int
) -> None:
    improper = poe.FromLogDensity(lambda x: -x.abs().sum(-1), space=poe.Real(1)) / NORMAL**0.2
    options = {"kernel": kernel, "num_chains": num_chains, "warmup": warmup}
    start = torch.full((num_chains, 1), 20.0)  # beyond what the first factor holds back
    assert all(is_accused(improper, seed, initial=start, **options) for seed in range(5))


@pytest.mark.parametrize("num_chains", [4, 16])
def test_chains_that_wander_off_are_accused(num_chains: int) -> None:
    constant = poe.FromLogDensity(lambda x: 0.0 * x.sum(-1), space=poe.Real(20))
    broad = experts.Gaussian([0.0] * 20, scale=[1e6] * 20)
    options = {"kernel": WALK(1.0), "num_chains": num_chains, "warmup": 50}
    assert all(is_accused(constant / broad**1e-3, seed, **options) for seed in range(5))
