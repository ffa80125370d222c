"""What a public call takes for what it annotates, and in which words it refuses the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from poe.core.arguments import checked, require, require_count, require_dimensions, told

GAUSSIAN = experts.Gaussian([0.0, 0.0], 1.0)
TARGET = poe.FromLogDensity(lambda x: -x.square().sum(-1), space=poe.Real(2))


@pytest.mark.parametrize(
    "value",
    [3, 3.0, np.int64(3), np.float32(3), torch.tensor(3), torch.tensor(3.0), Fraction(3)],
    ids=repr,
)
def test_a_count_is_taken_from_what_holds_one(value: Any) -> None:
    if isinstance(value, Fraction):
        with pytest.raises(poe.PoeError, match="to be a whole number, got fractions"):
            require("num_steps", value, int)
        return
    count = require("num_steps", value, int)
    assert type(count) is int
    assert count == 3


@pytest.mark.parametrize(
    "value",
    [
        2.5, math.nan, math.inf, "3", "MALA", True, np.bool_(True), None, [3], torch.tensor([3]),
        torch.tensor(True), 1j, 10**12, 2**70, -(10**400), 1e308, "ten", int, np.array([3]),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises(poe.PoeError, match="expected num_steps to be a whole number, got "):
        require("num_steps", value, int)


def test_the_remedy_fits_what_came() -> None:
    for kind, value, words in (
        (int, "10", "use int"),
        (int, 10**12, "use at most 1e"),
        (torch.Generator, 7, r"use torch.Generator\(\).manual_seed\(7\)"),
        (torch.Generator, np.random.default_rng(0), r"got numpy.Generator: use torch.Generator"),
        (Tensor, [1.0], "use torch.as_tensor"),
        (Tensor, torch.eye(2).to_sparse(), "use x.to_dense"),
        (poe.Space, poe.Real, "the class Real: make one"),
        (poe.Expert, torch.distributions.Normal(0.0, 1.0), "use poe.as_expert"),
        (poe.Expert, experts.Gaussian, "the class Gaussian: make one"),
        (poe.Expert, experts.GaussianDecoder(nn.Identity(), [0.0], (1,)), r"conditional.given\(y"),
        (poe.samplers.Kernel, "MALA", "such as poe.samplers.MALA"),
        (poe.samplers.Kernel, poe.samplers.MALA, "the class MALA: make one"),
        (tuple[float, ...], [1.0, "a"], "with 'a' in it"),
    ):
        with pytest.raises(poe.PoeError, match=words):
            require("it", value, kind)


def test_numbers_keep_their_gradient_and_their_digits() -> None:
    weight = nn.Parameter(torch.tensor(0.5))
    assert require("a", weight, float) is weight
    assert require("a", torch.tensor(0.1, dtype=torch.float64), float) == 0.1
    assert require("a", weight.detach(), float | Tensor) is not weight
    assert isinstance(require("a", torch.tensor(0.5), float | Tensor), Tensor)


def test_a_sequence_stays_itself_unless_it_must_change() -> None:
    levels = [0.5, 1.0]
    assert require("levels", levels, Sequence[float]) is levels
    assert require("levels", np.array([1, 2]), Sequence[float]) == (1, 2)
    assert require("levels", iter([1.0]), tuple[float, ...]) == (1.0,)
    assert require("shape", [2, 3.0], tuple[int, int]) == (2, 3)
    for wrong in ("ab", {"a": 1}, 3, torch.tensor(1.0), (1, 2, 3)):
        with pytest.raises(poe.PoeError, match="expected shape to be"):
            require("shape", wrong, tuple[int, int])


def test_a_function_is_held_to_its_annotations() -> None:
    @checked
    def call(
        x: Tensor, *rest: int, mode: Literal["a", "b"] = "a", net: nn.Module | None = None
    ) -> tuple[int, ...]:
        return rest

    assert call(torch.zeros(1), 1, 2.0) == (1, 2)  # type: ignore[arg-type]
    for wrong in ({"mode": "c"}, {"net": len}):
        with pytest.raises(poe.PoeError, match=r"expected (mode|net) to be "):
            call(torch.zeros(1), **wrong)
    with pytest.raises(TypeError, match=r"call\(\) missing 1 required positional argument: 'x'"):
        call()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        call(torch.zeros(1), y=1)  # type: ignore[call-arg]


@dataclass(frozen=True)
class Base:
    space: poe.Space


def test_a_dataclass_is_held_to_the_fields_of_its_bases() -> None:
    @checked
    @dataclass(frozen=True)
    class Derived(Base):
        count: int = 1

    assert Derived(poe.Real(1), 2.0).count == 2  # type: ignore[arg-type]
    with pytest.raises(poe.PoeError, match="expected space to be a Space, got the class Real"):
        Derived(poe.Real)  # type: ignore[arg-type]


def test_a_graph_that_is_captured_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    call = checked(lambda: None)
    assert call() is None

    @checked
    def count(n: int) -> int:
        return n

    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert count("as it is") == "as it is"  # type: ignore[arg-type,comparison-overlap]


@pytest.mark.parametrize(
    "call",
    [
        lambda: poe.sample(TARGET, 10, generator=0),  # type: ignore[arg-type]
        lambda: poe.sample(TARGET, 10, kernel=poe.samplers.MALA),  # type: ignore[arg-type]
        lambda: poe.sample(TARGET, 10, kernel="MALA"),  # type: ignore[arg-type]
        lambda: poe.sample(torch.distributions.Normal(0.0, 1.0), 10),  # type: ignore[arg-type]
        lambda: poe.sample(TARGET, 10, num_chains=10**12),
        lambda: poe.sample(TARGET, "10"),  # type: ignore[arg-type]
        lambda: poe.log_partition(TARGET, method=poe.normalizers.AIS),  # type: ignore[arg-type]
        lambda: poe.Chain(GAUSSIAN, experts.GaussianDecoder),  # type: ignore[arg-type]
        lambda: GAUSSIAN.sample(-1),
        lambda: experts.RBM([[0.0]], [0.0], [0.0]).sample(3, generator=np.random.default_rng(0)),
        lambda: experts.NeuralEnergy(lambda x: x, poe.Real(2)),  # type: ignore[arg-type]
        lambda: poe.FromEnergy(lambda x: x, space=poe.Real),  # type: ignore[arg-type]
        lambda: GAUSSIAN ** "2",  # type: ignore[operator]
        lambda: GAUSSIAN ** (10**400),
        lambda: GAUSSIAN([[0.0, 0.0]]),  # type: ignore[arg-type]
        lambda: GAUSSIAN(torch.zeros(1, 2).to_sparse()),
        lambda: poe.samplers.MALA(torch.tensor(math.nan)),
        lambda: poe.diagnostics.r_hat(torch.zeros(3)),
        lambda: poe.samplers.AnnealedLangevin((GAUSSIAN,), noise_levels=(math.nan, 1.0)),
    ],
)
def test_public_calls_refuse_in_words(call: Callable[[], Any]) -> None:
    with pytest.raises(poe.PoeError, match="expected"):
        call()


def test_a_thousand_may_be_written_as_a_float() -> None:
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    one = poe.sample(GAUSSIAN, 1e2, num_chains=4.0, generator=generators[0])  # type: ignore[arg-type]
    other = poe.sample(GAUSSIAN, 100, num_chains=4, generator=generators[1])
    assert torch.equal(one.samples, other.samples)


def test_counts_and_dimensions() -> None:
    assert require_count("n", 0, 0) == 0
    with pytest.raises(poe.PoeError, match="expected n >= 1, got 0"):
        require_count("n", 0)
    require_dimensions("x", torch.zeros(2, 3), "(n, *event)")
    require_dimensions("x", torch.zeros(2), "(n, *event)")
    for x in (torch.zeros(()), torch.zeros(2, 3, 4)):
        with pytest.raises(poe.ShapeError, match=r"expected x of shape \(n, d\), got"):
            require_dimensions("x", x, "(n, d)")


def test_what_came_is_told_shortly() -> None:
    assert len(told("a" * 1000)) < 70
    assert told(GAUSSIAN) == "experts.Gaussian"
    assert told(np.zeros((2, 3))) == "a numpy array of shape (2, 3)"
