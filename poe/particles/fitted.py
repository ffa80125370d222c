"""A density fitted to draws, normalised and sampled exactly: where an estimate of log Z starts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poe.core.affine import (
    Dense,
    Diagonal,
    LowRank,
    fit_affine,
)
from poe.core.arguments import checked
from poe.core.randomness import choose, resolve
from poe.core.space import Real, Space
from poe.core.transport import Density, Transport
from poe.core.transport_fit import fit_transport
from poe.density.checks import number_like
from poe.density.closed_forms import exact_sample
from poe.density.expert import Expert, Mixture

MAX_COMPONENTS = 16
DRAWS_A_DIMENSION = 10
"""So many draws for each dimension of a component, at least."""
TAILS = (math.inf, 4.0)
"""Degrees of freedom of components, of which the likelihood of other draws chooses."""
EM_STEPS = 30
DEGREES = (1, 2, 3, 5, 30)
"""Of freedom, of independent elements: that of each of which its draws are likeliest."""
HEAVIEST = 3
"""Where no element has tails as heavy as that, lighter ones serve as well: exp(x), of logarithms of
what is positive, has no mean under any Student's t."""
DEFENSIVE, LONGER = 0.1, 2.0
"""The share of what reaches farther than the draws, and how far along the first coordinate."""
HEAVY, WIDER = 4.0, 1.2
"""Or with tails of so many degrees of freedom, and so much wider."""
RIDGE = 1e-3


class FittedGaussian(Expert):
    """N(μ, L Lᵀ) by the affine map that whitens it, normalised: however many dimensions."""

    def __init__(self, affine: Diagonal | Dense | LowRank, space: Space) -> None:
        super().__init__()
        self.affine, self.space = affine, space

    def forward(self, x: Tensor) -> Tensor:
        u = self.affine.to_u(x.reshape(-1, *self.space.event_shape)).reshape(x.shape)
        d = self.space.event_shape.numel()
        squares = self.space.as_vector(u).square().sum(-1)
        return -0.5 * squares - self.affine.log_abs_det() - 0.5 * d * math.log(2 * math.pi)

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x): ``(*batch, *event) -> (*batch,)``."""
        return self(x)

    @checked
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, *event)``."""
        loc = self.affine.loc
        noise = loc.new_empty((num_samples, *self.space.event_shape))
        return self.affine.to_x(noise.normal_(generator=resolve(generator, loc.device)))


class FittedTransport(Expert):
    """A density of u, normalised, carried to x by a map that bends: for funnels and bent valleys.

    log q(x) = log q_u(u) − log |det ∂x / ∂u|, x = T(u).
    """

    def __init__(self, transport: Transport, base: Expert) -> None:
        super().__init__()
        self.transport, self.base, self.space = transport, base, base.space
        loc = transport.loc.to(number_like(base).dtype)
        self.register_buffer("loc", loc)  # tells the dtype and the device
        self.log_volume = transport.log_volume().item()

    def forward(self, x: Tensor) -> Tensor:
        u = self.transport.to_u(x.reshape(-1, *self.space.event_shape))
        found = self.base(u) - self.transport.log_abs_det_at(u) - self.log_volume
        return found.reshape(x.shape[: x.ndim - len(self.space.event_shape)])

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x): ``(*batch, *event) -> (*batch,)``."""
        return self(x)

    @checked
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, *event)``."""
        generator = resolve(generator, self.transport.loc.device)
        return self.transport.to_x(exact_sample(self.base, num_samples, generator))


class FittedStudents(Expert):
    """∏_j t_ν_j((x_j − m_j) / s_j) / s_j, normalised: elements with heavy tails of their own.

    Shapes: loc m, scale s, df ν, all ``(d,)``; ν is a whole number.
    """

    loc: Tensor
    scale: Tensor
    df: Tensor

    def __init__(self, loc: Tensor, scale: Tensor, df: Tensor, space: Space) -> None:
        super().__init__()
        self.space = space
        for name, value in (("loc", loc), ("scale", scale), ("df", df)):
            self.register_buffer(name, value)

    def elements(self, x: Tensor) -> Tensor:
        """log of each factor: ``(*batch, *event) -> (*batch, d)``."""
        u, power = (self.space.as_vector(x) - self.loc) / self.scale, 0.5 * (self.df + 1.0)
        constant = power.lgamma() - (0.5 * self.df).lgamma() - 0.5 * (math.pi * self.df).log()
        return constant - self.scale.log() - power * torch.log1p(u.square() / self.df)

    def forward(self, x: Tensor) -> Tensor:
        return self.elements(x).sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x): ``(*batch, *event) -> (*batch,)``."""
        return self(x)

    @checked
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, *event)``."""
        generator, most = resolve(generator, self.loc.device), int(self.df.max())
        shape = (num_samples, len(self.loc))
        squares = self.loc.new_empty((most, *shape)).normal_(generator=generator).square()
        counts = torch.arange(1, most + 1, device=self.loc.device)[:, None, None] <= self.df
        noise = self.loc.new_empty(shape).normal_(generator=generator)
        x = self.loc + self.scale * noise / ((squares * counts).sum(0) / self.df).sqrt()
        return x.reshape(num_samples, *self.space.event_shape)


class FittedMixture(Expert):
    """Σ_k w_k t_ν(μ_k, L_k L_kᵀ), normalised: all components evaluated at once.

    Student's t of ν degrees of freedom, with log density
    log Γ((ν + d) / 2) − log Γ(ν / 2) − (d / 2) log(ν π) − log |L| − (ν + d) / 2 log(1 + |u|² / ν),
    u = L⁻¹ (x − μ); ν = ∞ is the Gaussian.

    Shapes: log_weights ``(K,)``, loc ``(K, d)``, factor L ``(K, d, d)``.
    """

    log_weights: Tensor
    loc: Tensor
    inverse: Tensor
    factor: Tensor
    log_constants: Tensor

    def __init__(
        self,
        log_weights: Tensor,
        loc: Tensor,
        factor: Tensor,
        space: Space,
        df: float = math.inf,
    ) -> None:
        super().__init__()
        self.space, self.df = space, df
        eye = torch.eye(loc.shape[1]).to(loc)
        inverse = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
        log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        constants = log_weights - log_det - _log_area(loc.shape[1], df)
        self.register_buffer("log_weights", log_weights)
        self.register_buffer("loc", loc)
        self.register_buffer("factor", factor)
        self.register_buffer("inverse", inverse)
        self.register_buffer("log_constants", constants)

    def squares(self, x: Tensor) -> Tensor:
        """|L_k⁻¹ (x − μ_k)|²: ``(*batch, *event) -> (*batch, K)``."""
        centred = self.space.as_vector(x)[..., None, :] - self.loc
        return torch.einsum("kij,...kj->...ki", self.inverse, centred).square().sum(-1)

    def components(self, x: Tensor) -> Tensor:
        """log of w_k times the density of component k: ``(*batch, *event) -> (*batch, K)``."""
        squares = self.squares(x)
        if math.isinf(self.df):
            return self.log_constants - 0.5 * squares
        power = 0.5 * (self.df + self.loc.shape[1])
        return self.log_constants - power * torch.log1p(squares / self.df)

    def forward(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self.components(x), -1)

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x): ``(*batch, *event) -> (*batch,)``."""
        return self(x)

    @checked
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, *event)``."""
        generator = resolve(generator, self.loc.device)
        chosen = choose(self.log_weights.exp(), num_samples, generator=generator)
        noise = self.loc.new_empty((num_samples, self.loc.shape[1])).normal_(generator=generator)
        if not math.isinf(self.df):
            normals = self.loc.new_empty((num_samples, round(self.df))).normal_(generator=generator)
            noise = noise / normals.square().mean(1, keepdim=True).sqrt()
        x = self.loc[chosen] + torch.einsum("nij,nj->ni", self.factor[chosen], noise)
        return x.reshape(num_samples, *self.space.event_shape)


def _log_area(d: int, df: float) -> float:
    """−log of the density of a standard one at its centre."""
    if math.isinf(df):
        return 0.5 * d * math.log(2 * math.pi)
    return math.lgamma(0.5 * df) - math.lgamma(0.5 * (df + d)) + 0.5 * d * math.log(df * math.pi)


def fit_density(
    target: Density, x: Tensor, score: Tensor | None, space: Space, generator: torch.Generator
) -> Expert:
    """The Gaussian, mixture or bent Gaussian, under which other draws are likeliest.

    Candidates are fitted to one half of ``x`` ``(n, *event)``, and compared on the other: a
    Gaussian by positions and scores (``fit_affine``), independent Student's t, and mixtures of 1,
    2, 4, … 16 components by expectation-maximisation, Gaussians and others of heavy tails. Where
    necks begin, the target is asked for scores ahead.
    """
    half = len(x) // 2
    order = torch.randperm(len(x), generator=generator, device=x.device)
    one, other = x[order[:half]], x[order[half:]]
    of_one = None if score is None else score[order[:half]]
    candidates = _straight(one, of_one, space, generator)
    best = _likeliest(candidates, other)
    if best is candidates[0] or of_one is None:
        return best
    bent = fit_transport(one, of_one, target)
    if not isinstance(bent, Transport):
        return best
    u = bent.to_u(one)
    bases = _straight(u, bent.pull_score_at(u, of_one), space, generator)
    bent_ones = [FittedTransport(bent, _with_ends(base, u, space)) for base in bases]
    return _likeliest([best, *bent_ones], other)


def _with_ends(base: Expert, u: Tensor, space: Space) -> Mixture:
    """A density of a map's coordinates, and a little of one that is longer along the first.

    Necks fall off more slowly than the normal that a map makes of what was seen of them.
    """
    rows = space.as_vector(u)
    scale = rows.std(0).clamp(min=1e-12)
    scale[0] *= LONGER
    affine = Diagonal(rows.mean(0).reshape(u.shape[1:]), scale.reshape(u.shape[1:]))
    return Mixture([base, FittedGaussian(affine, space)], [1.0 - DEFENSIVE, DEFENSIVE])


def with_tails(base: Expert, u: Tensor, space: Space) -> Mixture:
    """A density and a little of one with heavy tails around the same draws."""
    rows = space.as_vector(u)
    scale = WIDER * rows.std(0).clamp(min=1e-12)
    tails = FittedStudents(rows.mean(0), scale, torch.full_like(scale, HEAVY), space)
    return Mixture([base, tails], [1.0 - DEFENSIVE, DEFENSIVE])


def _straight(
    x: Tensor, score: Tensor | None, space: Space, generator: torch.Generator
) -> list[Expert]:
    """A Gaussian, independent Student's t, and mixtures of 1, 2, 4, … 16 components."""
    candidates: list[Expert] = [FittedGaussian(fit_affine(x, score), space)]
    students = fit_students(x, space)
    if bool(students.df.min() <= HEAVIEST):
        candidates.append(students)
    count, d = 1, space.event_shape.numel()
    while count <= max(1, min(MAX_COMPONENTS, len(x) // (DRAWS_A_DIMENSION * d))):
        candidates += [fit_mixture(x, count, space, generator, df) for df in TAILS]
        count *= 2
    return candidates


def _likeliest(candidates: list[Expert], x: Tensor) -> Expert:
    """Of several densities that under which draws have the largest log-likelihood."""
    with torch.no_grad():
        likelihoods = [candidate(x).double().mean().item() for candidate in candidates]
    return candidates[max(range(len(candidates)), key=likelihoods.__getitem__)]


def fit_mixture(
    x: Tensor,
    num_components: int,
    space: Space,
    generator: torch.Generator,
    df: float = math.inf,
) -> FittedMixture:
    """Gaussians, or Student's t, fitted by expectation-maximisation from centres far apart.

    Args:
        x: Draws, ``(n, *event)``.
        num_components: How many.
        space: Where x lives.
        generator: For the centres.
        df: Degrees of freedom of the components; infinitely many are Gaussian.

    Returns:
        The mixture, on ``space``.

    References:
        Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM
        algorithm; Peel & McLachlan (2000), Robust mixture modelling using the t distribution, eq.
        20, doi:10.1023/A:1008981510081; Arthur & Vassilvitskii (2007), k-means++: the advantages of
        careful seeding (the centres).
    """
    flat = space.as_vector(x).double()
    loc, scale = flat.mean(0), flat.std(0).clamp(min=1e-12)
    u = (flat - loc) / scale
    centers = _spread_centers(u, num_components, generator)
    nearest = torch.cdist(u, centers).argmin(1)
    given = torch.nn.functional.one_hot(nearest, num_components).double()
    vectors = Real(u.shape[1])
    mixture = _maximised(u, given, given, vectors, df)
    for _ in range(EM_STEPS):
        given = torch.softmax(mixture.components(u), 1)
        mixture = _maximised(u, given, given * _nearness(mixture, u), vectors, df)
    factor = scale[:, None] * mixture.factor
    weights, centres = mixture.log_weights.to(x.dtype), (loc + scale * mixture.loc).to(x.dtype)
    return FittedMixture(weights, centres, factor.to(x.dtype), space, df)


def fit_students(x: Tensor, space: Space) -> FittedStudents:
    """Independent Student's t, each of the degrees of freedom under which its draws are likeliest.

    Centre and scale by expectation-maximisation (Liu & Rubin 1995, ML estimation of the t
    distribution using EM and its extensions).

    Shapes: x ``(n, *event)``.
    """
    rows = space.as_vector(x).double()
    fits = [_students(rows, float(df)) for df in DEGREES]
    likelihoods = torch.stack([fit.elements(rows).mean(0) for fit in fits])
    best = likelihoods.argmax(0)[None]
    loc, scale, df = (
        torch.stack([getattr(fit, name) for fit in fits]).gather(0, best)[0].to(x.dtype)
        for name in ("loc", "scale", "df")
    )
    return FittedStudents(loc, scale, df, space)


def _students(rows: Tensor, df: float) -> FittedStudents:
    centre = rows.quantile(0.5, dim=0)
    square = (rows - centre).square().quantile(0.5, dim=0).clamp(min=1e-24)
    for _ in range(EM_STEPS):
        weight = (df + 1.0) / (df + (rows - centre).square() / square)
        centre = (weight * rows).sum(0) / weight.sum(0)
        square = (weight * (rows - centre).square()).mean(0).clamp(min=1e-24)
    return FittedStudents(centre, square.sqrt(), torch.full_like(centre, df), Real(len(centre)))


def _nearness(mixture: FittedMixture, u: Tensor) -> Tensor | float:
    """How much a draw says of a component's centre and shape: less, the farther out it is."""
    if math.isinf(mixture.df):
        return 1.0
    return (mixture.df + u.shape[1]) / (mixture.df + mixture.squares(u))


def _maximised(u: Tensor, given: Tensor, near: Tensor, space: Space, df: float) -> FittedMixture:
    """The components by their shares ``(n, K)`` of the draws, each kept away from singular."""
    d = u.shape[1]
    weight = given.sum(0) + 1e-9
    loc = near.mT @ u / (near.sum(0) + 1e-9)[:, None]
    centred = u[None] - loc[:, None]
    covariance = torch.einsum("nk,kni,knj->kij", near, centred, centred) / weight[:, None, None]
    variance = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    ridge = (RIDGE + d / weight) * variance + 1e-10
    covariance = covariance + ridge[:, None, None] * torch.eye(d).to(u)
    return FittedMixture(
        (weight / weight.sum()).log(), loc, torch.linalg.cholesky(covariance), space, df
    )


def _spread_centers(u: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++: each centre is drawn by the square distance to those before."""
    first = torch.randint(len(u), (1,), generator=generator, device=u.device)
    centers = u[first]
    for _ in range(count - 1):
        distance = torch.cdist(u, centers).amin(1).square() + 1e-12
        centers = torch.cat([centers, u[torch.multinomial(distance, 1, generator=generator)]])
    return centers
