"""Exponents of a product learned from data, never worse on held-out data than one expert alone.

Three criteria: maximum likelihood (log Z by particles where it is not at hand), the log score with
shrinkage chosen by cross-validation (where log Z is at hand), and score matching (without log Z).
"""

from poe.exponents.fitted import FittedExponents
from poe.exponents.likelihood import fit_exponents_by_likelihood
from poe.exponents.log_score import fit_exponents_by_log_score
from poe.exponents.score_matching import fit_exponents_by_score_matching

__all__ = [
    "FittedExponents",
    "fit_exponents_by_likelihood",
    "fit_exponents_by_log_score",
    "fit_exponents_by_score_matching",
]
