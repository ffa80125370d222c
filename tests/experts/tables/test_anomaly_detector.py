"""The detector: scikit-learn's own checks, and what its product of experts says."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.utils.estimator_checks import parametrize_with_checks

import poe
from experts.tables.anomaly_detector import ProductDetector, _half_whitening, _mixture
from tests.seeds import seeded


def _rows(n: int = 120, d: int = 3, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n, d))


def _two_clusters() -> list[NDArray[np.float64]]:
    """Ninety rows and ten, far apart, of correlated columns whose scales differ by a hundred."""
    mix = np.array([[1.0, 0.0, 0.0], [5.0, 3.0, 0.0], [-20.0, 40.0, 100.0]])
    many, few = _rows(90) @ mix.T, _rows(10, seed=1) @ (0.5 * mix[::-1]).T
    return [many, few + 2000.0]


def _floored(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return ledoit_wolf(rows)[0] + 1e-6 * np.eye(rows.shape[1])


def test_half_whitening_divides_by_the_square_root_of_standard_deviations() -> None:
    """W of S = V Λ V' has W'W = S^(-1/2), and what it makes has the covariance Λ^(1/2)."""
    rows = _two_clusters()[0]
    W = _half_whitening(torch.tensor(rows)).weight.numpy()
    variances, axes = np.linalg.eigh(_floored(rows))
    root = axes @ np.diag(variances**-0.5) @ axes.T
    np.testing.assert_allclose(W.T @ W, root, rtol=1e-9, atol=0)
    made = W @ _floored(rows) @ W.T
    np.testing.assert_allclose(made, np.diag(variances**0.5), rtol=0, atol=1e-9 * made.max())
    assert variances.max() > 50 * variances.min()  # else half is as good as full


def test_clusters_weigh_as_many_rows_as_they_have_and_lean_on_the_pooled_covariance() -> None:
    """(n_c C_c + ν S) / (n_c + ν), S that within both clusters and ν = d + 2 = 5."""
    clusters = _two_clusters()
    mixture = _mixture(torch.tensor(np.vstack(clusters)), 2, np.random.RandomState(0))
    place = mixture.weights.argsort(descending=True)
    np.testing.assert_allclose(mixture.weights[place], [0.9, 0.1], rtol=1e-12)
    centred = [cluster - cluster.mean(0) for cluster in clusters]
    pooled = _floored(np.vstack(centred))
    for index, cluster, c in zip(place.tolist(), clusters, centred, strict=True):
        gaussian = list(mixture.experts)[index]
        expected = (c.T @ c + 5 * pooled) / (len(c) + 5)
        np.testing.assert_allclose(gaussian.loc, cluster.mean(0), rtol=1e-9)
        np.testing.assert_allclose(gaussian.covariance, expected, rtol=1e-9, atol=1e-6)


@parametrize_with_checks([ProductDetector()])
@seeded()
def test_scikit_learns_own_checks(estimator: ProductDetector, check: Any) -> None:
    check(estimator)


def test_score_is_a_product_of_experts_on_the_raw_columns() -> None:
    X = _rows() * [1.0, 1e3, 1e-3] + 5.0
    detector = ProductDetector(random_state=0).fit(X)
    assert isinstance(detector.product_, poe.Product)
    assert detector.product_.names == ("nearest", "half_whitened", "relative", "mixture")
    x = torch.tensor(X[:7])
    np.testing.assert_allclose(detector.score_samples(X[:7]), detector.product_(x))
    np.testing.assert_allclose(detector.contributions(X[:7]), detector.product_.contributions(x))


def test_the_score_is_the_sum_of_what_each_expert_says_of_the_raw_rows() -> None:
    X = _rows()
    detector = ProductDetector(random_state=0).fit(X)
    said = detector.contributions(X)
    assert said.shape == (len(X), 4)
    each = torch.stack([expert(torch.tensor(X)) for expert in detector.product_.experts], 1)
    np.testing.assert_allclose(said, each, rtol=1e-12)
    np.testing.assert_allclose(detector.score_samples(X), each.sum(1), rtol=1e-12)


def test_experts_speak_equally_loudly_on_rows_held_out() -> None:
    detector = ProductDetector(random_state=0).fit(_rows(2000))
    # New rows of the same kind, so up to the sampling error of a standard deviation of 400 rows.
    spread = poe.calibrate(detector.product_, torch.tensor(_rows(4000, seed=1))).spread
    error = (1.0 / 400) ** 0.5  # (kurtosis - 1) / 4n for a kurtosis of 5
    assert spread.log().std().item() < 4 * error


def test_same_random_state_gives_the_same_bits() -> None:
    X, global_state = _rows(), torch.get_rng_state()
    first, again, other = (ProductDetector(random_state=seed).fit(X) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.score_samples(X), again.score_samples(X))
    assert not np.array_equal(first.score_samples(X), other.score_samples(X))
    assert torch.equal(torch.get_rng_state(), global_state)


def test_outliers_are_found_and_every_expert_says_so() -> None:
    X = _rows()
    detector = ProductDetector(random_state=0).fit(X)
    outliers = np.array([[9.0, 0.0, 0.0], [-4.0, 4.0, -4.0]])
    assert detector.predict(outliers).tolist() == [-1, -1]
    assert (detector.contributions(outliers).max(0) < detector.contributions(X).min(0)).all()


def test_contamination_is_the_share_of_training_rows_and_roughly_of_new_ones() -> None:
    detector = ProductDetector(contamination=0.2, random_state=0).fit(_rows(1000))
    assert (detector.predict(_rows(1000)) == -1).mean() == pytest.approx(0.2, abs=1e-9)
    error = (0.2 * 0.8 * (1 / 1000 + 1 / 4000)) ** 0.5
    assert abs((detector.predict(_rows(4000, seed=1)) == -1).mean() - 0.2) < 4 * error


def test_constant_columns_and_an_expert_without_spread_are_no_matter() -> None:
    X = np.hstack([_rows(60, 2), np.full((60, 1), 7.0)])
    detector = ProductDetector(random_state=0).fit(X)
    assert np.isfinite(detector.score_samples(X)).all()
    assert detector.score_samples([[0.0, 0.0, 9.0]]) < detector.offset_  # seen at 7 only


def test_table_of_one_repeated_row() -> None:
    detector = ProductDetector(random_state=0).fit(np.ones((20, 2)))
    # All experts are constant on these rows, so that no exponent can be told from them.
    np.testing.assert_array_equal(detector.calibration_.spread, np.zeros(4))
    assert detector.predict([[1.0, 1.0], [3.0, 1.0]]).tolist() == [1, -1]


def test_eight_rows_are_enough() -> None:
    X = _rows(8)
    detector = ProductDetector(random_state=0).fit(X)
    assert detector.predict([[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]]).tolist() == [1, -1]


def test_detector_can_be_pickled() -> None:
    X = _rows()
    detector = ProductDetector(random_state=0).fit(X)
    copy = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(copy.score_samples(X), detector.score_samples(X))


def test_product_can_be_saved_without_pickle(tmp_path: Path) -> None:
    detector = ProductDetector(random_state=0).fit(_rows())
    poe.save(detector.product_, tmp_path / "product")
    x = torch.tensor(_rows(5, seed=1))
    assert torch.equal(poe.load(tmp_path / "product")(x), detector.product_(x))


@seeded()
def test_errors_at_the_boundary() -> None:
    with pytest.raises(ValueError, match="minimum of 8 is required"):
        ProductDetector().fit(_rows(7))
    with pytest.raises(ValueError, match="NaN"):
        ProductDetector().fit(np.full((20, 2), np.nan))
    with pytest.raises(ValueError, match=r"contamination == 0\.7, must be <= 0\.5"):
        ProductDetector(contamination=0.7).fit(_rows())
    with pytest.raises(ValueError, match="expecting 3 features"):
        ProductDetector().fit(_rows()).score_samples(_rows(d=2))
