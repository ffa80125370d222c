"""The examples, and the README's code, run and print what they promise."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _run(*arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_compose_2d_agrees_with_quadrature(tmp_path: Path) -> None:
    script = ROOT / "examples" / "compose_2d.py"
    printed = _run(str(script), "--fast", "--output", "figure.png", cwd=tmp_path)

    row = r"^(a|b|AND|OR|NOT) +(-?[\d.]+) +([\d.]+) +([\d.]+) +(.+)$"
    table = {name: rest for name, *rest in re.findall(row, printed, flags=re.MULTILINE)}
    assert list(table) == ["a", "b", "AND", "OR", "NOT"], printed
    for name, (_, z_exact, z_mala, guarantee) in table.items():
        # The largest of five standard normals: beyond 4 once in three thousand tables of five.
        assert float(z_exact) < 4.0, name
        assert float(z_mala) < 4.0, name
        assert guarantee == "asymptotically exact"
    # The ring's own formula; the bar and the mixture are normalised. Printed to three decimals.
    ring = math.log((2 * math.pi) ** 1.5 * 2.0 * 0.35)
    for name, log_partition in (("a", ring), ("b", 0.0), ("OR", 0.0)):
        assert float(table[name][0]) == pytest.approx(log_partition, abs=0.001)
    assert (tmp_path / "figure.png").stat().st_size > 50_000


def test_many_modes_are_found_in_their_proportions(tmp_path: Path) -> None:
    script = ROOT / "examples" / "many_modes.py"
    printed = _run(str(script), "--fast", "--output", "figure.png", cwd=tmp_path)

    row = r"^(MALA, from one mode|poe.sample|poe.smc) +([\d.]+) +[\d.]+   asymptotically exact"
    found = {name: float(value) for name, value in re.findall(row, printed, flags=re.MULTILINE)}
    assert list(found) == ["MALA, from one mode", "poe.sample", "poe.smc"], printed
    assert found["MALA, from one mode"] > 0.5  # what the others are there for
    # 100 independent draws have a mean total variation of 0.1 here; the fast run is worth more.
    assert found["poe.sample"] < 0.1
    assert found["poe.smc"] < 0.1
    value, error = re.findall(r"^log Z by poe.smc: (\S+) \+- (\S+)", printed, re.MULTILINE)[0]
    assert abs(float(value)) < 4 * float(error)
    assert (tmp_path / "figure.png").stat().st_size > 50_000


def test_readme_taste_runs(tmp_path: Path) -> None:
    taste = "\n".join(re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
    code = tmp_path / "taste.py"
    code.write_text(taste + "\nprint(draws.guarantee, tuple(draws.samples.shape[2:]))\n")
    assert _run(str(code), cwd=tmp_path).split("\n")[-2] == "asymptotically exact (1,)"
    assert len(taste.splitlines()) <= 24


def test_readme_commands_install_tested_versions() -> None:
    blocks = re.findall(r"^<!-- (?:demo|test) command -->\n```sh\n(.+)\n```$", README, re.MULTILINE)
    assert len(blocks) == 2
    for command in blocks:
        assert " -c constraints.txt " in command
