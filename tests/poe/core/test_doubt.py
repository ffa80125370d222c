"""Doubts: what they are about, and the line that their warning points at."""

from __future__ import annotations

import doctest
import functools
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import experts
import poe
from poe.core.doubt import Doubt, Kind, kinds, texts, together, warn
from tests.seeds import seeded

SHARP = poe.FromLogDensity(lambda x: -1e8 * x.square().sum(-1), space=poe.Real(2))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def of_sample() -> None:
    kernel, start = poe.samplers.MetropolisHastings(1e3), torch.zeros(2, 2)
    poe.sample(SHARP, 100, kernel=kernel, warmup=1, initial=start, progress=False)


def of_smc() -> None:
    odd = poe.FromLogDensity(
        lambda x: torch.where(x[:, 0] > 0, torch.nan, -x.square().sum(-1)), space=poe.Real(1)
    )
    poe.smc(odd, 200, generator=generator(), progress=False)


def of_smc_over_positions() -> None:
    with seeded():
        model = experts.MADE(4)
    odd = poe.FromLogDensity(
        lambda x: torch.where(x.sum(-1) == 4, torch.nan, 0.0), space=model.space
    )
    poe.smc_over_positions(model * odd, 200, generator=generator(), progress=False)


def of_log_partition() -> None:
    apart = poe.FromLogDensity(lambda x: -0.5 * (x * 200).square().sum(-1), space=poe.Real(3))
    start = experts.Gaussian([9.0, 9.0, 9.0], scale=[0.5, 0.5, 0.5])
    method = poe.normalizers.ImportanceSampling()
    poe.log_partition(apart, start=start, method=method, generator=generator(), progress=False)


def of_normalize() -> None:
    zero = torch.zeros(())
    rough = poe.LogPartition(
        zero, zero, zero, zero, "a guess", ess=1.0, doubts=(Doubt(Kind.OTHER, "rough"),)
    )
    poe.normalize(SHARP, rough)


def of_weighted_draws() -> None:
    pytest.importorskip("arviz")
    x = torch.randn(4, 50, 1, generator=generator())
    poe.Draws(x, x[..., 0], "biased", log_weights=x[..., 0]).to_arviz()


CALLS = [
    of_sample,
    of_smc,
    of_smc_over_positions,
    of_log_partition,
    of_normalize,
    of_weighted_draws,
]


def places(call: Callable[[], object]) -> list[tuple[str, int]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    trust = [w for w in caught if issubclass(w.category, poe.TrustWarning)]
    return [(w.filename, w.lineno) for w in trust]


def lines_of(function: Callable[..., Any]) -> range:
    lines, first = inspect.getsourcelines(function)
    return range(first + 1, first + len(lines))


@pytest.mark.parametrize("call", CALLS)
def test_a_warning_points_at_the_line_of_the_call(call: Callable[[], None]) -> None:
    found = places(call)
    assert found
    assert all(file == __file__ and line in lines_of(call) for file, line in found), found


@pytest.mark.parametrize("call", CALLS)
def test_so_it_does_from_within_torchs_decorators(call: Callable[[], None]) -> None:
    found = places(torch.no_grad()(call))
    assert found
    assert all(file == __file__ and line in lines_of(call) for file, line in found), found


def test_a_wrapper_of_the_users_own_is_the_caller() -> None:
    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return inner

    sample = timed(torch.no_grad()(poe.sample))
    kernel, start = poe.samplers.MetropolisHastings(1e3), torch.zeros(2, 2)
    [(file, line)] = places(
        lambda: sample(SHARP, 100, kernel=kernel, warmup=1, initial=start, progress=False)
    )
    assert file == __file__
    assert line in lines_of(timed)


def test_a_doctest_is_a_caller_though_it_runs_in_our_namespace() -> None:
    example = ">>> warn([Doubt(Kind.FEW, 'few')])\n"
    namespace = dict(vars(inspect.getmodule(warn)))
    test = doctest.DocTestParser().get_doctest(example, namespace, "poe.core.doubt", None, 0)
    [(file, _)] = places(lambda: doctest.DocTestRunner(verbose=False).run(test, clear_globs=False))
    assert file.startswith("<doctest")


def test_code_that_is_generated_for_the_package_is_not_a_caller() -> None:
    namespace: dict[str, Any] = dict(vars(inspect.getmodule(warn)))
    exec("def generated(): warn([Doubt(Kind.FEW, 'few')])", namespace)  # as a dataclass's __init__
    [(file, _)] = places(lambda: namespace["generated"]())
    assert file == __file__


def test_each_doubt_is_one_warning_and_all_of_them_can_be_one() -> None:
    doubts = [Doubt(Kind.FEW, "few"), Doubt(Kind.UNSEEN, "unseen", (3,))]
    assert len(places(lambda: warn(doubts))) == 2
    with pytest.warns(poe.TrustWarning, match="^log Z: few; unseen$") as caught:
        warn(together("log Z", doubts))
    assert len(caught) == 1
    assert together("log Z", []) == []
    assert texts(doubts) == ("few", "unseen")
    assert kinds(doubts) == {Kind.FEW, Kind.UNSEEN}
    assert doubts[1].about("x 1") == Doubt(Kind.UNSEEN, "x 1: unseen", (3,))


def test_warnings_of_trust_are_given_in_one_place() -> None:
    told = [
        path.name
        for path in Path(inspect.getfile(poe)).parent.rglob("*.py")
        if "warnings.warn(" in path.read_text() and "TrustWarning" in path.read_text()
    ]
    assert told == ["doubt.py"]
