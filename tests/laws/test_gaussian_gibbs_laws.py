"""Block Gibbs of scale mixtures: invariance from exact draws, red on known mistakes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import poe
from experts import (
    FieldOfExperts,
    Gaussian,
    GaussianLikelihood,
    SaltAndPepper,
)
from experts.images import Mask
from poe.samplers import GaussianGibbs
from poe.structure.gaussian_factors import GaussianFactor
from poe.testing import LawError
from tests.laws.kernels import check_kernel

pytestmark = pytest.mark.law

CHAINS = 40_000


class Component(NamedTuple):
    """log weight, precision (n, n) and precision times mean (n,) of a Gaussian."""

    log_weight: float
    precision: Tensor
    shift: Tensor


def exact_draws(components: list[Component], generator: torch.Generator) -> Tensor:
    """Of Σ exp(log_weight − ½ x'Px + s'x), each integrated in closed form."""
    logs = []
    for c in components:
        mean = torch.linalg.solve(c.precision, c.shift)
        logs.append(c.log_weight + 0.5 * c.shift @ mean - 0.5 * torch.logdet(c.precision))
    counts = torch.multinomial(torch.stack(logs).softmax(0), CHAINS, True, generator=generator)
    draws = torch.empty(CHAINS, len(components[0].shift), dtype=torch.float64)
    for k, c in enumerate(components):
        factor = torch.linalg.inv(torch.linalg.cholesky(c.precision))
        noise = torch.randn(CHAINS, len(c.shift), generator=generator, dtype=torch.float64)
        drawn = torch.linalg.solve(c.precision, c.shift) + noise @ factor
        draws = torch.where((counts == k)[:, None], drawn, draws)
    return draws[torch.randperm(CHAINS, generator=generator)].float()


class Case(NamedTuple):
    target: poe.Expert
    draw: Callable[[torch.Generator], Tensor]


def _field() -> Case:
    """Two responses of three pixels, with two scales each, and two pixels that were seen."""
    filters, scales = torch.tensor([[[1.0, -1.0]]]), torch.tensor([0.3, 1.5])
    logits, y = torch.tensor([[0.5, -0.5]]), torch.tensor([[0.2, 0.0, 1.0]])
    seen = GaussianLikelihood(Mask(torch.tensor([[1.0, 0.0, 1.0]])), y, 0.8)
    field = FieldOfExperts(filters, logits, scales, (1, 3))
    broad = Gaussian(torch.full((1, 3), 0.5), scale=2.0)

    def draw(generator: torch.Generator) -> Tensor:
        rows = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
        fixed = torch.diag(torch.tensor([1 / 0.64 + 0.25, 0.25, 1 / 0.64 + 0.25]).double())
        shift = torch.tensor([0.2 / 0.64 + 0.125, 0.125, 1.0 / 0.64 + 0.125]).double()
        logs = logits.log_softmax(-1)[0] - scales.log()
        components = [
            Component(
                (logs[i] + logs[j]).item(),
                fixed + rows.T @ torch.diag(scales[[i, j]].double() ** -2) @ rows,
                shift,
            )
            for i, j in itertools.product(range(2), repeat=2)
        ]
        return exact_draws(components, generator).reshape(CHAINS, 1, 3)

    return Case(poe.Product(field, broad, seen), draw)


def _salt_and_pepper() -> Case:
    """Two pixels, one of which may have been replaced."""
    y, p = torch.tensor([0.4, 1.0]), 0.4
    target = Gaussian(torch.full((2,), 0.5), scale=0.6) * SaltAndPepper(y, p, scale=0.5, step=0.7)

    def draw(generator: torch.Generator) -> Tensor:
        kept = torch.tensor((1 - p) * 0.7 / (0.5 * (2 * torch.pi) ** 0.5)).log().item()
        components = []
        for log_weight, weight in ((kept - 0.5 * 4.0, 4.0), (torch.tensor(p / 2).log().item(), 0)):
            prior = torch.full((2,), 1 / 0.36, dtype=torch.float64)
            weights = torch.tensor([4.0, weight], dtype=torch.float64)
            components.append(
                Component(log_weight, torch.diag(prior + weights), 0.5 * prior + weights * y)
            )
        return exact_draws(components, generator)

    return Case(target, draw)


CASES = {"field": _field(), "salt and pepper": _salt_and_pepper()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("num_steps", [1, 2, 8])
def test_invariance_however_rough_the_solution(case: Case, num_steps: int) -> None:
    g = torch.Generator().manual_seed(0)
    factors = poe.gaussian_factors(case.target)
    assert factors is not None
    kernel = GaussianGibbs(factors, num_steps)
    check_kernel(kernel, case.target, case.draw(g), num_steps=10, generator=g)


@dataclass(frozen=True, eq=False)
class AlwaysAccepted(GaussianGibbs):
    """Takes a rough solution for an exact one."""

    def transition(self, target, state, noise):  # type: ignore[no-untyped-def]
        certain = noise._replace(uniform=torch.full_like(noise.uniform, -1.0))
        return super().transition(target, state, certain)


@dataclass(frozen=True, eq=False)
class NotPerturbed(GaussianGibbs):
    """Forgets the noise of one factor."""

    def transition(self, target, state, noise):  # type: ignore[no-untyped-def]
        first, *others = noise.normals
        quiet = noise._replace(normals=(torch.zeros_like(first), *others))
        return super().transition(target, state, quiet)


def _swapped(factors: tuple[GaussianFactor, ...]) -> tuple[GaussianFactor, ...]:
    """Draws a large weight where a small one is due."""
    return tuple(f._replace(draw=lambda r, u, f=f: f.draw(1.3 * r, u)) for f in factors)


MISTAKES = {
    "always accepted": lambda factors: AlwaysAccepted(factors, 1),
    "not perturbed": lambda factors: NotPerturbed(factors, 8),
    "weights of other responses": lambda factors: GaussianGibbs(_swapped(factors), 8),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_the_law_goes_red_on_mistakes(mistake: Callable[..., GaussianGibbs]) -> None:
    g, case = torch.Generator().manual_seed(0), CASES["field"]
    kernel = mistake(poe.gaussian_factors(case.target))
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check_kernel(kernel, case.target, case.draw(g), num_steps=10, generator=g)


def test_factors_are_known_of_products_of_known_ones_only() -> None:
    picture = Gaussian(torch.zeros(2, 2), scale=1.0)
    assert len(poe.gaussian_factors(picture * SaltAndPepper(torch.zeros(2, 2), 0.5)) or ()) == 2
    other = poe.FromLogDensity(lambda x: -x.square().sum((-2, -1)), space=poe.Real((2, 2)))
    assert poe.gaussian_factors(picture * other) is None
    assert poe.gaussian_factors(Gaussian([0.0, 0.0], covariance=[[1.0, 0.5], [0.5, 1.0]])) is None


def test_settings_are_checked() -> None:
    with pytest.raises(poe.PoeError, match="got none"):
        GaussianGibbs(())
    factors = poe.gaussian_factors(Gaussian(torch.zeros(2), scale=1.0))
    assert factors is not None
    with pytest.raises(poe.PoeError, match="at least one step"):
        GaussianGibbs(factors, 0)


def test_runs_on_the_meta_device() -> None:
    target = copy.deepcopy(CASES["field"].target).to("meta")
    kernel = GaussianGibbs(poe.gaussian_factors(target) or (), 2)
    x = torch.zeros(2, 1, 3, device="meta")
    noise = kernel.draw_noise(torch.zeros(2, 1, 3), torch.Generator())
    there = noise._replace(
        weights=tuple(t.to("meta") for t in noise.weights),
        normals=tuple(t.to("meta") for t in noise.normals),
        uniform=noise.uniform.to("meta"),
    )
    state, _ = kernel.transition(target, kernel.state_at(target, x), there)
    assert state.position.device.type == "meta"


def test_samples_by_poe_sample() -> None:
    case, g = CASES["field"], torch.Generator().manual_seed(1)
    factors = poe.gaussian_factors(case.target)
    assert factors is not None
    draws = poe.sample(
        case.target,
        4000,
        kernel=GaussianGibbs(factors, 4),
        num_chains=400,
        warmup=20,
        generator=g,
        progress=False,
    )
    exact = case.draw(g)
    error = torch.hypot(draws.samples.flatten(0, 1).std(0) / 400**0.5, exact.std(0) / CHAINS**0.5)
    gap = draws.samples.flatten(0, 1).mean(0) - exact.mean(0)
    assert bool((gap.abs() < 4 * error).all())  # of 400 chains at the least
    assert draws.guarantee == "asymptotically exact"
