"""Latent variables: the joint density of a prior and a conditional, and its marginal."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from poe.core.errors import NormalizationError, PoeError, ShapeError
from poe.core.randomness import resolve
from poe.core.space import Binary, Real, Space
from poe.density.capabilities import (
    can_sample_exactly,
    check_proper,
    conditional_tails,
    conditionals,
    exact_log_partition,
    is_normalized,
    is_small,
    label_pairs,
    log_density_of_one_hot,
    log_prob_of,
    sampler_of,
    spin_pairs,
    tails,
)
from poe.density.checks import dtype_of
from poe.density.conditional import (
    Conditional,
    conditional_sampler,
    log_density_of_rows,
    normalizes,
)
from poe.density.expert import Expert, LogDensity, Sampler, require_expert
from poe.density.questions import keeps_default, speaks_as


class Chain(Expert):
    """The joint density of z = (x, y): log p̃(x) + log p(y | x), on the concatenated vectors.

    Both live on Real vectors, or both on Binary ones. The density is differentiable in x through
    the condition too. ``log_prob`` exists where both are normalised, ``sample`` (x first, then y
    given x: exact) where both have one.

    Args:
        prior: p̃(x), an expert on vectors ``(d_x,)``.
        conditional: p(y | x) on vectors ``(d_y,)``; its condition is the batch of x, ``(n, d_x)``.

    Raises:
        PoeError: For spaces not both Real or both Binary, or whose events are no vectors, and for
            what is no ``poe.Conditional``.

    Example:
        >>> step = experts.LinearGaussian(weight=[[2.0]], bias=[1.0], scale=[0.5])
        >>> chain = Chain(experts.Gaussian([0.0], scale=[1.0]), step)
        >>> chain.log_prob(torch.tensor([[0.0, 1.0]]))  # N(0; 0, 1) N(1; 1, 0.5²)
        tensor([-1.1447])
    """

    def __init__(self, prior: Expert, conditional: Conditional) -> None:
        super().__init__()
        if not isinstance(conditional, Conditional):
            raise PoeError(
                f"expected a poe.Conditional p(y | x), got {type(conditional).__name__}; use "
                "prior * expert for densities on one space"
            )
        self.space = _joint_space(require_expert(prior).space, conditional.space)
        self.prior = prior
        self.conditional = conditional

    def forward(self, x: Tensor) -> Tensor:
        """log p̃(x) + log p(y | x).

        Args:
            x: Both parts in one vector, ``(*batch, d_x + d_y)``.

        Returns:
            The log-density, ``(*batch,)``.
        """
        first, second = self.split(x)
        return self.prior(first) + self._conditional_log_density(first, second)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of z = (x, y).

        Args:
            z: Both in one vector, ``(*batch, d_x + d_y)``.

        Returns:
            x ``(*batch, d_x)`` and y ``(*batch, d_y)``.
        """
        size = self.prior.space.event_shape.numel()
        return z[..., :size], z[..., size:]

    def _log_prob(self, z: Tensor) -> Tensor:
        first, second = self.split(z)
        value: Tensor = self.prior.log_prob(first)
        return value + self._conditional_log_density(first, second)

    def _conditional_log_density(self, x: Tensor, y: Tensor) -> Tensor:
        rows, conditions = y.reshape(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
        return log_density_of_rows(self.conditional, rows, conditions).reshape(x.shape[:-1])

    def _sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        device = next((t.device for t in (*self.parameters(), *self.buffers())), "cpu")
        generator = resolve(generator, device)
        x = self.prior.sample(num_samples, generator=generator)
        draw = conditional_sampler(self.conditional)
        assert draw is not None
        return torch.cat([x, draw(x, num_samples, generator=generator).to(x)], -1)


@log_prob_of.register
def _(expert: Chain) -> LogDensity | None:
    is_known = is_normalized(expert.prior) and normalizes(expert.conditional)
    return expert._log_prob if is_known else None


@sampler_of.register
def _(expert: Chain) -> Sampler | None:
    conditional = conditional_sampler(expert.conditional)
    is_known = can_sample_exactly(expert.prior) and conditional is not None
    return expert._sample if is_known else None


@exact_log_partition.register
def _(expert: Chain) -> Tensor | None:
    return exact_log_partition(expert.prior) if normalizes(expert.conditional) else None


@check_proper.register
def _(expert: Chain) -> None:
    if normalizes(expert.conditional):
        check_proper(expert.prior)


@tails.register
def _(expert: Chain) -> Tensor | None:
    if not is_small(expert.space):
        return None
    prior, joint = tails(expert.prior), conditional_tails(expert.conditional)
    if prior is None or joint is None:
        return None
    added = len(joint) - prior.shape[-1]
    return torch.nn.functional.pad(prior, (0, added, 0, added)) + joint


def _joint_space(first: Space, second: Space) -> Space:
    for kind in (Real, Binary):
        is_pair = isinstance(first, kind) and isinstance(second, kind)
        if is_pair and len(first.event_shape) == len(second.event_shape) == 1:
            return kind(first.event_shape[0] + second.event_shape[0])
    raise PoeError(
        "expected x and y to be vectors, both on Real(n) or both on Binary(n), since z = (x, y) is "
        f"one vector on one space; got x on {first} and y on {second}"
    )


keeps_default(
    Chain,
    "p(y | x) is any function of x",
    conditionals,
    spin_pairs,
    label_pairs,
)

keeps_default(Chain, "on Real and Binary the score is that of its formula", log_density_of_one_hot)


class Marginal(Expert):
    """The density p(x) = ∫ p(z) p(x | z) dz, as an expert by K draws z_k of the prior, kept.

        log p̂(x) = log 1/K Σ_k p(x | z_k)

    As an expert it **is** the mixture p̂: what a kernel sees, what ``sample`` draws from (the K
    draws of z, again and again), and what log Z of a product with it is the log Z of. p̂ is
    normalised, and differentiable in x and in the conditional's parameters. Over the choice of the
    draws E p̂(x) = p(x) and E log p̂(x) ≤ log p(x), which rises with K (theorem 1 of the reference,
    with the prior as the proposal). Where x says much of z, few draws lie where it says so, and p̂
    is far below p: the bounds tell how far.

    Of p itself there are bounds, ``poe.log_density_bounds(marginal, x)``, and exact draws,
    ``sample_joint``. There is no ``log_prob``, which would have to be exact: where the integral has
    a closed form ``conditional.exact_marginal(prior)`` is it, and where z and x are vectors
    ``poe.Chain(prior, conditional)`` is the exact density of both together.

    Args:
        prior: p(z), a normalised expert.
        conditional: p(x | z), normalised.
        draws: Independent draws of the prior, ``(K, *event of z)``, K at least 1.

    Raises:
        PoeError: For what is no conditional.
        NormalizationError: Where one of the two is not normalised.
        ShapeError: For draws that are no batch.

    References:
        Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> prior = experts.Gaussian([0.0], scale=[1.0])
        >>> step = experts.LinearGaussian(weight=[[2.0]], bias=[1.0], scale=[0.5])
        >>> marginal = Marginal(prior, step, prior.sample(4096, generator=g))
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> marginal(x), step.exact_marginal(prior)(x)
        (tensor([-1.7587, -1.7548]), tensor([-1.7600, -1.7600]))
    """

    draws: Tensor
    may_be_infinite = ()
    _missing_methods: ClassVar[dict[str, str]] = {
        **Expert._missing_methods,
        "log_prob": "has no log_prob, since its integral over z is only estimated; use "
        "poe.log_density_bounds(marginal, x) for bounds, marginal(x) for the estimate, or "
        "conditional.exact_marginal(prior) where there is a closed form",
    }

    def __init__(self, prior: Expert, conditional: Conditional, draws: Tensor) -> None:
        super().__init__()
        _require_normalized(prior, conditional)
        batch = prior.space.batch_shape(draws)
        if len(batch) != 1 or not len(draws):
            raise ShapeError(
                f"expected draws of the prior of shape (K, *event) with K >= 1, got "
                f"{tuple(draws.shape)} on {prior.space}; use prior.sample(1024, generator=g)"
            )
        if not draws.is_meta:
            prior.space.require(draws)
        self.space = conditional.space
        self.prior = prior
        self.conditional = conditional
        self.register_buffer("draws", draws.detach())

    def forward(self, x: Tensor) -> Tensor:
        """log p̂(x), by the draws of z that are kept.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            The log-density, ``(*batch,)``.
        """
        batch, count = self.space.batch_shape(x), len(self.draws)
        rows = x.reshape(-1, *self.space.event_shape)
        each_x = rows.repeat_interleave(count, 0)
        each_z = self.draws.repeat(len(rows), *[1] * (self.draws.ndim - 1))
        values = log_density_of_rows(self.conditional, each_x, each_z)
        return (values.reshape(-1, count).logsumexp(-1) - math.log(count)).reshape(batch)

    def posterior(self, x: Tensor) -> Posterior:
        """The expert z -> log p(z) + log p(x | z), whose log Z is log p(x).

        Args:
            x: One event, ``(*event,)``.

        Returns:
            The expert on z, not normalised.

        Raises:
            ShapeError: For a batch of x.
        """
        return Posterior(self.prior, self.conditional, x)

    def sample_joint(
        self, num_samples: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Exact draws of z ~ p(z) and x ~ p(x | z); x is of p.

        Args:
            num_samples: How many.
            generator: The source of randomness; a fresh one by default.

        Returns:
            z and x, each ``(num_samples, *event)``.

        Raises:
            NormalizationError: Where the prior or the conditional has no ``sample``.

        Example:
            >>> prior = experts.Gaussian([0.0], scale=[1.0])
            >>> step = experts.LinearGaussian(weight=[[2.0]], bias=[1.0], scale=[0.5])
            >>> z, x = Marginal(prior, step, torch.zeros(1, 1)).sample_joint(3)
            >>> z.shape, x.shape
            (torch.Size([3, 1]), torch.Size([3, 1]))
        """
        if not can_sample_exactly(self.prior) or conditional_sampler(self.conditional) is None:
            raise NormalizationError(
                f"expected a prior and a conditional with exact draws, got "
                f"{type(self.prior).__name__} and {type(self.conditional).__name__}; use "
                "poe.sample(poe.Chain(prior, conditional), num_samples) for vectors"
            )
        generator = resolve(generator, self.draws.device)
        z = self.prior.sample(num_samples, generator=generator)
        return z, self._sample_given(z, generator)

    def extra_repr(self) -> str:
        return f"{self.space}, {len(self.draws)} draws of z, bounds by poe.log_density_bounds"

    def _sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        generator = resolve(generator, self.draws.device)
        rows = torch.randint(
            len(self.draws), (num_samples,), generator=generator, device=self.draws.device
        )
        return self._sample_given(self.draws[rows], generator)

    def _sample_given(self, z: Tensor, generator: torch.Generator) -> Tensor:
        draw = conditional_sampler(self.conditional)
        assert draw is not None
        return draw(z, len(z), generator=generator)


class Posterior(Expert):
    """What z may be where x is known: log p(z) + log p(x | z), of which log Z is log p(x).

    For one x `(*event,)`; an expert on the space of z. Raises ShapeError for a batch of x, and
    what ``Marginal`` raises.

    >>> prior = experts.Gaussian([0.0], scale=[1.0])
    >>> step = experts.LinearGaussian(weight=[[2.0]], bias=[1.0], scale=[0.5])
    >>> poe.log_partition(Posterior(prior, step, torch.tensor([2.0]))).value  # log p(2)
    tensor(-1.7600)
    """

    x: Tensor

    def __init__(self, prior: Expert, conditional: Conditional, x: Tensor) -> None:
        super().__init__()
        _require_normalized(prior, conditional)
        if x.shape != conditional.space.event_shape:
            raise ShapeError(
                f"expected one x of shape {tuple(conditional.space.event_shape)}, got "
                f"{tuple(x.shape)}; make one posterior for each x of a batch"
            )
        self.space = prior.space
        self.prior = prior
        self.conditional = conditional
        self.register_buffer("x", x.detach())

    def forward(self, z: Tensor) -> Tensor:
        batch = self.space.batch_shape(z)
        rows = z.reshape(-1, *self.space.event_shape)
        x = self.x.expand(len(rows), *self.x.shape)
        likelihood = log_density_of_rows(self.conditional, x, rows).reshape(batch)
        value: Tensor = self.prior.log_prob(z)
        return value + likelihood


@sampler_of.register
def _(expert: Marginal) -> Sampler | None:
    return None if conditional_sampler(expert.conditional) is None else expert._sample


@exact_log_partition.register
def _(expert: Marginal) -> Tensor:
    # p̂ and p are both normalised; that there is no log_prob is because they are not the same.
    return torch.zeros((), dtype=dtype_of(expert), device=expert.draws.device)


@exact_log_partition.register
def _(expert: Posterior) -> Tensor | None:
    conditional = expert.conditional
    if not speaks_as(conditional, type(conditional)):
        return None
    exact = conditional.exact_marginal(expert.prior)
    return None if exact is None else exact.log_prob(expert.x)


@tails.register
def _(expert: Marginal) -> Tensor | None:
    """Those of p(x | z), the same for each z."""
    if not is_small(expert.space):
        return None
    joint, size = conditional_tails(expert.conditional), expert.space.event_shape.numel()
    return None if joint is None else joint[None, -size:, -size:]


@tails.register
def _(expert: Posterior) -> Tensor | None:
    """Those of the prior, and the part of z of the conditional's."""
    if not is_small(expert.space):
        return None
    prior, joint = tails(expert.prior), conditional_tails(expert.conditional)
    size = expert.space.event_shape.numel()
    return None if prior is None or joint is None else prior + joint[:size, :size]


def _require_normalized(prior: Expert, conditional: Conditional) -> None:
    if not isinstance(conditional, Conditional):
        raise PoeError(
            f"expected a poe.Conditional p(x | z), got {type(conditional).__name__}; use "
            "prior * expert for densities on one space"
        )
    if not is_normalized(require_expert(prior)):
        raise NormalizationError(
            f"expected a normalised prior p(z), got {type(prior).__name__} without an exact "
            "log_prob; use a prior whose normaliser is known"
        )
    if not normalizes(conditional):
        raise NormalizationError(
            f"expected a normalised conditional p(x | z), got {type(conditional).__name__}, whose "
            "is_normalized is False: its normaliser may depend on z"
        )


_STRUCTURE = (conditionals, spin_pairs, label_pairs, log_density_of_one_hot)

keeps_default(Marginal, "the integral over z is only estimated", log_prob_of, *_STRUCTURE)

keeps_default(Marginal, "normalised by construction", check_proper)

keeps_default(Posterior, "p(x | z) is any function of z", *_STRUCTURE)

keeps_default(Posterior, "its integral is p(x)", check_proper)

keeps_default(Posterior, "log Z is what it is made for; see poe.normalize", log_prob_of, sampler_of)
