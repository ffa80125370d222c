"""How a run is prepared is one thing: refusals and checks are the same wherever one begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.core.doubt import Kind
from poe.density.conditional import num_conditions
from poe.tuning.prepared import prepared, prepared_particles
from tests import seeds

NORMAL = experts.Gaussian([0.0, 0.0], scale=[1.0, 1.0])
QUARTIC = poe.FromEnergy(lambda x: (x**4).sum(-1), space=poe.Real(2))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Noisy(poe.Expert):
    """An estimate that is drawn anew at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.space, self.generator = poe.Real(2), seeded()

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape[:-1], generator=self.generator)
        return -x.square().sum(-1) + noise


def fitted(target: poe.Expert) -> object:
    x = torch.randn(50, 2, generator=seeded())
    return poe.fit_exponents_by_likelihood(
        poe.Product(noisy=target, normal=NORMAL), x, generator=seeded(), progress=False
    )


BEGIN: dict[str, Callable[[poe.Expert], object]] = {
    "sample": lambda e: poe.sample(e, 100, generator=seeded(), progress=False),
    "smc": lambda e: poe.smc(e, 400, generator=seeded(), progress=False),
    "smc from a start": lambda e: poe.smc(e, 400, start=NORMAL, generator=seeded(), progress=False),
    "log Z": lambda e: poe.log_partition(
        e, method=poe.normalizers.SMC(), generator=seeded(), progress=False
    ),
    "log Z from a start": lambda e: poe.log_partition(
        e, method=poe.normalizers.AIS(), start=NORMAL, generator=seeded(), progress=False
    ),
    "exponents": fitted,
}


@pytest.mark.parametrize("begin", BEGIN.values(), ids=list(BEGIN))
def test_a_log_density_that_is_random_is_refused(begin: Callable[[poe.Expert], object]) -> None:
    with pytest.raises(poe.PoeError, match="same log-density from two calls"):
        begin(Noisy())


@pytest.mark.parametrize("begin", BEGIN.values(), ids=list(BEGIN))
@seeds.seeded()  # a layer that drops draws from the global generator
def test_a_layer_in_training_mode_is_refused(begin: Callable[[poe.Expert], object]) -> None:
    layers = torch.nn.Linear(2, 1), torch.nn.Dropout(0.5), torch.nn.Flatten(0)
    net = torch.nn.Sequential(*layers)
    with pytest.raises(poe.PoeError, match="evaluation mode"):
        begin(poe.FromLogDensity(net, space=poe.Real(2)) * NORMAL)


@pytest.mark.parametrize("name", [name for name in BEGIN if name not in ("sample", "exponents")])
def test_a_batch_of_densities_is_refused_in_the_same_words(name: str) -> None:
    conditional = experts.LinearGaussian(torch.ones(2, 1), torch.zeros(2), scale=torch.ones(2))
    batch = conditional.given(torch.randn(3, 1, generator=seeded())) * QUARTIC
    assert num_conditions(batch) == 3
    with pytest.raises(poe.PoeError, match="expected one density, got a batch of them"):
        BEGIN[name](batch)


MANY = torch.zeros(4, 3, 2)
WITH_CHAINS: dict[str, Callable[[Tensor], object]] = {
    "sample": lambda x: poe.sample(
        QUARTIC, 40, kernel=poe.samplers.ULA(0.1), initial=x, progress=False
    ),
    "sample, chosen": lambda x: poe.sample(QUARTIC, 40, initial=x, progress=False),
    "advance": lambda x: poe.advance(QUARTIC, poe.samplers.ULA(0.1), x, 2),
    "short run": lambda x: poe.short_run(QUARTIC, x, 2, 0.1),
    "warm-up": lambda x: poe.warm_up(
        QUARTIC, poe.samplers.MALA(), x, poe.Warmup(20), generator=seeded()
    ),
    "tempering": lambda x: poe.tune_tempering(
        QUARTIC, NORMAL, poe.samplers.MALA(), x, num_steps=100, generator=seeded()
    ),
}


@pytest.mark.parametrize("shape", [(4, 3, 2), (4, 1, 2), (1, 1, 4, 2), (2,)])
@pytest.mark.parametrize("begin", WITH_CHAINS.values(), ids=list(WITH_CHAINS))
def test_chains_have_one_batch_dimension(
    begin: Callable[[Tensor], object], shape: tuple[int, ...]
) -> None:
    with pytest.raises(poe.ShapeError, match=r"\(chains, \*event\)"):
        begin(torch.zeros(shape))


def test_chains_on_a_scalar_event_have_one_batch_dimension() -> None:
    target = poe.FromEnergy(lambda x: x**4, space=poe.Real(()))
    with pytest.raises(poe.ShapeError, match=r"\(chains, \*event\)"):
        poe.sample(target, 40, initial=torch.zeros(4, 1), progress=False)


def test_particles_take_no_random_number_of_the_run() -> None:
    g = seeded()
    before = g.get_state()
    begin, source = prepared_particles(QUARTIC * NORMAL, None, remedy="", generator=g)
    assert torch.equal(g.get_state(), before)
    assert source is begin.target.experts[1]
    assert begin.started_at == "expert 'Gaussian'"


def test_what_merging_takes_out_is_told() -> None:
    target = QUARTIC * NORMAL * experts.Gaussian([1.0, 1.0], scale=[1.0, 1.0])
    chains = prepared(target, 5, generator=seeded())
    particles, _ = prepared_particles(target, None, remedy="", generator=seeded())
    assert len(particles.target.names) == 2
    torch.testing.assert_close(
        particles.density.log_density(chains.u) + particles.log_constant,
        chains.density.log_density(chains.u),
    )
    torch.testing.assert_close(chains.density.log_density(chains.u), target(chains.u))


def logistic() -> poe.Expert:
    """Of float32 tables alone, as most models are: in float64 it raises an error."""
    with seeds.seeded():
        rows = torch.randn(30, 2)
    return poe.FromLogDensity(
        lambda x: -torch.nn.functional.softplus(x @ rows.T).sum(-1) - x.square().sum(-1),
        space=poe.Real(2),
    )


@pytest.mark.parametrize("begin", [poe.sample, poe.smc], ids=["sample", "smc"])
def test_errors_of_what_is_tried_in_another_dtype_are_none_of_the_run(
    begin: Callable[..., poe.Draws],
) -> None:
    draws = begin(logistic(), 400, generator=seeded(), progress=False)
    assert draws.is_trusted
    assert Kind.RAISED not in {doubt.kind for doubt in draws.doubts}
