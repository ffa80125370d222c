"""The restricted Boltzmann machine: binary elements that hidden units hold together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.boltzmann.fast_linear import linear
from experts.families.discrete import Bernoulli
from experts.parameters import ArrayLike, keep, real
from poe import Binary, Expert, ShapeError
from poe.core.arguments import checked
from poe.core.last_call_cache import Latest
from poe.core.randomness import choose, resolve, uniforms
from poe.density.capabilities import (
    Conditionals,
    LogOdds,
    Simplified,
    Term,
    combine,
    conditionals,
    distribute,
    exact_log_partition,
    sampler_of,
)
from poe.density.checks import leaves_x
from poe.density.expert import Product, Sampler
from poe.density.questions import speaks_as
from poe.io import register
from poe.normalizers.enumeration import (
    MAX_STATES,
    MAX_TABLE,
    log_sum,
    num_states,
    states,
)

MAX_HIDDEN = 8192
"""Products with more hidden units than these are not joined."""
NUMBERS_AT_ONCE = 2**18
"""How many log-odds are held at a time while a table is made."""


class RBM(Expert):
    """A restricted Boltzmann machine on x in {0, 1}^v, its hidden z in {0, 1}^h summed out.

    p(x, z) = exp(x'Wz + b'x + c'z) / Z, so that with a = c + W'x

    log p̃(x) = b'x + Σⱼ log(1 + exp(aⱼ)),  p(zⱼ = 1 | x) = σ(aⱼ).

    Given z the elements of x are independent, and given x those of z: block Gibbs draws each layer
    at once (``poe.samplers.BlockGibbs``). A product of powers, each exponent a count, is an RBM of
    all their hidden units, and a field (``Bernoulli``) goes into b. log Z is exact where a layer
    has at most 25 units, at a cost of 2^25 states times the other layer at worst, and is kept until
    the numbers change; ``sample`` draws exactly where one has at most 20. For larger ones
    log Z is estimated by ``experts.boltzmann.BaseRateAIS``.

    What is an ``nn.Parameter`` stays one.

    Args:
        W: Weights, ``(v, h)``.
        b: Visible biases, ``(v,)``.
        c: Hidden biases, ``(h,)``.

    Raises:
        ShapeError: Where the shapes do not fit.
        PoeError: Where a number is not finite.

    References:
        Smolensky (1986), Information processing in dynamical systems: foundations of harmony
        theory, in Parallel distributed processing 1, MIT Press.

        Hinton (2002), Training products of experts by minimizing contrastive divergence,
        doi:10.1162/089976602760128018.

        Hinton (2010), A practical guide to training restricted Boltzmann machines, UTML TR
        2010-003, equation 26 (the log-density).

    Example:
        >>> a, b = RBM([[2.0], [-1.0]], [0.0, 0.5], [1.0]), RBM([[0.5], [0.0]], [0.0, 0.0], [0.0])
        >>> a(torch.tensor([[1.0, 0.0]]))
        tensor([3.0486])
        >>> poe.simplify(a * b**2).expert, poe.log_partition(a * b**2).method
        (RBM(2 visible, 3 hidden), 'closed form')
    """

    W: Tensor
    b: Tensor
    c: Tensor
    may_be_infinite = ()

    @checked
    def __init__(self, W: ArrayLike, b: ArrayLike, c: ArrayLike) -> None:
        super().__init__()
        weights = real("W", W)
        if weights.ndim != 2 or 0 in weights.shape:
            raise ShapeError(
                f"expected W of shape (visible, hidden), got {tuple(weights.shape)}; give at least "
                "a unit in each layer, and a field by itself as experts.Bernoulli(b)"
            )
        keep(self, "W", weights)
        for name, value, size in zip("bc", (b, c), weights.shape, strict=True):
            bias = real(name, value, like=weights)
            if bias.shape != (size,):
                raise ShapeError(
                    f"expected {name} of shape ({size},) for W (visible, hidden) of shape "
                    f"{tuple(weights.shape)}, got {tuple(bias.shape)}; b has an element for each "
                    "visible unit, c for each hidden one, and W.T swaps the layers"
                )
            keep(self, name, bias)
        self.space = Binary(weights.shape[0])
        # A log-density and the sweep after it ask for the same log-odds.
        self._latest, self._latest_log_z = Latest(), Latest()

    @leaves_x  # a copy would be none of the tensors that the latest answer was about
    def forward(self, x: Tensor) -> Tensor:
        """The unnormalised log-density.

        Args:
            x: Rows of 0 and 1, ``(*batch, v)``.

        Returns:
            log p̃(x), ``(*batch,)``.
        """
        return x.to(self.W.dtype) @ self.b + F.softplus(self.hidden_log_odds(x)).sum(-1)

    def hidden_log_odds(self, x: Tensor) -> Tensor:
        """log p(zⱼ = 1 | x) − log p(zⱼ = 0 | x) = cⱼ + (W'x)ⱼ.

        Args:
            x: Rows of 0 and 1, ``(*batch, v)``.

        Returns:
            The log-odds, ``(*batch, h)``.
        """
        self.space.batch_shape(x)
        return self._latest(self._hidden_log_odds, x, self.W, self.c)

    @staticmethod
    def _hidden_log_odds(x: Tensor, W: Tensor, c: Tensor) -> Tensor:
        return linear(x.to(W.dtype), W.mT, c)

    def hidden_probabilities(self, x: Tensor) -> Tensor:
        """p(zⱼ = 1 | x), the features that the RBM finds in x.

        Args:
            x: Rows of 0 and 1, ``(*batch, v)``.

        Returns:
            Probabilities, ``(*batch, h)``.
        """
        return self.hidden_log_odds(x).sigmoid()

    def visible_log_odds(self, z: Tensor) -> Tensor:
        """log p(xᵢ = 1 | z) − log p(xᵢ = 0 | z) = bᵢ + (Wz)ᵢ.

        Args:
            z: Hidden units, 0 and 1, ``(*batch, h)``.

        Returns:
            The log-odds, ``(*batch, v)``.
        """
        Binary(self.W.shape[1]).batch_shape(z)
        return linear(z.to(self.W.dtype), self.W, self.b)

    def visible_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """The random numbers that ``visible_given`` needs: a uniform for each element.

        Args:
            like: The elements that are to be drawn, ``(n, v)``.
            generator: Of the numbers.

        Returns:
            Uniforms, ``(n, v)``.
        """
        return uniforms(like.shape, like=self.W, generator=generator)

    def visible_given(self, z: Tensor, noise: Tensor) -> Tensor:
        """x ~ p(x | z), from random numbers drawn before.

        Args:
            z: Hidden units, 0 and 1, ``(n, h)``.
            noise: As of ``visible_noise``, ``(n, v)``.

        Returns:
            Rows of 0 and 1, ``(n, v)``.
        """
        return (noise < self.visible_log_odds(z).sigmoid()).to(self.W.dtype)

    def extra_repr(self) -> str:
        return "{} visible, {} hidden".format(*self.W.shape)

    def transposed(self) -> RBM:
        """The density of the hidden layer, itself an RBM, with the same Z.

        log p̃(z) = c'z + Σᵢ log(1 + exp(bᵢ + (Wz)ᵢ))

        Returns:
            The RBM of W', c and b, detached.
        """
        return RBM(self.W.detach().mT, self.c.detach(), self.b.detach())

    @torch.no_grad()
    def _sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent draws: ``(num_samples, v)``. The state of the smaller layer comes first."""
        generator = resolve(generator, self.W.device)
        small = _smaller_layer(self)
        table = states(small.space).to(small.W)
        parts = table.split(max(1, NUMBERS_AT_ONCE // small.W.shape[1]))
        probability = torch.cat([small(part) for part in parts]).softmax(0)
        if not num_samples:
            return self.W.new_zeros(0, len(self.W))
        chosen = choose(probability, num_samples, generator=generator)
        if len(small.W) == len(self.W):  # the visible layer itself
            return table[chosen].to(self.W)
        log_odds = self.visible_log_odds(table[chosen])
        return torch.bernoulli(log_odds.sigmoid(), generator=generator)


@sampler_of.register
def _(expert: RBM) -> Sampler | None:
    """Where a layer is small."""
    return expert._sample if 2 ** min(expert.W.shape) <= MAX_TABLE else None


@exact_log_partition.register
def _(expert: RBM) -> Tensor | None:
    """log Σ exp over the states of the smaller layer, in float64; without a gradient.

    Kept until W, b or c change; what goes round their version counters, as ``W.data`` does, is not
    seen.
    """
    if expert.W.is_meta or num_states(Binary(min(expert.W.shape))) > MAX_STATES:
        return None
    with torch.no_grad():
        return expert._latest_log_z(_log_z, expert.W, expert.b, expert.c)


def _log_z(W: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return log_sum(_smaller_layer(RBM(W, b, c))).to(W)


@combine.register
def _(first: RBM, terms: Sequence[Term]) -> Simplified | None:
    """Visible biases add, and all the hidden units stand side by side, each as often as it counts.

    None where an exponent is no count, or may cease to be one as it is learned.
    """
    counts = [_count(term.exponent) for term in terms]
    experts = [term.expert for term in terms if isinstance(term.expert, RBM)]
    parts = [e for e, count in zip(experts, counts, strict=True) for _ in range(count or 0)]
    num_hidden = sum(part.W.shape[1] for part in parts)
    if None in counts or not 0 < num_hidden <= MAX_HIDDEN:
        return None
    biases = torch.stack([part.b for part in parts]).sum(0)
    joined = RBM(torch.cat([p.W for p in parts], 1), biases, torch.cat([p.c for p in parts]))
    return Simplified(joined, joined.b.new_zeros(()))


@distribute.register
def _(factor: RBM, others: Sequence[Expert]) -> Simplified | None:
    """A field of independent elements goes into the visible biases."""
    fields = [other for other in others if speaks_as(other, Bernoulli)]
    if not fields:
        return None
    rest = [other for other in others if not speaks_as(other, Bernoulli)]
    biases = torch.stack([factor.b, *(field.natural.to(factor.b) for field in fields)]).sum(0)
    with_field = RBM(factor.W, biases, factor.c)
    constant = -torch.stack([field.log_partition(field.natural) for field in fields]).sum()
    return Simplified(Product(with_field, *rest) if rest else with_field, constant)


@conditionals.register
def _(expert: RBM) -> Conditionals:
    """All elements together, given hidden units that are drawn together."""

    def given(x: Tensor, uniforms: Tensor) -> LogOdds:
        probability = expert.hidden_probabilities(x)
        z = torch.lt(uniforms, probability, out=probability)
        log_odds = expert.visible_log_odds(z)
        return lambda x: log_odds

    edges = expert.W.new_empty((2, 0), dtype=torch.int64)
    return Conditionals(edges, expert.W.shape[1], given)


register(
    RBM,
    lambda r: {"W": r.W, "b": r.b, "c": r.c},
    lambda f: RBM(f["W"], f["b"], f["c"]),
    name="experts.RBM",
    formerly=("experts.rbm.RBM",),
)


def _smaller_layer(expert: RBM) -> RBM:
    """The density of the layer of fewer units, in float64."""
    num_visible, num_hidden = expert.W.shape
    small = expert.transposed() if num_hidden < num_visible else expert
    return RBM(*(tensor.detach().double() for tensor in (small.W, small.b, small.c)))


def _count(exponent: Tensor) -> int | None:
    """The exponent as a count of copies; None where it is none, or is learned."""
    if exponent.is_meta or exponent.requires_grad:
        return None
    value = float(exponent)
    return int(value) if value.is_integer() and 0 <= value <= MAX_HIDDEN else None
