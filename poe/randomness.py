"""Random generators: never the global one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def resolve(
    generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> torch.Generator:
    """`generator` itself, or a fresh one on `device` seeded by the operating system."""
    if generator is not None:
        return generator
    fresh = torch.Generator(device=device)
    fresh.seed()
    return fresh


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
