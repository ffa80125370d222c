"""The same density, evaluated otherwise: in chunks, in lower precision, or members together."""

from __future__ import annotations

import copy
from itertools import zip_longest
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from poe.core.arguments import checked
from poe.core.distribution_modules import Parts
from poe.core.errors import DtypeError, PoeError
from poe.density.capabilities import (
    Conditionals,
    Simplified,
    check_proper,
    conditionals,
    exact_log_partition,
    label_pairs,
    log_density_of_one_hot,
    log_prob_of,
    sampler_of,
    spin_pairs,
    tails,
)
from poe.density.checks import HALF, device_of, floats_of, leaves_x
from poe.density.closed_forms import merge
from poe.density.expert import (
    Expert,
    LogDensity,
    Product,
    Wrapper,
    conjunction,
    experts_in,
    is_product,
    named_product,
    require_expert,
)
from poe.density.one_hot import OneHotLogDensity
from poe.density.questions import interchangeable, keeps_default, speaks_as


class Chunked(Wrapper):
    """An expert evaluated on at most ``chunk_size`` rows at a time, which bounds the memory.

    The values and the score are the expert's own: rows do not depend on each other. Not for a batch
    of densities, where each row has its own.

    Args:
        expert: The one that is evaluated.
        chunk_size: The most rows at a time, at least 1.

    Raises:
        PoeError: For a chunk size below 1.

    Example:
        >>> import poe
        >>> expert = poe.FromLogDensity(lambda x: -x.square().sum(-1), space=poe.Real(2))
        >>> Chunked(expert, 2).score(torch.ones(3, 2))
        tensor([[-2., -2.],
                [-2., -2.],
                [-2., -2.]])
    """

    @checked
    def __init__(self, expert: Expert, chunk_size: int) -> None:
        super().__init__()
        if chunk_size < 1:
            raise PoeError(f"expected chunk_size >= 1, got {chunk_size}")
        self.space = require_expert(expert).space
        self.expert = expert
        self.chunk_size = chunk_size

    def inner(self) -> Expert:
        """The expert that is evaluated."""
        return self.expert

    @leaves_x
    def forward(self, x: Tensor) -> Tensor:
        """The expert's log-density, chunk by chunk.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            The unnormalised log-density, ``(*batch,)``.
        """
        return self.by_rows(self.expert, x)

    def by_rows(self, function: LogDensity, x: Tensor) -> Tensor:
        """What a function says of events, of so many at a time.

        Args:
            function: ``(rows, *event) -> (rows,)``.
            x: Positions, ``(*batch, *event)``.

        Returns:
            Its values, ``(*batch,)``.
        """
        rows = x.reshape(-1, *self.space.event_shape)
        values = torch.cat([function(chunk) for chunk in rows.split(self.chunk_size)])
        return values.reshape(self.space.batch_shape(x))

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p̃(x) and its gradient, each chunk's graph freed before the next one's is built.

        Args:
            x: Positions, ``(rows, *event)``; of more batch dimensions the first is split.

        Returns:
            The log-density, ``(*batch,)``, and its gradient, both detached.
        """
        if not torch.compiler.is_compiling() and not speaks_as(self, Chunked):
            return super().log_density_and_score(x)
        parts = [self.expert.log_density_and_score(chunk) for chunk in x.split(self.chunk_size)]
        log_density, score = zip(*parts, strict=True)
        return torch.cat(log_density), torch.cat(score)

    def extra_repr(self) -> str:
        return f"chunk_size={self.chunk_size}"


@log_prob_of.register
def _(expert: Chunked) -> LogDensity | None:
    inner = log_prob_of(expert.expert)
    return None if inner is None else lambda x: expert.by_rows(inner, x)


def require_precision(target: Expert) -> None:
    """Refuse what would be summed, normalised or accepted in half precision.

    Networks inside of experts may be half precise, if they take positions that are not; the numbers
    of experts themselves may not, since closed forms, normalisers and ratios are made of these.

    Args:
        target: p̃.

    Raises:
        DtypeError: Where an expert's own numbers are half precise, and inside ``torch.autocast``.

    Example:
        >>> import experts
        >>> require_precision(experts.Gaussian([0.0], scale=1.0).half())
        Traceback (most recent call last):
        poe.DtypeError: expected experts of float32 or float64, got torch.float16 in Gaussian.loc...
    """
    device = device_of(target).type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        raise DtypeError(
            f"expected to be called outside of torch.autocast, which would round sums and "
            f"acceptance ratios to {dtype}: leave its block, and use "
            f"poe.Autocast(expert, {dtype}) for the experts that are networks"
        )
    for owner in target.modules():
        if isinstance(owner, Expert | Parts):
            _require_precise(owner)


def _require_precise(owner: nn.Module) -> None:
    tensors = [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]
    for name, tensor in tensors:
        if tensor.dtype in HALF:
            raise DtypeError(
                f"expected experts of float32 or float64, got {tensor.dtype} in "
                f"{type(owner).__name__}.{name}: use expert.float(), and poe.Autocast(expert, "
                f"{tensor.dtype}) to compute a network in it"
            )


class Autocast(Expert):
    """An expert whose network computes in half precision; its log-density comes in x's own dtype.

    ``torch.autocast`` chooses the operations that tolerate it. The sum over experts, the acceptance
    ratio and the chains stay as precise as x. The density is then another one, by the rounding of
    the network (bfloat16: 8 bits): sampling is exact for *that* density, but its score is not quite
    its gradient, which costs acceptance. Give it to the experts that are networks, and not to a
    Gaussian or a flow, whose log-density is what the rounding hurts most.

    Args:
        expert: The one that is evaluated.
        dtype: bfloat16 or float16.

    Raises:
        DtypeError: For another dtype.

    Example:
        >>> import poe
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.Flatten(0))
        >>> expert = poe.FromLogDensity(net, space=poe.Real(2))
        >>> Autocast(expert)(torch.zeros(3, 2)).dtype
        torch.float32
    """

    @checked
    def __init__(self, expert: Expert, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        if dtype not in (torch.bfloat16, torch.float16):
            raise DtypeError(f"expected torch.bfloat16 or torch.float16, got {dtype}")
        self.space = require_expert(expert).space
        self.expert = expert
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """The expert's log-density, computed in half precision.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            The unnormalised log-density, ``(*batch,)``, in x's dtype; in the expert's where x is of
            integers.
        """
        return self.rounded(self.expert, x)

    def rounded(self, function: LogDensity, x: Tensor) -> Tensor:
        """What a function says in half precision, in x's own dtype.

        Args:
            function: ``(*batch, *event) -> (*batch,)``.
            x: Positions, ``(*batch, *event)``.

        Returns:
            Its values, ``(*batch,)``, in x's dtype; in the expert's where x is of integers.
        """
        with torch.autocast(x.device.type, dtype=self.dtype):
            value = function(x)
        return value.to(x.dtype if x.is_floating_point() else floats_of(self.expert))

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}"


@check_proper.register
def _(expert: Autocast) -> None:
    check_proper(expert.expert)


@tails.register
def _(expert: Autocast) -> Tensor | None:
    """Those of the expert, as far as rounding leaves them."""
    return tails(expert.expert)


@log_density_of_one_hot.register
def _(expert: Autocast) -> OneHotLogDensity | None:
    """That of the expert, in half precision too."""
    inner = log_density_of_one_hot(expert.expert)
    return None if inner is None else lambda z: expert.rounded(inner, z)


keeps_default(
    Autocast,
    "by rounding it is another density, and one that goes by the expert's would be off",
    log_prob_of,
    sampler_of,
    exact_log_partition,
    conditionals,
    spin_pairs,
    label_pairs,
)


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

    @interchangeable
    @leaves_x
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
    if not is_product(expert):
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


class Together(Wrapper):
    """A product of pretrained experts, where those of one architecture are evaluated in one call.

    Says what the product says: copies are made of the experts, the tensors of those alike stacked,
    and their call vectorised over them. Experts are of one architecture where they differ in
    nothing but the values of their parameters and buffers. A network inside a function cannot be
    seen: give the network itself, as in ``poe.FromEnergy(net, ...)``. What is like nothing else is
    evaluated by itself.

    Worth it for many small networks at few positions, where the calls cost more than the numbers.
    It is one factor of a larger product; who of its experts says what, ``product`` tells.

    Args:
        product: The product, of which at least two experts are of one architecture.

    Raises:
        PoeError: Where no two experts are of one architecture, and when called where they cannot
            be vectorised, as where they branch on a value of a tensor.

    Example:
        >>> import poe
        >>> def net():
        ...     return torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Flatten(0))
        >>> product = poe.Product(*(poe.FromEnergy(net(), space=poe.Real(2)) for _ in range(3)))
        >>> x = torch.ones(4, 2)
        >>> torch.allclose(poe.Together(product)(x), product(x))
        True
    """

    def __init__(self, product: Product) -> None:
        super().__init__()
        if not isinstance(product, Product):
            raise PoeError(f"expected a product of experts, got {type(product).__name__}")
        experts = experts_in(copy.deepcopy(product.experts))
        self.space = product.space
        self.names = product.names
        self.order = _alike(experts)
        if all(len(group) == 1 for group in self.order):
            raise PoeError(
                f"expected experts of one architecture, got {len(experts)} that are all different "
                f"({', '.join(product.names)}): use the product itself. A network is recognised "
                "where it is a module, not where it is inside a function."
            )
        groups = [[experts[i] for i in group] for group in self.order]
        self.groups = nn.ModuleList(g[0] if len(g) == 1 else Alike(g) for g in groups)

    @property
    def product(self) -> Product:
        """The product as it was, of experts one by one: copies."""
        found: dict[int, Expert] = {}
        for places, group in zip(self.order, self.groups, strict=True):
            experts = (
                group.experts if isinstance(group, Alike) else [copy.deepcopy(cast(Expert, group))]
            )
            found.update(zip(places, experts, strict=True))
        return named_product(self.names, [found[place] for place in sorted(found)])

    def inner(self) -> Product:
        """The product as it was."""
        return self.product

    def forward(self, x: Tensor) -> Tensor:
        """The product's log-density.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            The unnormalised log-density, ``(*batch,)``.
        """
        values = (g(x) if isinstance(g, Alike) else g(x)[None] for g in self.groups)
        return conjunction(torch.cat([*values]))


class Alike(nn.Module):
    """Experts of one architecture: the first, and the tensors of all, stacked."""

    def __init__(self, experts: list[Expert]) -> None:
        super().__init__()
        self.first = (experts[0],)  # in a tuple: its tensors are not ours
        self.num_experts = len(experts)
        self.keys = list(_all_tensors(experts[0]))
        tensors = [_all_tensors(expert) for expert in experts]
        for index, key in enumerate(self.keys):
            stacked = torch.stack([found[key].detach() for found in tensors])
            self.register_buffer(f"stacked_{index}", stacked)

    @property
    def stacked(self) -> dict[str, Tensor]:
        """Of each name, the tensors of all experts: ``(experts, ...)``."""
        return dict(zip(self.keys, self.buffers(), strict=True))

    @property
    def experts(self) -> list[Expert]:
        """The experts one by one: copies."""
        return [self._expert(index) for index in range(self.num_experts)]

    def forward(self, x: Tensor) -> Tensor:
        """What each says: ``(*batch, *event) -> (experts, *batch)``."""
        first = self.first[0]
        try:
            values: Tensor = vmap(lambda one: functional_call(first, one, (x,), tie_weights=False))(
                self.stacked
            )
        except RuntimeError as error:
            self._expert(0)(x)  # raises what is the expert's own fault
            raise PoeError(
                f"expected experts that can be evaluated together, got {type(first).__name__}, "
                f"which works alone but not under torch.func.vmap ({error}): leave these out, as "
                "in poe.Together(others) * these"
            ) from error
        return values

    def extra_repr(self) -> str:
        return f"{self.num_experts} of {type(self.first[0]).__name__}"

    def _expert(self, index: int) -> Expert:
        expert = copy.deepcopy(self.first[0])
        tensors = _all_tensors(expert)
        for key, stacked in self.stacked.items():
            tensors[key].data = stacked[index].clone()
        return expert


def _alike(experts: list[Expert]) -> list[list[int]]:
    """The indices of experts, those of one architecture together."""
    groups: list[list[int]] = []
    for index, expert in enumerate(experts):
        group = next((g for g in groups if _is_alike(experts[g[0]], expert)), None)
        if group is None:
            groups.append([index])
        else:
            group.append(index)
    return groups


def _is_alike(one: Expert, other: Expert) -> bool:
    """Whether two experts differ in nothing but the values of their tensors, and have some."""
    tensors = _tensors(one)
    if not tensors or _kinds(tensors) != _kinds(_tensors(other)):
        return False
    pairs = zip_longest(one.named_modules(), other.named_modules(), fillvalue=("", nn.Module()))
    return all(
        name == other_name
        and type(module) is type(other_module)
        and _is_equal(_settings(module), _settings(other_module))
        for (name, module), (other_name, other_module) in pairs
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _all_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The same, with a tensor that two modules share under both names; a shared module counts once.

    torch ties what is shared by names, and then puts back of a shared module what it had put there.
    """
    inner = list(module.named_modules())
    return {
        f"{path}.{name}" if path else name: tensor
        for kind in ("_parameters", "_buffers")
        for path, part in inner
        for name, tensor in getattr(part, kind).items()
        if tensor is not None
    }


def _kinds(tensors: dict[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {name: (value.shape, value.dtype, value.device) for name, value in tensors.items()}


def _settings(module: nn.Module) -> dict[str, Any]:
    """The attributes that are neither tensors nor modules."""
    registered = ("_parameters", "_buffers", "_modules")
    return {name: value for name, value in vars(module).items() if name not in registered}


def _is_equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the values are; what cannot be compared, such as an array, is not."""
    try:
        return one == other
    except (RuntimeError, ValueError):
        return False
