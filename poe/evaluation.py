"""How an expert is evaluated, not what it says: some rows at a time, or in half precision."""

from __future__ import annotations

import torch
from torch import Tensor

from poe.core.errors import DtypeError, PoeError
from poe.density.capabilities import (
    Conditionals,
    Simplified,
    check_proper,
    conditionals,
    log_density_of_one_hot,
    tails,
)
from poe.density.closed_forms import merge
from poe.density.expert import Expert, Product, experts_in, require_expert
from poe.density.one_hot import OneHotLogDensity


class Chunked(Expert):
    """An expert evaluated on at most ``chunk_size`` rows at a time, which bounds the memory.

    The values and the score are the expert's own: rows do not depend on each other. Not for a batch
    of densities, where each row has its own.

    Shapes: x ``(rows, *event)``. Raises PoeError for a chunk size below 1.

    >>> import poe
    >>> expert = poe.FromLogDensity(lambda x: -x.square().sum(-1), space=poe.Real(2))
    >>> Chunked(expert, 2).score(torch.ones(3, 2))
    tensor([[-2., -2.],
            [-2., -2.],
            [-2., -2.]])
    """

    def __init__(self, expert: Expert, chunk_size: int) -> None:
        super().__init__()
        if chunk_size < 1:
            raise PoeError(f"expected chunk_size >= 1, got {chunk_size}")
        self.space = require_expert(expert).space
        self.expert = expert
        self.chunk_size = chunk_size

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, *self.space.event_shape)
        values = torch.cat([self.expert(chunk) for chunk in rows.split(self.chunk_size)])
        return values.reshape(self.space.batch_shape(x))

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p̃(x) and its gradient, each chunk's graph freed before the next one's is built."""
        parts = [self.expert.log_density_and_score(chunk) for chunk in x.split(self.chunk_size)]
        log_density, score = zip(*parts, strict=True)
        return torch.cat(log_density), torch.cat(score)

    def extra_repr(self) -> str:
        return f"chunk_size={self.chunk_size}"


@check_proper.register
def _(expert: Chunked) -> None:
    check_proper(expert.expert)


@tails.register
def _(expert: Chunked) -> Tensor | None:
    return tails(expert.expert)


class Autocast(Expert):
    """An expert whose network computes in half precision; its log-density comes in x's own dtype.

    ``torch.autocast`` chooses the operations that tolerate it. The sum over experts, the acceptance
    ratio and the chains stay as precise as x. The density is then another one, by the rounding of
    the network (bfloat16: 8 bits): sampling is exact for *that* density, but its score is not quite
    its gradient, which costs acceptance. Give it to the experts that are networks, and not to a
    Gaussian or a flow, whose log-density is what the rounding hurts most.

    ``dtype``: bfloat16 or float16.

    >>> import poe
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.Flatten(0))
    >>> expert = poe.FromLogDensity(net, space=poe.Real(2))
    >>> Autocast(expert)(torch.zeros(3, 2)).dtype
    torch.float32
    """

    def __init__(self, expert: Expert, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        if dtype not in (torch.bfloat16, torch.float16):
            raise DtypeError(f"expected torch.bfloat16 or torch.float16, got {dtype}")
        self.space = require_expert(expert).space
        self.expert = expert
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.dtype):
            value: Tensor = self.expert(x)
        return value.to(x.dtype)

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}"


class Merged(Product):
    """A product of which the experts of one family are evaluated as the one that they make.

    Says what the product says, names and contributions too: log p̃(x) = log q(x) + c, with q of
    fewer experts and c a constant.
    """

    log_constant: Tensor

    def __init__(self, product: Product, simple: Simplified) -> None:
        super().__init__(*experts_in(product.experts))
        self.names = product.names
        self.simple = simple.expert
        self.register_buffer("log_constant", simple.log_constant)

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.simple(x) + self.log_constant
        return value


@conditionals.register
def _(expert: Merged) -> Conditionals | None:
    """Those of the simpler form."""
    return conditionals(expert.simple)


@log_density_of_one_hot.register
def _(expert: Merged) -> OneHotLogDensity | None:
    """That of the simpler form."""
    simple = log_density_of_one_hot(expert.simple)
    return None if simple is None else lambda z: simple(z) + expert.log_constant


def merged(expert: Expert) -> Expert:
    """A product with the experts of one family merged; the expert itself where there are none.

    >>> import poe
    >>> a, b = experts.Gaussian([-1.0], scale=[1.0]), experts.Gaussian([2.0], scale=[0.5])
    >>> quartic = poe.FromLogDensity(lambda x: -(x**4).sum(-1), space=poe.Real(1))
    >>> product, x = a * quartic * b, torch.ones(1, 1)
    >>> merged(product).simple.names, product(x), merged(product)(x)
    (('Gaussian', 'FromLogDensity'), tensor([-6.1447]), tensor([-6.1447]))
    """
    if not isinstance(expert, Product):
        return expert
    with torch.no_grad():  # exponents that are learned count as they are
        simple = merge(expert)
    is_simpler = len(list(simple.expert._factors())) < len(expert.names)
    return Merged(expert, simple) if is_simpler else expert


def without_constant(target: Expert) -> tuple[Expert, float]:
    """The target with experts of one family merged, and the log of the constant that is missing.

    Together these make a better start. As it is, names and all, where nothing merges.
    """
    found = merged(target)
    if isinstance(found, Merged):
        return found.simple, found.log_constant.item()
    return target, 0.0


def in_chunks(expert: Expert, chunk_size: int | None) -> Expert:
    """The expert evaluated on so many rows at a time; None is all."""
    return expert if chunk_size is None else Chunked(expert, chunk_size)
