"""A fixed sample of the calls of `fuzz`, and that each public callable has a line there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import poe
from tests.repository import fuzz, public_calls as public
from tests.repository.fuzz import Try, judged


def test_every_public_callable_has_a_line() -> None:
    assert not list(public.missing())


def test_no_line_is_of_what_is_gone() -> None:
    found = public.public_callables()
    known = {*public.CALLS, *public.RECORDS, *public.BASES, *public.NO_ARGUMENTS}
    assert not known - {*found, "poe.GaussianFactor", "poe.testing.LawError"}


@pytest.mark.slow
@pytest.mark.parametrize("name", public.CALLS)
def test_a_good_call_is_answered(name: str) -> None:
    with fuzz.quietly(), fuzz.seeded():
        given, named = public.split(public.made(public.CALLS[name]))
        public.public_callables()[name](*given, **named)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_sample_of_wrong_arguments_ends_in_words_or_an_answer(seed: int) -> None:
    tries = [each for each in fuzz.tries() if each.name not in fuzz.LONG]
    faults = [fault for each in fuzz.sample_of(tries, 400, seed) if (fault := judged(each))]
    assert not faults, "\n".join(f"{f.kind} {f.tried} {f.where} {f.text}" for f in faults)


def _raises(error: Exception) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (_raises(AttributeError("'int' object has no attribute 'space'")), "AttributeError"),
        (_raises(RuntimeError("shapes cannot be multiplied")), "RuntimeError"),
        (_raises(ZeroDivisionError()), "ZeroDivisionError"),
        (_raises(TypeError("len() of a 0-d tensor")), "TypeError"),
        (lambda: torch.tensor(math.nan), "NaN without a word"),
        (lambda: {"loss": [math.nan]}, "NaN without a word"),
    ],
)
def test_what_is_wrong_is_seen(call: Callable[[], Any], kind: str) -> None:
    fault = judged(Try("a call", "x", "None", call))
    assert fault is not None
    assert fault.kind == kind


@pytest.mark.parametrize(
    "call",
    [
        _raises(poe.ShapeError("expected x of shape (2,), got (3,)")),
        _raises(TypeError("f() missing 1 required positional argument: 'x'")),
        lambda: torch.tensor(-math.inf),
        lambda: None,
    ],
)
def test_what_is_right_is_not_accused(call: Callable[[], Any]) -> None:
    assert judged(Try("a call", "x", "None", call)) is None


def test_a_hang_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 0.05)

    def forever() -> None:
        while True:
            pass

    fault = judged(Try("a call", "x", "None", forever))
    assert fault is not None
    assert fault.kind == "hangs"
