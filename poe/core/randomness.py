"""Random generators: never the global one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from poe.core.errors import PoeError


def resolve(
    generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The generator itself, or a fresh one seeded by the operating system.

    Args:
        generator: What the caller gave, or None.
        device: Where a fresh one lives.

    Returns:
        The generator.

    Raises:
        PoeError: For the meta device, on which there are no numbers.
    """
    if generator is not None:
        return generator
    if torch.device(device).type == "meta":
        raise PoeError(
            "expected tensors that hold numbers to draw from, got tensors on the meta device: load "
            "the weights first (load_state_dict(..., assign=True))"
        )
    fresh = torch.Generator(device=device)
    fresh.seed()
    return fresh


def choose(
    weights: Tensor, num_samples: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """Independent draws k ~ weights, with replacement; none where none are asked for.

    Args:
        weights: One for each of the choices, ``(..., K)``.
        num_samples: How many.
        generator: Of the draws.

    Returns:
        Indices ``(..., num_samples)``.

    >>> choose(torch.tensor([0.0, 1.0]), 3), choose(torch.ones(2), 0).shape
    (tensor([1, 1, 1]), torch.Size([0]))
    """
    if num_samples == 0:  # which torch refuses
        return weights.new_empty((*weights.shape[:-1], 0), dtype=torch.int64)
    return torch.multinomial(weights, num_samples, replacement=True, generator=generator)


def aside(generator: torch.Generator) -> torch.Generator:
    """Another generator, seeded by what `generator` would give next, which it still does.

    >>> g = torch.Generator().manual_seed(0)
    >>> before = g.get_state()
    >>> x = torch.rand(2, generator=aside(g))
    >>> torch.equal(g.get_state(), before)
    True
    """
    copy = torch.Generator(generator.device)
    copy.set_state(generator.get_state())
    return copy.manual_seed(int(torch.randint(2**62, (), generator=copy, device=copy.device)))


@contextmanager
def borrowed(generator: torch.Generator) -> Iterator[None]:
    """Lend `generator`'s randomness to code that knows only the global one, which stays untouched.

    For libraries whose samplers take no generator (`torch.distributions`, nflows). What other
    threads draw meanwhile, from the global generator or from their own, is neither changed nor
    seen.

    Args:
        generator: What lends it: it moves on by one number, which seeds what is drawn inside.

    Yields:
        Nothing: inside, this thread draws from a generator of that seed.

    >>> from torch.distributions import Gamma
    >>> with borrowed(torch.Generator().manual_seed(0)):
    ...     first = Gamma(2.0, 1.0).sample()
    >>> with borrowed(torch.Generator().manual_seed(0)):
    ...     print(torch.equal(first, Gamma(2.0, 1.0).sample()))
    True
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with Lent(torch.Generator().manual_seed(seed)):
        yield


class Lent(TorchDispatchMode):
    """Within it, what would draw from the global generator draws from one that is given, instead.

    For code that knows only the global generator: samplers of other libraries, and constructors of
    networks whose first weights are thrown away. Seeding the global one and putting it back would
    change, and take back, what other threads draw meanwhile. This is of one thread, and the global
    generator is never touched, save by operations of torch that know no other and have no equal
    here: around each of these it is put back, one thread at a time.

    Args:
        generator: On the CPU. What is drawn on another device comes from a generator there, seeded
            by it.

    >>> state = torch.get_rng_state()
    >>> with Lent(torch.Generator().manual_seed(0)):
    ...     first = torch.nn.Linear(2, 2).weight
    >>> with Lent(torch.Generator().manual_seed(0)):
    ...     second = torch.nn.Linear(2, 2).weight
    >>> torch.equal(first, second), torch.equal(torch.get_rng_state(), state)
    (True, True)
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generators = {torch.device("cpu"): generator}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if (
            torch.Tag.nondeterministic_seeded not in func.tags
            or kwargs.get("generator") is not None
        ):
            return func(*args, **kwargs)
        device = args[0].device if args and isinstance(args[0], Tensor) else kwargs.get("device")
        device = torch.device(device or "cpu")
        if device.type == "meta":  # draws nothing
            return func(*args, **kwargs)
        if func is torch.ops.aten.native_dropout.default:
            return _dropout(*args, **kwargs, generator=self._on(device))
        if (taking := _with_generator(func)) is None:
            return self._by_the_global_one(func, device, args, kwargs)
        return taking(*args, **{**kwargs, "generator": self._on(device)})

    def _by_the_global_one(
        self, func: Any, device: torch.device, args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """An operation that takes no generator: the global one is seeded, and put back."""
        seed = int(torch.randint(2**62, (), generator=self._on(torch.device("cpu"))))
        devices = [device] if device.type == "cuda" else []
        with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=devices):
            torch.default_generator.manual_seed(seed)
            if devices:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            return func(*args, **kwargs)

    def _on(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            first = self._generators[torch.device("cpu")]
            seed = int(torch.randint(2**62, (), generator=first))
            self._generators[device] = torch.Generator(device).manual_seed(seed)
        return self._generators[device]


_GLOBAL_GENERATOR = threading.Lock()
"""Held while the global generator is put to use and back."""


def _dropout(
    x: Tensor, p: float, train: bool | None, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What torch's ``native_dropout`` does: what is kept, scaled by 1 / (1 - p), and where."""
    if train is False or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    kept = torch.empty_like(x).bernoulli_(1 - p, generator=generator)
    scale = 1 / (1 - p) if p < 1 else 0.0
    return x * kept * scale, kept.bool()


@cache
def _with_generator(operation: Any) -> Any:
    """The overload of an operation of torch that takes a generator beside what it takes; or None.

    >>> _with_generator(torch.ops.aten.rand.default)
    <OpOverload(op='aten.rand', overload='generator')>
    """
    names = _arguments(operation)
    overloads = (getattr(operation.overloadpacket, n) for n in operation.overloadpacket.overloads())
    taking = (o for o in overloads if "generator" in _arguments(o))
    same = (o for o in taking if [n for n in _arguments(o) if n != "generator"] == names)
    return operation if "generator" in names else next(same, None)


def _arguments(operation: Any) -> list[str]:
    return [argument.name for argument in operation._schema.arguments]


def uniforms(shape: Sequence[int], *, like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniforms in [0, 1), in the dtype and on the device of ``like``.

    Of float32 on the CPU they are multiples of 2^-24, as those of ``torch.rand``, made of half as
    many random words: each of 64 bits gives two.

    >>> uniforms((2,), like=torch.zeros(()), generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2])
    """
    uniform = torch.empty(shape, dtype=like.dtype, device=like.device)
    if like.dtype != torch.float32 or like.device.type != "cpu":
        return uniform.uniform_(generator=generator)
    words = torch.empty((uniform.numel() + 1) // 2, dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    signed = words.view(torch.int32)[: uniform.numel()].view(uniform.shape)
    return torch.mul(signed.bitwise_right_shift_(8), 2.0**-24, out=uniform).add_(0.5)
