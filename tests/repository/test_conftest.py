"""What tests/conftest.py holds all tests to: markers that are true, generators at rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.seeds import seeded

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = """
import time

import numpy as np
import pytest
import torch

from tests.seeds import seeded


def last(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_lasts():
    last(0.2)


@pytest.mark.law
def test_lasts_and_marked():
    last(0.2)


def test_torch():
    torch.rand(1)


def test_numpy():
    np.random.rand()


@pytest.fixture
def made():
    return torch.rand(1)


def test_fixture(made):
    pass


def test_seeded():
    with seeded():
        torch.rand(1)
        np.random.rand()


@pytest.mark.example
def test_of_a_user():
    torch.rand(1)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A suite under the same conftest, of thresholds that are soon reached."""
    pytester.makeconftest(CONFTEST.read_text().replace("= 1.0, 3.0", "= 0.05, 0.1"))
    pytester.makeini("[pytest]\nmarkers =\n  slow\n  law\n  example\n")
    pytester.makepyfile(TESTS)
    return pytester


def test_a_long_test_without_a_marker_fails_in_ci_alone(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "*test_lasts took 0.* CPU seconds: make it shorter, or give it a marker*"
    monkeypatch.delenv("CI", raising=False)
    result = suite.runpytest("-k", "lasts")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([words])
    monkeypatch.setenv("CI", "true")
    result = suite.runpytest("-k", "lasts")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([words])


@seeded()
def test_who_moves_a_global_generator_fails(suite: pytest.Pytester) -> None:
    result = suite.runpytest("-k", "not lasts")
    result.assert_outcomes(passed=2, failed=2, errors=1)
    for library in ("the test moved the global generator of torch", "*of numpy", "*fixture made*"):
        result.stdout.fnmatch_lines([f"*{library}*"])


@seeded()
def test_an_import_that_moves_one_is_an_error(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_import="import torch\nx = torch.rand(1)\ndef test(): pass\n")
    result = suite.runpytest("test_import.py")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["importing test_import.py moved the global generator of torch*"])


def test_markers_imply_slow(suite: pytest.Pytester) -> None:
    suite.runpytest("-m", "slow").assert_outcomes(passed=2, deselected=5)
