"""Exponential families: log p(x) = θ·T(x) + log h(x) − A(θ), closed under products and powers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from experts.parameters import ArrayLike, real
from poe import Expert, ImproperError, ShapeError, Space
from poe.core.arguments import checked, told
from poe.core.randomness import resolve
from poe.density.capabilities import Simplified, Term, combine, tails
from poe.density.transformed import mask_outside
from poe.structure.tails import ends, name_end

FEW = 8
"""Numbers that are shown when an expert is printed."""


class Member(Expert):
    """A member of an exponential family, normalised: its natural parameters θ are its state.

    log p(x) = θ·T(x) + log h(x) − A(θ) on ``space``, −inf elsewhere.

    A product of powers of members of one family is a member: natural parameters add, each times its
    exponent. Where h is not constant that holds for exponents that sum to 1 alone. A family says
    what T, log h and A are, which θ have a finite A, and, where it can, how to draw.
    """

    natural: Tensor
    may_be_infinite = ()

    def __init__(self, natural: Tensor, space: Space) -> None:
        super().__init__()
        self.space = space
        if isinstance(natural, nn.Parameter):
            self.natural = natural
        else:
            self.register_buffer("natural", natural)
        if not natural.is_meta and not self.is_natural(natural):
            raise ImproperError(
                f"expected natural parameters of a normalised {type(self).__name__}, got "
                f"{natural.tolist()}: its density has no finite integral"
            )

    def statistics(self, x: Tensor) -> Tensor:
        """The sufficient statistics T.

        Args:
            x: Events, ``(*batch, *event)``.

        Returns:
            T(x), ``(*batch, *natural.shape)``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement statistics")

    @property
    def has_base_measure(self) -> bool:
        """Whether h is anything but 1."""
        return False

    def log_base_measure(self, x: Tensor) -> Tensor:
        """The log base measure: 0 by default, and asked for where h is not 1.

        Args:
            x: Events, ``(*batch, *event)``.

        Returns:
            log h(x), ``(*batch,)``.
        """
        return self.natural.new_zeros(self.space.batch_shape(x))

    def log_partition(self, natural: Tensor) -> Tensor:
        """The log partition A of natural parameters.

        Args:
            natural: θ, of the shape of ``natural``.

        Returns:
            A(θ), ``()``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement log_partition")

    def is_natural(self, natural: Tensor) -> bool:
        """Whether A(θ) is finite.

        Args:
            natural: θ, of the shape of ``natural``.

        Returns:
            True where the density at θ can be normalised.
        """
        return bool(self.log_partition(natural).isfinite())

    def tails(self, natural: Tensor) -> Tensor | None:
        """How fast −log p̃ grows at each end; see ``poe.density.capabilities.tails``.

        Args:
            natural: θ, of the shape of ``natural``.

        Returns:
            Growths, ``(m,)``; None where they are not known.
        """
        return None

    def with_natural(self, natural: Tensor) -> Self:
        """The member of the same family with other natural parameters.

        Args:
            natural: θ, of the shape of ``natural``; an ``nn.Parameter`` stays one, and is learned.

        Returns:
            The member at θ, on the same space.

        Raises:
            ImproperError: Where A is infinite there.
        """
        return self.from_natural(natural, self.space)

    @classmethod
    def from_natural(cls, natural: Tensor, space: Space) -> Self:
        """The member with these natural parameters on that space.

        Args:
            natural: θ, in the shape that the family gives them.
            space: Where x lives.

        Returns:
            The member at θ.

        Raises:
            ImproperError: Where A is infinite there.
        """
        member = cls.__new__(cls)
        Member.__init__(member, natural, space)
        return member

    def is_of_family(self, other: Expert) -> bool:
        """Whether T, h and A are the same, for another member of the same class.

        Args:
            other: The other member.

        Returns:
            True where products of the two are closed.
        """
        return True

    def forward(self, x: Tensor) -> Tensor:
        """The normalised log-density.

        Args:
            x: Events, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``; −inf outside of the space.
        """
        terms = self.natural * self.statistics(x)
        # A parameter of 0 has no say, also at the edge of the space where T is infinite.
        terms = terms.masked_fill((self.natural == 0).expand_as(terms), 0.0)
        value = _sum_last(terms, self.natural.ndim) - self.log_partition(self.natural)
        if self.has_base_measure:
            value = value + self.log_base_measure(x)
        return mask_outside(self.space, x, value)

    def log_prob(self, x: Tensor) -> Tensor:
        """The normalised log-density, which equals ``log_density``.

        Args:
            x: Events, ``(*batch, *event)``.

        Returns:
            log p(x), ``(*batch,)``; −inf outside of the space.
        """
        return self(x)

    def mean_statistics(self) -> Tensor:
        """The mean of the sufficient statistics, E T(x) = ∇A(θ).

        Returns:
            E T(x), of the shape of θ.

        References:
            Wainwright & Jordan (2008), Graphical models, exponential families, and variational
            inference, doi:10.1561/2200000001, proposition 3.1.
        """
        with torch.enable_grad():
            natural = self.natural.detach().requires_grad_()
            return torch.autograd.grad(self.log_partition(natural), natural)[0]

    def extra_repr(self) -> str:
        if self.natural.is_meta or self.natural.numel() > FEW:
            return str(self.space)
        return f"{self.space}, natural={[round(n, 4) for n in self.natural.flatten().tolist()]}"


class Samplable(Member):
    """A member that can be drawn from exactly."""

    @checked
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent exact draws.

        Args:
            num_samples: How many.
            generator: Of all that is drawn; a fresh one, seeded by the system, by default.

        Returns:
            Draws, ``(num_samples, *event)``.
        """
        with torch.no_grad():
            return self._draw(num_samples, resolve(generator, self.natural.device))

    def _draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must implement _draw")


class ExponentialFamily(Member):
    """The member at θ of the family that three functions define, normalised.

    log p(x) = θ·T(x) + log h(x) − A(θ)

    Two members are of one family where they were given the very same functions.

    Args:
        log_base_measure: log h, ``(*batch, *event) -> (*batch,)``; None where h is 1.
        statistics: T, ``(*batch, *event) -> (*batch, *natural.shape)``.
        natural: θ, of any shape; where it is an ``nn.Parameter`` it stays one.
        log_partition: A, ``(*natural.shape) -> ()``, +inf or NaN where it is not finite.
        space: Where x lives; outside the density is 0.

    Raises:
        ImproperError: Where A(θ) is not finite.
        PoeError: Where a number of θ is not finite.

    References:
        Wainwright & Jordan (2008), Graphical models, exponential families, and variational
        inference, doi:10.1561/2200000001, section 3.1.

    Example:
        >>> def log_partition(natural):  # of exp(−rate |x|)
        ...     return (-2 / natural).log().sum()
        >>> def laplace(rate):
        ...     natural, space = torch.tensor([-rate]), poe.Real(1)
        ...     return ExponentialFamily(None, torch.abs, natural, log_partition, space=space)
        >>> product = laplace(1.0) * laplace(2.0)
        >>> poe.log_partition(product).value, poe.simplify(product).expert.natural
        (tensor(-1.0986), tensor([-3.]))
    """

    @checked
    def __init__(
        self,
        log_base_measure: Callable[[Tensor], Tensor] | None,
        statistics: Callable[[Tensor], Tensor],
        natural: ArrayLike,
        log_partition: Callable[[Tensor], Tensor],
        *,
        space: Space,
    ) -> None:
        # Where h is 1, None is the first.
        self.functions = (log_base_measure, statistics, log_partition)
        super().__init__(real("natural", natural), space)

    def statistics(self, x: Tensor) -> Tensor:
        return self.functions[1](x)

    @property
    def has_base_measure(self) -> bool:
        """Whether log h was given."""
        return self.functions[0] is not None

    def log_base_measure(self, x: Tensor) -> Tensor:
        assert self.functions[0] is not None
        return self.functions[0](x)

    def log_partition(self, natural: Tensor) -> Tensor:
        found = self.functions[2](natural)
        if not isinstance(found, Tensor) or found.ndim:
            raise ShapeError(f"expected log_partition to return one number, got {told(found)}")
        return found

    def with_natural(self, natural: Tensor) -> Self:
        log_base_measure, statistics, log_partition = self.functions
        return type(self)(log_base_measure, statistics, natural, log_partition, space=self.space)

    def is_of_family(self, other: Expert) -> bool:
        return isinstance(other, ExponentialFamily) and self.functions == other.functions


@combine.register
def _(first: Member, terms: Sequence[Term]) -> Simplified | None:
    """Natural parameters add, each times its exponent, in float64 whatever the experts' dtype.

    The constant is what the log partitions leave: A(Σ w θ) − Σ w A(θ).
    """
    members = [term.expert for term in terms if isinstance(term.expert, Member)]
    if first.natural.is_meta or not all(first.is_of_family(member) for member in members):
        return None
    weights = torch.stack([term.exponent.to("cpu", torch.float64) for term in terms])
    if not _is_closed(first, members, weights):
        return None
    naturals = torch.stack([member.natural.to("cpu", torch.float64) for member in members])
    total = torch.tensordot(weights, naturals, 1)
    if not first.is_natural(total):
        raise _improper(first, terms, total)
    shares = torch.stack([first.log_partition(natural) for natural in naturals])
    log_constant = first.log_partition(total) - weights @ shares
    return Simplified(first.with_natural(total.to(first.natural)), log_constant.to(first.natural))


def _is_closed(first: Member, members: Sequence[Member], weights: Tensor) -> bool:
    """Whether the product is a member: all of one shape, and h comes out as h."""
    if any(member.natural.shape != first.natural.shape for member in members):
        return False
    return not first.has_base_measure or bool((weights.sum() - 1).abs() < 1e-12)


@tails.register
def _(expert: Member) -> Tensor | None:
    if expert.natural.is_meta:
        return None
    growth = expert.tails(expert.natural.detach().to("cpu", torch.float64))
    return None if growth is None else growth[None]


def _improper(first: Member, terms: Sequence[Term], natural: Tensor) -> ImproperError:
    blamed = [f"{t.name} ** {t.exponent.item():g}" for t in terms if t.exponent.item() != 1]
    names = ", ".join(blamed or [term.name for term in terms])
    return ImproperError(
        f"expected a product of {type(first).__name__} experts with a finite integral, got natural "
        f"parameters outside of the family's{_place(first, natural)}; look at {names}: use a "
        "smaller weight, or multiply by an expert that falls off faster there"
    )


def _place(first: Member, natural: Tensor) -> str:
    """Where the integral is infinite, as far as that is known."""
    growth, limits = first.tails(natural), ends(first.space)
    if growth is None or limits is None or growth.isnan().any():
        return ""
    return f", infinite {name_end(int((growth - limits.limit).argmin()), first.space)}"


def _sum_last(values: Tensor, count: int) -> Tensor:
    return values.sum(tuple(range(-count, 0))) if count else values
