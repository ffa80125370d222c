"""scikit-learn's fitted densities: kernel density estimates and Gaussian mixtures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import poe
from experts.families.gaussian import Gaussian
from experts.tables.kernel_density import KernelDensity
from poe.core.imports import missing

try:
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
    from sklearn.neighbors import KernelDensity as FittedKernelDensity
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise missing("scikit-learn", "sklearn") from error


@poe.as_expert.register
def kernel_density(model: FittedKernelDensity) -> KernelDensity:
    """The same density as ``experts.KernelDensity``, in float64, with gradients and exact draws.

    All kernels, Euclidean metric. ``score_samples`` is its ``log_prob`` (without sklearn's
    tolerances), save that of the cosine kernel in an even number of dimensions, where sklearn 1.9
    leaves a term of the normaliser out: it differs by a constant.

    Args:
        model: Fitted.

    Returns:
        The expert.

    Raises:
        AdaptationError: For an estimator that is not fitted, or of another metric.

    Example:
        >>> from sklearn.neighbors import KernelDensity as Estimator
        >>> model = Estimator(bandwidth=0.5).fit([[0.0], [1.0]])
        >>> poe.as_expert(model)
        KernelDensity(2 rows in Real(1), gaussian, bandwidth=0.5)
    """
    _require_fitted(model)
    if model.metric not in ("euclidean", "l2"):
        raise poe.AdaptationError(
            f"expected a KernelDensity of the metric 'euclidean', got {model.metric!r}, of which "
            "scikit-learn does not give the normaliser: fit one with metric='euclidean'"
        )
    weights = model.tree_.sample_weight
    return KernelDensity(
        _tensor(model.tree_.data),
        float(model.bandwidth_),
        model.kernel,
        None if weights is None else _tensor(weights),
    )


@poe.as_expert.register
def gaussian_mixture(model: GaussianMixture) -> poe.Mixture:
    """The same density as a ``poe.Mixture`` of ``experts.Gaussian``, in float64.

    All covariance types. Products with Gaussians and with other mixtures stay in closed form.

    Args:
        model: Fitted.

    Returns:
        The expert.

    Raises:
        AdaptationError: For an estimator that is not fitted.

    Example:
        >>> from sklearn.mixture import GaussianMixture
        >>> model = GaussianMixture(1, random_state=0).fit([[0.0], [1.0], [2.0]])
        >>> poe.as_expert(model).experts[0].loc.round(decimals=4)
        tensor([1.], dtype=torch.float64)
    """
    _require_fitted(model)
    locs, covariances = _tensor(model.means_), _tensor(model.covariances_)
    if model.covariance_type == "tied":
        covariances = covariances.expand(len(locs), *covariances.shape)
    if model.covariance_type in ("full", "tied"):
        pairs = zip(locs, covariances, strict=True)
        parts = [Gaussian(loc, covariance=covariance) for loc, covariance in pairs]
    else:
        pairs = zip(locs, covariances.sqrt(), strict=True)
        parts = [Gaussian(loc.clone(), scale=scale.expand(loc.shape)) for loc, scale in pairs]
    return poe.Mixture(parts, _tensor(model.weights_))


@poe.as_expert.register
def _(model: BayesianGaussianMixture) -> poe.Expert:
    raise poe.AdaptationError(
        "expected a GaussianMixture, got a BayesianGaussianMixture, whose score_samples is a bound "
        "and no density; fit a GaussianMixture, or mix experts.Gaussian at its means_ and "
        "covariances_ by poe.Mixture"
    )


@poe.as_expert.register
def _(model: BaseEstimator) -> poe.Expert:
    raise poe.AdaptationError(
        f"expected a density of scikit-learn, a KernelDensity or a GaussianMixture, got "
        f"{type(model).__name__}; another function of x is adapted by "
        "poe.FromLogDensity(fn, space=...)"
    )


def _require_fitted(model: BaseEstimator) -> None:
    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise poe.AdaptationError(
            f"expected a fitted {type(model).__name__}, got one that is not: call fit(X) first"
        ) from error


def _tensor(array: object) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))
