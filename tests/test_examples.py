"""The examples, and the README's code, run and print what they promise."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rdata

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


def test_concepts_are_trained_apart(tmp_path: Path) -> None:
    script = ROOT / "examples" / "concepts" / "train.py"
    printed = _run(str(script), "--fast", "--threads", "1", "--weights", "new", cwd=tmp_path)

    trained = re.findall(r"^(\w+): \d+ updates", printed, flags=re.MULTILINE)
    weights = ROOT / "examples" / "concepts" / "weights"
    new, shipped = (
        {path.stem for path in folder.glob("*.safetensors")}
        for folder in (tmp_path / "new", weights)
    )
    assert set(trained) == new == shipped


def test_concepts_compose(tmp_path: Path) -> None:
    script = ROOT / "examples" / "concepts" / "compose.py"
    arguments = ("--fast", "--threads", "1", "--output", "figure.png")
    printed = _run(str(script), *arguments, cwd=tmp_path)

    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    table = {tuple(row[:2]): row for row in rows}
    for group in ("seen", "held out"):
        assert ("AND", group) in table
        assert ("plain product", group) in table
    places = {row[0]: float(row[1]) for row in rows if len(row) == 4 and row[0] != "three objects"}
    # 12 places: of p(x) alone, an object is in one cell of 64 some 5 times in 100.
    assert places["product of three places"] >= 75
    assert places["p(x) alone"] <= 50
    assert re.search(r"^AND: .*asymptotically exact", printed, re.MULTILINE)
    assert re.search(r"^AND, unadjusted: .*biased", printed, re.MULTILINE)
    assert (tmp_path / "figure.png").stat().st_size > 50_000


def test_deep_digits_are_learned_and_bounded_from_below(tmp_path: Path) -> None:
    script = ROOT / "examples" / "deep_digits.py"
    printed = _run(str(script), "--fast", "--output", "figure.png", cwd=tmp_path)

    row = r"^(pixels by themselves|RBM|deep Boltzmann machine) +(-[\d.]+) *(-[\d.]+)?$"
    found = {name: cells for name, *cells in re.findall(row, printed, flags=re.MULTILINE)}
    assert list(found) == ["pixels by themselves", "RBM", "deep Boltzmann machine"], printed
    pixels, rbm, deep = (float(exact) for exact, _ in found.values())
    assert pixels + 2 < min(rbm, deep)  # 297 digits of a standard deviation of some 4 nats each
    assert float(found["RBM"][1]) == rbm
    assert deep - 0.2 < float(found["deep Boltzmann machine"][1]) <= deep
    assert "36 draws of the deep Boltzmann machine: exact" in printed
    assert (tmp_path / "figure.png").stat().st_size > 20_000


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


def test_learned_exponents_count_what_is_shared_once(tmp_path: Path) -> None:
    script = ROOT / "examples" / "learned_exponents.py"
    printed = _run(str(script), "--fast", "--output", "figure.png", cwd=tmp_path)

    number = r"(-?[\d.]+)"
    row = (
        rf"^learned +{number} \+- {number} +{number} \+- {number} +{number} \+- {number} +{number}"
    )
    found = [float(cell) for cell in re.findall(row, printed, flags=re.MULTILINE)[0]]
    weights, errors, score = found[0:6:2], found[1:6:2], found[6]
    assert weights[2] + 4 * errors[2] < 1  # not the third time over, as in the product as it is
    as_given = float(re.findall(rf"^as they are +1 +1 +1 +{number}", printed, re.MULTILINE)[0])
    assert score > as_given
    assert (tmp_path / "figure.png").stat().st_size > 30_000


def test_words_by_agreement_are_those_of_the_product(tmp_path: Path) -> None:
    stems = [c + v + d for c in "bdfhjlmnprst" for v in "aeiou" for d in "klmn"]
    names = [f"{stem}{end}".title() for stem in stems for end in ("er", "o", "ert", "is")]
    words = [f"{stem}{end}" for stem in stems for end in ("er", "ing", "ed", "ish", "le")]
    (tmp_path / "words").write_text("\n".join(names + words))
    script = ROOT / "examples" / "words_by_agreement.py"
    printed = _run(str(script), "--fast", "--words", "words", cwd=tmp_path)

    number = r"(-?[\d.]+)"
    row = rf"^(rejection|SMC|SMC and 3 moves) +{number} \+- {number} +{number} \+- {number}"
    table = {name: list(map(float, rest)) for name, *rest in re.findall(row, printed, re.MULTILINE)}
    assert list(table) == ["rejection", "SMC", "SMC and 3 moves"], printed
    exact = table.pop("rejection")
    for name, found in table.items():
        for place in (0, 2):  # log Z, and the mean length
            error = math.hypot(found[place + 1], exact[place + 1])
            # Printed to two decimals.
            assert abs(found[place] - exact[place]) < 4 * error + 0.02, name
    shown = re.findall(r"^(?:rejection|letter by letter|SMC) +((?:[a-z]+ ?)+)$", printed, re.M)
    assert len(shown) >= 3, printed
    assert all(w.endswith("er") and "k" in w for line in shown for w in line.split()), printed


def test_rbms_learn_digits(tmp_path: Path) -> None:
    script = ROOT / "examples" / "rbm_digits.py"
    printed = _run(str(script), "--fast", "--output", "figure.png", cwd=tmp_path)

    row = r"^(independent pixels|RBM, \d+ hidden units) +(-[\d.]+) +(exact|[\d.]+)"
    found = re.findall(row, printed, flags=re.MULTILINE)
    assert [name for name, *_ in found] == [
        "independent pixels", "RBM, 14 hidden units", "RBM, 100 hidden units",
    ]  # fmt: skip
    pixels, _, large = (float(score) for _, score, _ in found)
    assert large > pixels + 1.0
    assert float(found[2][2]) < 0.1
    lower, upper = re.findall(r"^bounds on its log Z: (\S+) to (\S+)", printed, re.MULTILINE)[0]
    assert 0 <= float(upper) - float(lower) < 1.0
    assert (tmp_path / "figure.png").stat().st_size > 30_000


def test_denoising_beats_what_is_not_told_the_noise_either(tmp_path: Path) -> None:
    script = ROOT / "examples" / "denoise_ising.py"
    printed = _run(str(script), "--fast", "--output", "figure.png", cwd=tmp_path)

    names = "noisy|most probable|posterior mean|belief|median|opening"
    row = rf"^({names})[^0-9]* ([\d.]+) +([\d.]+) +([\d.]+)$"
    table = {
        name: [float(cell) for cell in cells]
        for name, *cells in re.findall(row, printed, flags=re.MULTILINE)
    }
    assert len(table) == 6, printed
    for ours in ("most probable", "posterior mean", "belief"):
        for theirs in ("noisy", "median", "opening"):
            pairs = zip(table[ours], table[theirs], strict=True)
            assert all(mine < other for mine, other in pairs), (ours, theirs)
    for learned in re.findall(r"flip probability ([\d.]+),", printed):
        assert 0.07 < float(learned) < 0.13  # 0.1 in truth, and the prior is not quite right
    assert (tmp_path / "figure.png").stat().st_size > 20_000


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write_tables(folder: Path, sources: dict[str, Any]) -> None:
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


def test_anomalies_in_small_tables_are_found(tmp_path: Path) -> None:
    sources = _load("anomaly_tables").SOURCES
    _write_tables(tmp_path, sources)
    script = str(ROOT / "examples" / "anomaly_tables.py")
    printed = _run(script, "--fast", "--data", ".", "--output", "figure.png", cwd=tmp_path)

    first, *rows = printed[printed.index("AUROC") :].splitlines()
    columns = first.split()[1:]
    assert columns[0] == "product"
    assert columns[-3:] == ["IsolationForest", "OneClassSVM", "GaussianMixture"]
    table = {name: cells for name, *cells in (re.split(r" {2,}", row) for row in rows[:-1])}
    assert list(table) == ["breast_cancer", *sources, "mean AUROC", "mean rank"], printed
    for name in sources:
        # At five standard deviations in three columns hardly a pair is in the wrong order.
        assert float(table[name][0]) > 0.99, name
    ranks = [float(cell) for cell in table["mean rank"]]
    assert sum(ranks) == pytest.approx(
        len(columns) * (len(columns) + 1) / 2, abs=0.01 * len(columns)
    )
    assert (tmp_path / "figure.png").stat().st_size > 20_000


def test_left_out_class_is_left_out_and_missing_table_is_told(tmp_path: Path) -> None:
    example = _load("anomaly_tables")
    _write_tables(tmp_path, example.SOURCES)
    shuttle = example.read(tmp_path, "Shuttle")
    assert shuttle.rows.shape == (240, 4)  # of seven classes of 40 rows
    assert shuttle.is_anomaly.sum() == 200
    assert set(shuttle.rows[:, 3]) == {0.0, 1.0}
    (tmp_path / "spam.rda").unlink()
    with pytest.raises(SystemExit, match=r"expected spam.rda in .*; leave --data out"):
        example.read(tmp_path, "spam")


def test_tables_without_apt_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = _load("anomaly_tables")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"expected apt-get and dpkg .* give it by --data FOLDER"):
        example.fetch(tmp_path)
    _write_tables(tmp_path, example.SOURCES)
    assert example.fetch(tmp_path) == tmp_path  # nothing is missing


def test_ranks_share_ties() -> None:
    ranks = _load("anomaly_tables").mean_ranks(np.array([[0.9, 0.8, 0.8], [0.5, 0.7, 0.6]]))
    np.testing.assert_array_equal(ranks, [2.0, 1.75, 2.25])


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
