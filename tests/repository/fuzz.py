"""Every public callable with arguments of wrong kinds and values, one at a time.

    python -m tests.repository.fuzz --calls 5000        # prints what is not as it should be

A call of `public_calls.CALLS`, in which one argument is replaced by a value of `WRONG`, or by its
own value spoiled, ends in an error of this package or in an answer without NaN; in the same answer
where the value only came in other clothes. The interpreter's own words on an argument that is
missing are right too.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import io
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import poe
from poe import samplers
from tests.repository import public_calls as public
from tests.repository.public_calls import CALLS, made, normal, split
from tests.seeds import seeded

SECONDS = 20.0
"""After so long a call hangs."""
BYTES = 12 * 2**30
"""Of address space, so that what is huge fails and troubles nobody."""

LONG = {
    "poe.testing.check_expert", "poe.testing.check_kernel", "poe.tune_tempering",
    "experts.spins.learn_denoiser", "poe.fit_exponents_by_log_score",
    "poe.fit_exponents_by_likelihood",
}  # fmt: skip
"""Whose good call takes seconds: tried by hand."""

WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "a text": lambda: "ten",
    "a number as text": lambda: "10",
    "the empty text": lambda: "",
    "bytes": lambda: b"x",
    "0": lambda: 0,
    "-1": lambda: -1,
    "1": lambda: 1,
    "2.5": lambda: 2.5,
    "-0.5": lambda: -0.5,
    "1e2": lambda: 1e2,
    "10**12": lambda: 10**12,
    "2**70": lambda: 2**70,
    "10**400": lambda: 10**400,
    "NaN": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "1e308": lambda: 1e308,
    "1e-320": lambda: 1e-320,
    "a complex number": lambda: 1j,
    "[]": list,
    "[1, 2]": lambda: [1, 2],
    "[0.5, NaN]": lambda: [0.5, float("nan")],
    "a list of texts": lambda: ["a", "b"],
    "a ragged list": lambda: [[1.0], [1.0, 2.0]],
    "[None]": lambda: [None],
    "()": lambda: (),
    "a dictionary": lambda: {"a": 1},
    "an object": object,
    "a function": lambda: lambda *arguments, **named: None,
    "the class Real": lambda: poe.Real,
    "the class MALA": lambda: samplers.MALA,
    "the class Expert": lambda: poe.Expert,
    "a kernel": lambda: samplers.MALA(0.1),
    "another space": lambda: poe.Binary(3),
    "a scalar space": lambda: poe.Real(()),
    "a module": nn.Identity,
    "a distribution": lambda: torch.distributions.Normal(0.0, 1.0),
    "an expert elsewhere": public.ising,
    "an unbound conditional": public.labelled,
    "a space's expert": lambda: poe.as_expert(torch.distributions.Normal(0.0, 1.0)),
    "np.int64(2)": lambda: np.int64(2),
    "np.float32(0.5)": lambda: np.float32(0.5),
    "a numpy array": lambda: np.array([0.5, 1.0]),
    "numpy's generator": lambda: np.random.default_rng(0),
    "tensor(2)": lambda: torch.tensor(2),
    "tensor(0.5)": lambda: torch.tensor(0.5),
    "tensor(NaN)": lambda: torch.tensor(float("nan")),
    "tensor([1.])": lambda: torch.ones(1),
    "an empty tensor": lambda: torch.zeros(0),
    "a tensor of no event": lambda: torch.zeros(0, 2),
    "a vector": lambda: normal(3),
    "a cube": lambda: normal(2, 3, 4),
    "a complex tensor": lambda: torch.zeros(2, dtype=torch.complex64),
    "a tensor of integers": lambda: torch.ones(3, 2, dtype=torch.long),
    "a tensor of truths": lambda: torch.ones(3, 2, dtype=torch.bool),
    "a sparse tensor": lambda: torch.eye(2).to_sparse(),
    "a meta tensor": lambda: torch.zeros(4, 2, device="meta"),
    "a half tensor": lambda: normal(4, 2).half(),
    "a path that is not there": lambda: Path("nowhere/at/all"),
    "a folder": Path,
    "a range": lambda: range(3),
    "an iterator": lambda: iter([1, 2]),
}


def _tensor_at(x: Tensor, value: float) -> Tensor:
    spoiled = x.detach().clone()
    spoiled.view(-1)[:1] = value if x.is_floating_point() else 10**9
    return spoiled


SPOILED: dict[str, Callable[[Tensor], Any]] = {
    "NaN in it": lambda x: _tensor_at(x, float("nan")),
    "inf in it": lambda x: _tensor_at(x, float("inf")),
    "huge": lambda x: _tensor_at(x, 1e30),
    "a row of it": lambda x: x[0] if x.ndim else x.reshape(1),
    "no rows": lambda x: x[:0] if x.ndim else x.reshape(1)[:0],
    "one dimension more": lambda x: x[None],
    "transposed": lambda x: x.T if x.ndim == 2 else x[..., None],
    "a column less": lambda x: x[..., :-1] if x.ndim else x,
    "double": lambda x: x.double(),
    "half": lambda x: x.half(),
    "integers": lambda x: x.long(),
    "complex": lambda x: x.to(torch.complex64),
    "a list": lambda x: x.tolist(),
    "a numpy array": lambda x: x.numpy(),
    "with a gradient": lambda x: x.clone().requires_grad_() if x.is_floating_point() else x,
}
"""Of a good tensor."""

CLOTHES: dict[str, Callable[[Any], Any]] = {
    "as a float": float,
    "as numpy has it": np.asarray(0).dtype.type,
    "as a tensor": torch.tensor,
}
"""A good count in other clothes: the answer is the same, or an error in words."""


USERS = (public.__file__, torch.nn.modules.module.__file__)
"""Where functions of the caller's own are: those of the good calls, and modules without forward."""


class Hangs(BaseException):
    """A call took longer than SECONDS."""


class Try(NamedTuple):
    """One argument of one callable, replaced."""

    name: str
    argument: str
    wrong: str
    call: Callable[[], Any]
    is_same: bool = False
    """Whether the answer is to be that of the good call."""

    def __str__(self) -> str:
        return f"{self.name}({self.argument}={self.wrong})"


class Fault(NamedTuple):
    """What came of a try that is not as it should be."""

    tried: Try
    kind: str
    text: str
    where: str = ""


def tries() -> Iterator[Try]:
    """Every one, in a fixed order."""
    found = public.public_callables()
    for name, good in CALLS.items():
        yield from _tries_of(name, found[name], good)
    for name, call, good in public.methods():
        yield from _tries_of(name, call, good)


def _tries_of(name: str, call: Callable[..., Any], good: dict[str, Any]) -> Iterator[Try]:
    for argument in dict.fromkeys([*good, *_parameters(call)]):
        if (name, argument) in public.NOT_REPLACED:
            continue
        for wrong, make in WRONG.items():
            yield Try(name, argument, wrong, _replaced(call, good, argument, lambda _, m=make: m()))
        if argument not in good:
            continue
        with quietly():
            value = made(good)[argument]
        if isinstance(value, Tensor):
            for wrong, spoil in SPOILED.items():
                yield Try(name, argument, wrong, _replaced(call, good, argument, spoil))
        if isinstance(value, int) and not isinstance(value, bool):
            for wrong, dress in CLOTHES.items():
                yield Try(name, argument, wrong, _replaced(call, good, argument, dress), True)


def _parameters(call: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    try:
        parameters = inspect.signature(call).parameters.values()
    except ValueError:
        return []
    return [p.name for p in parameters if p.kind not in (*kinds, inspect.Parameter.POSITIONAL_ONLY)]


def _replaced(
    call: Callable[..., Any], good: dict[str, Any], argument: str, change: Callable[[Any], Any]
) -> Callable[[], Any]:
    def run() -> Any:
        arguments = made(good)
        before = arguments.get(argument)
        is_star = argument.startswith("*")
        changed = (
            (change(before[0] if before else None), *before[1:]) if is_star else change(before)
        )
        given, named = split({**arguments, argument: changed})
        return call(*given, **named)

    return run


# --- What came of it


def judged(tried: Try) -> Fault | None:
    """What is not as it should be; None where all is well."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            with in_time(), quietly(), seeded():
                answer = tried.call()
        except poe.PoeError:
            return None
        except Hangs:
            return Fault(tried, "hangs", f"longer than {SECONDS:g} s")
        except TypeError as error:
            if _is_of_the_signature(error):
                return None
            return _raw(tried, error)
        except (Exception, SystemExit) as error:
            return _raw(tried, error)
    is_doubted = any(issubclass(each.category, poe.TrustWarning) for each in told)
    return _silent(tried, answer, is_doubted)


def _raw(tried: Try, error: BaseException) -> Fault | None:
    frames = traceback.extract_tb(error.__traceback__)
    if frames[-1].filename in USERS or isinstance(error, poe.testing.LawError):
        return None  # of a function of the caller's own, which reaches him as it is
    own = [f for f in frames if "/poe/" in f.filename or "/experts/" in f.filename]
    last = (own or frames)[-1]
    where = f"{Path(last.filename).parent.name}/{Path(last.filename).name}:{last.lineno}"
    text = (str(error).splitlines() or [""])[0][:90]
    return Fault(tried, type(error).__name__, text, where)


def _is_of_the_signature(error: TypeError) -> bool:
    said = ("missing", "unexpected keyword", "positional argument", "multiple values")
    return any(each in str(error) for each in said)


def _silent(tried: Try, answer: Any, is_doubted: bool) -> Fault | None:
    """A NaN without a word, or another answer to the same question."""
    if tried.is_same:
        name, good = tried.name, CALLS.get(tried.name)
        if good is not None:
            given, named = split(made(good))
            with quietly(), seeded():
                plain = public.public_callables()[name](*given, **named)
            if not _is_alike(answer, plain):
                return Fault(tried, "another answer", f"{answer!r}"[:60])
        return None
    is_odd = any(bool(each.isnan().any()) for each in tensors_in(answer))
    if is_odd and not is_doubted and not tried.name.endswith(public.EVALUATIONS):
        return Fault(tried, "NaN without a word", f"{answer!r}".replace("\n", " ")[:60])
    return None


def _is_alike(answer: Any, plain: Any) -> bool:
    ours, theirs = ([t for t in tensors_in(one) if t.ndim] for one in (answer, plain))
    return len(ours) == len(theirs) and all(
        one.shape == other.shape and torch.allclose(one, other, equal_nan=True)
        for one, other in zip(ours, theirs, strict=True)
    )


def tensors_in(answer: Any, depth: int = 4) -> Iterator[Tensor]:
    """Tensors of floats in what a call returned, and numbers as such."""
    if isinstance(answer, float):
        yield torch.tensor(answer)
    elif isinstance(answer, Tensor):
        yield from [answer.detach()] if answer.is_floating_point() and not answer.is_meta else []
    elif depth:
        for part in _parts(answer):
            yield from tensors_in(part, depth - 1)


def _parts(answer: Any) -> list[Any]:
    if isinstance(answer, nn.Module):
        return [*answer.parameters(), *answer.buffers()]
    if isinstance(answer, Mapping):
        return list(answer.values())
    if isinstance(answer, list | tuple):
        return list(answer)
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        return [getattr(answer, field.name, None) for field in dataclasses.fields(answer)]
    return []


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Raise Hangs after SECONDS."""

    def ring(number: int, frame: Any) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Nothing on the terminal, and files that are made where nobody looks."""
    with (
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
    ):
        yield


def sample_of(every: list[Try], count: int, seed: int) -> list[Try]:
    """So many of them, from every callable alike."""
    draw = random.Random(seed)
    shuffled = draw.sample(every, len(every))
    by_name: dict[str, list[Try]] = {}
    for each in shuffled:
        by_name.setdefault(each.name, []).append(each)
    rounds = (group[k] for k in range(len(every)) for group in by_name.values() if k < len(group))
    return [each for each, _ in zip(rounds, range(count), strict=False)]


def main() -> int:
    """Try so many, and print what is not as it should be."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--calls", type=int, default=5000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", default="", help="what is in the callable's name")
    chosen = options.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    room = BYTES if most == resource.RLIM_INFINITY else min(BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    torch.set_num_threads(1)
    every = [each for each in tries() if chosen.only in each.name]
    asked = sample_of(every, chosen.calls, chosen.seed)
    began = time.perf_counter()
    faults = []
    for each in asked:
        started = time.perf_counter()
        if (fault := judged(each)) is not None:
            faults.append(fault)
            print(f"{fault.kind:22} {each}  {fault.where}  {fault.text}", flush=True)
        if (spent := time.perf_counter() - started) > SECONDS / 2:
            print(f"slow: {each} took {spent:.0f} s", flush=True)
    spent = time.perf_counter() - began
    print(f"\n{len(faults)} of {len(asked)} calls ({len(every)} in all, {spent:.0f} s) went wrong:")
    for (kind, where), count in Counter((f.kind, f.where) for f in faults).most_common():
        print(f"{count:6} {kind:22} {where}")
    return min(len(faults), 1)


if __name__ == "__main__":
    sys.exit(main())
