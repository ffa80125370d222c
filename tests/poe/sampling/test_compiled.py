"""Compiled blocks: the eager draws to rounding, resumed runs, and what cannot be compiled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import poe
import poe.sampling.compiled
from poe.core.doubt import Kind
from poe.samplers import (
    MALA,
    AdaptiveStepHMC,
    Diagonal,
    MetropolisHastings,
    Preconditioned,
    SplitHMC,
)
from poe.samplers.kernel import Kernel
from poe.sampling.compiled import Block

F64 = torch.float64
CHAINS = 3
# The compiler itself uses what it deprecates, and says so where its caches are off.
pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled:UserWarning"),
]


def density(x: Tensor) -> Tensor:
    return -x.square().square().sum(-1)


def expert(log_density: object = density) -> poe.Expert:
    return poe.FromLogDensity(log_density, space=poe.Real(2))  # type: ignore[arg-type]


def sample(target: poe.Expert, num_draws: int, **arguments: object) -> poe.Draws:
    settings: dict[str, object] = {
        "kernel": MALA(0.2),
        "warmup": 2,
        "initial": torch.zeros(CHAINS, 2, dtype=F64),
        "generator": torch.Generator().manual_seed(0),
        "progress": False,
    }
    return poe.sample(target, num_draws * CHAINS, **{**settings, **arguments})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _two_gradients_a_block(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Little to compile, and nothing left over from another test."""
    monkeypatch.setattr(poe.sampling.compiled, "GRADIENTS_PER_BLOCK", 2)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def _without_a_code_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured in one graph as ever, then run as it is: all but the C++ compiler."""
    compile = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda steps, **how: compile(steps, backend="eager", **how)
    )


def same(draws: poe.Draws, others: poe.Draws) -> None:
    torch.testing.assert_close(draws.samples, others.samples, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(draws.log_density, others.log_density, rtol=1e-12, atol=1e-12)
    for name in ("acceptance_rate", "num_outside", "num_undefined", "num_divergent"):
        assert torch.equal(getattr(draws, name), getattr(others, name))
    assert draws.num_gradients == others.num_gradients


def test_compiled_draws_are_the_eager_ones_to_rounding() -> None:
    compiled, eager = sample(expert(), 7, compile=True), sample(expert(), 7)
    same(compiled, eager)
    assert 0 < eager.acceptance_rate.mean() < 1  # type: ignore[union-attr]
    assert compiled.compile_seconds > 0
    assert eager.compile_seconds == 0
    assert compiled.doubts == ()  # of so few draws more is said


KERNELS: list[Kernel] = [
    Preconditioned(
        SplitHMC(0.7, num_steps=2, jitter=0.3),
        Diagonal(torch.zeros(2, dtype=F64), torch.tensor([0.5, 0.8], dtype=F64)),
    ),
    Preconditioned(SplitHMC(num_steps=None)),
    Preconditioned(AdaptiveStepHMC(num_steps=None)),
    MetropolisHastings(0.7),
]


@pytest.mark.usefixtures("_without_a_code_generator")
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
def test_every_kind_of_kernel_is_captured(kernel: Kernel) -> None:
    compiled = sample(expert(), 9, kernel=kernel, warmup=20, compile=True)
    same(compiled, sample(expert(), 9, kernel=kernel, warmup=20))
    assert compiled.doubts == ()  # of so few draws more is said


@pytest.mark.usefixtures("_without_a_code_generator")
def test_a_product_on_a_constrained_space_is_captured() -> None:
    a = poe.FromLogDensity(lambda x: -x.square().sum(-1), space=poe.Positive(2))
    b = poe.FromLogDensity(lambda x: x.log().sum(-1), space=poe.Positive(2))
    initial = torch.ones(CHAINS, 2, dtype=F64)
    compiled = sample(a**0.5 * b, 6, initial=initial, compile=True)
    same(compiled, sample(a**0.5 * b, 6, initial=initial))
    assert compiled.doubts == ()  # of so few draws more is said


@pytest.mark.usefixtures("_without_a_code_generator")
@pytest.mark.parametrize("num_draws", [1, 2, 3, 8, 9])
def test_all_but_the_last_steps_are_in_blocks(
    num_draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    whole = Block.__call__

    def counted(block: Block, *arguments: object) -> object:
        calls.append(block.num_steps)
        return whole(block, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Block, "__call__", counted)
    draws = sample(expert(), num_draws, compile=True)
    assert calls == [2] * (num_draws // 2)
    assert draws.samples.shape == (CHAINS, num_draws, 2)


@pytest.mark.parametrize(("num_steps", "expected"), [(1, 16), (3, 5), (16, 1), (40, 1)])
def test_a_block_has_so_many_gradients(
    num_steps: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poe.sampling.compiled, "GRADIENTS_PER_BLOCK", 16)
    assert Block(SplitHMC(0.1, num_steps), expert()).num_steps == expected


def test_the_score_in_a_graph_is_autograds() -> None:
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    in_a_graph = torch.compile(expert().log_density_and_score, fullgraph=True, backend="eager")
    log_density, score = in_a_graph(x)
    torch.testing.assert_close((log_density, score), expert().log_density_and_score(x))
    assert not log_density.requires_grad
    assert not score.requires_grad


@pytest.mark.usefixtures("_without_a_code_generator")
@pytest.mark.parametrize("at", [1, 4, 5, 8])
def test_a_resumed_compiled_run_gives_the_same_bits(at: int, tmp_path: Path) -> None:
    """Interrupted in the midst of a block, whose draws are then made anew."""
    num_kept = 0

    def interrupted(x: Tensor) -> Tensor:
        nonlocal num_kept
        num_kept += 1
        if num_kept == at:
            raise KeyboardInterrupt
        return x

    def run(checkpoint: Path | None) -> poe.Draws:
        return sample(
            expert(), 9, kernel=MALA(), warmup=10, collect=interrupted, checkpoint=checkpoint,
            compile=True,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    resumed = run(tmp_path / "run")
    num_kept = 100
    whole = run(None)
    assert torch.equal(resumed.samples, whole.samples)
    assert torch.equal(resumed.log_density, whole.log_density)
    assert torch.equal(resumed.acceptance_rate, whole.acceptance_rate)  # type: ignore[arg-type]


# What cannot be compiled


def branching(x: Tensor) -> Tensor:
    """Looks at the values, which a graph does not have."""
    return density(x) if x.abs().sum().item() < 1e9 else 0.0 * density(x)


def test_a_model_that_cannot_be_captured_is_sampled_without_and_this_is_said() -> None:
    eager = sample(expert(branching), 7)
    with pytest.warns(poe.TrustWarning, match="could not be compiled"):
        draws = sample(expert(branching), 7, compile=True)
    assert torch.equal(draws.samples, eager.samples)  # the very same: no random number is lost
    assert torch.equal(draws.log_density, eager.log_density)
    same(draws, eager)
    [remark] = [doubt.text for doubt in draws.doubts if doubt.kind is Kind.NOT_COMPILED]
    assert "the steps could not be compiled in one graph" in remark
    assert "data-dependent" in remark
    assert "\n" not in remark


def test_without_a_compiler_it_is_sampled_without_and_this_is_said() -> None:
    import torch._inductor.config as inductor

    eager = sample(expert(), 7)
    settings = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    # patched by the compiler itself: monkeypatch would leave the second setting deleted
    with inductor.patch(settings), pytest.warns(poe.TrustWarning, match="could not be compiled"):
        draws = sample(expert(), 7, compile=True)
    assert torch.equal(draws.samples, eager.samples)
    [remark] = [doubt.text for doubt in draws.doubts if doubt.kind is Kind.NOT_COMPILED]
    assert "no-such-compiler" in remark or "C++ compiler" in remark
    assert "\n" not in remark


@pytest.mark.usefixtures("_without_a_code_generator")
def test_it_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole = Block.__call__

    def counted(block: Block, *arguments: object) -> object:
        calls.append(block)
        return whole(block, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Block, "__call__", counted)
    with pytest.warns(poe.TrustWarning, match="could not be compiled"):
        sample(expert(branching), 8, compile=True)
    assert len(calls) == 1


class Failing(poe.Expert):
    """A density that breaks down from its n-th evaluation on."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.space = poe.Real(2)
        self.at, self.calls = at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls >= self.at:
            raise ValueError("this model is out of order")
        return density(x)


@pytest.mark.usefixtures("_without_a_code_generator")
@pytest.mark.parametrize("at", [5, 6, 7])
def test_an_error_of_the_target_is_raised(at: int) -> None:
    """At the start 2 evaluations, in warm-up 2, and while sampling one a step."""
    with pytest.raises(ValueError, match="this model is out of order"):
        sample(Failing(at), 7, compile=True)


class Plain:
    """A kernel of the protocol alone, which draws its numbers as it goes."""

    guarantee = "asymptotically exact"

    def init(self, target: poe.Expert, x: Tensor) -> object:
        return MALA(0.2).init(target, x)

    def step(self, target: poe.Expert, state: object, *, generator: torch.Generator) -> object:
        return MALA(0.2).step(target, state, generator=generator)  # type: ignore[arg-type]


def test_a_kernel_that_draws_as_it_goes_is_run_as_it_is() -> None:
    with pytest.warns(poe.TrustWarning, match="Plain does not draw its random numbers beforehand"):
        draws = sample(expert(), 7, kernel=Plain(), compile=True)
    assert torch.equal(draws.samples, sample(expert(), 7, kernel=Plain()).samples)


def test_blocks_go_on_until_it_is_enough_and_no_budget_is_overdrawn() -> None:
    until = poe.Reached(ess=60, r_hat=1.1)
    whole = sample(expert(), 1, until=until, compile=True)
    assert whole.samples.shape[1] % 2 == 0
    assert whole.summary().ess_bulk.min() >= 60
    spent = whole.warmup_gradients + 31
    with pytest.warns(poe.TrustWarning, match="ended the run before"):
        part = sample(expert(), 1, until=poe.Reached(60, 1.1, max_gradients=spent), compile=True)
    assert part.samples.shape[1] == 30
    assert torch.equal(part.samples, whole.samples[:, :30])
