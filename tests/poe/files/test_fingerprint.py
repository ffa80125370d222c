"""What a value is: the same in every process, and another for whatever makes a difference."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from poe.files.fingerprint import bytes_of, fingerprint, fingerprints
from poe.files.signature import Signature, Start, sign
from tests.seeds import seeded as lent

FACTOR = 2.0


def scaled_by(factor: Any) -> Callable[[Any], Any]:
    return lambda x: factor * x


def with_default(factor: float) -> Callable[..., Any]:
    return lambda x, by=factor: by * x


def with_keyword(factor: float) -> Callable[..., Any]:
    return lambda x, *, by=factor: by * x


def inside(factor: float) -> Callable[[Any], Any]:
    def outer(x: Any) -> Any:
        def inner(y: Any) -> Any:
            return factor * y

        return inner(x)

    return outer


class Scaled:
    def __init__(self, factor: Any) -> None:
        self.factor = factor

    def __call__(self, x: Any) -> Any:
        return self.factor * x

    def method(self, x: Any) -> Any:
        return self.factor * x


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor


class Net(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def with_hook(factor: float) -> nn.Module:
    net = nn.Identity()
    net.register_forward_hook(lambda module, x, y: factor * y)
    return net


def with_buffer(factor: float) -> nn.Module:
    net = nn.Identity()
    net.register_buffer("factor", torch.tensor(factor), persistent=False)
    return net


def recursive(factor: float) -> Callable[[Any], Any]:
    def again(x: Any) -> Any:
        return x if x == 0 else factor * again(x - 1)

    return again


def kind_with(method: Callable[..., Any]) -> type:
    return type("Kind", (), {"__call__": method, "__module__": "mine"})


PAIRS: dict[str, Callable[[Any], Any]] = {
    "closure": scaled_by,
    "tensor in a closure": lambda f: scaled_by(torch.tensor(f)),
    "array in a closure": lambda f: scaled_by(np.array(f)),
    "dict in a closure": lambda f: scaled_by({"a": [f]}),
    "set in a closure": lambda f: scaled_by({"a", f}),
    "function in a closure": lambda f: scaled_by(scaled_by(f)),
    "default": with_default,
    "keyword": with_keyword,
    "inner function": inside,
    "recursive": recursive,
    "partial": lambda f: functools.partial(pow, f),
    "partial, keywords": lambda f: functools.partial(scaled_by, factor=f),
    "cached": lambda f: functools.lru_cache(scaled_by(f)),
    "wrapped": lambda f: functools.wraps(abs)(scaled_by(f)),
    "callable": Scaled,
    "bound method": lambda f: Scaled(f).method,
    "builtin of a tensor": lambda f: torch.tensor(f).mul,
    "slots": Slotted,
    "module with an attribute": Net,
    "module with a hook": with_hook,
    "module with a passing buffer": with_buffer,
    "modules in a list": lambda f: [Net(f)],
    "class by its method": lambda f: kind_with(scaled_by(f))(),
    "static method": lambda f: type("Kind", (), {"fn": staticmethod(scaled_by(f))}),
    "property": lambda f: type("Kind", (), {"fn": property(scaled_by(f))})(),
    "vectorised": lambda f: np.vectorize(scaled_by(f)),
    "distribution": lambda f: torch.distributions.Normal(0.0, f),
    "expert": lambda f: poe.FromLogDensity(scaled_by(f), space=poe.Real(1)),
    "product": lambda f: experts.Gaussian([0.0], scale=[1.0]) ** f,
    "space": lambda f: poe.Interval(1, 0.0, f),
    "generator": lambda f: torch.Generator().manual_seed(int(10 * f)),
    "numpy's generator": lambda f: np.random.default_rng(int(10 * f)),
    "sparse": lambda f: torch.tensor([0.0, f]).to_sparse(),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_what_makes_a_difference_is_told_apart_and_nothing_else_is(name: str) -> None:
    make = PAIRS[name]
    assert fingerprint(make(2.0)) != fingerprint(make(2.5))
    assert fingerprint(make(2.0)) == fingerprint(make(2.0))


CODE: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "constant": (lambda x: x + 1, lambda x: x + 2),
    "sign of zero": (lambda x: x + 0.0, lambda x: x + -0.0),
    "attribute": (lambda x: x.sum(), lambda x: x.mean()),
    "operator": (lambda x: x + x, lambda x: x * x),
    "order": (lambda x, y: x - y, lambda x, y: y - x),
    "inner": (lambda x: [y for y in x if y > 0], lambda x: [y for y in x if y > 1]),
    "function of torch": (lambda x: torch.sin(x), lambda x: torch.cos(x)),
    "function of torch, itself": (torch.sin, torch.cos),
    "method of tensors": (torch.Tensor.sin, torch.Tensor.cos),
    "members of a set": (lambda x: x in {"a", "b"}, lambda x: x in {"a", "c"}),
    "handlers": (lambda: fails(0), lambda: fails(1)),
}  # fmt: skip


def fails(x: float) -> float:
    try:
        return 1 / x
    except ZeroDivisionError:
        return 0.0


@pytest.mark.parametrize("name", CODE)
def test_code_is_told_apart(name: str) -> None:
    one, other = CODE[name]
    assert fingerprint(one) != fingerprint(other)


def test_globals_count_where_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    functions: list[Callable[[Any], Any]] = [
        lambda x: FACTOR * x,
        lambda x: [FACTOR * y for y in x],
        lambda x: reads_it(x),
        Scaled(lambda x: FACTOR * x),
    ]
    others: list[Callable[[Any], Any]] = [lambda x: x.FACTOR, lambda x: 2.0 * x]
    before = [fingerprint(f) for f in functions], [fingerprint(f) for f in others]
    monkeypatch.setitem(globals(), "FACTOR", 2.5)
    assert all(a != fingerprint(f) for a, f in zip(before[0], functions, strict=True))
    assert before[1] == [fingerprint(f) for f in others]


def reads_it(x: Any) -> Any:
    return FACTOR * x


def test_a_module_that_cannot_be_copied_is_told_by_its_numbers() -> None:
    def normalised(weight: float) -> nn.Module:
        net = nn.utils.skip_init(nn.Linear, 2, 1, bias=False)
        nn.init.constant_(net.weight, weight)
        return nn.utils.parametrizations.weight_norm(net)

    assert fingerprint(normalised(2.0)) == fingerprint(normalised(2.0))
    assert fingerprint(normalised(2.0)) != fingerprint(normalised(2.5))


def compiled(source: Any) -> Any:
    return torch.compile(source, backend="eager")


def test_what_was_compiled_is_what_it_was_compiled_of() -> None:
    for make in (scaled_by, Net):
        one, again, other = (compiled(make(factor)) for factor in (2.0, 2.0, 2.5))
        one(torch.ones(1))
        assert fingerprint(one) == fingerprint(again) != fingerprint(other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_was_scripted_is_told_by_its_code_and_its_numbers() -> None:
    def traced(factor: float) -> Any:
        return torch.jit.trace(lambda x: factor * x, torch.ones(2))

    def module(weight: float) -> Any:
        net = nn.Linear(1, 1, bias=False)
        nn.init.constant_(net.weight, weight)
        return torch.jit.trace(net, torch.ones(1, 1))

    with lent():
        for make in (traced, module):
            assert fingerprint(make(2.0)) == fingerprint(make(2.0)) != fingerprint(make(2.5))


def test_what_only_tells_of_a_run_has_no_say() -> None:
    def with_instruments(name: str) -> Callable[[Any], Any]:
        log, lock = logging.getLogger(name), threading.Lock()

        def watched(x: Any) -> Any:
            with lock:
                log.info("%s", x)
            return 2 * x

        return watched

    assert fingerprint(with_instruments("one")) == fingerprint(with_instruments("other"))


def test_what_is_shared_is_read_once() -> None:
    nested: Any = [Scaled(1.0)]
    for _ in range(200):
        nested = [nested, nested]
    assert fingerprint(nested) == fingerprint(nested)
    itself: list[Any] = []
    itself.append(itself)
    assert fingerprint(itself) == fingerprint(itself)
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    fingerprint(deep)


def test_parts_are_named_by_the_way_to_them() -> None:
    told = fingerprints({"target": poe.FromLogDensity(scaled_by(2.0), space=poe.Real(1))})
    assert {"target", "target.fn", "target.fn.factor", "target.space"} <= told.keys()


def test_tensors_by_their_numbers_wherever_they_lie() -> None:
    base = torch.arange(6.0)
    for view in (base[::2], base[:1].expand(3), base.view(2, 3).T, base[:1].expand(1)):
        assert bytes_of(view) == bytes_of(view.clone())
    assert bytes_of(torch.tensor(1.0)) == bytes_of(torch.as_strided(base[1:2], (1,), (0,)))


ELSEWHERE = """
import torch, poe, experts
from poe.files.fingerprint import fingerprint
from functools import partial
names = frozenset(["first", "second", "third"])
def make(scale):
    class Inner(torch.nn.Module):
        table = {"a": {1, "x"}, "b": None}
        def forward(self, x):
            return scale * x.sum() if len(names & {"first", "fourth"}) else x
    return Inner()
things = [make(2.0), partial(make, 3.0), lambda x: x in {"p", "q", "r"}, object(), poe.Real(2),
          experts.Gaussian([0.0], scale=[1.0]), poe.samplers.HMC(num_steps=3), make, poe.sample]
print([fingerprint(thing) for thing in things])
"""


@pytest.mark.process
def test_another_process_says_the_same() -> None:
    root = str(Path(poe.__file__).parents[1])
    said = {
        subprocess.run(
            [sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1


def start() -> Start:
    return Start.of(torch.Generator().manual_seed(0), is_given=True)


def gaussian() -> poe.Expert:
    return experts.Gaussian([0.0, 0.0, 0.0], covariance=torch.eye(3) + 0.1)


@lent()
def rbm() -> poe.Expert:
    return experts.RBM(torch.randn(3, 2), torch.zeros(3), torch.zeros(2))


@pytest.mark.parametrize("make", [gaussian, rbm])
@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_evaluating_an_expert_does_not_make_it_another(make: Callable[[], poe.Expert]) -> None:
    """Caches of ours are no part of what an expert is."""
    x = torch.tensor([[1.0, 0.0, 1.0]])
    expert = make()
    first = sign(start(), {"target": expert * expert}, {"target": expert}, x)
    poe.sample(expert, 8, warmup=2, progress=False, generator=torch.Generator().manual_seed(0))
    expert.score(x)
    later = sign(start(), {"target": expert * expert}, {"target": expert}, x)
    fresh = make()
    newer = sign(start(), {"target": fresh * fresh}, {"target": fresh}, x)
    for one in (first, later, newer):
        for other in (first, later, newer):
            one.require("run", other.facts(), is_finished=False)


def test_a_random_function_says_nothing_that_could_be_compared() -> None:
    generator = torch.Generator().manual_seed(0)

    def noisy(x: Tensor) -> Tensor:
        return x + torch.randn(x.shape, generator=generator)

    known: Signature = sign(start(), {"fn": noisy}, {"fn": noisy}, torch.zeros(3))
    assert known.said == {}
    again = sign(start(), {"fn": noisy}, {"fn": noisy}, torch.zeros(3))
    again.require("run", known.facts(), is_finished=False)
    again.require_said("run", known.tensors(), {"fn": noisy})
