"""Posteriors and densities to sample, easy and hard: each formula once, for torch and for jax.

Every one stands on the reals: positive numbers by their logarithm, shares by their logit. ``m`` is
the array module, torch or jax.numpy. Data are simulated by a fixed seed, save those of the diabetes
study (Efron, Hastie, Johnstone & Tibshirani 2004, in scikit-learn) and of the eight schools
(Rubin 1981). The formulas have no guard against wild positions, as their authors would write them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any
"""A numpy, torch or jax array."""
Formula = Callable[[Any, Array], Array]
"""Of an array module and of positions ``(..., dimension)``."""


def _itself(m: Any, u: Array) -> Array:
    return u


@dataclass(frozen=True)
class Posterior:
    """A product of a normal prior on the first coordinates and of what else is known.

    ``likelihood`` ``(..., dimension) -> (...)``; ``prior``: mean and sd of each of the first
    coordinates; ``read`` ``(..., dimension) -> (..., statistics)``; ``easier``: makes a posterior
    of the same statistics that is easier to sample; ``exact``: draws ``(n, dimension)`` of it.
    """

    dimension: int
    likelihood: Formula
    prior: tuple[tuple[float, float], ...] = ()
    read: Formula = _itself
    easier: Callable[[], Posterior] | None = None
    exact: Callable[[np.random.Generator, int], np.ndarray] | None = None


def simulated(seed: int) -> np.random.Generator:
    """Where a target's data come from."""
    return np.random.default_rng(seed)


def _normal(m: Any, x: Array, mean: Array, log_sd: Array) -> Array:
    return -0.5 * ((x - mean) * m.exp(-log_sd)) ** 2 - log_sd


def _sigmoid(m: Any, u: Array) -> Array:
    return 1.0 / (1.0 + m.exp(-u))


def _log_sigmoid(m: Any, u: Array) -> Array:
    return -m.logaddexp(0.0 * u, -u)


def _half_cauchy(m: Any, log_x: Array) -> Array:
    """The log-density of log x, for x of the standard half-Cauchy law."""
    return log_x - m.log1p(m.exp(2.0 * log_x))


def _log_gamma(m: Any, x: Array) -> Array:
    if hasattr(m, "lgamma"):
        return m.lgamma(x)
    from jax.scipy.special import gammaln

    return gammaln(x)


def _filtered(m: Any, shocks: Array, factor: Array) -> Array:
    """e_t = factor e_(t - 1) + shock_t along the last dimension, in log2(T) steps."""
    errors, reach = shocks, 1
    while reach < shocks.shape[-1]:
        carried = errors[..., reach:] + factor * errors[..., :-reach]
        errors = m.concatenate([errors[..., :reach], carried], -1)
        factor, reach = factor * factor, 2 * reach
    return errors


# --- Regressions


def _linear(x: np.ndarray, y: np.ndarray) -> Formula:
    """Normal errors: u is the coefficients of the columns of x, and log sd."""

    def likelihood(m: Any, u: Array) -> Array:
        mean = u[..., :-1] @ m.asarray(x.T.copy())
        return _normal(m, m.asarray(y), mean, u[..., -1:]).sum(-1)

    return likelihood


def years() -> Posterior:
    """A temperature on the year, in raw units: correlation of intercept and slope .9999."""
    rng, year = simulated(1), np.arange(1952.0, 2014.0)
    y = 9.0 + 0.02 * (year - 1980) + rng.normal(size=len(year))
    x = np.stack([np.ones_like(year), year], 1)
    return Posterior(3, _linear(x, y), ((0.0, 100.0), (0.0, 1.0), (0.0, 1.0)))


def twins() -> Posterior:
    """Two columns of correlation .9999, in raw units."""
    rng = simulated(2)
    first = 500 + 100 * rng.normal(size=100)
    x = np.stack([np.ones(100), first, first + 1.4 * rng.normal(size=100)], 1)
    y = x @ np.array([3.0, 0.05, 0.02]) + 5 * rng.normal(size=100)
    return Posterior(4, _linear(x, y), ((0.0, 1000.0), (0.0, 10.0), (0.0, 10.0), (0.0, 2.0)))


def diabetes() -> Posterior:
    """Ten measures of 442 patients in raw units, under flat priors: unlike scales."""
    from sklearn.datasets import load_diabetes

    rows, y = load_diabetes(return_X_y=True, scaled=False)
    x = np.concatenate([np.ones((442, 1)), rows], 1)
    best, squares = np.linalg.lstsq(x, y, rcond=None)[:2]
    factor = np.linalg.inv(np.linalg.cholesky(x.T @ x))

    def exact(rng: np.random.Generator, n: int) -> np.ndarray:
        sd = np.sqrt(squares / rng.chisquare(442 - 11, (n, 1)))
        return np.concatenate([best + sd * (rng.normal(size=(n, 11)) @ factor), np.log(sd)], 1)

    return Posterior(12, _linear(x, y), exact=exact)


def logistic() -> Posterior:
    """Logistic regression on eight standardised columns: easy."""
    rng = simulated(3)
    x = rng.normal(size=(300, 8))
    y = rng.random(300) < 1 / (1 + np.exp(-x @ rng.normal(size=8)))
    signed = x * np.where(y, 1.0, -1.0)[:, None]

    def likelihood(m: Any, u: Array) -> Array:
        return _log_sigmoid(m, u @ m.asarray(signed.T.copy())).sum(-1)

    return Posterior(8, likelihood, ((0.0, 2.5),) * 8)


def counts() -> Posterior:
    """Poisson regression on a column in raw units: exp overflows at most starts."""
    rng = simulated(4)
    x = np.stack([np.ones(100), rng.uniform(0, 100, 100), rng.normal(size=100)], 1)
    k = rng.poisson(np.exp(x @ np.array([0.5, 0.02, 0.3]))).astype(float)

    def likelihood(m: Any, u: Array) -> Array:
        log_rate = u @ m.asarray(x.T.copy())
        return (m.asarray(k) * log_rate - m.exp(log_rate)).sum(-1)

    return Posterior(3, likelihood, ((0.0, 5.0), (0.0, 1.0), (0.0, 1.0)))


def outliers() -> Posterior:
    """Student's t regression with unknown degrees of freedom."""
    rng = simulated(5)
    x = rng.normal(size=80)
    y = 1.0 + 2.0 * x + 0.7 * rng.standard_t(3, size=80)

    def likelihood(m: Any, u: Array) -> Array:
        df, log_sd = m.exp(u[..., 3:]), u[..., 2:3]
        z = (m.asarray(y) - u[..., :1] - u[..., 1:2] * m.asarray(x)) * m.exp(-log_sd)
        known = _log_gamma(m, (df + 1) / 2) - _log_gamma(m, df / 2) - 0.5 * m.log(df) - log_sd
        return (known - (df + 1) / 2 * m.log1p(z**2 / df)).sum(-1)

    return Posterior(4, likelihood, ((0.0, 5.0), (0.0, 5.0), (0.0, 2.0), (2.0, 1.0)))


def horseshoe() -> Posterior:
    """Regression under a horseshoe prior, not centred: heavy tails and funnels. u has log sd, log
    of the global scale, log of the local ones, and the coefficients over both."""
    rng = simulated(6)
    x = rng.normal(size=(40, 8))
    y = x @ np.array([2.0, -1.5, 0, 0, 0, 0, 0, 0]) + rng.normal(size=40)

    def coefficients(m: Any, u: Array) -> Array:
        return u[..., 10:] * m.exp(u[..., 2:10] + u[..., 1:2])

    def likelihood(m: Any, u: Array) -> Array:
        mean = coefficients(m, u) @ m.asarray(x.T.copy())
        fit = _normal(m, m.asarray(y), mean, u[..., :1]).sum(-1)
        scales = _half_cauchy(m, u[..., 1:10]).sum(-1)
        return fit + scales - 0.5 * (u[..., 10:] ** 2).sum(-1)

    def read(m: Any, u: Array) -> Array:
        return m.concatenate([u[..., :1], coefficients(m, u)], -1)

    return Posterior(18, likelihood, ((0.0, 1.0),), read)


# --- Series


def arma() -> Posterior:
    """ARMA(1, 1) of 200 numbers: beyond |theta| = 1 the log-density falls to -1e100."""
    rng, y, before = simulated(7), [0.0], 0.0
    for _ in range(200):
        shock = 0.5 * rng.normal()
        y.append(0.3 + 0.7 * y[-1] + 0.4 * before + shock)
        before = shock
    y_now, y_before = np.array(y[1:]), np.array(y[:-1])

    def likelihood(m: Any, u: Array) -> Array:
        mean, phi, theta, log_sd = (u[..., k : k + 1] for k in range(4))
        shocks = m.asarray(y_now) - mean - phi * m.asarray(y_before)
        return _normal(m, _filtered(m, shocks, -theta), 0.0, log_sd).sum(-1)

    return Posterior(4, likelihood, ((0.0, 10.0), (0.0, 2.0), (0.0, 2.0), (0.0, 1.0)))


def garch() -> Posterior:
    """GARCH(1, 1) of 300 numbers."""
    rng, y, variance = simulated(8), [], 1.0
    for _ in range(300):
        y.append(variance**0.5 * rng.normal())
        variance = 0.2 + 0.3 * y[-1] ** 2 + 0.5 * variance
    observed = np.array(y)
    squares = np.concatenate([[observed.var()], observed[:-1] ** 2])

    def likelihood(m: Any, u: Array) -> Array:
        share = _sigmoid(m, u[..., 1:2])
        shocks = m.exp(u[..., :1]) + share * m.asarray(squares)
        variance = _filtered(m, shocks, (1 - share) * _sigmoid(m, u[..., 2:3]))
        return _normal(m, m.asarray(observed), 0.0, 0.5 * m.log(variance)).sum(-1)

    return Posterior(3, likelihood, ((-1.0, 1.5), (-1.0, 1.5), (0.0, 1.5)))


def volatility(is_centred: bool = False) -> Posterior:
    """Stochastic volatility of 60 numbers: u has mean, atanh of the memory, log sd, and the levels
    of log volatility, or the shocks that lead to them."""
    rng, level, y = simulated(9), 0.0, []
    for _ in range(60):
        level = 0.9 * level + 0.4 * rng.normal()
        y.append(np.exp(0.5 * level - 0.5) * rng.normal())
    observed = np.array(y)

    def levels(m: Any, u: Array) -> Array:
        if is_centred:
            return u[..., 3:]
        memory, sd = m.tanh(u[..., 1:2]), m.exp(u[..., 2:3])
        first = u[..., 3:4] * m.exp(-0.5 * m.log1p(-memory * memory))
        shocks = m.concatenate([first, u[..., 4:]], -1)
        return u[..., :1] + sd * _filtered(m, shocks, memory)

    def likelihood(m: Any, u: Array) -> Array:
        h, mean, log_sd = levels(m, u), u[..., :1], u[..., 2:3]
        fit = _normal(m, m.asarray(observed), 0.0, 0.5 * h).sum(-1)
        if not is_centred:
            return fit - 0.5 * (u[..., 3:] ** 2).sum(-1)
        memory = m.tanh(u[..., 1:2])
        log_first = log_sd - 0.5 * m.log1p(-memory * memory)
        steps = _normal(m, h[..., 1:], mean + memory * (h[..., :-1] - mean), log_sd).sum(-1)
        return fit + steps + _normal(m, h[..., :1], mean, log_first)[..., 0]

    def read(m: Any, u: Array) -> Array:
        return m.concatenate([u[..., :3], levels(m, u)[..., ::20]], -1)

    prior = ((0.0, 2.0), (1.2, 0.5), (-1.0, 0.7))
    return Posterior(63, likelihood, prior, read, volatility if is_centred else None)


def volatility_centred() -> Posterior:
    """The same by its levels."""
    return volatility(is_centred=True)


# --- Hierarchies and mixtures


SCHOOLS = np.array([[28.0, 8, -3, 7, -1, 1, 18, 12], [15.0, 10, 16, 11, 9, 11, 10, 18]])


def schools(is_centred: bool = False) -> Posterior:
    """The eight schools: mean, log sd and the effects, by themselves or in units of their sd."""
    return _effects(
        is_centred,
        8,
        ((0.0, 5.0),),
        lambda m, x: _normal(m, m.asarray(SCHOOLS[0]), x, m.asarray(np.log(SCHOOLS[1]))).sum(-1),
        lambda m, log_sd: _half_cauchy(m, log_sd - np.log(5)),
        schools,
    )


def schools_centred() -> Posterior:
    """The same by the effects themselves: a funnel."""
    return schools(is_centred=True)


def plates(is_centred: bool = False) -> Posterior:
    """Germinated seeds of twelve plates: a hierarchical logistic regression whose plates differ by
    hardly more than chance."""
    rng = simulated(10)
    sown = rng.integers(10, 40, 12)
    grown = rng.binomial(sown, 1 / (1 + np.exp(-(0.3 + 0.3 * rng.normal(size=12))))).astype(float)

    def fit(m: Any, x: Array) -> Array:
        failed = m.asarray(sown - grown)
        return (m.asarray(grown) * _log_sigmoid(m, x) + failed * _log_sigmoid(m, -x)).sum(-1)

    prior = ((0.0, 2.0), (-1.0, 1.0))
    return _effects(is_centred, 12, prior, fit, lambda m, log_sd: 0.0 * log_sd, plates)


def plates_centred() -> Posterior:
    """The same by the plates' log-odds themselves."""
    return plates(is_centred=True)


def _effects(
    is_centred: bool,
    count: int,
    prior: tuple[tuple[float, float], ...],
    fit: Formula,
    scale: Formula,
    easier: Callable[[], Posterior],
) -> Posterior:
    """A normal population of effects: u is its mean, log sd, and each effect."""

    def effects(m: Any, u: Array) -> Array:
        return u[..., 2:] if is_centred else u[..., :1] + m.exp(u[..., 1:2]) * u[..., 2:]

    def likelihood(m: Any, u: Array) -> Array:
        own = (
            _normal(m, u[..., 2:], u[..., :1], u[..., 1:2])
            if is_centred
            else -0.5 * u[..., 2:] ** 2
        )
        return fit(m, effects(m, u)) + scale(m, u[..., 1]) + own.sum(-1)

    def read(m: Any, u: Array) -> Array:
        return m.concatenate([u[..., :2], effects(m, u)], -1)

    return Posterior(2 + count, likelihood, prior, read, easier if is_centred else None)


def items() -> Posterior:
    """Thirty students, eight items, one parameter each: log sd, difficulties, abilities."""
    rng = simulated(11)
    ability, difficulty = rng.normal(size=(30, 1)), rng.normal(size=8)
    sign = np.where(rng.random((30, 8)) < 1 / (1 + np.exp(difficulty - ability)), 1.0, -1.0)

    def likelihood(m: Any, u: Array) -> Array:
        able = (m.exp(u[..., :1]) * u[..., 9:])[..., :, None]
        return _log_sigmoid(m, m.asarray(sign) * (able - u[..., None, 1:9])).sum(-1).sum(-1)

    return Posterior(39, likelihood, ((0.0, 1.0), *((0.0, 2.0),) * 8, *((0.0, 1.0),) * 30))


def mixture() -> Posterior:
    """Two normals that overlap, their means in order: first mean, log gap, log sds, logit share."""
    rng = simulated(12)
    is_first = rng.random(300) < 0.4
    y = np.where(is_first, rng.normal(-1.5, 1.0, 300), rng.normal(1.5, 0.8, 300))

    def likelihood(m: Any, u: Array) -> Array:
        first, second = u[..., :1], u[..., :1] + m.exp(u[..., 1:2])
        share, observed = u[..., 4:5], m.asarray(y)
        one = _log_sigmoid(m, share) + _normal(m, observed, first, u[..., 2:3])
        other = _log_sigmoid(m, -share) + _normal(m, observed, second, u[..., 3:4])
        return m.logaddexp(one, other).sum(-1)

    return Posterior(5, likelihood, ((0.0, 3.0), (0.0, 1.0), (0.0, 0.7), (0.0, 0.7), (0.0, 1.0)))


def process() -> Posterior:
    """Counts with a Gaussian process as log-rate; its Cholesky fails at wild positions."""
    x = np.linspace(-10, 10, 11)
    k = simulated(13).poisson(np.exp(1.5 + np.sin(x / 3))).astype(float)
    distance = (x[:, None] - x) ** 2

    def log_rate(m: Any, u: Array) -> Array:
        rho, alpha = m.exp(u[..., :1, None]), m.exp(u[..., 1:2, None])
        covariance = alpha**2 * m.exp(-0.5 * m.asarray(distance) / rho**2)
        factor = m.linalg.cholesky(covariance + m.asarray(1e-10 * np.eye(11)))
        return (factor @ u[..., 2:, None])[..., 0]

    def likelihood(m: Any, u: Array) -> Array:
        f = log_rate(m, u)
        return (m.asarray(k) * f - m.exp(f)).sum(-1)

    def read(m: Any, u: Array) -> Array:
        return m.concatenate([u[..., :2], log_rate(m, u)], -1)

    return Posterior(13, likelihood, ((1.8, 0.3), (0.0, 0.7), *((0.0, 1.0),) * 11), read)


# --- Densities that can be drawn from


def gaussian() -> Posterior:
    """A rotated Gaussian of condition number 1e4 in 30 dimensions: easy."""
    rotation = np.linalg.qr(simulated(14).normal(size=(30, 30)))[0]
    sd = np.logspace(-1, 1, 30)
    whiten, colour = (rotation / sd), (rotation * sd).T.copy()
    return Posterior(
        30,
        lambda m, u: -0.5 * ((u @ m.asarray(whiten)) ** 2).sum(-1),
        exact=lambda rng, n: rng.normal(size=(n, 30)) @ colour,
    )


def funnel() -> Posterior:
    """Neal's funnel in 10 dimensions: v ~ N(0, 3^2), and the others of sd exp(v / 2)."""

    def likelihood(m: Any, u: Array) -> Array:
        v = u[..., :1]
        return -(v[..., 0] ** 2) / 18 + _normal(m, u[..., 1:], 0.0, 0.5 * v).sum(-1)

    def exact(rng: np.random.Generator, n: int) -> np.ndarray:
        z = rng.normal(size=(n, 10))
        return np.concatenate([3 * z[:, :1], np.exp(1.5 * z[:, :1]) * z[:, 1:]], 1)

    def read(m: Any, u: Array) -> Array:
        return m.concatenate([u[..., :1], u[..., 1:4] * m.exp(-0.5 * u[..., :1])], -1)

    return Posterior(10, likelihood, read=read, exact=exact)


def banana() -> Posterior:
    """x ~ N(0, 10^2), y ~ N(0.03 (x^2 - 100), 1)."""

    def likelihood(m: Any, u: Array) -> Array:
        x, y = u[..., 0], u[..., 1]
        return -0.5 * (x / 10) ** 2 - 0.5 * (y - 0.03 * (x**2 - 100)) ** 2

    def exact(rng: np.random.Generator, n: int) -> np.ndarray:
        x, z = 10 * rng.normal(size=n), rng.normal(size=n)
        return np.stack([x, 0.03 * (x**2 - 100) + z], 1)

    return Posterior(2, likelihood, exact=exact)


def rosenbrock() -> Posterior:
    """exp(-(1 - x)^2 - 100 (y - x^2)^2)."""

    def likelihood(m: Any, u: Array) -> Array:
        x, y = u[..., 0], u[..., 1]
        return -((1 - x) ** 2) - 100 * (y - x**2) ** 2

    def exact(rng: np.random.Generator, n: int) -> np.ndarray:
        x = 1 + 0.5**0.5 * rng.normal(size=n)
        return np.stack([x, x**2 + 200**-0.5 * rng.normal(size=n)], 1)

    return Posterior(2, likelihood, exact=exact)


def far_apart() -> Posterior:
    """Two unit Gaussians of shares .7 and .3, 18 sds apart in 4 dimensions."""

    def likelihood(m: Any, u: Array) -> Array:
        one, other = (-0.5 * ((u - shift) ** 2).sum(-1) for shift in (0.0, 9.0))
        return m.logaddexp(one + np.log(0.7), other + np.log(0.3))

    def exact(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.normal(size=(n, 4)) + 9.0 * (rng.random((n, 1)) < 0.3)

    return Posterior(4, likelihood, read=lambda m, u: u[..., :2], exact=exact)


POSTERIORS: dict[str, Callable[[], Posterior]] = {
    make.__name__: make
    for make in (
        logistic, years, twins, diabetes, counts, outliers, horseshoe, arma, garch, volatility,
        volatility_centred, schools, schools_centred, plates, plates_centred, items, mixture,
        process, gaussian, funnel, banana, rosenbrock, far_apart,
    )
}  # fmt: skip
FAST = ("logistic", "outliers", "schools", "schools_centred", "gaussian", "rosenbrock")
"""A few that are quick, and not all easy."""
