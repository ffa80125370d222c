"""Random generators: never the global one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def resolve(
    generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> torch.Generator:
    """`generator` itself, or a fresh one on `device` seeded by the operating system."""
    if generator is not None:
        return generator
    fresh = torch.Generator(device=device)
    fresh.seed()
    return fresh


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
    """Lend `generator`'s randomness to code that knows only the global one, and put that one back.

    For libraries whose samplers take no generator (`torch.distributions`, nflows).
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    is_cuda = generator.device.type == "cuda"
    with torch.random.fork_rng(devices=[generator.device] if is_cuda else []):
        torch.default_generator.manual_seed(seed)
        if is_cuda:
            with torch.cuda.device(generator.device):
                torch.cuda.manual_seed(seed)
        yield


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
