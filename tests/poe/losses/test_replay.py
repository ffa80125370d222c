"""Persistent chains: each returns to its own slot, and a stated share begins anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import poe
from experts import Gaussian
from poe import ReplayBuffer
from poe.files.tensor_file import read, write


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Zeros:
    """A start whose chains are told from all others."""

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.zeros(num_samples, 2)


def named(num_chains: int, reseeded: float) -> ReplayBuffer:
    """Chain i stands at (i + 1, 0): its first coordinate is its name."""
    buffer = ReplayBuffer(Zeros(), num_chains, reseeded=reseeded)
    buffer.positions[:, 0] = torch.arange(1.0, num_chains + 1)
    return buffer


@pytest.mark.parametrize("seed", range(20))
def test_every_chain_returns_to_its_own_slot(seed: int) -> None:
    g = seeded(seed)
    num_chains, n = (int(torch.randint(1, 40, (), generator=g)) for _ in range(2))
    n = min(n, num_chains)
    buffer, age = named(num_chains, reseeded=0.0), torch.zeros(num_chains)
    for _ in range(30):
        slots, positions = buffer.take(n, generator=g)
        assert len(slots.unique()) == n
        assert torch.equal(positions[:, 0], slots + 1.0)  # it is the chain of that slot
        order = torch.randperm(n, generator=g)  # in whatever order they come back
        buffer.put(slots[order], (positions + torch.tensor([0.0, 1.0]))[order])
        age[slots] += 1
    assert torch.equal(buffer.positions[:, 0], torch.arange(1.0, num_chains + 1))
    assert torch.equal(buffer.positions[:, 1], age)  # it was moved as often as it was taken


def test_taking_leaves_the_buffer_alone() -> None:
    buffer = named(10, reseeded=1.0)
    before = buffer.positions.clone()
    taken = buffer.take(10, generator=seeded())
    taken.positions.add_(1.0)
    assert torch.equal(buffer.positions, before)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_the_share_that_begins_anew_is_the_stated_one(share: float) -> None:
    buffer, g, n, rounds = named(100, share), seeded(), 50, 400
    new = sum(int((buffer.take(n, generator=g).positions[:, 0] == 0).sum()) for _ in range(rounds))
    error = (share * (1 - share) / (n * rounds)) ** 0.5
    assert abs(new / (n * rounds) - share) <= 4 * error


def test_slots_are_taken_alike() -> None:
    buffer, g, rounds = named(20, 0.0), seeded(), 4000
    counts = torch.zeros(20)
    for _ in range(rounds):
        counts[buffer.take(5, generator=g).slots] += 1
    error = (0.25 * 0.75 * rounds) ** 0.5
    assert ((counts - rounds / 4).abs() < 4 * error).all()


def _update(buffer: ReplayBuffer, g: torch.Generator) -> None:
    taken = buffer.take(7, generator=g)
    kernel = poe.samplers.ULA(0.1)
    target = Gaussian([1.0, 0.0], scale=0.5)
    buffer.put(taken.slots, poe.advance(target, kernel, taken.positions, 3, generator=g).positions)


def test_a_resumed_run_gives_the_same_bits(tmp_path: Path) -> None:
    start = Gaussian([0.0, 0.0], scale=1.0)
    g = seeded(1)
    buffer = ReplayBuffer(start, 20, reseeded=0.3, generator=g)
    for _ in range(5):
        _update(buffer, g)
    tensors = dict(buffer.state_dict()) | {"generator": g.get_state()}
    write(tmp_path / "run", {}, tensors)
    for _ in range(5):
        _update(buffer, g)
    _, tensors = read(tmp_path / "run")
    other = seeded()
    other.set_state(tensors.pop("generator"))
    resumed = ReplayBuffer(start, 20, reseeded=0.3, generator=seeded(9))
    resumed.load_state_dict(tensors)
    for _ in range(5):
        _update(resumed, other)
    assert torch.equal(resumed.positions, buffer.positions)


def test_it_moves_with_its_start() -> None:
    buffer = ReplayBuffer(Gaussian([0.0], scale=1.0), 4, generator=seeded()).to(torch.float64)
    taken = buffer.take(2, generator=seeded())
    assert taken.positions.dtype == torch.float64
    assert repr(buffer).startswith("ReplayBuffer(\n  num_chains=4, reseeded=0.05")


def test_bad_arguments_are_refused_in_words() -> None:
    start = Gaussian([0.0], scale=1.0)
    with pytest.raises(poe.PoeError, match="num_chains of at least 1"):
        ReplayBuffer(start, 0)
    with pytest.raises(poe.PoeError, match=r"share reseeded in \[0, 1\]"):
        ReplayBuffer(start, 3, reseeded=1.5)
    unnormalised = poe.FromEnergy(lambda x: x.pow(4).sum(-1), space=poe.Real(1))
    with pytest.raises(poe.PoeError, match="start that can be sampled, got FromEnergy"):
        ReplayBuffer(unnormalised, 3)
    buffer = ReplayBuffer(start, 3)
    with pytest.raises(poe.PoeError, match="take 1 to 3 chains, got 4"):
        buffer.take(4)
    with pytest.raises(poe.ShapeError, match=r"positions of shape \(2, 1\)"):
        buffer.put(torch.tensor([0, 1]), torch.zeros(3, 1))
