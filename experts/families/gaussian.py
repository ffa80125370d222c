"""The Gaussian: any covariance, with its products in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.parameters import ArrayLike, fixed, keep, positive, real
from poe import DtypeError, Expert, ImproperError, PoeError, Real, ShapeError
from poe.core.arguments import checked
from poe.core.randomness import resolve
from poe.density.capabilities import Simplified, Term, combine, is_small, tails
from poe.io import Fields, register
from poe.structure.tails import name_direction

ANEW = "build the expert anew in each step, of parameter.clone()"


class Gaussian(Expert):
    """The normal density N(x; m, S), normalised, on ``Real(loc.shape)``.

    log p(x) = -1/2 (x - m)' S^-1 (x - m) - 1/2 log det(2 pi S)

    Give one of ``scale``, ``covariance`` and ``precision``. Products of powers of Gaussians are
    Gaussian, with the log partition in closed form.

    Args:
        loc: The mean m, ``(*event)``; an ``nn.Parameter`` stays one.
        scale: Standard deviations, positive: a number for all, or ``(*event)``, of which an
            ``nn.Parameter`` of that shape stays one.
        covariance: S, ``(d, d)``, symmetric and positive definite; then loc is ``(d,)``.
        precision: S^-1, ``(d, d)``, symmetric and positive definite; then loc is ``(d,)``.

    Raises:
        ShapeError: Where the shapes do not fit.
        PoeError: Where the spread is not positive or not finite, or it is not one of the three;
            for an ``nn.Parameter`` that would not be learned.

    Example:
        >>> a, b = Gaussian([-1.0], scale=[1.0]), Gaussian([2.0], scale=[0.5])
        >>> a(torch.tensor([[-1.0]]))
        tensor([-0.9189])
        >>> poe.log_partition(a * b).value
        tensor(-4.6305)
    """

    loc: Tensor
    scale: Tensor | None
    scale_tril: Tensor | None
    may_be_infinite = ()

    @checked
    def __init__(
        self,
        loc: ArrayLike,
        scale: ArrayLike | None = None,
        *,
        covariance: ArrayLike | None = None,
        precision: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        _require_one(scale=scale, covariance=covariance, precision=precision)
        center = real("loc", loc)
        self.space = Real(tuple(center.shape))
        keep(self, "loc", center)
        keep(self, "scale", None if scale is None else _as_scale(scale, center))
        tril = None
        if covariance is not None:
            tril = _cholesky("covariance", covariance, center)
        elif precision is not None:
            tril = _inverse_cholesky("precision", precision, center)
        keep(self, "scale_tril", tril)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised log-density.

        Args:
            x: Events, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        event_ndim = self.loc.ndim
        whitened = self._whiten(x - self.loc)
        squares = _sum_event(whitened.square(), event_ndim)
        log_scale = _sum_event(self._log_scale(), event_ndim)
        return -0.5 * squares - log_scale - 0.5 * self.loc.numel() * math.log(2 * math.pi)

    def log_prob(self, x: Tensor) -> Tensor:
        """The normalised log-density, which equals ``log_density``.

        Args:
            x: Events, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        return self(x)

    @checked
    @torch.no_grad()
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent exact draws, without a gradient.

        Args:
            num_samples: How many.
            generator: Of all that is drawn; a fresh one, seeded by the system, by default.

        Returns:
            Draws, ``(num_samples, *event)``.
        """
        return self._draws(num_samples, generator)

    def rsample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """The same draws with their gradients in location and spread: m + L ε, ε ~ N(0, I).

        Args:
            num_samples: How many.
            generator: Of all that is drawn; a fresh one, seeded by the system, by default.

        Returns:
            Draws, ``(num_samples, *event)``.

        References:
            Kingma & Welling (2014), Auto-encoding variational Bayes, section 2.4, arXiv:1312.6114.
        """
        return self._draws(num_samples, generator)

    def _draws(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        generator = resolve(generator, self.loc.device)
        shape = (num_samples, *self.loc.shape)
        noise = torch.randn(
            shape, generator=generator, dtype=self.loc.dtype, device=self.loc.device
        )
        if self.scale_tril is None:
            return self.loc + _present(self.scale) * noise
        return self.loc + noise @ self.scale_tril.mT

    @property
    def covariance(self) -> Tensor:
        """The covariance matrix, ``(d, d)``, with events flattened."""
        if self.scale_tril is None:
            return torch.diag(_present(self.scale).flatten().square())
        return self.scale_tril @ self.scale_tril.mT

    @property
    def precision(self) -> Tensor:
        """The inverse of the covariance, ``(d, d)``, with events flattened."""
        if self.scale_tril is None:
            return torch.diag(_present(self.scale).flatten().square().reciprocal())
        return torch.cholesky_inverse(self.scale_tril)

    def extra_repr(self) -> str:
        kind = "diagonal" if self.scale_tril is None else "full"
        return f"{self.space}, {kind} covariance"

    def _whiten(self, centered: Tensor) -> Tensor:
        if self.scale_tril is None:
            return centered / _present(self.scale)
        batch = centered.reshape(-1, centered.shape[-1])
        solved = torch.linalg.solve_triangular(self.scale_tril, batch.mT, upper=False)
        return solved.mT.reshape(centered.shape)

    def _log_scale(self) -> Tensor:
        if self.scale_tril is None:
            return _present(self.scale).log()
        return self.scale_tril.diagonal().log()


@combine.register
def _(first: Gaussian, terms: Sequence[Term]) -> Simplified | None:
    """Precisions and precision-weighted locations add, each times its exponent.

    The constant is the product's log-density minus the combined one's, taken at the combined
    location, where rounding is least. All in float64, whatever the experts' dtype.
    """
    if first.loc.is_meta:
        return None
    weights = [term.exponent.to("cpu", torch.float64) for term in terms]
    parts = [_in_float64(term.expert) for term in terms if isinstance(term.expert, Gaussian)]
    if all(part.scale_tril is None for part in parts):
        combined = _combine_diagonal(terms, parts, weights)
    else:
        combined = _combine_full(terms, parts, weights)
    values = [weight * part(combined.loc) for weight, part in zip(weights, parts, strict=True)]
    log_constant = torch.stack(values).sum() - combined(combined.loc)
    target = first.loc
    return Simplified(combined.to(target.device, target.dtype), log_constant.to(target))


@tails.register
def _(expert: Gaussian) -> Tensor | None:
    """Its precision."""
    if expert.loc.is_meta or not is_small(expert.space):
        return None
    precision = _in_float64(expert).precision.detach()
    return (precision + precision.mT)[None] / 2


def _build(fields: Fields) -> Gaussian:
    """From its own tensors, without a second factorisation."""
    gaussian = Gaussian(fields["loc"].detach(), scale=1.0)
    for name, tensor in fields.items():
        delattr(gaussian, name)
        keep(gaussian, name, tensor)
    return gaussian


register(
    Gaussian,
    lambda g: {"loc": g.loc, "scale": g.scale, "scale_tril": g.scale_tril},
    _build,
    name="experts.Gaussian",
    formerly=("experts.gaussian.Gaussian",),
)


def _combine_diagonal(
    terms: Sequence[Term], parts: list[Gaussian], weights: list[Tensor]
) -> Gaussian:
    shares = [w * _present(p.scale) ** -2 for w, p in zip(weights, parts, strict=True)]
    precision = torch.stack(shares).sum(0)
    _require_proper(terms, _lowest_element(precision.flatten()))
    pulls = torch.stack([s * p.loc for s, p in zip(shares, parts, strict=True)]).sum(0)
    return Gaussian(pulls / precision, scale=precision.rsqrt())


def _combine_full(terms: Sequence[Term], parts: list[Gaussian], weights: list[Tensor]) -> Gaussian:
    shares = [w * p.precision for w, p in zip(weights, parts, strict=True)]
    precision = torch.stack(shares).sum(0)
    precision = (precision + precision.mT) / 2
    _require_proper(terms, _not_positive(precision))
    pulls = torch.stack([s @ p.loc for s, p in zip(shares, parts, strict=True)]).sum(0)
    return Gaussian(torch.linalg.solve(precision, pulls), precision=precision)


def _lowest_element(precision: Tensor) -> Tensor | None:
    """The axis along which a diagonal ``(d,)`` is lowest; None where all of it is positive."""
    if bool((precision > 0).all()):
        return None
    return F.one_hot(precision.argmin(), len(precision)).to(precision)


def _not_positive(precision: Tensor) -> Tensor | None:
    """A direction u in which ``(d, d)`` has u' P u <= 0; None where it is positive definite.

    The first leading block that is not: [−A⁻¹ b, 1] with A the block before, b the column beside.
    """
    size = int(torch.linalg.cholesky_ex(precision).info) - 1
    if size < 0:
        return None
    u = torch.zeros_like(precision[0])
    block = torch.linalg.cholesky_ex(precision[:size, :size]).L
    u[:size] = -torch.cholesky_solve(precision[:size, size, None], block)[:, 0]
    u[size] = 1
    return F.normalize(u, dim=0)


def _require_proper(terms: Sequence[Term], away: Tensor | None) -> None:
    if away is None:
        return
    blamed = [f"{t.name} ** {t.exponent.item():g}" for t in terms if t.exponent.item() <= 0]
    raise ImproperError(
        "expected a product of Gaussians whose precisions sum to a positive definite matrix; "
        f"{', '.join(blamed)} takes away more than the others give "
        f"{name_direction(away, terms[0].expert.space.event_shape)}, so the density grows without "
        "bound; use a smaller weight, or multiply by a sharper prior"
    )


def _in_float64(expert: Gaussian) -> Gaussian:
    tensors = {"loc": expert.loc, "scale": expert.scale, "scale_tril": expert.scale_tril}
    return _build(
        {k: None if t is None else t.to("cpu", torch.float64) for k, t in tensors.items()}
    )


def _present(scale: Tensor | None) -> Tensor:
    if scale is None:
        raise PoeError("expected a Gaussian with a scale or a scale_tril, got neither")
    return scale


def _as_scale(scale: ArrayLike, loc: Tensor) -> Tensor:
    tensor = positive("scale", scale, like=loc)
    if tensor.ndim == 0 and loc.ndim:
        fixed("scale", scale, f"give one of shape {tuple(loc.shape)}, or {ANEW}")
        tensor = tensor.expand(loc.shape).clone()
    if tensor.shape != loc.shape:
        raise ShapeError(
            f"expected scale of shape {tuple(loc.shape)} like loc, got {tuple(tensor.shape)}; "
            "use covariance= or precision= for a matrix"
        )
    return tensor


def _cholesky(name: str, matrix: ArrayLike, loc: Tensor) -> Tensor:
    """The lower triangular L with L L' = S."""
    tensor = _symmetric(name, matrix, loc)
    return tensor if tensor.is_meta else _factor(name, tensor)


def _inverse_cholesky(name: str, matrix: ArrayLike, loc: Tensor) -> Tensor:
    """The lower triangular T = U'^-1 with T T' = P^-1, from P = U U' with U upper triangular.

    U is the lower factor of P with both axes flipped, flipped back: no inverse of P is formed,
    which would lose as many digits again as P's condition has.
    """
    tensor = _symmetric(name, matrix, loc)
    if tensor.is_meta:
        return tensor
    upper = _factor(name, tensor.flip(0, 1)).flip(0, 1)
    identity = torch.eye(len(upper), dtype=upper.dtype, device=upper.device)
    return torch.linalg.solve_triangular(upper.mT, identity, upper=False)


def _symmetric(name: str, matrix: ArrayLike, loc: Tensor) -> Tensor:
    fixed(name, matrix, f"learn scale=, or {ANEW}")
    tensor = real(name, matrix, like=loc)
    d = loc.numel()
    if loc.ndim != 1 or tensor.shape != (d, d):
        raise ShapeError(
            f"expected loc of shape (d,) and {name} of shape (d, d), got {tuple(loc.shape)} and "
            f"{tuple(tensor.shape)}"
        )
    if tensor.is_meta:
        return tensor
    if tensor.dtype not in (torch.float32, torch.float64):
        raise DtypeError(
            f"{name} must be of torch.float32 or torch.float64, got {tensor.dtype}, in which torch "
            "has no Cholesky factors: use .float()"
        )
    largest = tensor.detach().abs().max().item() if d else 0.0
    if not torch.allclose(tensor, tensor.mT, rtol=1e-4, atol=1e-6 * largest):
        raise _not_definite(name, tensor)
    return tensor


def _factor(name: str, matrix: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info != 0:
        raise _not_definite(name, matrix)
    return factor


def _not_definite(name: str, matrix: Tensor) -> PoeError:
    lowest = torch.linalg.eigvalsh(matrix.detach().double()).min().item()
    return PoeError(
        f"expected a symmetric positive definite {name}, got one of lowest eigenvalue "
        f"{lowest:.3g}, up to {(matrix - matrix.mT).abs().max().item():.3g} from symmetric: add a "
        "multiple of the identity, or give it in float64"
    )


def _sum_event(values: Tensor, event_ndim: int) -> Tensor:
    return values.sum(tuple(range(-event_ndim, 0))) if event_ndim else values


def _require_one(**spreads: ArrayLike | None) -> None:
    given = [name for name, value in spreads.items() if value is not None]
    if len(given) != 1:
        raise PoeError(
            f"expected exactly one of {', '.join(spreads)}, got {', '.join(given) or 'none'}"
        )
