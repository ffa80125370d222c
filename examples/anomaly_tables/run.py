"""Anomalies in six real tables: a product of experts, each expert alone, and three detectors.

Protocol, the same for all: fit on half of the normal rows, without labels; test on the other half
and the anomalies, by the AUROC of the score; at most 2000 rows of each kind, drawn anew for each
seed. The other detectors get standardised columns; GaussianMixture has the number of components (1
to 12) of the least BIC, OneClassSVM nu = 0.1 and gamma = "scale".

The product's experts were chosen on other tables (Sonar, Vowel, Glass, Vehicle, DNA, musk, wine,
digits, PimaIndiansDiabetes); of these six, only splits by other seeds were looked at meanwhile.

The tables are R's: from the Debian packages r-cran-mlbench and r-cran-kernlab, fetched by apt-get
(which needs no root and installs nothing), or from a folder that holds their .rda files.

    python -m examples.anomaly_tables [--fast] [--seeds 10] [--data FOLDER] [--output FIGURE.png]
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rdata
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from examples.common import CACHE, fetch_debian, options
from experts.tables import ProductDetector

Array = NDArray[np.float64]
PACKAGES = ("r-cran-mlbench", "r-cran-kernlab")
MAX_ROWS = 2000
OTHERS = ("IsolationForest", "OneClassSVM", "GaussianMixture")

RULE = "#cfcabd"
TICKS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
STYLES: dict[str, dict[str, Any]] = {
    "product": {"color": "#152a52", "marker": "o", "s": 150, "zorder": 2},
    "nearest": {"color": "#5b9bd5", "marker": "s", "s": 40, "zorder": 3},
    "half_whitened": {"color": "#3aa6a0", "marker": "P", "s": 52, "zorder": 3},
    "relative": {"color": "#8f8ad0", "marker": "X", "s": 52, "zorder": 3},
    "mixture": {"color": "#7fb069", "marker": "h", "s": 52, "zorder": 3},
    "IsolationForest": {"color": "#a0522d", "marker": "^", "s": 46, "zorder": 3},
    "OneClassSVM": {"color": "#e08e45", "marker": "v", "s": 46, "zorder": 3},
    "GaussianMixture": {"color": "#c94f4f", "marker": "D", "s": 36, "zorder": 3},
}


class Source(NamedTuple):
    """The column that holds the labels, which of them are anomalies, and which are left out."""

    label: str
    anomalies: tuple[str, ...]
    left_out: tuple[str, ...] = ()


SOURCES = {
    # As in the collection ODDS: the small classes against Rad.Flow, without the large class High.
    "Shuttle": Source(
        "Class", ("Fpv.Close", "Fpv.Open", "Bypass", "Bpv.Close", "Bpv.Open"), left_out=("High",)
    ),
    # As in ODDS too: the three smallest classes.
    "Satellite": Source("classes", ("cotton crop", "damp grey soil", "vegetation stubble")),
    "LetterRecognition": Source("lettr", ("X", "Y", "Z")),
    "spam": Source("type", ("spam",)),
    "Ionosphere": Source("Class", ("bad",)),
}


class Table(NamedTuple):
    """Rows (n, d), which of them are anomalies (n,), and what these are called."""

    rows: Array
    is_anomaly: NDArray[np.bool_]
    anomalies: str


class Split(NamedTuple):
    """What detectors are fitted to, and what they are tested on."""

    train: Array
    test: Array
    is_anomaly: NDArray[np.bool_]


def fetch(cache: Path) -> Path:
    """Download and unpack the Debian packages into `cache`, unless they are there."""
    if all(_files(cache, name) for name in SOURCES):
        return cache
    by_hand = (
        "put Shuttle.rda, Satellite.rda, LetterRecognition.rda, Ionosphere.rda (R package mlbench) "
        "and spam.rda (kernlab) into a folder and give it by --data FOLDER"
    )
    fetch_debian(PACKAGES, cache, by_hand)
    return cache


def read(folder: Path, name: str) -> Table:
    """One of R's tables; what R holds as a factor of digits is read as numbers."""
    files = _files(folder, name)
    if not files:
        raise SystemExit(
            f"expected {name}.rda in {folder}, found none; leave --data out to download it"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # attributes that only R knows
        frame = rdata.read_rda(files[0])[name]
    source = SOURCES[name]
    frame = frame[~frame[source.label].isin(source.left_out)]
    is_anomaly = frame.pop(source.label).isin(source.anomalies).to_numpy(dtype=bool)
    return Table(frame.astype(str).to_numpy(dtype=float), is_anomaly, ", ".join(source.anomalies))


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(folder.rglob(f"{name}.rda"))


def tables(folder: Path) -> dict[str, Table]:
    """The six tables by name."""
    cancer = load_breast_cancer()
    first = {"breast_cancer": Table(cancer.data, cancer.target == 0, "malignant")}
    return first | {name: read(folder, name) for name in SOURCES}


def split(table: Table, max_rows: int, seed: int) -> Split:
    """Half of the normal rows to fit; the other half and the anomalies to test."""
    random = np.random.default_rng(seed)
    normal = random.permutation(table.rows[~table.is_anomaly])
    anomalies = random.permutation(table.rows[table.is_anomaly])[:max_rows]
    half = len(normal) // 2
    train, test = normal[:half][:max_rows], normal[half:][:max_rows]
    is_anomaly = np.arange(len(test) + len(anomalies)) >= len(test)
    return Split(train, np.concatenate([test, anomalies]), is_anomaly)


def least_bic(rows: Array, seed: int) -> GaussianMixture:
    """Full covariances, as many components as the Bayesian information criterion asks for."""
    most = min(12, len(rows) // 2)
    mixtures = [
        GaussianMixture(count, reg_covar=1e-3, random_state=seed).fit(rows)
        for count in range(1, most + 1)
    ]
    return min(mixtures, key=lambda mixture: mixture.bic(rows))


def others(train: Array, seed: int) -> dict[str, BaseEstimator]:
    """The other detectors, fitted to standardised columns."""
    scaler = StandardScaler().fit(train)
    standardised = scaler.transform(train)
    detectors = (
        IsolationForest(random_state=seed).fit(standardised),
        OneClassSVM(gamma="scale", nu=0.1).fit(standardised),
        least_bic(standardised, seed),
    )
    return {
        name: make_pipeline(scaler, detector)
        for name, detector in zip(OTHERS, detectors, strict=True)
    }


def scores(data: Split, seed: int) -> dict[str, Array]:
    """Each detector's score of the test rows, higher for what is more normal."""
    detector = ProductDetector(random_state=seed).fit(data.train)
    said = detector.contributions(data.test)
    found = {"product": said.sum(1), **dict(zip(detector.product_.names, said.T, strict=True))}
    for name, other in others(data.train, seed).items():
        found[name] = other.score_samples(data.test)
    return found


def compare(table: Table, seeds: range, max_rows: int) -> dict[str, Array]:
    """AUROC of each detector, one for each seed."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        data = split(table, max_rows, seed)
        for name, score in scores(data, seed).items():
            found.setdefault(name, []).append(roc_auc_score(data.is_anomaly, -score))
    return {name: np.array(values) for name, values in found.items()}


def mean_ranks(means: Array) -> Array:
    """Rank in each table (row), 1 for the highest AUROC, ties shared; averaged over tables."""
    higher = (means[:, None, :] > means[:, :, None]).sum(-1)
    equal = (means[:, None, :] == means[:, :, None]).sum(-1)
    return (higher + (equal + 1) / 2).mean(0)


def averages(results: dict[str, dict[str, Array]]) -> Array:
    """AUROC averaged over seeds: (n_tables, n_detectors)."""
    return np.array([[each.mean() for each in found.values()] for found in results.values()])


def print_table(results: dict[str, dict[str, Array]]) -> None:
    """One row for each table, one column for each detector, and their means."""
    names, means = list(next(iter(results.values()))), averages(results)
    width = max(map(len, [*results, "mean AUROC"]))

    def line(title: str, cells: list[str]) -> str:
        columns = zip(cells, names, strict=True)
        return f"{title:<{width}}" + "".join(f"{c:>{max(len(n), 7) + 2}}" for c, n in columns)

    print(line("AUROC", names))
    for title, values in zip(results, means, strict=True):
        print(line(title, [f"{value:.3f}" for value in values]))
    print(line("mean AUROC", [f"{value:.3f}" for value in means.mean(0)]))
    print(line("mean rank", [f"{value:.2f}" for value in mean_ranks(means)]))


def draw_figure(results: dict[str, dict[str, Array]], path: Path) -> None:
    """Left: AUROC of each detector in each table. Right: their mean ranks."""
    names, means = list(next(iter(results.values()))), averages(results)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10.5, 4.4), width_ratios=(2.1, 1), layout="constrained"
    )
    shown = means.clip(0.5, 1 - 1e-4)  # the logit scale has no place for 1
    height = np.arange(len(results))[::-1]
    left.hlines(height, shown.min(1), shown.max(1), color=RULE, linewidth=1.5, zorder=1)
    for name, values in zip(names, shown.T, strict=True):
        left.scatter(values, height, **STYLES[name], linewidths=0)
    left.set(xscale="logit", xlabel="AUROC, mean over seeds (logit scale)")
    left.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    left.set_xticks([], minor=True)
    left.set_yticks(height, list(results))

    ranks = mean_ranks(means)
    worst_first = np.argsort(-ranks, kind="stable")
    right.hlines(range(len(names)), 0, ranks[worst_first], color=RULE, linewidth=1.5, zorder=1)
    for y, i in enumerate(worst_first):
        right.scatter(ranks[i], y, **STYLES[names[i]], linewidths=0)
        right.text(ranks[i] + 0.45, y, f"{ranks[i]:.2f}", va="center", fontsize=9)
    right.set_yticks(range(len(names)), [names[i] for i in worst_first])
    right.set(xlabel="mean rank (1 is best)", xlim=(0, len(names)))
    for axis in (left, right):
        axis.tick_params(axis="y", length=0)
        axis.margins(y=0.09)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(RULE)
    figure.savefig(path, dpi=110, facecolor="white")
    plt.close(figure)


def main() -> None:
    parser = options(
        __doc__, fast="one seed, at most 300 rows of a kind", output="anomaly_tables.png"
    )
    parser.add_argument("--data", type=Path, help="a folder with the .rda files")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()

    start = time.perf_counter()
    seeds = range(1 if arguments.fast else arguments.seeds)
    max_rows = 300 if arguments.fast else MAX_ROWS
    results = {}
    for name, table in tables(arguments.data or fetch(CACHE / "r-tables")).items():
        n, d = table.rows.shape
        print(f"{name} ({n} x {d}), anomalies: {table.anomalies}", flush=True)
        results[name] = compare(table, seeds, max_rows)
    print_table(results)
    draw_figure(results, arguments.output)
    print(f"wrote {arguments.output} after {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
