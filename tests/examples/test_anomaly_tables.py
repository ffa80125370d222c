"""Anomalies in tables, and what is done without apt-get."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rdata

from examples.anomaly_tables import run as example
from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def write_tables(folder: Path, sources: dict[str, Any]) -> None:
    """Small tables as R would hold them; anomalies are five standard deviations away."""
    random = np.random.default_rng(0)
    for name, source in sources.items():
        labels = np.repeat([*source.anomalies, *source.left_out, "normal"], 40)
        rows = (
            random.normal(size=(len(labels), 3)) + 5.0 * np.isin(labels, source.anomalies)[:, None]
        )
        frame = pd.DataFrame(rows, columns=["a", "b", "c"])
        frame["digits"] = pd.Categorical(random.choice(["0", "1"], len(labels)))
        frame[source.label] = pd.Categorical(labels)
        rdata.write_rda(folder / f"{name}.rda", {name: frame})


def test_anomalies_in_small_tables_are_found(run: Run, tmp_path: Path) -> None:
    sources = example.SOURCES
    write_tables(tmp_path, sources)
    ran = run("anomaly_tables", "--fast", "--data", ".")
    first, *rows = ran.printed[ran.printed.index("AUROC") :].splitlines()
    columns = first.split()[1:]
    assert columns[0] == "product"
    assert columns[-3:] == ["IsolationForest", "OneClassSVM", "GaussianMixture"]
    table = {name: cells for name, *cells in (re.split(r" {2,}", row) for row in rows[:-1])}
    assert list(table) == ["breast_cancer", *sources, "mean AUROC", "mean rank"], ran.printed
    for name in sources:
        # At five standard deviations in three columns hardly a pair is in the wrong order.
        assert float(table[name][0]) > 0.99, name
    ranks = [float(cell) for cell in table["mean rank"]]
    assert sum(ranks) == pytest.approx(
        len(columns) * (len(columns) + 1) / 2, abs=0.01 * len(columns)
    )
    left, right = ran.figure.axes
    for points, column in zip(left.collections[1:], columns, strict=True):
        shown = points.get_offsets()[:, 0]
        places = columns.index(column)
        told = [float(table[name][places]) for name in ("breast_cancer", *sources)]
        # Printed to three decimals, and cut off where the logit scale ends.
        np.testing.assert_allclose(shown, np.clip(told, 0.5, 1 - 1e-4), atol=6e-4)
    names = [label.get_text() for label in right.get_yticklabels()]
    assert sorted(names) == sorted(columns)


def test_left_out_class_is_left_out_and_missing_table_is_told(tmp_path: Path) -> None:
    write_tables(tmp_path, example.SOURCES)
    shuttle = example.read(tmp_path, "Shuttle")
    assert shuttle.rows.shape == (240, 4)  # of seven classes of 40 rows
    assert shuttle.is_anomaly.sum() == 200
    assert set(shuttle.rows[:, 3]) == {0.0, 1.0}
    (tmp_path / "spam.rda").unlink()
    with pytest.raises(SystemExit, match=r"expected spam.rda in .*; leave --data out"):
        example.read(tmp_path, "spam")


def test_tables_without_apt_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"expected apt-get and dpkg .* give it by --data FOLDER"):
        example.fetch(tmp_path)
    write_tables(tmp_path, example.SOURCES)
    assert example.fetch(tmp_path) == tmp_path  # nothing is missing


def test_ranks_share_ties() -> None:
    ranks = example.mean_ranks(np.array([[0.9, 0.8, 0.8], [0.5, 0.7, 0.6]]))
    np.testing.assert_array_equal(ranks, [2.0, 1.75, 2.25])
