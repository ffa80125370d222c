"""Linear chains over tags: what each tag weighs, and each pair of neighbours."""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch import Tensor, nn

from experts.graphs.factor_graph import FactorGraph, Tables
from experts.graphs.forward_backward import Chains, Marginals
from experts.parameters import ArrayLike, keep, log_values
from poe import Categorical, Expert, PoeError, ShapeError, Space
from poe.core.arguments import checked
from poe.density.capabilities import Simplified, Term, combine, exact_log_partition, widen
from poe.density.transformed import mask_outside
from poe.io import register
from poe.structure.autoregressive import as_values
from poe.structure.twists import twists


class LinearChain(Expert):
    """log p̃(y) = Σ_t u_t(y_t) + Σ_t V_t(y_t, y_{t+1}) over sequences of tags; unnormalised.

    log Z, draws, ``marginals`` and ``most_probable`` are exact, in O(length k²). A product of
    powers is a linear chain again, with ``Categorical`` experts too, such as the log-probabilities
    of a neural tagger; beside a FactorGraph it becomes one. For many sentences at once:
    ``experts.graphs.stack_chains``.

    Args:
        unary: u, ``(length, k)``; −inf for what may not be. An ``nn.Parameter`` stays one.
        pairs: V, from a tag (row) to the next (column), ``(k, k)`` or ``(length − 1, k, k)``; −inf
            for what may not be. An ``nn.Parameter`` stays one.
        space: ``Categorical((length,), k)``, the default, or a Sequence of that many tokens.

    Raises:
        ShapeError: Where the shapes do not fit, or the space.
        PoeError: For NaN or +inf entries.

    References:
        Rabiner (1989), A tutorial on hidden Markov models and selected applications in speech
        recognition, doi:10.1109/5.18626.

        Lafferty, McCallum & Pereira (2001), Conditional random fields, ICML.

    Example:
        >>> never_twice = [[-torch.inf, 0.0], [0.0, -torch.inf]]
        >>> chain = LinearChain(torch.zeros(3, 2), never_twice)
        >>> product = chain * experts.Categorical([[0.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
        >>> poe.simplify(product).expert.most_probable()
        tensor([1, 0, 1])
        >>> poe.log_partition(chain).value.exp()
        tensor(2.)
    """

    unary: Tensor
    pairs: Tensor
    may_be_infinite = ("unary", "pairs")

    @checked
    def __init__(
        self,
        unary: ArrayLike,
        pairs: ArrayLike,
        space: Space | None = None,
    ) -> None:
        super().__init__()
        u = log_values("unary", unary)
        v = log_values("pairs", pairs, like=u)
        if u.ndim != 2 or 0 in u.shape:
            raise ShapeError(f"expected unary (length, k), got {tuple(u.shape)}")
        length, k = u.shape
        if tuple(v.shape) not in ((k, k), (length - 1, k, k)):
            raise ShapeError(
                f"expected pairs ({k}, {k}) or ({length - 1}, {k}, {k}), got {tuple(v.shape)}"
            )
        self.space = Categorical((length,), k) if space is None else space
        if tuple(self.space.event_shape) != (length,) or self.space.num_values != k:
            raise ShapeError(f"expected a space of {length} tags of {k} values, got {self.space}")
        keep(self, "unary", u)
        keep(self, "pairs", v)

    def forward(self, x: Tensor) -> Tensor:
        """The unnormalised log-density.

        Args:
            x: Tags 0 ... k − 1, ``(*batch, length)``.

        Returns:
            log p̃(x), ``(*batch,)``; −inf where tags may not be.
        """
        values = as_values(self.space, x)
        batch = values.shape[:-1]
        found = self._as_chains(self.unary.dtype).log_density(
            values.reshape(-1, 1, len(self.unary))
        )
        return mask_outside(self.space, x, found.reshape(batch))

    def log_density_of_one_hot(self, z: Tensor) -> Tensor:
        """The log-density of one-hot tags, differentiable.

        Args:
            z: One-hot tags, or weights between, ``(*batch, length, k)``.

        Returns:
            log p̃, ``(*batch,)``.
        """
        places = torch.arange(len(self.unary), device=z.device)
        each = Tables(places[:, None], self.unary.to(z.dtype)).at_one_hot(z)
        if len(places) == 1:
            return each
        steps = torch.stack([places[:-1], places[1:]], 1)
        return each + Tables(steps, self._each_pair().to(z.dtype)).at_one_hot(z)

    def marginals(self) -> Marginals:
        """The probabilities of each tag and of each pair of neighbours.

        Returns:
            p(y_t = a), ``(length, k)``, and p(y_t = a, y_{t+1} = b), ``(length − 1, k, k)``.
        """
        tags, pairs = self._as_chains(torch.float64).marginals()
        return Marginals(tags[0].to(self.unary.dtype), pairs[0].to(self.unary.dtype))

    def most_probable(self) -> Tensor:
        """The tags of the highest probability; of several alike it is one.

        Returns:
            Tags, ``(length,)``.

        Raises:
            PoeError: Where none may be.
        """
        return self._as_chains(torch.float64).most_probable().tags[0]

    @checked
    @torch.no_grad()
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent exact draws.

        Args:
            num_samples: How many.
            generator: Of all that is drawn; a fresh one, seeded by the system, by default.

        Returns:
            Tags, ``(num_samples, length)``, int64.

        Raises:
            PoeError: Where no tags may be.
        """
        return self._as_chains(torch.float64).sample(num_samples, generator=generator)[:, 0]

    def _each_pair(self) -> Tensor:
        length, k = self.unary.shape
        return self.pairs.expand(length - 1, k, k)

    def _as_chains(self, dtype: torch.dtype) -> Chains:
        length = torch.full((1,), len(self.unary), device=self.unary.device)
        return Chains(self.unary[None].to(dtype), self.pairs.to(dtype), length)

    def extra_repr(self) -> str:
        return f"{self.space}"


@checked
def stack_chains(chains: Sequence[LinearChain]) -> Chains:
    """Chains of k tags and of any lengths side by side, padded: their sums are taken at once.

    Args:
        chains: Linear chains, at least one, all of one k.

    Returns:
        Their sentences, in order, of the length of the longest.

    Raises:
        PoeError: For no chains.
        ShapeError: For different k.

    Example:
        >>> chains = [LinearChain(torch.zeros(n, 2), torch.zeros(2, 2)) for n in (1, 3)]
        >>> stack_chains(chains).log_partition().exp()
        tensor([2., 8.])
    """
    numbers = {chain.unary.shape[-1] for chain in chains}
    if len(numbers) != 1:
        error = ShapeError if numbers else PoeError
        raise error(f"expected chains of one number of tags, got {sorted(numbers)}")
    lengths = torch.tensor([len(chain.unary) for chain in chains])
    longest = int(lengths.max())
    unary = torch.stack([_padded(chain.unary, longest) for chain in chains])
    pairs = torch.stack([_padded(chain._each_pair(), longest - 1) for chain in chains])
    return Chains(unary, pairs, lengths.to(unary.device))


def _padded(values: Tensor, length: int) -> Tensor:
    """Zeros behind the first dimension, up to that length."""
    return torch.cat([values, values.new_zeros(length - len(values), *values.shape[1:])])


@exact_log_partition.register
def _(expert: LinearChain) -> Tensor | None:
    return expert._as_chains(torch.float64).log_partition()[0].to(expert.unary.dtype)


@combine.register
def _(first: LinearChain, terms: Sequence[Term]) -> Simplified | None:
    """Unary terms and pairs add, each times its exponent; None where −inf meets one below 0."""
    unary: Tensor | float = 0.0
    pairs: Tensor | float = 0.0
    is_shared = all(t.expert.pairs.ndim == 2 for t in terms if isinstance(t.expert, LinearChain))
    for term in terms:
        assert isinstance(term.expert, LinearChain)
        own = term.expert.pairs if is_shared else term.expert._each_pair()
        if _is_hard(term.expert) and not bool(term.exponent >= 0):
            return None
        unary = unary + _powered(term.expert.unary, term.exponent)
        pairs = pairs + _powered(own, term.exponent)
    assert isinstance(unary, Tensor)
    assert isinstance(pairs, Tensor)
    merged = LinearChain(unary, pairs, first.space)
    return Simplified(merged, first.unary.new_zeros(()))


def _is_hard(chain: LinearChain) -> bool:
    if chain.unary.is_meta:
        return False
    return bool((chain.unary == -torch.inf).any() or (chain.pairs == -torch.inf).any())


def _powered(values: Tensor, exponent: Tensor) -> Tensor:
    """w θ, where −inf stays what it is, with no say in the gradient, unless w is 0."""
    is_excluded = values == -torch.inf
    found = exponent.to(values) * values.masked_fill(is_excluded, 0.0)
    return torch.where(is_excluded & (exponent.to(values.device) != 0), -torch.inf, found)


def as_factor_graph(chain: LinearChain) -> FactorGraph:
    """The same density as tables of single tags and of neighbours."""
    places = torch.arange(len(chain.unary), device=chain.unary.device)
    steps = torch.stack([places[:-1], places[1:]], 1)
    tables = [(places[:, None], chain.unary), (steps, chain._each_pair())]
    return FactorGraph.from_tables(chain.space, tables[: len(places)])


@widen.register
def _(expert: LinearChain, families: Set[type[Expert]]) -> Expert:
    """A factor graph where there is one already."""
    return as_factor_graph(expert) if FactorGraph in families else expert


@twists.register
def _(expert: LinearChain) -> Sequence[nn.Module]:
    return twists(as_factor_graph(expert))


register(
    LinearChain,
    lambda c: {"unary": c.unary, "pairs": c.pairs, "space": c.space},
    lambda f: LinearChain(**f),
    name="experts.LinearChain",
    formerly=("experts.linear_chain.LinearChain",),
)
