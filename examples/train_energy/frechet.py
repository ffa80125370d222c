"""The Frechet distance between two sets of pictures, on the features of a classifier."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Mean (d,) and covariance (d, d) of features, in double precision."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Of a sample: (n, d)."""
    features = features.double()
    return Moments(features.mean(0), features.T.cov())


def frechet_distance(a: Moments, b: Moments) -> float:
    r"""The squared Wasserstein distance of the two Gaussians that have these moments.

    .. math:: d^2 = \lVert m_a - m_b \rVert^2
        + \mathrm{tr}\big(C_a + C_b - 2 (C_a^{1/2} C_b C_a^{1/2})^{1/2}\big)

    By two symmetric eigendecompositions, so nothing complex arises. Biased upwards in small
    samples: compare at equal numbers only.

    Source: Dowson & Landau 1982; Heusel et al. 2017, eq. 6.

    >>> one = Moments(torch.zeros(2).double(), torch.eye(2).double())
    >>> round(frechet_distance(one, Moments(torch.ones(2).double(), 4 * torch.eye(2).double())), 6)
    4.0
    """
    root = square_root(a.covariance)
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    traces = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return float((a.mean - b.mean).square().sum() + traces)


def square_root(matrix: Tensor) -> Tensor:
    """Of a symmetric matrix without negative eigenvalues, save by rounding: (d, d) -> (d, d)."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
