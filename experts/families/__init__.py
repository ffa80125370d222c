"""Exponential families, Gaussians and linear-Gaussian models."""

from __future__ import annotations

from experts.families.continuous import Beta, Dirichlet, Exponential, Gamma, VonMises, Wishart
from experts.families.discrete import Bernoulli, Categorical, Poisson, data_log_odds
from experts.families.exponential_family import ExponentialFamily
from experts.families.gaussian import Gaussian
from experts.families.linear_gaussian import LinearGaussian
from experts.families.probabilistic_pca import ProbabilisticPCA

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "Dirichlet",
    "Exponential",
    "ExponentialFamily",
    "Gamma",
    "Gaussian",
    "LinearGaussian",
    "Poisson",
    "ProbabilisticPCA",
    "VonMises",
    "Wishart",
    "data_log_odds",
]
