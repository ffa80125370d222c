"""Targets of known log Z, easy and hard, each entered as a plain function.

Truths are closed forms, or sums over fine grids in one dimension. A family is a function of its
dimension and scales; ``problems()`` is the list that ``trust_log_z.py`` runs over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import poe

LOG_TWO_PI = math.log(2 * math.pi)
LogDensity = Callable[[Tensor], Tensor]
SCHOOLS_Y = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
SCHOOLS_SD = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]


class Problem(NamedTuple):
    """A target with its log Z."""

    name: str
    target: poe.Expert
    truth: float


def _real(name: str, log_density: LogDensity, d: int, truth: float) -> Problem:
    return Problem(name, poe.FromLogDensity(log_density, space=poe.Real(d)), truth)


def _normal(x: Tensor, mean: Tensor | float, log_sd: Tensor | float) -> Tensor:
    log_sd = torch.as_tensor(log_sd, dtype=x.dtype)
    return -0.5 * ((x - mean) * (-log_sd).exp()).square() - log_sd - 0.5 * LOG_TWO_PI


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _log_sum(values: Tensor, step: float) -> float:
    """log of the integral of exp(values) by the trapezoidal rule, whose ends vanish."""
    return (values.double().logsumexp(0) + math.log(step)).item()


def gaussian(d: int, condition: float, shift: float = 0.0) -> Problem:
    """A rotated Gaussian, its sds up to the condition apart."""
    rotation = torch.linalg.qr(torch.randn(d, d, generator=_seeded(d))).Q
    sd = torch.logspace(0, -math.log10(condition), d)
    whiten = rotation / sd

    def log_density(x: Tensor) -> Tensor:
        return -0.5 * ((x - shift) @ whiten).square().sum(-1)

    truth = 0.5 * d * LOG_TWO_PI + sd.double().log().sum().item()
    return _real(f"Gaussian {d}-d, condition {condition:g}", log_density, d, truth)


def autoregression(d: int, rho: float) -> Problem:
    """A stationary path of d unit normals, neighbours correlated."""
    log_sd = 0.5 * math.log(1 - rho**2)

    def log_density(x: Tensor) -> Tensor:
        later = _normal(x[..., 1:], rho * x[..., :-1], log_sd)
        return _normal(x[..., 0], 0.0, 0.0) + later.sum(-1)

    return _real(f"autoregression {d}-d, {rho:g}", log_density, d, 0.0)


def students(d: int, df: float) -> Problem:
    """A product of Student's t."""
    each = math.lgamma(0.5 * (df + 1)) - math.lgamma(0.5 * df) - 0.5 * math.log(df * math.pi)

    def log_density(x: Tensor) -> Tensor:
        return -0.5 * (df + 1) * torch.log1p(x.square() / df).sum(-1)

    return _real(f"{d} Students, {df:g} df", log_density, d, -d * each)


def spherical_student(d: int, df: float) -> Problem:
    """The multivariate t, which has no independent components."""
    truth = math.lgamma(0.5 * df) - math.lgamma(0.5 * (df + d)) + 0.5 * d * math.log(df * math.pi)

    def log_density(x: Tensor) -> Tensor:
        return -0.5 * (df + d) * torch.log1p(x.square().sum(-1) / df)

    return _real(f"multivariate t {d}-d, {df:g} df", log_density, d, truth)


def laplace(d: int) -> Problem:
    """A product of Laplace densities, whose scores jump."""
    return _real(f"Laplace {d}-d", lambda x: -x.abs().sum(-1), d, d * math.log(2.0))


def gumbel(d: int) -> Problem:
    """A product of Gumbel densities: skew."""
    return _real(f"Gumbel {d}-d", lambda x: -(x + (-x).exp()).sum(-1), d, 0.0)


def quartic(d: int) -> Problem:
    """Lighter tails than a Gaussian's."""
    truth = d * math.log(2 * math.gamma(1.25))
    return _real(f"quartic {d}-d", lambda x: -x.square().square().sum(-1), d, truth)


def funnel(d: int, sd: float, at: int = 0) -> Problem:
    """v ~ N(0, sd²), and d − 1 times N(0, exp(v))."""

    def log_density(x: Tensor) -> Tensor:
        v, rest = x[..., at], torch.cat([x[..., :at], x[..., at + 1 :]], -1)
        necks = _normal(rest, 0.0, 0.5 * v[..., None]).sum(-1)
        return _normal(v, 0.0, math.log(sd)) + necks

    return _real(f"funnel {d}-d, sd {sd:g}", log_density, d, 0.0)


def schools(is_centred: bool) -> Problem:
    """The eight schools with mu ~ N(0, 5²), tau ~ HalfCauchy(5)."""
    y, sd = torch.tensor(SCHOOLS_Y), torch.tensor(SCHOOLS_SD)

    def log_density(x: Tensor) -> Tensor:
        mu, log_tau, effect = x[..., :1], x[..., 1:2], x[..., 2:]
        half_cauchy = math.log(2 / (5 * math.pi)) - torch.log1p((log_tau.exp() / 5).square())
        prior = _normal(mu, 0.0, math.log(5)) + half_cauchy + log_tau
        if is_centred:
            school, effects = effect, _normal(effect, mu, log_tau)
        else:
            school, effects = mu + log_tau.exp() * effect, _normal(effect, 0.0, 0.0)
        return prior[..., 0] + (effects + _normal(y, school, sd.log())).sum(-1)

    name = "eight schools" + (", centred" if is_centred else ", not centred")
    return _real(name, log_density, 10, -31.311347)


def groups(num_groups: int, is_centred: bool, seed: int) -> Problem:
    """Means of groups theta_j ~ N(mu, tau²), seen with unit noise; tau ~ HalfNormal(1)."""
    y = 0.5 * torch.randn(num_groups, generator=_seeded(seed))

    def log_density(x: Tensor) -> Tensor:
        mu, log_tau, effect = x[..., :1], x[..., 1:2], x[..., 2:]
        half_normal = math.log(2) + _normal(log_tau.exp(), 0.0, 0.0) + log_tau
        prior = (_normal(mu, 0.0, 0.0) + half_normal)[..., 0]
        if is_centred:
            theta, effects = effect, _normal(effect, mu, log_tau)
        else:
            theta, effects = mu + log_tau.exp() * effect, _normal(effect, 0.0, 0.0)
        return prior + (effects + _normal(y, theta, 0.0)).sum(-1)

    log_tau = torch.linspace(-20, 4, 48001, dtype=torch.float64)
    variance, seen = 1 + (2 * log_tau).exp(), y.double()
    precision = 1 + num_groups / variance
    log_p = 0.5 * (seen.sum() / variance).square() / precision - 0.5 * precision.log()
    log_p = log_p - 0.5 * seen.square().sum() / variance - 0.5 * num_groups * variance.log()
    log_p = log_p - 0.5 * num_groups * LOG_TWO_PI + math.log(2) - 0.5 * LOG_TWO_PI
    truth = _log_sum(log_p - 0.5 * (2 * log_tau).exp() + log_tau, 24 / 48000)
    said = "centred" if is_centred else "not centred"
    return _real(f"{num_groups} groups, {said}", log_density, num_groups + 2, truth)


def wells(d: int, depth: float) -> Problem:
    """2^d wells: x⁴ − depth x² in every dimension."""
    grid = torch.linspace(-8, 8, 160001, dtype=torch.float64)
    one = _log_sum(depth * grid.square() - grid**4, 1e-4)

    def log_density(x: Tensor) -> Tensor:
        return (depth * x.square() - x.square().square()).sum(-1)

    return _real(f"{d} double wells, depth {depth:g}", log_density, d, d * one)


def skew_wells(d: int) -> Problem:
    """The same with a field: each lower well holds more."""
    grid = torch.linspace(-8, 8, 160001, dtype=torch.float64)
    one = _log_sum(6 * grid.square() - grid**4 - 0.5 * grid, 1e-4)

    def log_density(x: Tensor) -> Tensor:
        return (6 * x.square() - x.square().square() - 0.5 * x).sum(-1)

    return _real(f"{d} skew wells", log_density, d, d * one)


def modes(d: int, count: int, width: float, seed: int) -> Problem:
    """Unit Gaussians of unequal weights, their means uniform in a cube."""
    g = _seeded(seed)
    means = width * (2 * torch.rand(count, d, generator=g) - 1)
    log_weights = torch.rand(count, generator=g).log_softmax(0)

    def log_density(x: Tensor) -> Tensor:
        return (log_weights + _normal(x[..., None, :], means, 0.0).sum(-1)).logsumexp(-1)

    return _real(f"{count} modes {d}-d in ±{width:g}", log_density, d, 0.0)


def two_modes(d: int, distance: float, share: float, ratio: float = 1.0) -> Problem:
    """Two Gaussians, the second of which may be narrower by a ratio."""
    far = torch.zeros(d)
    far[0] = distance

    def log_density(x: Tensor) -> Tensor:
        near = math.log(1 - share) + _normal(x, 0.0, 0.0).sum(-1)
        return torch.logaddexp(near, math.log(share) + _normal(x, far, -math.log(ratio)).sum(-1))

    name = f"two modes {d}-d, {distance:g} apart, share {share:g}, ratio {ratio:g}"
    return _real(name, log_density, d, 0.0)


def shell(d: int, radius: float, width: float) -> Problem:
    """A Gaussian around a sphere."""
    grid = torch.linspace(1e-6, radius + 12 * width, 400001, dtype=torch.float64)
    values = (d - 1) * grid.log() - 0.5 * ((grid - radius) / width).square()
    area = math.log(2) + 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d)
    truth = area + _log_sum(values, (radius + 12 * width) / 400000)

    def log_density(x: Tensor) -> Tensor:
        return -0.5 * ((x.square().sum(-1).sqrt() - radius) / width).square()

    return _real(f"shell {d}-d, {radius:g} ± {width:g}", log_density, d, truth)


def two_shells(d: int) -> Problem:
    """Two spheres beside each other, as in the literature of nested sampling."""
    one, away = shell(d, 2.0, 0.1), torch.zeros(d)
    away[0] = 3.5

    def log_density(x: Tensor) -> Tensor:
        return torch.logaddexp(one.target(x - away), one.target(x + away))

    return _real(f"two shells {d}-d", log_density, d, one.truth + math.log(2))


def rosenbrock(d: int, scale: float = 1.0) -> Problem:
    """A chain of valleys, x_i+1 ~ N(x_i², 1 / 2b): normalised link by link."""
    b = 10.0 * scale

    def log_density(x: Tensor) -> Tensor:
        links = (x[..., 1:] - x[..., :-1].square()).square().sum(-1)
        return -(x[..., 0] - 1).square() - b * links

    truth = 0.5 * math.log(math.pi) + 0.5 * (d - 1) * math.log(math.pi / b)
    return _real(f"Rosenbrock {d}-d, {b:g}", log_density, d, truth)


def banana(d: int, bend: float) -> Problem:
    """x1 bent along x0 ~ N(0, 10²), the others normal; rotated."""
    rotation = torch.linalg.qr(torch.randn(d, d, generator=_seeded(d + 1))).Q

    def log_density(x: Tensor) -> Tensor:
        y = x @ rotation
        ridge = _normal(y[..., 1], bend * (y[..., 0].square() - 100), 0.0)
        rest = _normal(y[..., 2:], 0.0, 0.0).sum(-1)
        return _normal(y[..., 0], 0.0, math.log(10)) + ridge + rest

    return _real(f"banana {d}-d, bend {bend:g}", log_density, d, 0.0)


def regression(rows: int, d: int, noise: float, prior: float, seed: int) -> Problem:
    """A linear regression of known noise: its evidence in closed form."""
    g = _seeded(seed)
    x = torch.randn(rows, d, generator=g)
    y = x @ torch.randn(d, generator=g) + noise * torch.randn(rows, generator=g)
    covariance = noise**2 * torch.eye(rows).double() + prior**2 * x.double() @ x.double().mT
    seen = torch.distributions.MultivariateNormal(torch.zeros(rows).double(), covariance)

    def log_density(beta: Tensor) -> Tensor:
        likelihood = _normal(y, beta @ x.mT, math.log(noise)).sum(-1)
        return likelihood + _normal(beta, 0.0, math.log(prior)).sum(-1)

    truth = seen.log_prob(y.double()).item()
    return _real(f"regression {rows} x {d}, noise {noise:g}", log_density, d, truth)


def unknown_noise(rows: int, d: int, seed: int) -> Problem:
    """beta ~ N(0, 10²), sigma ~ HalfNormal(10): beta in closed form, sigma by quadrature."""
    g = _seeded(seed)
    x = torch.randn(rows, d, generator=g)
    y = x @ torch.arange(1.0, d + 1) + torch.randn(rows, generator=g)
    half = math.log(2) - math.log(10) - 0.5 * LOG_TWO_PI

    def log_density(u: Tensor) -> Tensor:
        beta, log_sigma = u[..., :d], u[..., d]
        prior = _normal(beta, 0.0, math.log(10.0)).sum(-1)
        scale = half - 0.5 * (log_sigma.exp() / 10).square() + log_sigma
        return prior + scale + _normal(y, beta @ x.mT, log_sigma[..., None]).sum(-1)

    log_sigma = torch.linspace(-1.5, 2.5, 8001, dtype=torch.float64)
    variance, rows_x, seen = (2 * log_sigma).exp(), x.double(), y.double()
    precision = rows_x.mT @ rows_x / variance[:, None, None] + torch.eye(d).double() / 100
    pull = (rows_x.mT @ seen) / variance[:, None]
    best = torch.linalg.solve(precision, pull[..., None])[..., 0]
    log_p = 0.5 * (best * pull).sum(-1) - 0.5 * torch.logdet(precision) - d * math.log(10)
    log_p = log_p - 0.5 * seen.square().sum() / variance - 0.5 * rows * LOG_TWO_PI
    log_p = log_p - (rows - 1) * log_sigma + half - 0.5 * variance / 100
    name = f"regression {rows} x {d}, unknown noise"
    return _real(name, log_density, d + 1, _log_sum(log_p, 4 / 8000))


def gammas(d: int) -> Problem:
    """Gammas on the positive half line."""
    shape, rate = torch.linspace(0.5, 4, d), torch.linspace(0.5, 3, d)

    def log_density(x: Tensor) -> Tensor:
        return ((shape - 1) * x.log() - rate * x).sum(-1)

    truth = (torch.lgamma(shape.double()) - shape.double() * rate.double().log()).sum().item()
    return Problem(f"{d} Gammas", poe.FromLogDensity(log_density, space=poe.Positive(d)), truth)


def betas(d: int) -> Problem:
    """Betas on the unit interval."""
    a, b = torch.linspace(0.7, 4, d), torch.linspace(3, 1, d)

    def log_density(x: Tensor) -> Tensor:
        return ((a - 1) * x.log() + (b - 1) * torch.log1p(-x)).sum(-1)

    c, e = a.double(), b.double()
    truth = (torch.lgamma(c) + torch.lgamma(e) - torch.lgamma(c + e)).sum().item()
    target = poe.FromLogDensity(log_density, space=poe.Interval(d, 0, 1))
    return Problem(f"{d} Betas", target, truth)


def dirichlet(d: int, concentration: float) -> Problem:
    """A Dirichlet on the simplex."""

    def log_density(x: Tensor) -> Tensor:
        return (concentration - 1) * x.log().sum(-1)

    truth = d * math.lgamma(concentration) - math.lgamma(d * concentration)
    target = poe.FromLogDensity(log_density, space=poe.Simplex(d))
    return Problem(f"Dirichlet of {d}", target, truth)


def half(d: int) -> Problem:
    """A unit Gaussian where the first component is positive: −inf elsewhere."""

    def log_density(x: Tensor) -> Tensor:
        return (-0.5 * x.square().sum(-1)).masked_fill(x[..., 0] <= 0, -torch.inf)

    return _real(f"half a Gaussian {d}-d", log_density, d, 0.5 * d * LOG_TWO_PI - math.log(2))


def ising(coupling: float, n: int) -> Problem:
    """An n x n torus; its log Z by the transfer matrix over the states of a row."""

    def log_density(x: Tensor) -> Tensor:
        s = 2 * x - 1
        return coupling * (s * s.roll(1, -1) + s * s.roll(1, -2)).sum((-2, -1))

    rows = 2.0 * ((torch.arange(2**n)[:, None] >> torch.arange(n)) & 1).double() - 1.0
    within = coupling * (rows * rows.roll(1, 1)).sum(1)
    log_transfer = coupling * rows @ rows.mT + 0.5 * (within[:, None] + within)
    truth = torch.linalg.eigvalsh(log_transfer.exp()).pow(n).sum().log().item()
    target = poe.FromLogDensity(log_density, space=poe.Binary((n, n)))
    return Problem(f"Ising {n} x {n}, {coupling:g}", target, truth)


def bits(d: int) -> Problem:
    """Fair bits: no energy at all."""
    target = poe.FromLogDensity(lambda x: torch.zeros(x.shape[:-1]), space=poe.Binary(d))
    return Problem(f"{d} fair bits", target, d * math.log(2))


def problems() -> list[Problem]:
    """All of them, easy and hard in turn."""
    return [
        gaussian(4, 10.0), funnel(10, 3.0), modes(4, 5, 10.0, 0), regression(30, 5, 1.0, 10.0, 0),
        students(4, 3.0), schools(is_centred=True), wells(4, 6.0), shell(5, 3.0, 0.2),
        rosenbrock(4), unknown_noise(100, 5, 2), two_modes(10, 0.0, 0.5, 20.0), laplace(8),
        gaussian(10, 100.0, 3.0), funnel(4, 3.0), modes(10, 4, 8.0, 1), banana(5, 0.03),
        groups(6, is_centred=True, seed=1), schools(is_centred=False), wells(10, 4.0), half(4),
        gaussian(20, 1000.0), funnel(5, 1.5, 2), modes(50, 20, 20.0, 2), gumbel(5),
        students(10, 5.0), two_modes(4, 18.0, 0.3), shell(10, 5.0, 0.5), gammas(6),
        autoregression(50, 0.9), rosenbrock(3), unknown_noise(40, 8, 3), betas(5),
        spherical_student(5, 3.0), funnel(8, 2.0, 7), modes(6, 12, 15.0, 3), quartic(6),
        groups(10, is_centred=False, seed=2), two_shells(4), skew_wells(6), ising(0.3, 6),
        gaussian(50, 30.0), banana(10, 0.05), two_modes(5, 0.0, 0.4, 1000.0), dirichlet(5, 2.0),
        regression(200, 20, 0.1, 10.0, 4), students(20, 2.5), autoregression(10, 0.99), bits(40),
        wells(5, 12.0), modes(4, 30, 25.0, 5), groups(12, is_centred=True, seed=3), laplace(30),
        rosenbrock(4, 10.0), unknown_noise(500, 4, 5), two_modes(6, 10.0, 0.05), gumbel(20),
        shell(4, 10.0, 0.1), spherical_student(10, 5.0), gaussian(4, 1.0, 100.0), ising(0.44, 8),
    ]  # fmt: skip
