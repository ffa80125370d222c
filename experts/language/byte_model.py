"""Models of tokens as models of bytes, so that experts of other tokenisers share a space."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from experts.language.next_token import log_after
from experts.language.vocabulary import Vocabulary
from poe import PoeError, Sequence
from poe.core.arguments import checked
from poe.io import register
from poe.structure.autoregressive import Autoregressive, as_values
from poe.structure.twists import normalized

END = 256
BYTES = 257


class Ways(NamedTuple):
    """Ways to write each prefix of bytes in tokens; weights of −inf are no way.

    Args:
        tokens: That are written, ``(n, ways, length)``.
        num_tokens: How many they are, ``(n, ways)``.
        depth: How many bytes more of a token that is still open, ``(n, ways)``.
        log_open: log p of the way together with each token that goes on as the bytes do,
            ``(n, ways, k)``.
        log_masses: log p of all ways together, by the byte that is next, ``(n, 257)``.
        is_over: Whether the text has ended, ``(n,)``.
        log_kept: log of the share of the probability that was not left out so far, ``(n,)``.
    """

    tokens: Tensor
    num_tokens: Tensor
    depth: Tensor
    log_open: Tensor
    log_masses: Tensor
    is_over: Tensor
    log_kept: Tensor


class OverBytes(Autoregressive):
    """log p(b₁ … bₙ) = log Σ p(x) over **all** the token sequences x that write these bytes.

    An event is ``length`` values: bytes 0 … 255 and, where the text ends before, 256 from there on.
    A prefix of bytes is written by tokens that may go on beyond it: each way to do so is kept with
    its probability, and p(b | prefix) is the share of what goes on with b.

    There are up to 2ᵗ⁻¹ ways to write t bytes, so of each prefix the ``num_ways`` most probable are
    kept. With enough of them the sum is exact; else, and for special tokens that are no text,
    something is left out, and p is another density, still normalised: ``log_kept(x)`` says which
    share of the probability was not, and log p(x) + log_kept(x) is a lower bound of the sum over
    all ways. ``num_ways=1`` is nearly the canonical tokenisation alone.

    Costs a pass of the model over each new way's tokens at each byte, without keys and values kept.

    Args:
        model: An autoregressive expert on the tokens of the vocabulary, of at least ``length + 1``
            of them.
        vocabulary: What they are written as; it has ends.
        length: Bytes in an event.
        num_ways: How many ways to write a prefix are kept, at least 1.

    Raises:
        PoeError: For a model of other tokens, or of fewer than ``length + 1``, for a vocabulary
            without ends, and for no ways.

    References:
        Vieira et al. (2025), From language models over tokens to language models over characters,
        arXiv:2412.03719.

        Phan et al. (2025), Exact byte-level probabilities from tokenized language models for
        FIM-tasks and model ensembles, arXiv:2410.09303.

    Example:
        >>> from experts.language import NextToken
        >>> two = Vocabulary(["", "a", "aa"], ends=[0])
        >>> model = NextToken(lambda prefix: torch.zeros(len(prefix), 3), two, length=3)
        >>> bytes_of = OverBytes(model, two, length=2, num_ways=4)
        >>> x = torch.tensor([[97, 97], [97, 256], [256, 256]])
        >>> bytes_of.log_prob(x).exp()  # 5/9, 1/9, 1/3
        tensor([0.5556, 0.1111, 0.3333])
    """

    table: Tensor
    lengths: Tensor
    space: Sequence

    @checked
    def __init__(
        self, model: Autoregressive, vocabulary: Vocabulary, length: int, *, num_ways: int = 16
    ) -> None:
        super().__init__()
        size = vocabulary.size
        if model.space != Sequence(size, model.space.event_shape.numel()):
            raise PoeError(
                f"expected a model of the vocabulary's {size} tokens, got one on {model.space}"
            )
        if model.space.event_shape.numel() <= length or num_ways < 1 or vocabulary.padding is None:
            raise PoeError(
                f"expected a model of at least {length + 1} tokens for {length} bytes (each may be "
                "a token, and then the end), num_ways >= 1 and a vocabulary with ends, got "
                f"{model.space}, {num_ways} and ends {vocabulary.ends.tolist()}"
            )
        self.model, self.vocabulary, self.num_ways = model, vocabulary, num_ways
        self.space = Sequence(BYTES, length)
        longest = max(map(len, vocabulary.tokens))
        rows = [list(token) + [-1] * (longest - len(token)) for token in vocabulary.tokens]
        table = torch.tensor(rows).to(vocabulary.ends.device)
        table[vocabulary.ends, 0] = END
        self.register_buffer("table", table.T.contiguous(), persistent=False)
        lengths = torch.tensor([len(token) for token in vocabulary.tokens])
        self.register_buffer("lengths", lengths.to(table.device), persistent=False)

    def begin(self, num_sequences: int) -> Ways:
        ways, length = (num_sequences, self.num_ways), self.space.length
        tokens = self.table.new_zeros((*ways, length))
        none = tokens.new_zeros(ways)
        first = log_after(self.model, tokens[:1, 0, :0]).to(self.vocabulary.only_padding.dtype)
        log_open = first.new_full((*ways, self.vocabulary.size), -torch.inf)
        log_open[:, 0] = first
        masses = self._log_masses(log_open, none)
        return Ways(tokens, none, none, log_open, masses, none[:, 0] > 0, masses.logsumexp(1))

    def log_next(self, state: Ways, place: int) -> Tensor:
        over = torch.full_like(state.log_masses[0], -torch.inf)
        over[END] = 0.0
        return torch.where(state.is_over[:, None], over, normalized(state.log_masses))

    def append(self, state: Ways, place: int, values: Tensor) -> Ways:
        goes_on = self._next_bytes(state.depth) == values[:, None, None]
        log_open = state.log_open.masked_fill(~goes_on, -torch.inf)
        is_whole = self.lengths == state.depth[..., None] + 1
        whole = log_open.masked_fill(~is_whole, -torch.inf)
        log_open = log_open.masked_fill(is_whole, -torch.inf)
        ways, size = self.num_ways, self.vocabulary.size
        # Each way with its token still open, and the most probable ways to close one.
        best, closed = whole.flatten(1).topk(ways, dim=1)
        log_weight, chosen = torch.cat([log_open.logsumexp(2), best], 1).topk(ways, dim=1)
        closed = closed.gather(1, (chosen - ways).clamp(min=0))
        is_closed = chosen >= ways
        source = torch.where(is_closed, closed // size, chosen.clamp(max=ways - 1))
        rows = torch.arange(len(values), device=values.device)[:, None]
        depth = (state.depth[rows, source] + 1).masked_fill(is_closed, 0)
        tokens, count, log_open = (
            part[rows, source] for part in (state.tokens, state.num_tokens, log_open)
        )
        new = (is_closed & (log_weight > -torch.inf)).nonzero(as_tuple=True)
        tokens[(*new, count[new])] = (closed % size)[new]
        count[new] += 1
        log_open = log_open.masked_fill(is_closed[..., None], -torch.inf)
        log_open[new] = log_weight[new][:, None] + self._log_after(tokens[new], count[new])
        masses = self._log_masses(log_open, depth)
        is_over = state.is_over | (values == END)
        share = masses.logsumexp(1) - state.log_masses.gather(1, values[:, None]).squeeze(1)
        log_kept = torch.where(is_over, state.log_kept, state.log_kept + share)
        return Ways(tokens, count, depth, log_open, masses, is_over, log_kept)

    def log_kept(self, x: Tensor) -> Tensor:
        """log of the share of the probability that is not left out on the way to x, at most 0.

        Args:
            x: Bytes, ``(*batch, length)``.

        Returns:
            ``(*batch,)``.
        """
        batch_shape = self.space.batch_shape(x)
        rows = as_values(self.space, x).reshape(-1, self.space.length)
        state = self.begin(len(rows))
        for place, values in enumerate(rows[:, :-1].unbind(1)):
            state = self.append(state, place, values)
        return state.log_kept.reshape(batch_shape)

    def _log_masses(self, log_open: Tensor, depth: Tensor) -> Tensor:
        """log of the probability of each next byte with all that leads there: ``(n, 257)``."""
        after = self._next_bytes(depth)
        largest = log_open.amax((1, 2), keepdim=True)
        largest = largest.masked_fill(largest == -torch.inf, 0.0)
        weights = (log_open - largest).exp().masked_fill(after < 0, 0.0)
        sums = weights.new_zeros((len(weights), BYTES))
        sums = sums.scatter_add(1, after.clamp(min=0).flatten(1), weights.flatten(1))
        return largest[:, 0] + sums.log()

    def _next_bytes(self, depth: Tensor) -> Tensor:
        """What each token writes after so many of its bytes; −1 for nothing: ``(n, ways, k)``."""
        known = depth.clamp(max=len(self.table) - 1)
        return torch.where((depth < len(self.table))[..., None], self.table[known], -1)

    def _log_after(self, tokens: Tensor, count: Tensor) -> Tensor:
        """log p of what follows the first ``count`` ``(m,)`` of tokens ``(m, length)``."""
        found = self.vocabulary.only_padding.new_zeros((len(tokens), self.vocabulary.size))
        for size in count.unique().tolist():
            rows = count == size
            found[rows] = log_after(self.model, tokens[rows, :size]).to(found.dtype)
        return found


register(
    OverBytes,
    lambda m: {
        "model": m.model,
        "vocabulary": m.vocabulary,
        "length": m.space.length,
        "num_ways": m.num_ways,
    },
    lambda f: OverBytes(f["model"], f["vocabulary"], f["length"], num_ways=f["num_ways"]),
    name="experts.language.OverBytes",
    formerly=("experts.language.bytes.OverBytes",),
)
