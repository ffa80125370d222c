"""No run asks a density where nothing is, and one that raises an error somewhere is −inf there.

A kernel enters by a line in `KERNELS`, another way to evaluate a density by one in `RUNS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import poe
from poe.core.doubt import Doubt, Kind
from poe.samplers.guarded import Guarded, Raised
from tests.seeds import seeded

FAR = 1.5
INITIAL = torch.linspace(-1, 1, 8)[:, None].repeat(1, 2)


def _g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Told(NamedTuple):
    """What a run told, and where."""

    doubts: tuple[Doubt, ...]
    positions: Tensor | None


KERNELS: dict[str, poe.samplers.Kernel | None] = {
    "the default": None,
    "MetropolisHastings": poe.samplers.MetropolisHastings(2.0),
    "MALA": poe.samplers.MALA(0.5),
    "HMC": poe.samplers.HMC(0.7, num_steps=3),
    "GeneralizedHMC": poe.samplers.GeneralizedHMC(0.7),
    "SplitHMC": poe.samplers.SplitHMC(1.0),
    "AdaptiveStepHMC": poe.samplers.AdaptiveStepHMC(1.0),
    "AdjustedMCLMC": poe.samplers.AdjustedMCLMC(1.0, num_steps=4),
    "preconditioned": poe.samplers.Preconditioned(poe.samplers.MALA()),
    "tempered": poe.samplers.ParallelTempering(
        poe.as_expert(torch.distributions.Independent(Normal(torch.zeros(2), 2.0), 1)),
        poe.samplers.MALA(0.5),
        (0.0, 0.5, 1.0),
    ),
}


def _sampled(kernel: poe.samplers.Kernel | None) -> Callable[[poe.Expert], Told]:
    def run(target: poe.Expert) -> Told:
        draws = poe.sample(
            target, 400, kernel=kernel, num_chains=8, warmup=30, generator=_g(), progress=False
        )
        return Told(draws.doubts, draws.samples)

    return run


def _smc(target: poe.Expert) -> Told:
    draws = poe.smc(target, 400, generator=_g(), progress=False)
    assert draws.log_partition is not None
    assert Kind.RAISED in {doubt.kind for doubt in draws.log_partition.doubts}
    return Told(draws.doubts, draws.samples[draws.log_weights > -torch.inf])  # type: ignore[operator]


def _log_partition(method: object) -> Callable[[poe.Expert], Told]:
    def run(target: poe.Expert) -> Told:
        found = poe.log_partition(target, method=method, generator=_g(), progress=False)  # type: ignore[arg-type]
        assert not found.is_trusted
        return Told(found.doubts, None)

    return run


RUNS: dict[str, Callable[[poe.Expert], Told]] = {
    **{f"sample by {name}": _sampled(kernel) for name, kernel in KERNELS.items()},
    "smc": _smc,
    "MBAR": _log_partition(poe.normalizers.MBAR(num_samples=128)),
    "AIS": _log_partition(poe.normalizers.AIS(num_samples=16, substeps=1)),
}
LONG = ("MBAR", "AIS")


def runs() -> list[object]:
    return [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in RUNS]


def cut(space: poe.Space, error: type[Exception] = ArithmeticError) -> poe.Expert:
    """A normal density that raises an error where an element is beyond `FAR`."""

    def log_density(x: Tensor) -> Tensor:
        if not bool(x.isfinite().all()):
            pytest.fail("the density was asked at a position that is not finite")
        if bool((x.abs() > FAR).any()):
            raise error("the solver did not converge")
        return -0.5 * x.square().sum(-1)

    return poe.FromLogDensity(log_density, space=space)


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
@pytest.mark.parametrize("run", runs())
def test_an_error_at_some_positions_has_no_density_there_and_is_told(run: str) -> None:
    told = RUNS[run](cut(poe.Real(2)))
    [doubt] = [doubt for doubt in told.doubts if doubt.kind is Kind.RAISED]
    assert "ArithmeticError: the solver did not converge" in doubt.text
    if told.positions is not None:
        assert told.positions.abs().max() <= FAR
        assert told.positions.std() > 0.2


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
@pytest.mark.parametrize("run", ["sample by MALA", "sample by MetropolisHastings"])
def test_an_error_on_a_space_with_a_border_is_told_as_well(run: str) -> None:
    told = RUNS[run](cut(poe.Positive(2)))
    assert Kind.RAISED in {doubt.kind for doubt in told.doubts}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))  # at one of which the first positions all raise it
@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_quadrature_leaves_out_where_there_is_an_error(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    found = poe.log_partition(cut(poe.Real(1)), generator=generator)
    inside = torch.erf(torch.tensor(FAR / 2**0.5)).log() + 0.5 * torch.tensor(6.283185307).log()
    assert abs(found.value - inside) < 1e-5
    assert Kind.RAISED in {doubt.kind for doubt in found.doubts}
    assert not found.is_trusted


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_an_error_at_some_events_of_a_discrete_space_is_told() -> None:
    def log_density(x: Tensor) -> Tensor:
        if bool((x.sum(-1) == 3).any()):
            raise KeyError("no such state")
        return x.sum(-1)

    target = poe.FromLogDensity(log_density, space=poe.Binary(3))
    draws = poe.sample(target, 400, num_chains=4, warmup=10, generator=_g(), progress=False)
    assert draws.samples.sum(-1).max() == 2
    assert any("no such state" in text for text in draws.remarks)
    found = poe.log_partition(target)
    torch.testing.assert_close(found.value, torch.tensor([0.0, 1, 1, 1, 2, 2, 2]).logsumexp(0))
    assert any("no such state" in doubt.text for doubt in found.doubts)


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
@pytest.mark.parametrize("chains_at_once", [None, 3])
def test_the_draws_are_those_of_the_density_that_is_minus_infinity_there(
    chains_at_once: int | None,
) -> None:
    def log_density(x: Tensor) -> Tensor:
        value = -0.5 * x.square().sum(-1)
        return value.masked_fill((x.abs() > FAR).any(-1), -torch.inf)

    truth = poe.FromLogDensity(log_density, space=poe.Real(2))
    options = {"num_chains": 8, "warmup": 30, "progress": False, "initial": INITIAL}
    for kernel in (poe.samplers.MetropolisHastings(1.0), poe.samplers.HMC(0.5, num_steps=3)):
        draws, expected = (
            poe.sample(
                target, 400, kernel=kernel, generator=_g(), chains_at_once=chains_at_once, **options
            )
            for target in (cut(poe.Real(2)), truth)
        )
        assert torch.equal(draws.samples, expected.samples)
        assert torch.equal(draws.num_outside, expected.num_outside)  # type: ignore[arg-type]


@pytest.mark.parametrize("run", RUNS)
def test_an_error_at_every_position_is_the_callers_own(run: str) -> None:
    class Broken(Exception):
        pass

    broken = Broken("a mistake")

    def log_density(x: Tensor) -> Tensor:
        raise broken

    with pytest.raises(Broken) as caught:
        RUNS[run](poe.FromLogDensity(log_density, space=poe.Real(2)))
    assert caught.value is broken
    assert caught.traceback[-1].name == "log_density"


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("run", ["sample by MALA", "smc"])
def test_what_is_about_no_position_passes(run: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        RUNS[run](cut(poe.Real(2), error))


@pytest.mark.parametrize("run", ["sample by MALA", "sample by MetropolisHastings"])
def test_an_error_that_comes_everywhere_from_some_time_on_is_the_callers_own(run: str) -> None:
    calls = iter(range(10**6))

    def log_density(x: Tensor) -> Tensor:
        if next(calls) > 60:
            raise ArithmeticError("the licence has expired")
        return -0.5 * x.square().sum(-1)

    with pytest.raises(ArithmeticError, match="licence"):
        RUNS[run](poe.FromLogDensity(log_density, space=poe.Real(2)))


def test_an_error_about_the_number_of_rows_is_about_no_position() -> None:
    def log_density(x: Tensor) -> Tensor:
        assert len(x) <= 4, "too many rows"
        return -0.5 * x.square().sum(-1)

    with pytest.raises(AssertionError, match="too many rows"):
        RUNS["sample by MALA"](poe.FromLogDensity(log_density, space=poe.Real(2)))


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_a_network_that_takes_no_float64_is_tried_without_a_word() -> None:
    with seeded():
        net = torch.nn.Linear(2, 1)
    target = poe.FromLogDensity(
        lambda x: net(x).squeeze(-1) - x.square().sum(-1), space=poe.Real(2)
    )
    draws = poe.sample(target, 100, num_chains=4, warmup=20, generator=_g(), progress=False)
    particles = poe.smc(target, 64, generator=_g(), progress=False)
    told = [doubt.kind for doubt in (*draws.doubts, *particles.doubts)]
    assert Kind.RAISED not in told


def test_a_dtype_that_is_refused_is_no_fault_of_positions() -> None:
    with seeded():
        net = torch.nn.Linear(2, 1)
    asked = Guarded(poe.FromLogDensity(lambda x: net(x).squeeze(-1), space=poe.Real(2)), Raised())
    asked(INITIAL)
    with pytest.raises(RuntimeError, match="dtype"):
        asked(INITIAL.double())


def test_an_error_without_words_is_told_by_its_class() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    raised = Raised()
    raised.note({0: Mute()})
    assert raised.first == "Mute"


def test_an_error_at_some_given_starts_names_them() -> None:
    with pytest.raises(poe.NonFiniteError, match=r"at 2 of 3, chains 0, 2 .*did not converge"):
        poe.sample(cut(poe.Real(1)), 30, initial=torch.tensor([[2.0], [0.0], [-3.0]]))
    with pytest.raises(poe.NonFiniteError, match=r"at 1 of 2, chains 1 .*did not converge"):
        poe.advance(
            cut(poe.Real(1)),
            poe.samplers.ULA(0.1),
            torch.tensor([[0.0], [-3.0]]),
            2,
            generator=_g(),
        )
    with pytest.raises(poe.NonFiniteError, match="chain 1 has a position that is not finite"):
        poe.sample(cut(poe.Real(1)), 30, initial=torch.tensor([[0.0], [torch.nan]]))


class Shifted(poe.Conditional):
    """N(y, 1), which raises an error beyond `FAR` of it."""

    space = poe.Real(1)

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        away = (x - condition[:, None]).squeeze(-1)
        if bool((away.abs() > FAR).any()):
            raise ArithmeticError("too far away")
        return -0.5 * away.square()


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
@pytest.mark.parametrize("kernel", ["the default", "MetropolisHastings"])
def test_of_a_batch_of_densities_each_has_its_own(kernel: str) -> None:
    y = torch.tensor([-10.0, 0.0, 10.0])
    draws = poe.sample(
        Shifted().given(y), 300, kernel=KERNELS[kernel], initial=y[:, None], warmup=30,
        generator=_g(), progress=False,
    )  # fmt: skip
    away = draws.samples[..., 0] - y[:, None]
    assert away.abs().max() <= FAR
    assert (away.std(1) > 0.2).all()
    assert any("too far away" in text for text in draws.remarks)


def steep(space: poe.Space) -> poe.Expert:
    """A density of e^(e^x), which sends trajectories to infinity, and refuses to be asked there."""

    def log_density(x: Tensor) -> Tensor:
        if not bool(x.isfinite().all()):
            pytest.fail("the density was asked at a position that is not finite")
        return -(x.double() ** 8).clamp(max=1e250).sum(-1).to(x.dtype)

    return poe.FromLogDensity(log_density, space=space)


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
@pytest.mark.parametrize("name", ["MALA", "HMC", "GeneralizedHMC", "SplitHMC", "AdaptiveStepHMC"])
def test_a_trajectory_that_ends_nowhere_is_divergent_and_nothing_else(name: str) -> None:
    kernel = KERNELS[name]
    target = poe.FromLogDensity(_normal_at_numbers, space=poe.Real(2))
    state = kernel.init(target, INITIAL)
    guarded = Guarded(target, Raised())
    guarded(INITIAL)
    noise = kernel.draw_noise(INITIAL, _g())._replace(normal=torch.full((8, 2), torch.inf))
    state, info = kernel.transition(guarded, state, noise)
    assert info.is_divergent.all()
    assert not (info.is_undefined | info.is_outside | info.is_accepted).any()
    assert torch.equal(state.position, INITIAL)


def _normal_at_numbers(x: Tensor) -> Tensor:
    if not bool(x.isfinite().all()):
        pytest.fail("the density was asked at a position that is not finite")
    return -0.5 * x.square().sum(-1)


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
@pytest.mark.parametrize(
    "kernel",
    [poe.samplers.ULA(1.0), poe.samplers.UnderdampedLangevin(3.0)],
)
def test_an_exploded_chain_is_still_one(kernel: poe.samplers.Kernel) -> None:
    draws = poe.sample(
        steep(poe.Real(2)), 400, kernel=kernel, initial=5 * INITIAL, warmup=10, generator=_g(),
        progress=False,
    )  # fmt: skip
    assert Kind.EXPLODED in {doubt.kind for doubt in draws.doubts}
    assert not draws.samples.isfinite().all()
    with pytest.raises(poe.NonFiniteError, match="positions that are not finite"):
        poe.advance(steep(poe.Real(2)), kernel, 5 * INITIAL, 50, generator=_g())


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_what_overflows_on_the_way_to_the_space_is_no_position() -> None:
    target = poe.FromLogDensity(
        lambda x: _normal_at_numbers(x.log().clamp(-80, 80)), space=poe.Positive(1)
    )
    walk = poe.samplers.MetropolisHastings(200.0)
    draws = poe.sample(
        target, 400, kernel=walk, num_chains=4, warmup=10, generator=_g(), progress=False
    )
    assert draws.samples.isfinite().all()
    assert not draws.num_undefined.any()  # type: ignore[union-attr]
    assert not draws.num_outside.any()  # type: ignore[union-attr]
    assert draws.num_divergent.any()  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_a_run_taken_up_again_tells_of_the_errors_before(tmp_path: object) -> None:
    path, calls = f"{tmp_path}/run", iter(range(10**6))

    def stop(report: object) -> None:
        if next(calls) == 60:
            raise KeyboardInterrupt

    def run(callback: Callable[[object], None] | None) -> poe.Draws:
        return poe.sample(
            cut(poe.Real(2)), 400, kernel=poe.samplers.MetropolisHastings(2.0), num_chains=8,
            warmup=30, generator=_g(), progress=False, checkpoint=path, callback=callback,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    resumed = run(None)
    whole = RUNS["sample by MetropolisHastings"](cut(poe.Real(2)))
    assert torch.equal(resumed.samples, whole.positions)  # type: ignore[arg-type]
    [text] = [doubt.text for doubt in whole.doubts if doubt.kind is Kind.RAISED]
    [again] = [doubt.text for doubt in resumed.doubts if doubt.kind is Kind.RAISED]
    assert again.split("(")[1] == text.split("(")[1]
