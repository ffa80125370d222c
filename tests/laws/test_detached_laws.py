"""A log-density whose graph to x is lost is never given a score of 0, wherever it is used."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import poe
from poe.density.coordinates import Coordinates
from poe.density.trials import is_score_contradicted
from tests.laws import runs
from tests.laws.test_expert_laws import EXPERTS
from tests.seeds import seeded

pytestmark = pytest.mark.filterwarnings("ignore::poe.TrustWarning")


def normal(x: Tensor) -> Tensor:
    return -0.5 * (x - 1).square().sum(-1)


@torch.no_grad()
def without_grad(x: Tensor) -> Tensor:
    return normal(x)


def item_by_item(x: Tensor) -> Tensor:
    rows = [[-0.5 * (number - 1) ** 2 for number in row] for row in x.reshape(-1, 2).tolist()]
    return x.new_tensor(rows).sum(-1).reshape(x.shape[:-1])


class Learned(torch.nn.Module):
    """A graph to its weight, and none to x."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * normal(x.detach())


WHOLLY: dict[str, Callable[[Tensor], Tensor]] = {
    "detach": lambda x: normal(x.detach()),
    "data": lambda x: normal(x.data),
    "no_grad": without_grad,
    "numpy of what is detached": lambda x: torch.from_numpy(
        (-0.5 * (x.detach().numpy() - 1) ** 2).sum(-1)
    ),
    "numpy": lambda x: torch.from_numpy((-0.5 * (x.numpy() - 1) ** 2).sum(-1)),
    "tolist": item_by_item,
    "a graph to a weight": Learned(),
    "a new tensor": lambda x: normal(x.new_tensor(x.tolist())),
}
PARTLY: dict[str, Callable[[Tensor], Tensor]] = {
    "one of two terms": lambda x: -0.1 * x.square().sum(-1) + normal(x.detach()),
    "one coordinate": lambda x: normal(torch.stack([x[..., 0], x[..., 1].detach()], -1)),
    "a factor": lambda x: normal(x) * (1 + x.detach().square().sum(-1)),
    "a term by numpy": lambda x: (
        -0.1 * x.square().sum(-1) + torch.from_numpy((3 * x.detach().numpy()).sum(-1))
    ),
    "a graph of zeros": lambda x: normal(x.detach()) + 0 * x.sum(-1),
    "a weak pull": lambda x: normal(x.detach()) + 0.1 * x.sum(-1),
    "where x is positive": lambda x: torch.where(x[..., 0] > 0, normal(x), normal(x.detach())),
    "beside a large constant": lambda x: 1e3 - 0.1 * x.square().sum(-1) + normal(x.detach()),
}
LOST = {**WHOLLY, **PARTLY}


def lost(name: str) -> poe.Expert:
    return poe.FromLogDensity(LOST[name], space=poe.Real(2))


@pytest.mark.parametrize("composition", runs.COMPOSITIONS)
@pytest.mark.parametrize("name", WHOLLY)
def test_the_score_is_refused(name: str, composition: str) -> None:
    target = runs.COMPOSITIONS[composition](lost(name))
    with pytest.raises(poe.GradientError, match=r"numpy.*MetropolisHastings"):
        target.score(torch.zeros(3, 2))


@pytest.mark.parametrize("composition", runs.COMPOSITIONS)
@pytest.mark.parametrize("name", LOST)
def test_a_kernel_that_asks_for_it_is_refused(name: str, composition: str) -> None:
    target = runs.COMPOSITIONS[composition](lost(name))
    with pytest.raises(poe.GradientError, match=r"by torch operations.*MetropolisHastings"):
        runs.sampled(poe.samplers.ULA(0.05))(target)


@pytest.mark.parametrize("run", runs.BY_A_SCORE)
@pytest.mark.parametrize("name", ["detach", "numpy", "one of two terms"])
def test_whatever_asks_for_a_score_is_refused(name: str, run: str) -> None:
    with pytest.raises(poe.GradientError, match="FromLogDensity"):
        runs.BY_A_SCORE[run](runs.PRIOR * lost(name))


@pytest.mark.parametrize("run", {**runs.CHOOSE_A_KERNEL, **runs.WITHOUT_A_SCORE})
@pytest.mark.parametrize("name", ["detach", "numpy", "one of two terms"])
def test_whatever_chooses_goes_without(name: str, run: str) -> None:
    found = {**runs.CHOOSE_A_KERNEL, **runs.WITHOUT_A_SCORE}[run](runs.PRIOR * lost(name))
    if isinstance(found, poe.Draws) and run in runs.CHOOSE_A_KERNEL:
        assert "no score: a random walk" in found.choice
        assert found.guarantee == "asymptotically exact"


@pytest.mark.parametrize("name", ["detach", "no_grad", "numpy"])
def test_draws_without_a_score_are_right(name: str) -> None:
    """N(0, 2²) times N(1, 1) in each coordinate: mean 0.8, variance 0.8."""
    draws = poe.sample(runs.PRIOR * lost(name), 20_000, generator=runs.generator(), progress=False)
    summary = draws.summary()
    assert "carries none" in draws.choice or "numpy" in draws.choice
    assert torch.all((summary.mean - 0.8).abs() < 4 * summary.mcse)


@pytest.mark.parametrize("name", ["MBAR", "AIS", "ImportanceSampling", "Quadrature"])
def test_log_z_without_a_score_is_right(name: str) -> None:
    """∫ N(x; 0, 4) exp(−(x − 1)² / 2) dx is √(2π) N(1; 0, 5) in each coordinate."""
    found = runs.log_z(runs.METHODS[name])(runs.PRIOR * lost("detach"))
    truth = 2 * (-0.1 - 0.5 * math.log(5))
    assert abs(found.value.item() - truth) < 4 * found.std_error.item() + 1e-4


def test_a_batch_of_densities_is_told_by_its_own_rows() -> None:
    target = runs.Shifted(lost("one of two terms")).given(
        torch.randn(8, 2, generator=runs.generator())
    )
    with pytest.raises(poe.GradientError, match="expert 'Given' is another than differences"):
        runs.sampled(poe.samplers.MALA(0.1))(target)
    assert "another than differences" in runs.sampled(None)(target).choice
    right = runs.Shifted(poe.FromLogDensity(normal, space=poe.Real(2))).given(torch.zeros(8, 2))
    assert runs.sampled(None)(right).choice.endswith("MALA fits nothing to all")


@pytest.mark.parametrize("start", [0.0, 1.0, 30.0])
def test_chains_that_begin_at_one_place_are_told_too(start: float) -> None:
    with pytest.raises(poe.GradientError):
        poe.sample(
            lost("one of two terms"),
            40,
            kernel=poe.samplers.MALA(0.1),
            initial=torch.full((4, 2), start),
            generator=runs.generator(),
            progress=False,
        )


CASES = [
    pytest.param(name, marks=pytest.mark.law) if name in ("TableFlow", "NumPyro") else name
    for name in EXPERTS
    if name != "OnnxClassifier"  # says that it has no score
]


@pytest.mark.parametrize("name", CASES)
def test_no_right_expert_is_accused(name: str) -> None:
    with seeded():
        expert, x = EXPERTS[name]()
    coordinates = Coordinates(expert.space)
    density, u = coordinates.pull(expert), coordinates.to_u(x)
    assert not is_score_contradicted(density, u)
    if not expert.space.is_discrete:
        expert.score(x)
