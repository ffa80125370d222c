"""Of one target ``poe.sample``, ``poe.smc`` and ``poe.log_partition`` say the same: proper or not.

A new target enters by a line.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, distributions as D, nn

import experts
import poe
from poe.core.doubt import Doubt, Kind, kinds
from tests.seeds import seeded


def squares(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def bounded_network(d: int) -> poe.Expert:
    with seeded():
        net = nn.Sequential(nn.Linear(d, 16), nn.Tanh(), nn.Linear(16, 1), nn.Tanh(), nn.Flatten(0))
    return experts.NeuralEnergy(net, poe.Real(d))


def density(log_density: Callable[[Tensor], Tensor], space: poe.Space) -> poe.Expert:
    return poe.FromLogDensity(log_density, space=space)


def floored(x: Tensor) -> Tensor:
    return torch.logaddexp(-squares(x), torch.tensor(-50.0, dtype=x.dtype))


def funnel(x: Tensor) -> Tensor:
    v, rest = x[..., 0], x[..., 1:]
    return -v.square() / 18 - 0.5 * (squares(rest) * (-v).exp() + rest.shape[-1] * v)


BROAD = experts.Gaussian([0.0, 0.0], scale=[3.0, 3.0])
WIDE = poe.as_expert(D.Independent(D.Cauchy(torch.zeros(1), 1.0), 1))

IMPROPER = {
    "a constant": density(lambda x: 0 * x.sum(-1), poe.Real(1)),
    "a network that ends in tanh": bounded_network(2),
    "a mixture with a floor": density(floored, poe.Real(1)),
    "half a Cauchy density's power": WIDE**0.5 * density(lambda x: 0 * x.sum(-1), poe.Real(1)),
    "bounded above 0": density(lambda x: x.tanh().sum(-1), poe.Positive(1)),
}
PROPER = {
    "a network times a Gaussian": bounded_network(2) * BROAD,
    "a network times a Gaussian, in five dimensions": bounded_network(5)
    * experts.Gaussian([0.0] * 5, scale=[3.0] * 5),
    "a Cauchy density": density(lambda x: -torch.log1p(x.square()).sum(-1), poe.Real(1)),
    "a power of one that is proper": WIDE**0.8 * density(lambda x: x.tanh().sum(-1), poe.Real(1)),
    "a funnel": density(funnel, poe.Real(4)),
    "divided by what falls more slowly": density(lambda x: -squares(x), poe.Real(2)) / BROAD,
    "half-Cauchy": density(lambda x: -torch.log1p(x.square()).sum(-1), poe.Positive(1)),
    "bounded on an interval": density(lambda x: x.tanh().sum(-1), poe.Interval(1)),
}


def by_sample(target: poe.Expert, generator: torch.Generator) -> tuple[Doubt, ...]:
    return poe.sample(target, 200, warmup=100, generator=generator, progress=False).doubts


def by_smc(target: poe.Expert, generator: torch.Generator) -> tuple[Doubt, ...]:
    return poe.smc(target, 512, generator=generator, progress=False).doubts


def by_log_partition(target: poe.Expert, generator: torch.Generator) -> tuple[Doubt, ...]:
    return poe.log_partition(target, generator=generator, progress=False).doubts


def by_particles(target: poe.Expert, generator: torch.Generator) -> tuple[Doubt, ...]:
    method = poe.normalizers.SMC(256)
    return poe.log_partition(target, method=method, generator=generator, progress=False).doubts


ENTRIES = (by_sample, by_smc, by_log_partition, by_particles)


def is_doubted(entry: Callable[..., tuple[Doubt, ...]], target: poe.Expert) -> bool:
    """Whether its properness is, be it in a refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", poe.TrustWarning)
        try:
            return Kind.IMPROPER in kinds(entry(target, torch.Generator().manual_seed(0)))
        except poe.ImproperError:
            return True


@pytest.mark.law
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
@pytest.mark.parametrize("target", IMPROPER.values(), ids=IMPROPER)
def test_an_improper_target_is_doubted(
    target: poe.Expert, entry: Callable[..., tuple[Doubt, ...]]
) -> None:
    assert is_doubted(entry, target)


@pytest.mark.parametrize("entry", [by_sample, by_log_partition])
@pytest.mark.parametrize("target", [bounded_network(2) / BROAD], ids=["growing"])
def test_what_particles_take_long_for_is_doubted(
    target: poe.Expert, entry: Callable[..., tuple[Doubt, ...]]
) -> None:
    assert is_doubted(entry, target)


@pytest.mark.law
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
@pytest.mark.parametrize("target", PROPER.values(), ids=PROPER)
def test_a_proper_target_is_not(
    target: poe.Expert, entry: Callable[..., tuple[Doubt, ...]]
) -> None:
    assert not is_doubted(entry, target)
