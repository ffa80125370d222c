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


def test_readme_taste_runs(tmp_path: Path) -> None:
    (taste,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    code = tmp_path / "taste.py"
    code.write_text(taste + "\nprint(draws.guarantee, tuple(draws.samples.shape[2:]))\n")
    assert _run(str(code), cwd=tmp_path).split("\n")[-2] == "asymptotically exact (1,)"
    assert len(taste.splitlines()) <= 16


def test_readme_commands_install_tested_versions() -> None:
    blocks = re.findall(r"^<!-- (?:demo|test) command -->\n```sh\n(.+)\n```$", README, re.MULTILINE)
    assert len(blocks) == 2
    for command in blocks:
        assert " -c constraints.txt " in command
