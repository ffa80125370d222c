"""Conditionals with one density for each level of Gaussian noise added to the data."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

import poe
from experts.parameters import ArrayLike, fixed, floats
from poe.core.arguments import checked

ANY = "any"
"""The label of what has no label: p(x | any) = p(x)."""


class NoisyConditional(poe.Conditional):
    r"""A family of densities ``p_sigma(x | y)`` of noised data, one for each label and noise level.

    .. math:: p_\sigma(x \mid y) = \int N(x; u, \sigma^2 I)\, p(u \mid y)\, du

    The noise makes a Lebesgue density of data that lie on a thin set, and a ladder of levels from
    broad to sharp is what annealed sampling climbs. Subclasses implement ``log_density_at``.

    Args:
        space: Where x lives.
        labels: Names of the values of y; ``given`` takes a name, an index, or a tensor of indices.
        noise_level: σ, in the units of x, positive: one number for all, or ``(batch,)`` with one
            for each chain.

    Raises:
        PoeError: For a noise level that is not positive; of ``given`` and ``index``, for an unknown
            label.
        ShapeError: For noise levels that are neither one number nor ``(batch,)``.
    """

    noise_level: Tensor
    settings: Mapping[str, int | float | tuple[int, ...]]

    @checked
    def __init__(self, space: poe.Space, labels: Sequence[str], noise_level: ArrayLike) -> None:
        super().__init__()
        self.space = space
        self.labels = tuple(labels)
        fixed("noise_level", noise_level, "give a number")
        level = floats("noise_level", noise_level).to(torch.get_default_dtype())
        self.register_buffer("noise_level", require_noise_level(level))

    def log_density_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        """log p_σ(x | y), each x with a label and a noise level of its own; a family implements it.

        Args:
            x: ``(n, *event)``.
            label: Indices of the labels, ``(n,)``.
            noise_level: σ, ``(n,)``.

        Returns:
            ``(n,)``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement log_density_at")

    def log_ratio_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
        """log p(x | y) - log p(x), with the p(x) of ``marginal``.

        Args:
            x: ``(n, *event)``.
            label: Indices of the labels, ``(n,)``.
            noise_level: σ, ``(n,)``.

        Returns:
            ``(n,)``.
        """
        if ANY in self.labels:
            unknown = torch.full_like(label, self.index(ANY))
            marginal = self.log_density_at(x, unknown, noise_level)
            return self.log_density_at(x, label, noise_level) - marginal
        size = len(self.labels)
        each = torch.arange(size, device=label.device).repeat(len(x))
        images, levels = (t.repeat_interleave(size, 0) for t in (x, noise_level))
        values = self.log_density_at(images, each, levels).view(len(x), size)
        own = values.gather(1, label[:, None])[:, 0]
        return own - values.logsumexp(1) + math.log(size)

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        return self._flat(self.log_density_at, x, condition)

    def log_ratio(self, x: Tensor, condition: Tensor) -> Tensor:
        """log p(x | y) - log p(x), at the conditional's own noise level.

        Args:
            x: ``(*batch, *event)``.
            condition: Index of the label, ``()`` or ``(batch,)``.

        Returns:
            ``(*batch,)``.
        """
        return self._flat(self.log_ratio_at, x, condition)

    def _flat(self, function: Callable[..., Tensor], x: Tensor, condition: Tensor) -> Tensor:
        """``function`` of images, labels and noise levels with one batch dimension."""
        batch = self.space.batch_shape(x)
        flat = x.reshape(batch.numel(), *self.space.event_shape)
        label = condition.expand(batch).reshape(-1)
        # In the dtype of x, since weights shared with another level may have been moved there.
        level = self.noise_levels(batch).to(x).reshape(-1)
        return function(flat, label, level).reshape(batch)

    def noise_levels(self, batch: torch.Size) -> Tensor:
        """The noise level of each element of a batch.

        Args:
            batch: The batch's shape.

        Returns:
            ``(*batch,)``.

        Raises:
            ShapeError: Where there are noise levels of chains, and the batch is not one of these.
        """
        if self.noise_level.ndim and batch != self.noise_level.shape:
            raise poe.ShapeError(
                f"expected a batch of shape {tuple(self.noise_level.shape)}, one for each noise "
                f"level, got {tuple(batch)}: use at_noise_level with a single number for any batch"
            )
        return self.noise_level.expand(batch)

    def at_noise_level(self, noise_level: ArrayLike) -> Self:
        """The same weights, shared, read at another level of noise.

        Args:
            noise_level: σ, one number or ``(batch,)``, one for each chain.

        Returns:
            The conditional at that level.

        Raises:
            PoeError: For a level that is not positive.
            ShapeError: For levels that are neither one number nor ``(batch,)``.
        """
        level = floats("noise_level", noise_level, like=self.noise_level)
        other = copy.copy(self)
        other._buffers = self._buffers | {"noise_level": require_noise_level(level)}
        return other

    def given(self, condition: int | float | str | Tensor) -> NoisyGiven:
        """p(x | y) as an expert.

        Args:
            condition: y: a label's name, its index, or ``(batch,)`` with one index for each chain.

        Returns:
            The expert.

        Raises:
            PoeError: For a name or an index that is no label of this conditional.
            DtypeError: For an index that is no integer.
        """
        return NoisyGiven(self, condition)

    def __repr__(self) -> str:
        """One line, so that a product prints as a short tree; its networks print by themselves."""
        is_one = self.noise_level.ndim == 0 and not self.noise_level.is_meta
        level = f"{self.noise_level.item():g}" if is_one else f"{tuple(self.noise_level.shape)}"
        size = sum(parameter.numel() for parameter in self.parameters())
        labels = ", ".join(self.labels)
        return f"{type(self).__name__}({labels}; noise_level={level}, {size:,} parameters)"

    def marginal(self) -> poe.Expert:
        """p(x), with no label: the label "any" where it was learned, else all labels alike.

        A mixture bounds the ratio p(x | y) / p(x) by the number of labels, everywhere.

        Returns:
            The expert p(x).

        Raises:
            NormalizationError: For unnormalised densities without the label "any".
        """
        if ANY in self.labels:
            return self.given(ANY)
        return poe.Mixture([self.given(index) for index in range(len(self.labels))])

    def index(self, label: str) -> int:
        """Position of a label among ``labels``.

        Args:
            label: Its name.

        Returns:
            The index, from 0.

        Raises:
            PoeError: For a name that is no label.
        """
        if label not in self.labels:
            raise poe.PoeError(
                f"expected one of the labels {', '.join(self.labels)}; got {label!r}: "
                "give a name from this list or its index"
            )
        return self.labels.index(label)


class DensityRatio(poe.Conditional):
    r"""What an image says of a label: the density given the label over the density without.

    .. math:: \log \tilde p(x; y) = \log p_\sigma(x \mid y) - \log p_\sigma(x)

    with ``conditional.marginal()`` as p(x). A factor for products, not a density of its own; one
    evaluation of it costs less than the two densities apart. By Bayes' rule, up to a constant, the
    posterior p(y | x).

    Args:
        conditional: p(x | y); its ``marginal()`` is the p(x).

    Example:
        >>> from experts import ImageFlow
        >>> slant = ImageFlow((4, 4), ["left", "right"], noise_level=0.1, layers=2, hidden=8)
        >>> left, x = DensityRatio(slant).given("left"), torch.zeros(3, 4, 4)
        >>> torch.allclose(left(x), slant.given("left")(x) - slant.marginal()(x), atol=1e-4)
        True
    """

    @checked
    def __init__(self, conditional: NoisyConditional) -> None:
        super().__init__()
        self.conditional = conditional
        self.space = conditional.space
        self.labels = conditional.labels

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        """log p(x | y) - log p(x).

        Args:
            x: ``(*batch, *event)``.
            condition: Index of the label, ``()`` or ``(batch,)``.

        Returns:
            ``(*batch,)``.
        """
        return self.conditional.log_ratio(x, condition)

    def at_noise_level(self, noise_level: ArrayLike) -> DensityRatio:
        """The ratio of the densities at another level of noise.

        Args:
            noise_level: σ, one number or ``(batch,)``, one for each chain.

        Returns:
            The ratio at that level.
        """
        return DensityRatio(self.conditional.at_noise_level(noise_level))

    def given(self, condition: int | float | str | Tensor) -> NoisyGiven:
        """p(x | y) / p(x) as an expert.

        Args:
            condition: y, as for ``NoisyConditional.given``.

        Returns:
            The expert.

        Raises:
            PoeError: For a name or an index that is no label of this conditional.
            DtypeError: For an index that is no integer.
        """
        return NoisyGiven(self, condition)

    def index(self, label: str) -> int:
        """Position of a label among ``labels``.

        Args:
            label: Its name.

        Returns:
            The index, from 0.

        Raises:
            PoeError: For a name that is no label.
        """
        return self.conditional.index(label)


class NoisyGiven(poe.Given):
    """A noisy conditional with its label bound; ``at_noise_level`` reads it at another level.

    Args:
        conditional: p(x | y).
        condition: y: a label's name, its index, or ``(batch,)`` with one index for each chain.

    Raises:
        PoeError: For a name or an index that is no label of the conditional.
        DtypeError: For an index that is no integer.
        ShapeError: For a tensor of more than one dimension.
    """

    conditional: NoisyConditional | DensityRatio

    def __init__(
        self, conditional: NoisyConditional | DensityRatio, condition: int | float | str | Tensor
    ) -> None:
        if isinstance(condition, str):
            condition = conditional.index(condition)
        super().__init__(conditional, condition)
        require_label(self.condition, conditional.labels)


def require_label(index: Tensor, labels: tuple[str, ...]) -> None:
    """Refuse what does not index ``labels``: an index of another dtype, shape or range."""
    if index.is_floating_point() or index.dtype == torch.bool:
        raise poe.DtypeError(
            f"expected the integer index of a label, got {index.dtype}: use index.long(), or a name"
        )
    if index.ndim > 1:
        raise poe.ShapeError(
            f"expected one label, or a tensor (batch,) of labels, got shape {tuple(index.shape)}"
        )
    if not index.is_meta and bool(((index < 0) | (index >= len(labels))).any()):
        raise poe.PoeError(
            f"expected indices of labels from 0 to {len(labels) - 1} ({', '.join(labels)}), "
            f"got {index.tolist()}"
        )


def require_noise_level(level: Tensor) -> Tensor:
    """``level`` itself, if it is positive and of shape ``()`` or ``(batch,)``."""
    if level.ndim > 1:
        raise poe.ShapeError(
            f"expected one noise level, or a tensor (batch,) of them, got {tuple(level.shape)}"
        )
    if not level.is_meta and not bool(((level > 0) & level.isfinite()).all()):
        raise poe.PoeError(
            f"expected a positive noise level, got {level.tolist()}: without noise the data have "
            "no density, so end the ladder on the expert's own level"
        )
    return level


def constructor_arguments(model: NoisyConditional) -> dict[str, Any]:
    """What a family's constructor took, for ``poe.io.register_module``."""
    arguments = {
        "shape": tuple(model.space.event_shape),
        "labels": model.labels,
        "noise_level": model.noise_level,
    }
    return {**arguments, **model.settings}


poe.io.register(
    DensityRatio,
    lambda ratio: {"conditional": ratio.conditional},
    lambda fields: DensityRatio(**fields),
    name="experts.DensityRatio",
    formerly=("experts.noise.DensityRatio",),
)
poe.io.register(
    NoisyGiven,
    lambda given: {"conditional": given.conditional, "condition": given.condition},
    lambda fields: NoisyGiven(**fields),
    name="experts.noised.NoisyGiven",
    formerly=("experts.noise.NoisyGiven",),
)
