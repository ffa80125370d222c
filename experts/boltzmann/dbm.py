"""The deep Boltzmann machine: layers of binary units, each tied to the next one only."""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.boltzmann.rbm import RBM
from experts.parameters import ArrayLike, keep, real, several
from poe import Binary, Expert, PoeError, ShapeError
from poe.density.capabilities import (
    Conditionals,
    LogOdds,
    Simplified,
    Term,
    combine,
    conditionals,
    exact_log_partition,
    sampler_of,
    simplify,
    widen,
)
from poe.density.expert import Sampler
from poe.io import register


class DBM(Expert):
    """A deep Boltzmann machine, as the density of its even layers: x, h₂, ..., side by side.

    p(h₀, h₁, ..., h_L) = exp(Σ_l h_l'W_l h_{l+1} + Σ_l b_l'h_l) / Z with the visible layer h₀ = x.
    Given the even layers the units of the odd ones are independent, and the other way round. So the
    odd layers are summed out in closed form, which the density of x alone does not allow:

    log p̃(x, h₂, ...) = Σ_{even l} b_l'h_l + Σ_{odd l} Σⱼ log(1 + exp(a_lj)),
    a_l = b_l + W_{l-1}'h_{l-1} + W_l h_{l+1}.

    That makes it an RBM whose visible units are the even layers and whose hidden units are the odd
    ones (``as_rbm``), and whatever an RBM can do it can: block Gibbs, exact log Z and exact draws
    where either side is small, products with RBMs, Ising models and fields on the even layers. For
    x alone there are ``experts.boltzmann.mean_field`` and ``experts.VisibleDBM``; log Z of large
    ones is estimated by ``experts.boltzmann.BaseRateAIS``.

    What is an ``nn.Parameter`` stays one.

    Args:
        weights: W_l for l = 0, ..., L − 1, ``(n_l, n_{l+1})`` each.
        biases: b_l for l = 0, ..., L, ``(n_l,)`` each.

    Raises:
        ShapeError: Where the shapes do not fit.
        PoeError: Where a number is not finite, or there are no weights.

    References:
        Salakhutdinov & Hinton (2009), Deep Boltzmann machines, AISTATS, section 3.

    Example:
        >>> dbm = DBM([[[2.0], [-1.0]], [[0.5]]], [[0.0, 0.5], [1.0], [-0.5]])
        >>> dbm
        DBM(layers of 2, 1, 1)
        >>> dbm(torch.tensor([[1.0, 0.0, 1.0]]))  # x = (1, 0), h2 = 1: -0.5 + log(1 + exp(3.5))
        tensor([3.0298])
        >>> poe.log_partition(dbm).value, poe.log_partition(dbm).method
        (tensor(4.4040), 'closed form')
    """

    may_be_infinite = ()

    def __init__(self, weights: Sequence[ArrayLike], biases: Sequence[ArrayLike]) -> None:
        super().__init__()
        matrices = [
            real(f"weights[{k}]", value) for k, value in enumerate(several("weights", weights))
        ]
        like = matrices[0] if matrices else None
        given = enumerate(several("biases", biases))
        vectors = [real(f"biases[{k}]", value, like=like) for k, value in given]
        _require_chain(matrices, vectors)
        self.depth = len(matrices)
        for k, matrix in enumerate(matrices):
            keep(self, f"W{k}", matrix)
        for k, vector in enumerate(vectors):
            keep(self, f"b{k}", vector)
        self.space = Binary(sum(self.layer_sizes[::2]))

    @property
    def weights(self) -> list[Tensor]:
        """W_l, ``(n_l, n_{l+1})``, from the visible layer upward."""
        return [getattr(self, f"W{k}") for k in range(self.depth)]

    @property
    def biases(self) -> list[Tensor]:
        """b_l, ``(n_l,)``, from the visible layer upward."""
        return [getattr(self, f"b{k}") for k in range(self.depth + 1)]

    @property
    def layer_sizes(self) -> list[int]:
        """n_l, from the visible layer upward."""
        return [len(bias) for bias in self.biases]

    @property
    def visible_space(self) -> Binary:
        """Where x alone lives."""
        return Binary(self.layer_sizes[0])

    def forward(self, even: Tensor) -> Tensor:
        """The unnormalised log-density.

        Args:
            even: States of the even layers side by side, 0 and 1, ``(*batch, Σ n_even)``.

        Returns:
            log p̃(x, h₂, ...), ``(*batch,)``.
        """
        layers = self.split(even.to(self.W0.dtype))
        linear = [layers[k] @ self.biases[k] for k in range(0, self.depth + 1, 2)]
        sums = [F.softplus(self.log_odds(layers, k)).sum(-1) for k in range(1, self.depth + 1, 2)]
        return torch.stack([*linear, *sums]).sum(0)

    def log_odds(self, layers: Sequence[Tensor], index: int) -> Tensor:
        """log p(1 | neighbours) − log p(0 | neighbours) of every unit of a layer.

        b_l + W_{l-1}'h_{l-1} + W_l h_{l+1}

        Args:
            layers: h_l of every layer, ``(*batch, n_l)``, of which only the two neighbours are
                read.
            index: l, of the layer that is asked for.

        Returns:
            The log-odds, ``(*batch, n_l)``.
        """
        total = self.biases[index]
        if index > 0:
            total = F.linear(layers[index - 1], self.weights[index - 1].mT, total)
        if index < self.depth:
            total = total + F.linear(layers[index + 1], self.weights[index])
        return total

    def split(self, even: Tensor) -> list[Tensor]:
        """The layers of a state of the even ones; the odd ones are empty.

        Args:
            even: States of the even layers side by side, ``(*batch, Σ n_even)``.

        Returns:
            h_l of every layer: ``(*batch, n_l)`` of even l, ``(*batch, 0)`` of odd l.

        Example:
            >>> dbm = DBM([[[2.0], [-1.0]], [[0.5]]], [[0.0, 0.5], [1.0], [-0.5]])
            >>> dbm.split(torch.tensor([1.0, 0.0, 1.0]))
            [tensor([1., 0.]), tensor([]), tensor([1.])]
        """
        self.space.batch_shape(even)
        parts = iter(even.split(self.layer_sizes[::2], -1))
        nothing = even[..., :0]
        return [nothing if k % 2 else next(parts) for k in range(self.depth + 1)]

    def posterior(self, x: Tensor) -> DBM:
        """What the hidden layers may be where x is known: a DBM of one layer less.

        Its even layers are h₁, h₃, ..., and log p̃(x) = b₀'x + log Z of it.

        Args:
            x: One row of 0 and 1, ``(n_0,)``.

        Returns:
            The DBM of the hidden layers.

        Raises:
            ShapeError: For a batch of x.
            PoeError: Where there is one hidden layer, which is an RBM's.
        """
        if x.shape != (self.layer_sizes[0],):
            raise ShapeError(
                f"expected one x of shape ({self.layer_sizes[0]},), got {tuple(x.shape)}; make one "
                "posterior for each x of a batch"
            )
        if self.depth == 1:
            raise PoeError("one hidden layer alone is independent given x: use experts.RBM")
        first = self.biases[1] + x.to(self.W0.dtype) @ self.W0
        return DBM(self.weights[1:], [first, *self.biases[2:]])

    def as_rbm(self) -> RBM:
        """The same density as an RBM: the even layers are visible, the odd ones hidden.

        Returns:
            An RBM with W ``(Σ n_even, Σ n_odd)``, 0 between layers that do not touch.
        """
        biases = self.biases
        rows = [
            torch.cat([self._between(even, odd) for odd in range(1, self.depth + 1, 2)], 1)
            for even in range(0, self.depth + 1, 2)
        ]
        return RBM(torch.cat(rows), torch.cat(biases[::2]), torch.cat(biases[1::2]))

    def _between(self, one: int, other: int) -> Tensor:
        """The weights from a layer to another ``(n_one, n_other)``: 0 where they do not touch."""
        if other == one + 1:
            return self.weights[one]
        if other == one - 1:
            return self.weights[other].mT
        return self.W0.new_zeros((len(self.biases[one]), len(self.biases[other])))

    def extra_repr(self) -> str:
        return f"layers of {', '.join(map(str, self.layer_sizes))}"


@sampler_of.register
def _(expert: DBM) -> Sampler | None:
    """That of the RBM of even and odd layers."""
    return sampler_of(expert.as_rbm())


@exact_log_partition.register
def _(expert: DBM) -> Tensor | None:
    """Of the RBM of even and odd layers: where either has at most 25 units."""
    return exact_log_partition(expert.as_rbm())


@simplify.register
def _(expert: DBM) -> Simplified:
    """The RBM of its layers: what is known of RBMs is then known of it."""
    return Simplified(expert.as_rbm(), expert.W0.new_zeros(()))


@widen.register
def _(expert: DBM, families: Set[type[Expert]]) -> Expert:
    """An RBM, where the product has others."""
    return expert.as_rbm() if RBM in families else expert


@combine.register
def _(first: DBM, terms: Sequence[Term]) -> Simplified | None:
    """That of the RBMs: all the odd layers stand side by side."""
    parts = [t.expert.as_rbm() for t in terms if isinstance(t.expert, DBM)]
    as_rbms = [term._replace(expert=part) for term, part in zip(terms, parts, strict=True)]
    return combine(parts[0], as_rbms)


@conditionals.register
def _(expert: DBM) -> Conditionals:
    """The even layers together, given the odd ones, which are drawn together."""
    sizes = expert.layer_sizes

    def given(even: Tensor, uniforms: Tensor) -> LogOdds:
        layers = expert.split(even)
        dealt = uniforms.split(sizes[1::2], 1)
        for k, own in zip(range(1, len(sizes), 2), dealt, strict=True):
            drawn = own < expert.log_odds(layers, k).sigmoid()
            layers[k] = drawn.to(expert.W0.dtype)
        log_odds = [expert.log_odds(layers, k) for k in range(0, len(sizes), 2)]
        together = torch.cat(log_odds, 1)
        return lambda even: together

    return Conditionals(expert.W0.new_empty((2, 0), dtype=torch.int64), sum(sizes[1::2]), given)


register(
    DBM,
    lambda d: {"weights": d.weights, "biases": d.biases},
    lambda f: DBM(f["weights"], f["biases"]),
    name="experts.DBM",
    formerly=("experts.dbm.DBM",),
)


def _require_chain(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
    """Matrices that fit end to end, and a bias for each unit."""
    if not weights:
        raise PoeError("expected at least one matrix of weights, got none")
    sizes = [tuple(matrix.shape) for matrix in weights]
    is_chain = all(matrix.ndim == 2 and 0 not in matrix.shape for matrix in weights) and all(
        lower[1] == upper[0] for lower, upper in pairwise(sizes)
    )
    if not is_chain:
        raise ShapeError(
            f"expected weights (n_0, n_1), (n_1, n_2), ..., got {sizes}: each matrix ties a layer "
            "to the next, with the lower layer's units in its rows"
        )
    wanted = [(size[0],) for size in sizes] + [(sizes[-1][1],)]
    found = [tuple(bias.shape) for bias in biases]
    if found != wanted:
        raise ShapeError(
            f"expected biases of shapes {wanted}, one for each layer from the visible one upward, "
            f"got {found}"
        )
