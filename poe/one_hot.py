"""Scores on finite spaces: of 0/1 read as real numbers, or of the one-hot encoding of values."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

import torch
from torch import Tensor, nn

from poe.errors import PoeError
from poe.expert import Expert, Product, Tempered, conjunction, experts_in
from poe.joint_space import Joint
from poe.space import Binary, Space

OneHotLogDensity = Callable[[Tensor], Tensor]
"""log p̃ of one-hot events z ``(*batch, *event, k)``: ``(*batch,)``."""


def one_hot(x: Tensor, num_values: int, dtype: torch.dtype | None = None) -> Tensor:
    """z with z_v = 1 where v = x, else 0: ``(*batch, *event) -> (*batch, *event, k)``.

    >>> one_hot(torch.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    values = torch.arange(num_values, device=x.device)
    return (x.unsqueeze(-1) == values).to(dtype or torch.get_default_dtype())


@singledispatch
def log_density_of_one_hot(expert: Expert) -> OneHotLogDensity | None:
    """log p̃ as a smooth function of the one-hot encoding, or None where the expert offers none.

    An expert offers it by a method of this name; how a composition does so is registered here.

    >>> classes = experts.Categorical([[0.0, 1.0, 2.0]])
    >>> log_density_of_one_hot(classes**2)(torch.tensor([[[0.0, 0.0, 1.0]]]))
    tensor([-0.8152])
    """
    own: OneHotLogDensity | None = getattr(expert, "log_density_of_one_hot", None)
    return own


@log_density_of_one_hot.register
def _(expert: Product) -> OneHotLogDensity | None:
    """The sum; None if one factor's is."""
    found = [log_density_of_one_hot(factor) for factor in experts_in(expert.experts)]
    known = [part for part in found if part is not None]
    if len(known) < len(found):
        return None
    return lambda z: conjunction(torch.stack([part(z) for part in known]))


@log_density_of_one_hot.register
def _(expert: Tempered) -> OneHotLogDensity | None:
    """Times the exponent."""
    inner = log_density_of_one_hot(expert.expert)
    return None if inner is None else lambda z: expert.weigh(inner(z))


class FromOneHot(Expert):
    """An expert from a function of one-hot events: log p̃(x) = fn(z), z the encoding of x.

    ``fn``: z ``(*batch, *event, k)`` to ``(*batch,)``; where it is an ``nn.Module`` it becomes part
    of the expert. z has the dtype of the module's numbers, else the default one. Its gradient in z
    is what kernels that follow a score go by.

    ``space``: Categorical or Sequence, with k values. Raises PoeError for another.

    >>> first = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.5, 0.0]])
    >>> expert = FromOneHot(lambda z: (z * first).sum((-2, -1)), space=poe.Categorical((2,), 3))
    >>> expert(torch.tensor([[0, 1]])), expert.score(torch.tensor([[0, 1]])).shape
    (tensor([1.5000]), torch.Size([1, 2, 3]))
    """

    def __init__(self, fn: OneHotLogDensity, *, space: Space) -> None:
        super().__init__()
        if isinstance(space, Binary) or space.num_values is None:
            raise PoeError(
                "expected poe.Categorical or poe.Sequence, whose values have a one-hot encoding, "
                f"got {space}; on others use poe.FromLogDensity(fn, space=...)"
            )
        self.space = space
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        assert self.space.num_values is not None
        return self.log_density_of_one_hot(one_hot(x, self.space.num_values, floats_of(self)))

    def log_density_of_one_hot(self, z: Tensor) -> Tensor:
        """fn(z): ``(*batch, *event, k) -> (*batch,)``."""
        return self.fn(z)


def differentiable(expert: Expert, x: Tensor) -> tuple[OneHotLogDensity, Tensor]:
    """A smooth function that says at some place what a discrete expert says at x, and that place.

    Raises PoeError for spaces of infinitely many values, and where the expert offers no function of
    the one-hot encoding.
    """
    space = expert.space
    if isinstance(space, Binary | Joint):
        return expert, x if x.is_floating_point() else x.to(floats_of(expert))
    if space.num_values is None:
        raise PoeError(f"expected a continuous or finite space for a score, got {space}")
    found = log_density_of_one_hot(expert)
    if found is None:
        raise PoeError(
            f"expected an expert with a gradient in the one-hot encoding of x on {space}, got "
            f"{_without(expert)}, which has none: build it as poe.FromOneHot(fn, space=...), give "
            "it a method log_density_of_one_hot(z), or use poe.samplers.Gibbs(space), which needs "
            "no gradient"
        )
    return found, one_hot(x, space.num_values, floats_of(expert))


def floats_of(module: nn.Module) -> torch.dtype:
    """The dtype of the module's own arrays, else the default one; a lone number has no say."""
    tensors = [*module.parameters(), *module.buffers()]
    floats = (t.dtype for t in tensors if t.is_floating_point() and t.ndim)
    return next(floats, torch.get_default_dtype())


def _without(expert: Expert) -> str:
    """The factors at fault, by name."""
    names = [name for name, part in expert._factors() if log_density_of_one_hot(part) is None]
    return " and ".join(names)
