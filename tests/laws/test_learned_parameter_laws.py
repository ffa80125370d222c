"""What is given as an ``nn.Parameter`` is learned, or refused in words: for every constructor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import experts
import poe
from tests.experts.test_parameters import BUILDS, CASES
from tests.seeds import seeded

WHOLE = {"edges", "scopes", "allowed"}
"""Whole numbers, which no gradient reaches."""


def given_as_parameters(value: Any) -> Any:
    """All numbers as one parameter; of a list of different shapes one for each."""
    try:
        return nn.Parameter(torch.tensor(value, dtype=torch.get_default_dtype()))
    except ValueError:
        return [given_as_parameters(part) for part in value]


def holds(made: object, given: Any) -> bool:
    assert isinstance(made, nn.Module)
    if isinstance(given, list):
        return all(holds(made, part) for part in given)
    return any(one is given for one in made.parameters())


@pytest.mark.parametrize("of_one_number", [False, True])
@pytest.mark.parametrize(("name", "argument"), [c for c in CASES if c[1] not in WHOLE])
@seeded()
def test_a_parameter_is_kept_or_refused(name: str, argument: str, of_one_number: bool) -> None:
    build, arguments = BUILDS[name]
    given = nn.Parameter(torch.tensor(1.0))
    if not of_one_number:
        given = given_as_parameters(arguments[argument])
    try:
        made = build(**{**arguments, argument: given})
    except poe.PoeError:
        return
    assert holds(made, given)


def normal(loc: float) -> experts.Gaussian:
    return experts.Gaussian([loc], scale=[1.0])


def learned(*weights: float, dtype: torch.dtype = torch.float32) -> poe.Mixture:
    return poe.Mixture(
        [normal(-3.0), normal(3.0)], nn.Parameter(torch.tensor(weights, dtype=dtype))
    )


def integral(expert: poe.Expert) -> float:
    grid = torch.linspace(-12, 12, 6001)[:, None]
    with torch.no_grad():
        return expert.log_prob(grid).double().exp().sum().item() * 24 / 6000


def test_a_mixture_is_normalised_at_whatever_an_optimiser_makes_of_its_weights() -> None:
    mixture = learned(0.9, 0.1)
    rows = torch.cat([torch.full((300, 1), -3.0), torch.full((700, 1), 3.0)])
    optimiser = torch.optim.Adam(mixture.parameters(), 0.05)
    for _ in range(100):
        optimiser.zero_grad()
        (-mixture.log_prob(rows).mean()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert abs(integral(mixture) - 1) < 1e-5
    torch.testing.assert_close(mixture.proportions, torch.tensor([0.3, 0.7]), atol=5e-3, rtol=0.0)


@pytest.mark.parametrize("weights", [(-0.2, 0.6), (3.0, 1.0), (0.0, 2.0), (-1.0, -1.0)])
def test_every_use_of_the_weights_reads_them_alike(weights: tuple[float, float]) -> None:
    mixture = learned(0.5, 0.5)
    with torch.no_grad():
        mixture.weights.copy_(torch.tensor(weights))
    share = abs(weights[1]) / (abs(weights[0]) + abs(weights[1]))
    assert abs(integral(mixture) - 1) < 1e-5
    assert poe.log_partition(mixture).value == 0
    draws = mixture.sample(4000, generator=torch.Generator().manual_seed(0))
    found = (draws > 0).double().mean()
    assert abs(found - share) < 4.5 * (share * (1 - share) / 4000) ** 0.5 + 0.002
    product = poe.simplify(mixture * normal(0.0)).expert  # its components count alike: by symmetry
    assert isinstance(product, poe.Mixture)
    assert abs(product.proportions[1] - share) < 1e-5
    responsible = mixture.responsibilities(torch.zeros(1, 1))
    assert abs(responsible[1, 0] - share) < 1e-5
    both = (mixture | normal(0.0)).proportions  # one component, which goes on learning
    torch.testing.assert_close(both, torch.tensor([0.5, 0.5]))


def test_learned_weights_are_saved_and_loaded(tmp_path: Any) -> None:
    mixture = learned(-0.2, 0.6, dtype=torch.float64)
    poe.save(mixture, tmp_path)
    again = poe.load(tmp_path)
    assert isinstance(again.weights, nn.Parameter)
    assert torch.equal(again.weights, mixture.weights)
    assert torch.equal(again.proportions, mixture.proportions)


def test_weights_that_an_optimiser_would_move_off_their_sum_are_refused() -> None:
    ends = [normal(-3.0), normal(3.0)]
    with pytest.raises(poe.PoeError, match=r"use torch\.nn\.Parameter"):
        poe.Mixture(ends, torch.tensor([0.5, 0.5], requires_grad=True))
    for wrong in ([torch.nan, 1.0], [0.0, 0.0]):
        with pytest.raises(poe.PoeError, match="finite weights"):
            poe.Mixture(ends, nn.Parameter(torch.tensor(wrong)))
    logits = nn.Parameter(torch.zeros(2))
    poe.Mixture(ends, logits.softmax(0)).log_prob(torch.zeros(1, 1)).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None


@pytest.mark.parametrize(
    "build",
    [
        lambda p: experts.Gaussian([0.0, 0.0], scale=p),
        lambda p: experts.Gaussian([0.0, 0.0], covariance=p * torch.eye(2)),
        lambda p: experts.Gaussian([0.0, 0.0], precision=p * torch.eye(2)),
    ],
)
def test_an_expert_that_is_built_anew_in_each_step_is_learned(build: Any) -> None:
    parameter = nn.Parameter(torch.tensor(2.0))
    build(parameter.clone())(torch.ones(1, 2)).sum().backward()
    assert parameter.grad is not None


@pytest.mark.parametrize("spread", ["covariance", "precision"])
def test_a_matrix_that_would_not_be_learned_is_refused(spread: str) -> None:
    with pytest.raises(poe.PoeError, match=r"parameter\.clone"):
        experts.Gaussian([0.0, 0.0], **{spread: nn.Parameter(torch.eye(2))})


def test_a_condition_that_would_not_be_learned_is_refused() -> None:
    step = experts.LinearGaussian([[2.0]], bias=[1.0], scale=[0.5])
    with pytest.raises(poe.PoeError, match="condition that is a number"):
        step.given(nn.Parameter(torch.ones(1)))


def test_fields_of_all_sites_are_learned_site_by_site_or_refused() -> None:
    for build in (
        lambda p: experts.Potts([[0], [1]], 1.0, p, (2,), 3),
        lambda p: experts.Potts.grid((2, 2), 1.0, 3, p),
    ):
        with pytest.raises(poe.PoeError, match="would not be learned"):
            build(nn.Parameter(torch.zeros(3)))
