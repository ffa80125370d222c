"""What holds for all tests: one thread, global generators at rest, and markers that are true.

The CPU seconds of each test are measured, those of its subprocesses included and those of fixtures
left out, which may be shared. `--cpu-seconds` prints them by file.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for subprocesses

import numpy as np
import pytest
import torch

from tests.seeds import seeded

torch.set_num_threads(1)

SLOW = ("law", "example", "page", "process", "compiled")
REPORTED, FAILED = 1.0, 3.0
"""CPU seconds of a test that is not slow: above the first it is named, above the second it fails
where the environment says CI."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu-seconds", action="store_true", help="print the CPU seconds by file")


# --- Markers


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever has one of the markers of SLOW is `slow`."""
    for item in items:
        if any(item.get_closest_marker(name) for name in SLOW):
            item.add_marker("slow")


_elapsed = pytest.StashKey[Callable[[], float]]()
_running = pytest.StashKey[pytest.Item]()


# --- Global generators


class GlobalGenerators(NamedTuple):
    torch: bytes
    numpy: tuple[bytes, int]
    has_jax: bool
    """Importing jax draws from numpy's (in jax/_src/clusters/k8s_cluster.py)."""

    @classmethod
    def now(cls) -> GlobalGenerators:
        _, key, position, *_ = np.random.get_state(legacy=True)
        state = torch.random.get_rng_state().numpy().tobytes()
        return cls(state, (key.tobytes(), int(position)), "jax" in sys.modules)  # type: ignore[union-attr]

    def moved(self) -> str | None:
        """What has moved since, and the remedy."""
        after = GlobalGenerators.now()
        if after.torch != self.torch:
            library = "torch"
        elif after.numpy != self.numpy and after.has_jax == self.has_jax:
            library = "numpy"
        else:
            return None
        return (
            f"moved the global generator of {library}, so that other tests depend on it: pass a "
            "generator, or make networks under `with seeded():` of tests/seeds.py"
        )


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    before = GlobalGenerators.now()
    report: pytest.CollectReport = yield  # type: ignore[assignment]
    if report.passed and isinstance(collector, pytest.Module) and (text := before.moved()):
        report.outcome, report.longrepr = "failed", f"importing {collector.nodeid} {text}"
    return report  # type: ignore[return-value]


@contextmanager
def generators_at_rest(what: str, item: pytest.Item) -> Iterator[None]:
    """Fails where they move; examples and pages are users' code, for which they are put back."""
    if any(item.get_closest_marker(name) for name in ("example", "page")):
        with seeded():
            yield
        return
    before = GlobalGenerators.now()
    yield
    if text := before.moved():
        pytest.fail(f"{what} {text}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Iterator[None]:
    with generators_at_rest(f"the fixture {fixturedef.argname}", request.session.stash[_running]):
        return (yield)


# --- CPU seconds


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    start = _cpu_seconds()
    with generators_at_rest("the test", item):
        value = yield
    seconds = _cpu_seconds() - start
    if item.get_closest_marker("slow") is None and seconds > REPORTED:
        item.user_properties.append(("unmarked seconds", seconds))
        if seconds > FAILED and os.environ.get("CI"):
            pytest.fail(_too_long(item.nodeid, seconds), pytrace=False)
    return value  # type: ignore[return-value]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """All of it, with setup and teardown, goes to the last report of the test."""
    start, item.session.stash[_running] = _cpu_seconds(), item
    item.stash[_elapsed] = lambda: _cpu_seconds() - start
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if call.when == "teardown":
        report.user_properties.append(("cpu seconds", item.stash[_elapsed]()))
    return report  # type: ignore[return-value]


def _too_long(nodeid: str, seconds: float) -> str:
    return f"{nodeid} took {seconds:.1f} CPU seconds: make it shorter, or give it a marker of SLOW"


# --- What is said at the end


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = [
        report
        for kind in terminalreporter.stats.values()
        for report in kind
        if isinstance(report, pytest.TestReport)
    ]
    found = [(dict(report.user_properties), report.nodeid) for report in reports]
    key = "unmarked seconds"
    long = {nodeid: said[key] for said, nodeid in found if key in said}
    for nodeid, seconds in sorted(long.items(), key=lambda pair: -pair[1]):
        terminalreporter.write_line(_too_long(nodeid, seconds))
    if config.getoption("--cpu-seconds"):
        by_file: dict[str, list[float]] = defaultdict(list)
        for said, nodeid in found:
            if "cpu seconds" in said:
                by_file[nodeid.partition("::")[0]].append(said["cpu seconds"])
        terminalreporter.section("CPU seconds")
        for file, times in sorted(by_file.items(), key=lambda pair: -sum(pair[1])):
            terminalreporter.write_line(f"{sum(times):8.1f} of {len(times):5} tests  {file}")
        total = sum(map(sum, by_file.values()))
        terminalreporter.write_line(f"{total:8.1f} in all; to import and collect not counted")
    _say_what_has_no_browser(terminalreporter)


def _say_what_has_no_browser(terminalreporter: Any) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    unseen = sum("Chromium" in str(report.longrepr) for report in skipped)
    if unseen:
        terminalreporter.write_line(f"without Chromium {unseen} tests of the studio were skipped")
