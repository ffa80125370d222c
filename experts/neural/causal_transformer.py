"""A causal transformer: sequences of tokens, each given those before it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experts.parameters import whole
from poe import Sequence, ShapeError
from poe.core.arguments import checked
from poe.density.checks import precise
from poe.io import register_module
from poe.structure.autoregressive import Autoregressive, as_values


class Cache(NamedTuple):
    """Keys and values ``(n, layers, heads, t, width)``, and log p of what follows ``(n, k)``."""

    keys: Tensor
    values: Tensor
    log_next: Tensor


class Block(nn.Module):
    """Causal attention and a two-layer network, each after a layer norm and added to its input.

    Shapes: h ``(n, t, width) -> (n, t, width)``.

    References:
        Vaswani et al. (2017), Attention is all you need, arXiv:1706.03762.

        Radford et al. (2019), Language models are unsupervised multitask learners, section 2.3
        (where the norms are).
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.before_attention = nn.LayerNorm(width)
        self.to_queries = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, h: Tensor) -> Tensor:
        """All places at once."""
        queries, keys, values = self._heads(h)
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self._finish(h, attended)

    def step(self, h: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The last place alone ``(n, 1, width)``, after keys and values of those before it."""
        query, key, value = self._heads(h)
        keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        attended = F.scaled_dot_product_attention(query, keys, values)
        return self._finish(h, attended), keys, values

    def _heads(self, h: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values: ``(n, heads, t, width / heads)``."""
        parts = self.to_queries(self.before_attention(h)).chunk(3, -1)
        return tuple(part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)

    def _finish(self, h: Tensor, attended: Tensor) -> Tensor:
        h = h + self.out(attended.transpose(1, 2).flatten(2))
        return h + self.mlp(h)


class CausalTransformer(Autoregressive):
    """log p(x) = Σₜ log softmax(f(x₁ … xₜ₋₁))ₓₜ over sequences of a fixed length.

    f: token and place embeddings, blocks of causal attention, and a layer norm before the output;
    the first token follows a learned start. ``log_prob`` takes one pass; ``sample`` keeps keys and
    values, so that a sequence costs about one pass too. For text that ends earlier give a token
    that says so, and fill up with it.

    Shapes: x ``(*batch, length)``, tokens 0 … vocab_size − 1; one outside has log-density −inf, and
    ``log_prob`` refuses it. Of one-hot tokens z ``(*batch, length, vocab_size)``:
    ``log_density_of_one_hot(z)``.

    Args:
        vocab_size: How many tokens there are, k.
        length: How many tokens a sequence has.
        width: Numbers in the embedding of a place, a multiple of ``num_heads``.
        num_heads: Heads of attention in each block.
        num_layers: Blocks, one after the other.

    Raises:
        ShapeError: Where the width is no multiple of the heads, or a size is below 1.

    References:
        Vaswani et al. (2017), Attention is all you need, arXiv:1706.03762.

        Radford et al. (2019), Language models are unsupervised multitask learners, section 2.3
        (where the norms are).

    Example:
        >>> model = CausalTransformer(vocab_size=5, length=3, width=8, num_heads=2, num_layers=1)
        >>> x = model.sample(4, generator=torch.Generator().manual_seed(0))
        >>> x.shape, model.log_prob(x).shape, model.log_conditionals(x).shape
        (torch.Size([4, 3]), torch.Size([4]), torch.Size([4, 3, 5]))
    """

    may_be_infinite = ()

    @checked
    def __init__(
        self,
        vocab_size: int,
        length: int,
        *,
        width: int = 64,
        num_heads: int = 4,
        num_layers: int = 2,
    ) -> None:
        super().__init__()
        width, num_heads = whole("width", width, 0), whole("num_heads", num_heads, 0)
        num_layers = whole("num_layers", num_layers, 0)
        if num_heads < 1 or width < 1 or width % num_heads or num_layers < 1:
            raise ShapeError(
                f"expected a width that is a multiple of num_heads >= 1, and num_layers >= 1, got "
                f"width={width}, num_heads={num_heads} and num_layers={num_layers}"
            )
        self.space: Sequence = Sequence(vocab_size, length)
        self.width, self.num_heads, self.num_layers = width, num_heads, num_layers
        self.tokens = nn.Embedding(vocab_size, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.places = nn.Parameter(0.1 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocab_size))

    def log_conditionals(self, x: Tensor) -> Tensor:
        """log p(v | x₁ … xₜ₋₁) at every place, by one pass.

        Args:
            x: Tokens, ``(*batch, length)``.

        Returns:
            ``(*batch, length, k)``.
        """
        return self._log_conditionals(self.tokens(as_values(self.space, x)))

    def log_density_of_one_hot(self, z: Tensor) -> Tensor:
        """log p of one-hot tokens, differentiable.

        Args:
            z: One-hot tokens, ``(*batch, length, k)``.

        Returns:
            ``(*batch,)``.
        """
        return (self._log_conditionals(z @ self.tokens.weight) * z).sum((-2, -1))

    def _log_conditionals(self, embedded: Tensor) -> Tensor:
        """After the embeddings of the tokens ``(*batch, length, width)``, moved on by one place."""
        start = self.start.expand(*embedded.shape[:-2], 1, -1)
        h = torch.cat([start, embedded[..., :-1, :]], -2) + self.places
        batch_shape, h = h.shape[:-2], h.flatten(0, -3) if h.ndim > 2 else h[None]
        for block in self.blocks:
            h = block(h)
        return precise(self.out(h)).log_softmax(-1).reshape(*batch_shape, *h.shape[1:-1], -1)

    def begin(self, num_sequences: int) -> Cache:
        none = self.start.new_zeros(
            num_sequences, self.num_layers, self.num_heads, 0, self.width // self.num_heads
        )
        return self._step(self.start.expand(num_sequences, 1, -1), 0, none, none)

    def log_next(self, state: Cache, place: int) -> Tensor:
        return state.log_next

    def append(self, state: Cache, place: int, values: Tensor) -> Cache:
        return self._step(self.tokens(values)[:, None], place + 1, state.keys, state.values)

    def _step(self, h: Tensor, place: int, keys: Tensor, values: Tensor) -> Cache:
        """What follows a token ``(n, 1, width)`` at that place of the input, and all keys."""
        h = h + self.places[place]
        kept = []
        for block, key, value in zip(self.blocks, keys.unbind(1), values.unbind(1), strict=True):
            assert isinstance(block, Block)
            h, *seen = block.step(h, key, value)
            kept.append(seen)
        keys, values = (torch.stack(parts, 1) for parts in zip(*kept, strict=True))
        return Cache(keys, values, precise(self.out(h))[:, 0].log_softmax(-1))

    def extra_repr(self) -> str:
        return f"{self.space}, width={self.width}, {self.num_heads} heads"


register_module(
    CausalTransformer,
    lambda m: {
        "vocab_size": m.space.vocab_size,
        "length": m.space.length,
        "width": m.width,
        "num_heads": m.num_heads,
        "num_layers": m.num_layers,
    },
    name="experts.CausalTransformer",
    formerly=("experts.causal_transformer.CausalTransformer",),
)
