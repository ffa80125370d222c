"""What is said where an optional library is not installed: the line that installs it."""

from __future__ import annotations

import pytest

from poe.core.imports import require
from tests.missing import import_without


@pytest.mark.parametrize(
    ("library", "module", "extra"),
    [
        ("sklearn", "experts.tables.anomaly_detector", "anomaly"),
        ("sklearn", "experts.boltzmann.training.rbm_features", "anomaly"),
        ("scipy", "experts.boltzmann.training.rbm_features", "anomaly"),
        ("sklearn", "experts.adapters.sklearn", "sklearn"),
        ("numpyro", "experts.adapters.numpyro", "numpyro"),
        ("pzflow", "experts.adapters.pzflow.registration", "pzflow"),
    ],
)
def test_a_module_says_what_to_install(
    library: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImportError, match=rf'pip install "product-of-experts\[{extra}\]"'):
        import_without(library, module, monkeypatch)


def test_a_library_that_is_asked_for() -> None:
    assert require("math", "plots").pi > 3
    with pytest.raises(ImportError, match=r'pip install "product-of-experts\[plots\]"'):
        require("no_such_library", "plots")
