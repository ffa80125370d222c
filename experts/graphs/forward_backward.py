"""Exact sums over the tags of many sentences at once, by dynamic programming along chains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from poe import PoeError, ShapeError
from poe.core.arguments import checked
from poe.core.randomness import resolve


class Marginals(NamedTuple):
    """The probabilities of tags and of neighbours, 0 where there is padding.

    Args:
        tags: p(y_t = a), ``(n, length, k)``.
        pairs: p(y_t = a, y_{t+1} = b), ``(n, length − 1, k, k)``.
    """

    tags: Tensor
    pairs: Tensor


class MostProbable(NamedTuple):
    """The tags of the highest probability.

    Args:
        tags: The tags, ``(n, length)``, int64, 0 in the padding.
        log_density: log p̃ of them, ``(n,)``.
    """

    tags: Tensor
    log_density: Tensor


@checked
@dataclass(frozen=True)
class Chains:
    """Linear chains of tags for n sentences of L tags each, side by side; unnormalised.

    log p̃(y) = Σ_{t ≤ L} u_t(y_t) + Σ_{t < L} V_t(y_t, y_{t+1})

    All sums are exact, of O(length k²) a sentence, and can be differentiated twice. Maximum
    likelihood: minimise ``-chains.log_prob(tags).mean()``.

    Args:
        unary: u, ``(n, length, k)``, which may be −inf; a conditional random field's emissions.
        pairs: V, from a tag (row) to the next (column), which may be −inf: ``(k, k)`` for all,
            ``(length − 1, k, k)``, or ``(n, length − 1, k, k)``.
        lengths: L, ``(n,)``, from 1 to length; what comes after is padding and has no say.

    Raises:
        ShapeError: Where the shapes do not fit.
        PoeError: For lengths outside 1 ... length.

    References:
        Rabiner (1989), A tutorial on hidden Markov models and selected applications in speech
        recognition, doi:10.1109/5.18626.

        Lafferty, McCallum & Pereira (2001), Conditional random fields, ICML.

    Example:
        >>> stay = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> chains = Chains(torch.zeros(2, 3, 2), stay, torch.tensor([3, 1]))
        >>> chains.log_partition().exp()  # 2 (e + 1)², and two tags of weight 1
        tensor([27.6512,  2.0000])
    """

    unary: Tensor
    pairs: Tensor
    lengths: Tensor

    def __post_init__(self) -> None:
        n, length, k = _shape_of(self.unary)
        allowed = ((k, k), (length - 1, k, k), (n, length - 1, k, k))
        if tuple(self.pairs.shape) not in allowed or tuple(self.lengths.shape) != (n,):
            raise ShapeError(
                f"expected pairs of one of the shapes {allowed} and lengths ({n},), got "
                f"{tuple(self.pairs.shape)} and {tuple(self.lengths.shape)}"
            )
        if not self.lengths.is_meta and not bool(
            ((self.lengths >= 1) & (self.lengths <= length)).all()
        ):
            raise PoeError(f"expected lengths from 1 to {length}, got {self.lengths.tolist()}")

    @property
    def is_tag(self) -> Tensor:
        """Where there is a tag and no padding: ``(n, length)``."""
        places = torch.arange(self.unary.shape[1], device=self.unary.device)
        return places < self.lengths[:, None]

    def log_density(self, tags: Tensor) -> Tensor:
        """The unnormalised log-density of tags.

        Args:
            tags: Tags 0 ... k − 1, ``(*batch, n, length)``, int64; in the padding any.

        Returns:
            log p̃, ``(*batch, n)``.

        Raises:
            ShapeError: Where tags are not those of n sentences.
        """
        if tags.shape[-2:] != self.unary.shape[:2]:
            raise ShapeError(
                f"expected tags (*batch, {len(self.unary)}, {self.unary.shape[1]}), got "
                f"{tuple(tags.shape)}"
            )
        k = self.unary.shape[-1]
        alone = self.unary.expand(*tags.shape, k).gather(-1, tags[..., None]).squeeze(-1)
        table = self._each_pair().flatten(-2)
        steps = (tags[..., :-1] * k + tags[..., 1:])[..., None]
        joined = table.expand(*steps.shape[:-1], k * k).gather(-1, steps).squeeze(-1)
        is_tag = self.is_tag
        alone = torch.where(is_tag, alone, 0.0).sum(-1)
        return alone + torch.where(is_tag[:, 1:], joined, 0.0).sum(-1)

    def log_partition(self) -> Tensor:
        """The log partition, log Σ_y p̃(y), of each sentence.

        Returns:
            log Z, ``(n,)``; −inf where no tags are allowed.
        """
        return _log_sum(self._last(self._forward(_log_sum)), -1)

    def log_prob(self, tags: Tensor) -> Tensor:
        """The normalised log-density of tags.

        Args:
            tags: Tags 0 ... k − 1, ``(*batch, n, length)``, int64; in the padding any.

        Returns:
            log p, ``(*batch, n)``.

        Raises:
            ShapeError: Where tags are not those of n sentences.
        """
        return self.log_density(tags) - self.log_partition()

    def marginals(self) -> Marginals:
        """Of each tag and each pair of neighbours, the derivatives of log Z by what they weigh.

        Returns:
            The marginals, without a gradient.

        References:
            Eisner (2016), Inside-outside and forward-backward algorithms are just backprop,
            doi:10.18653/v1/W16-5901.
        """
        with torch.inference_mode(False), torch.enable_grad():
            unary = self.unary.detach().clone().requires_grad_()
            pairs = self._each_pair().detach().clone().requires_grad_()
            log_z = Chains(unary, pairs, self.lengths).log_partition().sum()
            return Marginals(*torch.autograd.grad(log_z, (unary, pairs), materialize_grads=True))

    @torch.no_grad()
    def most_probable(self) -> MostProbable:
        """The tags of the highest probability, by Viterbi's algorithm; of several alike it is one.

        Returns:
            The tags of each sentence, and log p̃ of them.

        Raises:
            PoeError: Where no tags are allowed.
        """
        best = self._forward(torch.amax)
        tags = self._backward(best, torch.zeros_like(self.unary)[None])[0]
        return MostProbable(tags, self._last(best).amax(-1))

    @checked
    @torch.no_grad()
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Independent exact draws, by forward filtering and backward sampling.

        Args:
            num_samples: How many of each sentence.
            generator: Of all that is drawn; a fresh one, seeded by the system, by default.

        Returns:
            Tags, ``(num_samples, n, length)``, int64, 0 in the padding.

        Raises:
            PoeError: Where no tags are allowed.
        """
        generator = resolve(generator, self.unary.device)
        waits = self.unary.new_empty((num_samples, *self.unary.shape), dtype=torch.float64)
        gumbel = -waits.exponential_(generator=generator).log()
        return self._backward(self._forward(_log_sum), gumbel)

    def _each_pair(self) -> Tensor:
        """``(n, length − 1, k, k)``, whatever was given."""
        n, length, k = self.unary.shape
        return self.pairs.expand(n, length - 1, k, k)

    def _forward(self, reduce: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
        """For each place, what all tags before it come to, by its own tag: ``(n, k)`` each."""
        unary = torch.where(self.is_tag[..., None], self.unary, 0.0).unbind(1)
        found = [unary[0]]
        for pairs, alone in zip(self._each_pair().unbind(1), unary[1:], strict=True):
            found.append(reduce(found[-1][:, :, None] + pairs, 1) + alone)
        return found

    def _last(self, forward: list[Tensor]) -> Tensor:
        """What stands at each sentence's last tag: ``(n, k)``."""
        rows = torch.arange(len(self.lengths), device=self.lengths.device)
        return torch.stack(forward, 1)[rows, self.lengths - 1]

    def _backward(self, forward: list[Tensor], noise: Tensor) -> Tensor:
        """From the last tag to the first, the best by ``forward`` and the tag that follows.

        Shapes: noise ``(num, n, length, k)``, Gumbel for draws and 0 for the most probable.
        """
        if not self.unary.is_meta and bool((self._last(forward).amax(-1) == -torch.inf).any()):
            raise PoeError(
                "expected at least one sequence of tags that is allowed, got a sentence with none: "
                "look for -inf in unary and pairs"
            )
        pairs, is_tag = self._each_pair(), self.is_tag
        tags = [(forward[-1] + noise[:, :, -1]).argmax(-1)]
        for place in reversed(range(len(forward) - 1)):
            into_next = pairs[:, place].mT.expand(len(noise), *pairs[:, place].shape)
            chosen = tags[-1][..., None, None].expand(*into_next.shape[:2], 1, into_next.shape[-1])
            step = into_next.gather(2, chosen).squeeze(2)
            step = torch.where(is_tag[:, place + 1, None], step, 0.0)
            tags.append((forward[place] + step + noise[:, :, place]).argmax(-1))
        return torch.stack(tags[::-1], -1) * is_tag


def _shape_of(unary: Tensor) -> tuple[int, int, int]:
    if unary.ndim != 3 or 0 in unary.shape[1:] or not unary.is_floating_point():
        raise ShapeError(
            f"expected unary log-values (n, length, k), floats of at least one tag, got "
            f"{tuple(unary.shape)} of {unary.dtype}"
        )
    n, length, k = unary.shape
    return n, length, k


def _log_sum(values: Tensor, dim: int) -> Tensor:
    """log Σ exp, −inf where all are, and there without a gradient (that of torch's is NaN)."""
    top = values.detach().amax(dim, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    total = (values - top).exp().sum(dim)
    is_empty = total == 0
    found = torch.where(is_empty, 1.0, total).log() + top.squeeze(dim)
    return torch.where(is_empty, -torch.inf, found)
