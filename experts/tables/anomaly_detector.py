"""An anomaly detector in scikit-learn's manner, whose score is a product of experts.

Needs scikit-learn, which `import experts` does not: `pip install "product-of-experts[anomaly]"`.
"""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

import poe
from experts.families.gaussian import Gaussian
from experts.tables.column_scaling import NormalScores, Standardize
from experts.tables.neighbours import Neighbours, RelativeNeighbours
from poe.core.imports import missing

try:
    from sklearn.base import BaseEstimator, OutlierMixin
    from sklearn.cluster import KMeans
    from sklearn.covariance import ledoit_wolf
    from sklearn.utils import check_random_state, check_scalar
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise missing("scikit-learn", "anomaly") from error

_MIN_ROWS = 8
_ROWS_A_CLUSTER = 10
_HELD_OUT = 5  # one row in so many tells how loud each expert is
_VARIANCE_FLOOR = 1e-6  # of standardised columns, so that a constant one can be factorised


class ProductDetector(OutlierMixin, BaseEstimator):
    """Anomalies are what a product of experts finds unlikely: score log p̃(x) = Σ_i w_i log p̃_i(x).

    Four experts are fitted to the table, without labels:

    - ``nearest``: the distance to the nearest row, city-block, of standardised columns;
    - ``half_whitened``: the distance to the nearest row, Euclidean, along principal axes whose
      variances are halfway (on the log scale) to equal;
    - ``relative``: the density against that of the ``n_neighbors`` nearest rows, city-block, on
      normal scores;
    - ``mixture``: up to ``n_components`` Gaussians on k-means clusters, each covariance shrunk
      towards the pooled one.

    The exponents w_i make the experts' spreads equal on a fifth of the rows, held out from a first
    fit (`poe.calibrate`), so that a loud expert does not silence the others.

    Rows X are ``(n_samples, n_features)``, n_samples >= 8; scores in nats, higher is more normal.
    All distances are computed, so that fitting takes time in n_samples squared (memory does not).
    Fitted: ``product_`` (a `poe.Product` on the raw columns, float64), ``calibration_``,
    ``offset_``, ``n_features_in_``.

    Args:
        n_neighbors: Of ``relative``, at least 1; fewer in smaller tables.
        n_components: At most so many Gaussians of ``mixture``, at least 1.
        contamination: In (0, 0.5], the share of the training rows that `predict` calls -1.
        random_state: Of the rows held out and of k-means: a seed, a NumPy generator, or None for
            NumPy's global one.

    Raises:
        ValueError: As scikit-learn, of ``fit`` and of the scores, for X and parameters out of
            range.
        TypeError: As scikit-learn, of ``fit``, for parameters of another type.

    Example:
        >>> from experts.tables.anomaly_detector import ProductDetector
        >>> X = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> detector = ProductDetector(random_state=0).fit(X)
        >>> detector.predict([[0.0, 0.0], [9.0, -9.0]])
        array([ 1, -1])
        >>> detector.product_.names
        ('nearest', 'half_whitened', 'relative', 'mixture')
    """

    def __init__(
        self,
        *,
        n_neighbors: int = 10,
        n_components: int = 20,
        contamination: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.n_components = n_components
        self.contamination = contamination
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> ProductDetector:
        """Fit the experts to the rows of X, and their exponents to rows held out.

        Args:
            X: ``(n_samples, n_features)``, n_samples >= 8.
            y: Ignored.

        Returns:
            The detector itself.

        Raises:
            ValueError: As scikit-learn, for X and parameters out of range.
            TypeError: As scikit-learn, for parameters of another type.
        """
        check_scalar(self.n_neighbors, "n_neighbors", Integral, min_val=1)
        check_scalar(self.n_components, "n_components", Integral, min_val=1)
        check_scalar(
            self.contamination, "contamination", Real, min_val=0, max_val=0.5,
            include_boundaries="right",
        )  # fmt: skip
        rows = _rows(validate_data(self, X, dtype=np.float64, ensure_min_samples=_MIN_ROWS))
        random = check_random_state(self.random_state)
        shuffled = rows[random.permutation(len(rows))]
        held_out, rest = shuffled.tensor_split([max(2, len(rows) // _HELD_OUT)])
        self.calibration_ = poe.calibrate(self._fitted_product(rest, random), held_out)
        self.product_ = self.calibration_.rescaled(self._fitted_product(rows, random))
        self.offset_ = np.percentile(_said(self.product_, rows).sum(1), 100 * self.contamination)
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """log p̃ of each row, in nats up to a constant.

        Args:
            X: ``(n_samples, n_features)``.

        Returns:
            ``(n_samples,)``.
        """
        return self.contributions(X).sum(1)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """`score_samples` less ``offset_``: negative for anomalies.

        Args:
            X: ``(n_samples, n_features)``.

        Returns:
            ``(n_samples,)``, in nats.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """1 for each normal row, -1 for each anomaly.

        Args:
            X: ``(n_samples, n_features)``.

        Returns:
            ``(n_samples,)``.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def contributions(self, X: ArrayLike) -> NDArray[np.float64]:
        """What each expert says; the rows sum to `score_samples`.

        Args:
            X: ``(n_samples, n_features)``.

        Returns:
            ``(n_samples, n_experts)``, by ``product_.names``, in nats.
        """
        check_is_fitted(self)
        return _said(self.product_, _rows(validate_data(self, X, dtype=np.float64, reset=False)))

    def _fitted_product(self, rows: Tensor, random: np.random.RandomState) -> poe.Product:
        standardize = Standardize.fitted(rows)
        standardized = standardize(rows)
        whiten = _half_whitening(standardized)
        normal_scores = NormalScores.fitted(standardized)
        num_neighbours = min(self.n_neighbors, len(rows) - 1)
        relative = RelativeNeighbours(normal_scores(standardized), num_neighbours, norm=1.0)
        mixture = _mixture(standardized, self.n_components, random)
        space = poe.Real(rows.shape[1])
        return poe.Product(
            nearest=Neighbours(standardized, norm=1.0).at(standardize, space),
            half_whitened=Neighbours(whiten(standardized)).at(
                nn.Sequential(standardize, whiten), space
            ),
            relative=relative.at(nn.Sequential(standardize, normal_scores), space),
            mixture=mixture.at(standardize, space),
        )


def _rows(X: NDArray[np.float64]) -> Tensor:
    return torch.tensor(X)  # a copy: X may be read-only


def _said(product: poe.Product, rows: Tensor) -> NDArray[np.float64]:
    with torch.no_grad():
        return product.contributions(rows).numpy()


def _half_whitening(rows: Tensor) -> nn.Linear:
    """Onto the principal axes, each divided by the square root of its standard deviation.

    Whitening in full gives the axes of least variance, which are noise, as much say as the others.
    """
    variances, axes = torch.linalg.eigh(_shrunk_covariance(rows))
    # Its usual initial weights would be drawn from the global generator.
    whiten = nn.utils.skip_init(nn.Linear, *axes.shape, bias=False, dtype=rows.dtype)
    whiten.requires_grad_(False).weight.copy_((axes / variances.pow(0.25)).mT)
    return whiten


def _mixture(rows: Tensor, n_components: int, random: np.random.RandomState) -> poe.Mixture:
    """Gaussians on k-means clusters: covariances shrunk towards the pooled one.

    S_c = (n_c C_c + ν S) / (n_c + ν), with C_c the cluster's own covariance, S the (shrunk) one
    within all clusters, and ν = d + 2: the posterior mean under an inverse-Wishart prior
    of mean S and 2d + 3 degrees of freedom.
    """
    most = min(len(rows) // _ROWS_A_CLUSTER, len(rows.unique(dim=0)), n_components)
    means = KMeans(max(1, most), random_state=random).fit(rows.numpy())
    labels = torch.from_numpy(means.labels_).long()
    members = [rows[labels == label] for label in labels.unique()]
    centered = [cluster - cluster.mean(0) for cluster in members]
    pooled, strength = _shrunk_covariance(torch.cat(centered)), rows.shape[1] + 2
    gaussians = [
        Gaussian(
            cluster.mean(0),
            covariance=(c.mT @ c + strength * pooled) / (len(c) + strength),
        )
        for cluster, c in zip(members, centered, strict=True)
    ]
    return poe.Mixture(gaussians, [len(cluster) / len(rows) for cluster in members])


def _shrunk_covariance(rows: Tensor) -> Tensor:
    """Ledoit and Wolf's (2004) `(d, d)`."""
    covariance = torch.from_numpy(ledoit_wolf(rows.numpy())[0])
    return covariance + _VARIANCE_FLOOR * torch.eye(len(covariance), dtype=rows.dtype)
