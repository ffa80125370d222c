"""A log-density that depends on what other rows it is evaluated with is refused, wherever used."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import poe
from poe.density.conditional import num_conditions
from poe.density.coordinates import Coordinates
from poe.density.trials import require_function
from tests.laws import runs
from tests.laws.test_expert_laws import EXPERTS
from tests.seeds import seeded

pytestmark = pytest.mark.filterwarnings("ignore::poe.TrustWarning")


def normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


def network() -> nn.Module:
    """A small one with batch normalisation, as it is made: in training mode."""
    with seeded():
        return nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 1), nn.Flatten(0)
        )


def in_training() -> Callable[[Tensor], Tensor]:
    """Batch normalisation that trains, inside of a plain function."""
    with seeded():
        net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 1))
    return lambda x: net.to(x.dtype)(x.reshape(-1, 2)).reshape(x.shape[:-1])


DEPEND: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "batch norm": in_training,
    "standardised": lambda: lambda x: normal((x - x.mean(0)) / (1e-3 + x.std(0, correction=0))),
    "centred": lambda: lambda x: normal(x - x.mean(0)),
    "a mean of all": lambda: lambda x: normal(x) - x.square().mean(),
    "softmax over rows": lambda: lambda x: normal(x).log_softmax(0),
    "over the number of rows": lambda: lambda x: normal(x) / len(x),
    "distance to the first": lambda: lambda x: normal(x) + normal(x - x[:1]),
    "distance to the next": lambda: lambda x: normal(x) + normal(x - x.roll(1, 0)),
    "ranks": lambda: lambda x: normal(x) + 0.1 * x[..., 0].argsort(0).argsort(0),
}
ALL_RUNS = {
    name: run
    for name, run in {**runs.CHOOSE_A_KERNEL, **runs.WITHOUT_A_SCORE, **runs.BY_A_SCORE}.items()
    if name not in ("short_run", "advance")  # steps of a training, of networks that train
}


@pytest.mark.parametrize("run", ALL_RUNS)
@pytest.mark.parametrize("name", ["standardised", "a mean of all"])
def test_it_is_refused_by(name: str, run: str) -> None:
    target = runs.PRIOR * poe.FromLogDensity(DEPEND[name](), space=poe.Real(2))
    with pytest.raises(poe.PoeError, match=r"each row.*'FromLogDensity' gave.*\.eval\(\)"):
        ALL_RUNS[run](target)


@pytest.mark.parametrize("composition", runs.COMPOSITIONS)
@pytest.mark.parametrize("name", DEPEND)
def test_it_is_refused_in(name: str, composition: str) -> None:
    expert = poe.FromLogDensity(DEPEND[name](), space=poe.Real(2))
    with pytest.raises(poe.PoeError, match=r"each row of x has by itself.*\.eval\(\)"):
        runs.sampled(poe.samplers.MetropolisHastings(0.5))(runs.COMPOSITIONS[composition](expert))


@pytest.mark.parametrize("num_chains", [2, 3, 8])
@pytest.mark.parametrize("name", DEPEND)
def test_it_is_refused_from_one_place(name: str, num_chains: int) -> None:
    target = poe.FromLogDensity(DEPEND[name](), space=poe.Real(2))
    begin = torch.zeros(num_chains, 2)
    with pytest.raises(poe.PoeError, match="each row"):
        poe.sample(
            target,
            4 * num_chains,
            kernel=poe.samplers.ULA(0.1),
            initial=begin,
            generator=runs.generator(),
            progress=False,
        )


@pytest.mark.parametrize("space", [poe.Interval((2,), 0, 1), poe.Binary(2), poe.Categorical(2, 3)])
def test_it_is_refused_on(space: poe.Space) -> None:
    target = poe.FromLogDensity(lambda x: normal(x - x.float().mean(0)), space=space)
    for run in (runs.sampled(None), runs.particles(None), runs.log_z(None)):
        with pytest.raises(poe.PoeError, match="each row"):
            run(target)


@pytest.mark.parametrize("run", ["sample", "sample, ULA", "sample, MetropolisHastings"])
def test_a_sum_over_the_batch_is_found_where_it_has_the_size_of_the_event(run: str) -> None:
    target = poe.FromLogDensity(lambda x: -x.square().sum(0), space=poe.Real(8))
    kernels = {**runs.FOLLOW_A_SCORE, **runs.FOLLOW_NONE}
    kernel = kernels.get(run.removeprefix("sample, "))
    with pytest.raises(poe.ShapeError, match=r"got \(8,\); sum over the event's dimensions only"):
        runs.sampled(kernel, num_chains=8)(target)


def test_a_batch_of_densities_keeps_its_rows() -> None:
    """Each row keeps its condition: that is no dependence on the others, and a mean is one."""
    y = torch.randn(8, 2, generator=runs.generator())
    right = runs.Shifted(poe.FromLogDensity(normal, space=poe.Real(2))).given(y)
    runs.sampled(None)(right)
    wrong = runs.Shifted(poe.FromLogDensity(DEPEND["centred"](), space=poe.Real(2))).given(y)
    with pytest.raises(poe.PoeError, match="each row"):
        runs.sampled(None)(wrong)


def test_what_is_built_for_one_number_of_rows_is_taken() -> None:
    def of_eight(x: Tensor) -> Tensor:
        if len(x) != 8:
            raise RuntimeError("compiled for 8 rows")
        return normal(x)

    runs.sampled(poe.samplers.MetropolisHastings(0.5))(
        poe.FromLogDensity(of_eight, space=poe.Real(2))
    )


CASES = [
    pytest.param(name, marks=pytest.mark.law) if name in ("TableFlow", "NumPyro") else name
    for name in EXPERTS
]


@pytest.mark.parametrize("name", CASES)
def test_no_right_expert_is_accused(name: str) -> None:
    with seeded():
        expert, x = EXPERTS[name]()
    coordinates = Coordinates(expert.space)
    rows = x if num_conditions(expert) else torch.cat([x, x.flip(0), x[:1]])
    for u in (coordinates.to_u(rows), coordinates.to_u(x[:1].expand_as(x))):
        require_function(expert, coordinates.pull(expert), coordinates.pull, u)


def log_ratio(target: poe.Expert) -> object:
    return poe.log_ratio(target, torch.zeros(4, 2), torch.ones(4, 2))


REFUSING: dict[str, Callable[[poe.Expert], object]] = {
    "sample": lambda target: poe.sample(target, 100, progress=False),
    "sample, uncorrected": lambda target: poe.sample(
        target, 100, kernel=poe.samplers.ULA(0.01), progress=False
    ),
    "smc": lambda target: poe.smc(target, 100, progress=False),
    "log_partition": lambda target: poe.log_partition(target, progress=False),
    "normalize": poe.normalize,
    "log_ratio": log_ratio,
    "short_run": lambda target: poe.short_run(target, torch.zeros(4, 2), 3, 0.1),
}


@pytest.mark.parametrize("run", REFUSING)
@pytest.mark.parametrize("is_alone", [True, False])
def test_a_network_in_training_mode_is_refused_before_it_is_asked(run: str, is_alone: bool) -> None:
    """So that .eval(), the remedy, finds the statistics that training left."""
    net = network()
    energy = poe.FromEnergy(net, space=poe.Real(2))
    target = energy if is_alone else poe.FromLogDensity(normal, space=poe.Real(2)) * energy**2.0
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(poe.PoeError, match=r"in training mode: call target.eval\(\) first"):
        REFUSING[run](target)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
