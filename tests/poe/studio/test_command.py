"""``python -m poe studio``, as far as it goes without serving."""

from __future__ import annotations

import sys

import pytest

from poe.cli import main


def test_help_shows_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["studio", "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "python -m poe studio --port 9000 --no-browser" in printed
    assert 'pip install "product-of-experts[studio]"' in printed


@pytest.mark.parametrize("missing", ["nicegui", "matplotlib"])
def test_a_missing_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("page", "controls", "results"):
        monkeypatch.delitem(sys.modules, f"poe.studio.{name}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as stopped:
        main(["studio", "--no-browser"])
    assert stopped.value.code == (
        f'python -m poe studio needs {missing}: pip install "product-of-experts[studio]"'
    )
