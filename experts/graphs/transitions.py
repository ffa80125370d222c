"""What follows what: scores of tags and of neighbours that are the same at every place."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experts.graphs.forward_backward import Chains
from experts.graphs.linear_chain import LinearChain
from experts.parameters import ArrayLike, keep, log_values
from poe import AdaptationError, PoeError, ShapeError
from poe.core.arguments import checked, require_dimensions
from poe.io import register

MAX_STEPS = 1000
TOLERANCE = 1e-6


class Transitions(nn.Module):
    """What follows what at any place of a sentence: a linear chain for each length L.

    log p̃(y | L) = s(y_1) + Σ_t V(y_t, y_{t+1}) + e(y_L)

    The transition scores of a conditional random field: with a network's scores at every place,
    ``chains(lengths, emissions)`` is the whole of one, and ``-chains.log_prob(tags).mean()`` trains
    both where the scores are parameters.

    Args:
        start: s, ``(k,)``; −inf for what may not be. An ``nn.Parameter`` stays one.
        pairs: V, from row to column, ``(k, k)``; as ``start`` else.
        end: e, ``(k,)``; as ``start`` else.

    Raises:
        ShapeError: Where the shapes do not fit.
        PoeError: For NaN or +inf.

    Example:
        >>> ordered = Transitions(torch.zeros(2), [[0.0, 0.0], [-torch.inf, 0.0]], torch.zeros(2))
        >>> poe.log_partition(ordered.of_length(3)).value.exp()  # 000, 001, 011, 111
        tensor(4.)
    """

    start: Tensor
    pairs: Tensor
    end: Tensor
    may_be_infinite = ("start", "pairs", "end")

    @checked
    def __init__(
        self,
        start: ArrayLike,
        pairs: ArrayLike,
        end: ArrayLike,
    ) -> None:
        super().__init__()
        v = log_values("pairs", pairs)
        s, e = log_values("start", start, like=v), log_values("end", end, like=v)
        k = len(v) if v.ndim else 0
        if (tuple(s.shape), tuple(v.shape), tuple(e.shape)) != ((k,), (k, k), (k,)):
            raise ShapeError(
                f"expected start (k,), pairs (k, k) and end (k,), got {tuple(s.shape)}, "
                f"{tuple(v.shape)} and {tuple(e.shape)}"
            )
        for name, values in (("start", s), ("pairs", v), ("end", e)):
            keep(self, name, values)

    def of_length(self, length: int) -> LinearChain:
        """The expert on sequences of so many tags.

        Args:
            length: L, at least 1.

        Returns:
            A linear chain on ``Categorical((length,), k)``.
        """
        lengths = torch.tensor([length], device=self.pairs.device)
        return LinearChain(self.chains(lengths).unary[0], self.pairs)

    def chains(self, lengths: Tensor, emissions: Tensor | None = None) -> Chains:
        """The chains of sentences, with what a tagger says of each place.

        Args:
            lengths: L of each sentence, ``(n,)``, int64.
            emissions: Log-scores of tags, ``(n, length, k)``; 0 by default. They may come with an
                exponent, as log-factors of a product do.

        Returns:
            The chains, with the gradient of all scores.

        Raises:
            ShapeError: Where the shapes do not fit.
            PoeError: For lengths outside 1 ... length.
        """
        places = torch.arange(
            int(lengths.max()) if emissions is None else emissions.shape[1], device=lengths.device
        )
        is_first, is_last = (places == 0)[:, None], (places == lengths[:, None] - 1)[..., None]
        ends = torch.where(is_first, self.start, 0.0) + torch.where(is_last, self.end, 0.0)
        return Chains(ends if emissions is None else emissions + ends, self.pairs, lengths)

    def extra_repr(self) -> str:
        return f"{len(self.pairs)} tags"


@checked
def fit_transitions(
    tags: Tensor, lengths: Tensor, num_tags: int, *, weight_decay: float = 1e-4
) -> Transitions:
    """The scores of the highest likelihood of sentences of tags alone, in float64.

    Minimises −mean log p(y | L) + λ/2 Σ θ², which is convex, by L-BFGS. The likelihood needs how
    often each tag and pair occurs, and log Z once for each length that occurs. λ > 0 keeps finite
    what never occurs.

    Args:
        tags: Sentences, ``(n, length)``, int64: whatever stands behind ``lengths`` is padding.
        lengths: Tags of each sentence, ``(n,)``, int64.
        num_tags: k.
        weight_decay: λ, above 0.

    Returns:
        The scores, without a gradient.

    Raises:
        PoeError: For tags outside 0 ... k − 1, and λ that is not above 0.
        AdaptationError: Where L-BFGS does not come to an end.

    Example:
        >>> abab = torch.tensor([[0, 1, 0, 1], [0, 1, 0, 0]])  # the last is padding
        >>> found = fit_transitions(abab, torch.tensor([4, 3]), 2)
        >>> found.of_length(5).most_probable()
        tensor([0, 1, 0, 1, 0])
    """
    if not weight_decay > 0:
        raise PoeError(f"expected a weight_decay above 0, got {weight_decay}")
    require_dimensions("tags", tags, "(n, length)")
    if lengths.shape != tags.shape[:1] or lengths.is_floating_point() or tags.is_floating_point():
        raise ShapeError(
            f"expected whole numbers, and a length for each of {len(tags)} sentences, got "
            f"{lengths.dtype} of shape {tuple(lengths.shape)} and tags of {tags.dtype}"
        )
    if not bool(((lengths > 0) & (lengths <= tags.shape[1])).all()):
        raise PoeError(f"expected lengths from 1 to {tags.shape[1]}, got others")
    counts = _counts(tags, lengths, num_tags)
    occurring, times = lengths.unique(return_counts=True)
    shares = times.double() / len(lengths)
    theta = [torch.zeros_like(count).requires_grad_() for count in counts]

    def objective() -> Tensor:
        chains = Transitions(*theta).chains(occurring)
        fit = torch.stack([(c * t).sum() for c, t in zip(counts, theta, strict=True)]).sum()
        decay = torch.stack([t.square().sum() for t in theta]).sum()
        return shares @ chains.log_partition() - fit + weight_decay / 2 * decay

    _minimise(objective, theta)
    return Transitions(*(t.detach() for t in theta))


class _Counts(NamedTuple):
    """How often a sentence, on average, starts with a tag, joins two, and ends with one."""

    start: Tensor
    pairs: Tensor
    end: Tensor


def _counts(tags: Tensor, lengths: Tensor, k: int) -> _Counts:
    n, length = tags.shape
    is_tag = torch.arange(length, device=tags.device) < lengths[:, None]
    inside = tags[is_tag]
    if not len(inside) or bool(((inside < 0) | (inside >= k)).any()):
        raise PoeError(f"expected sentences of tags from 0 to {k - 1}, at least one, got others")
    steps = (tags[:, :-1] * k + tags[:, 1:])[is_tag[:, 1:]]
    last = tags.gather(1, lengths[:, None] - 1)[:, 0]
    numbers = [
        torch.bincount(values, minlength=size).double() / n
        for values, size in ((tags[:, 0], k), (steps, k * k), (last, k))
    ]
    return _Counts(numbers[0], numbers[1].reshape(k, k), numbers[2])


def _minimise(objective: Callable[[], Tensor], theta: list[Tensor]) -> None:
    optimizer = torch.optim.LBFGS(
        theta,
        max_iter=MAX_STEPS,
        tolerance_grad=TOLERANCE,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    optimizer.step(closure)
    closure()
    slope = max(float(t.grad.abs().max()) for t in theta if t.grad is not None)
    if not slope < 10 * TOLERANCE:
        raise AdaptationError(
            f"expected a gradient below {10 * TOLERANCE:g} after {MAX_STEPS} steps, got "
            f"{slope:.2g}: give a larger weight_decay"
        )


register(
    Transitions,
    lambda t: {"start": t.start, "pairs": t.pairs, "end": t.end},
    lambda f: Transitions(**f),
    name="experts.Transitions",
    formerly=("experts.transitions.Transitions",),
)
