"""The README's code runs, and its commands install what was tested."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.page
def test_the_taste_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    taste = "\n".join(re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
    names: dict[str, Any] = {"__name__": "taste"}
    exec(compile(taste, "README.md", "exec"), names)
    assert names["draws"].guarantee == "asymptotically exact"
    assert tuple(names["draws"].samples.shape[2:]) == (1,)
    assert len(taste.splitlines()) <= 24


def test_commands_install_tested_versions() -> None:
    blocks = re.findall(r"^<!-- (?:demo|test) command -->\n```sh\n(.+)\n```$", README, re.MULTILINE)
    assert len(blocks) == 2
    for command in blocks:
        assert " -c constraints.txt " in command
