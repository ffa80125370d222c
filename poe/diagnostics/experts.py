"""Who says what in a product: which expert vetoes, which is saturated, who pulls against whom."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import ShapeError
from poe.density.coordinates import Coordinates
from poe.density.expert import Expert
from poe.density.nonfinite import require_finite_of_each

POINTS = 2000
"""More positions than this are thinned evenly: the figures need no more."""
ROWS_AT_ONCE = 1024
NO_DRAWS = "these are no draws of this target, or its experts divide zero by zero there"
LITTLE = 0.01
MUCH_VETO = 0.5
AGAINST = -0.5


@dataclass(frozen=True, eq=False)
class ExpertReport:
    """What each of k experts does along draws; prints as a table with plain words below it.

    With c_i(x) = expert i's contribution to the log-density, w_i log p̃_i(x), and s_i = ∇ c_i.

    Args:
        names: The experts, in the order of all that follows.
        mean: Of c_i along the draws, ``(k,)``.
        sd: Of c_i along the draws, ``(k,)``.
        share: Cov(c_i, Σ c) / Var(Σ c), ``(k,)``; they sum to 1, and one is negative where the
            expert is outvoted by the others.
        veto: The fraction of proposals that this expert *alone* excludes (c_i = −∞), ``(k,)``.
        brake: The fraction of proposals in which c_i falls, and falls most, ``(k,)``.
        score_norm: Root mean square of |s_i|, ``(k,)``; NaN on a discrete space.
        is_saturated: Whether an expert has next to no say on where the draws are, ``(k,)``:
            ``score_norm`` (on a discrete space ``sd``) is below 1 % of the largest one of all
            experts, and it vetoes nothing.
        cosine: Mean cosine between s_i and s_j over the draws where neither is zero, ``(k, k)``:
            1 they agree, 0 they mind different things, −1 they pull against each other.
    """

    names: tuple[str, ...]
    mean: Tensor
    sd: Tensor
    share: Tensor
    veto: Tensor
    brake: Tensor
    score_norm: Tensor
    is_saturated: Tensor
    cosine: Tensor

    @property
    def words(self) -> tuple[str, ...]:
        """What stands out, in words; empty where nothing does."""
        return (*self._vetoes(), *self._saturated(), *self._opposed())

    def _vetoes(self) -> list[str]:
        return [
            f"{name} alone excludes {veto:.0%} of the proposals: it decides where the chains can "
            "go. Take smaller steps, or soften it."
            for name, veto in zip(self.names, self.veto.tolist(), strict=True)
            if veto > MUCH_VETO
        ]

    def _saturated(self) -> list[str]:
        flags = self.is_saturated.tolist()
        return [
            f"{name} is saturated: it says the same wherever the draws are, so it has next to no "
            "say there. Raise its exponent, or start the chains where it can tell x apart."
            for name, is_flat in zip(self.names, flags, strict=True)
            if is_flat
        ]

    def _opposed(self) -> list[str]:
        pairs = (self.cosine.triu(1) < AGAINST).nonzero().tolist()
        return [
            f"{self.names[i]} and {self.names[j]} pull against each other (mean cosine "
            f"{self.cosine[i, j].item():.2f}): the draws are their compromise."
            for i, j in pairs
        ]

    def __str__(self) -> str:
        width = max(len("cosine with"), *map(len, self.names))
        head = ("mean", "sd", "share", "veto", "brake", "|score|")
        columns = (self.mean, self.sd, self.share, self.veto, self.brake, self.score_norm)
        formats = ("10.3f", "10.3f", "8.2f", "8.2f", "8.2f", "10.3g")
        rows = zip(self.names, *(c.tolist() for c in columns), strict=True)
        lines = [
            " " * width
            + f"{head[0]:>10}{head[1]:>10}{head[2]:>8}{head[3]:>8}{head[4]:>8}{head[5]:>10}"
        ]
        lines += [f"{name:<{width}}" + "".join(map(format, row, formats)) for name, *row in rows]
        if len(self.names) > 1:
            lines += self._cosine_lines(width)
        return "\n".join([*lines, *(f"! {text}" for text in self.words)])

    __repr__ = __str__

    def _cosine_lines(self, width: int) -> list[str]:
        columns = [max(8, len(name) + 2) for name in self.names]
        head = "".join(f"{name:>{w}}" for name, w in zip(self.names, columns, strict=True))
        rows = [
            f"{name:<{width}}" + "".join(f"{v:>{w}.2f}" for v, w in zip(row, columns, strict=True))
            for name, row in zip(self.names, self.cosine.tolist(), strict=True)
        ]
        return [f"{'cosine with':<{width}}{head}", *rows]


@checked
def expert_report(
    target: Expert, samples: Tensor, *, proposals: Tensor | None = None
) -> ExpertReport:
    """What each expert of a product does along draws of it.

    By default proposals are those of differential evolution, x_i + 2.38 / √(2 d) (x_j − x_k) in
    unconstrained coordinates, which have the spread of the draws themselves; on a discrete space,
    the next chain's draws. At most 2000 positions, evenly thinned, are looked at.

    Args:
        target: The product.
        samples: Draws of it, ``(chains, draws, *event)``.
        proposals: The positions that vetoes are counted at, of the same shape, each proposed from
            the draw of the same index.

    Returns:
        The report.

    Raises:
        ShapeError: Where samples or proposals are not positions of the target's space.
        PoeError: Where the log-density of an expert is not finite along the draws.

    References:
        Of the proposals: ter Braak (2006), A Markov chain Monte Carlo version of the genetic
        algorithm differential evolution, eq. 2, doi:10.1007/s11222-006-8769-1.

    Example:
        >>> left = experts.Gaussian([-1.0], scale=[1.0])
        >>> right = experts.Gaussian([1.0], scale=[1.0])
        >>> x = 0.1 * torch.randn(4, 100, 1, generator=torch.Generator().manual_seed(0))
        >>> print(expert_report(poe.Product(left=left, right=right), x))
                          mean        sd   share    veto   brake   |score|
        left  ...
        right ...
        cosine with    left   right
        left           1.00   -1.00
        right         -1.00    1.00
        ! left and right pull against each other (mean cosine -1.00): the draws are their ...
    """
    _require_positions(target, samples, proposals)
    names, factors = zip(*target._factors(), strict=True)
    proposed = _differences(target, samples) if proposals is None else proposals
    stride = max(1, -(-samples.shape[:2].numel() // POINTS))
    x, y = samples[:, ::stride].detach(), proposed[:, ::stride].detach()
    said, scores = _evaluate(target, factors, x)
    change = _contributions(target, factors, y) - said
    veto, brake = _vetoes(change)
    total = said.sum(1)
    centred = total - total.mean()
    share = ((said - said.mean(0)) * centred[:, None]).mean(0) / centred.square().mean()
    norm = scores.norm(dim=2).square().mean(0).sqrt()
    strength = said.std(0) if target.space.is_discrete else norm
    return ExpertReport(
        names=names,
        mean=said.mean(0),
        sd=said.std(0),
        share=share,
        veto=veto,
        brake=brake,
        score_norm=norm,
        is_saturated=(strength < LITTLE * strength.max()) & (veto == 0),
        cosine=_cosine(scores),
    )


@checked
def contributions_along(target: Expert, samples: Tensor) -> Tensor:
    """What each of the k factors says along draws, w_i log p̃_i(x), in bounded memory.

    Args:
        target: A product; another expert is one factor.
        samples: Positions, ``(chains, draws, *event)``.

    Returns:
        Contributions, ``(chains, draws, k)`` in float64, in the order of the names of a product.

    Raises:
        ShapeError: Where samples are not positions of the target's space.

    Example:
        >>> a, b = experts.Gaussian([0.0], scale=[1.0]), experts.Gaussian([1.0], scale=[1.0])
        >>> contributions_along(poe.Product(a=a, b=b), torch.zeros(1, 2, 1)).shape
        torch.Size([1, 2, 2])
    """
    _require_positions(target, samples, None)
    factors = tuple(factor for _, factor in target._factors())
    said = _contributions(target, factors, samples.detach())
    return said.unflatten(0, (samples.shape[1], samples.shape[0])).transpose(0, 1)


def names_of(target: Expert) -> tuple[str, ...]:
    """The names of its factors."""
    return tuple(name for name, _ in target._factors())


@checked
def binds_chains(target: Expert) -> bool:
    """Whether each chain has a condition of its own, so that all are evaluated together.

    Args:
        target: Any expert.

    Returns:
        True where a part of it is bound to a batch of conditions.
    """
    return target.num_densities is not None


def _require_positions(target: Expert, samples: Tensor, proposals: Tensor | None) -> None:
    if len(target.space.batch_shape(samples)) != 2:
        raise ShapeError(
            f"expected positions (chains, draws, *{tuple(target.space.event_shape)}), got "
            f"{tuple(samples.shape)}"
        )
    if target.space.is_discrete:
        target.space.require(samples)
    if not samples.numel():
        raise ShapeError(f"expected at least one draw, got {tuple(samples.shape)}")
    if proposals is not None and proposals.shape != samples.shape:
        raise ShapeError(
            f"expected one proposal for each of the draws {tuple(samples.shape)}, got "
            f"{tuple(proposals.shape)}"
        )


def _differences(target: Expert, samples: Tensor) -> Tensor:
    """Each draw moved by the difference of two others, far from it and from each other."""
    if target.space.is_discrete:
        return samples.roll(1, 0) if len(samples) > 1 else samples.roll(samples.shape[1] // 2, 1)
    coordinates = Coordinates(target.space)
    u = coordinates.to_u(samples)
    flat = u.flatten(0, 1)
    dimension = max(1, flat[0].numel())
    third = len(flat) // 3
    moved = flat + 2.38 / (2 * dimension) ** 0.5 * (flat.roll(third, 0) - flat.roll(-third, 0))
    return coordinates.to_x(moved.reshape(u.shape))


def _evaluate(target: Expert, factors: tuple[Expert, ...], x: Tensor) -> tuple[Tensor, Tensor]:
    """Contributions ``(n, k)`` and scores ``(n, k, dimension)`` at positions, both in float64."""
    if target.space.is_discrete:
        said = _contributions(target, factors, x)
        scores = said.new_full((*said.shape, 1), torch.nan)
    else:
        blocks = [
            [factor.log_density_and_score(rows) for factor in factors] for rows in _rows(target, x)
        ]
        said = torch.cat([torch.stack([v for v, _ in block], 1) for block in blocks]).double()
        scores = torch.cat([torch.stack([s.flatten(1) for _, s in b], 1) for b in blocks]).double()
    require_finite_of_each(names_of(target), said, "log-densities along the draws", NO_DRAWS)
    return said, scores


@torch.no_grad()
def _contributions(target: Expert, factors: tuple[Expert, ...], x: Tensor) -> Tensor:
    """``(n, k)`` in float64."""
    blocks = [torch.stack([f(rows) for f in factors], 1) for rows in _rows(target, x)]
    return torch.cat(blocks).double()


def _rows(target: Expert, x: Tensor) -> tuple[Tensor, ...]:
    """Positions ``(rows, *event)`` some at a time: all chains, where each has its own condition."""
    chains = len(x)
    rows = chains if binds_chains(target) else max(1, ROWS_AT_ONCE // chains) * chains
    return x.transpose(0, 1).flatten(0, 1).split(rows)


def _vetoes(change: Tensor) -> tuple[Tensor, Tensor]:
    """The fractions of rows where each expert alone is −∞, and where it falls most."""
    is_out = change == -torch.inf
    alone = is_out & (is_out.sum(1, keepdim=True) == 1)
    lowest, who = change.min(1)  # NaN, where there is one, is no fall
    falls = torch.nn.functional.one_hot(who, change.shape[1]).bool() & (lowest < 0)[:, None]
    return alone.double().mean(0), falls.double().mean(0)


def _cosine(scores: Tensor) -> Tensor:
    """Mean cosine between experts over the rows where both scores are non-zero: ``(k, k)``."""
    norm = scores.norm(dim=2, keepdim=True)
    has_score = (norm > 0).double()
    unit = torch.where(norm > 0, scores / norm, 0.0)
    together = torch.einsum("nid,njd->ij", unit, unit)
    return together / torch.einsum("nid,njd->ij", has_score, has_score)
