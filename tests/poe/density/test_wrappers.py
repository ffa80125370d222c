"""Experts in chunks and in half precision: the same density, within what is promised."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from poe.density.wrappers import merged
from poe.testing import check_expert
from tests.seeds import seeded


class Counting(poe.Expert):
    """A density that notes how many rows it is given at a time."""

    space = poe.Real(2)

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return -x.square().square().sum(-1)


@seeded()
def network() -> poe.Expert:
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))
    return experts.NeuralEnergy(net.requires_grad_(False), poe.Real(2))


@pytest.mark.parametrize("num_rows", [1, 6, 7])
def test_chunks_say_the_same_and_are_small(num_rows: int) -> None:
    whole, part = Counting(), Counting()
    x = torch.randn(num_rows, 2, generator=torch.Generator().manual_seed(0))
    expected, got = whole.log_density_and_score(x), poe.Chunked(part, 3).log_density_and_score(x)
    torch.testing.assert_close(got, expected)
    assert max(part.rows) <= 3
    assert sum(part.rows) == num_rows
    assert torch.equal(poe.Chunked(part, 3)(x.reshape(1, num_rows, 2)), expected[0][None])


@seeded()
def test_chunks_and_half_precision_obey_the_laws() -> None:
    g = torch.Generator().manual_seed(0)
    check_expert(poe.Chunked(network(), 3), torch.randn(8, 2, generator=g))


def test_half_precision_rounds_the_network_and_not_the_sum() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 2, generator=g)
    full, half = network(), poe.Autocast(network())
    rounded = half(x)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, full(x))
    # bfloat16 has 8 bits: its rounding is at most 2⁻⁸ of each of a few numbers of order one
    assert (rounded - full(x)).abs().max() < 8 * 2**-8
    product = half * experts.Gaussian([0.0, 0.0], scale=1.0)
    log_density, score = product.log_density_and_score(x)
    assert log_density.dtype == score.dtype == torch.float32


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: poe.Chunked(network(), 0), "chunk_size >= 1, got 0"),
        (lambda: poe.Autocast(network(), torch.float64), "bfloat16 or torch.float16"),
        (lambda: poe.Chunked(network().forward, 2), "to be an Expert"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sense_is_refused(build: object, message: str) -> None:
    with pytest.raises(poe.PoeError, match=message):
        build()  # type: ignore[operator]


def test_sampling_evaluates_experts_of_one_family_once(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = experts.Gaussian([0.0, 1.0], scale=1.0), experts.Gaussian([2.0, 0.0], scale=0.5)
    target = poe.Product(first=a, quartic=Counting(), second=b**0.5)
    together = merged(target)
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(together.log_density_and_score(x), target.log_density_and_score(x))
    assert together.names == target.names  # type: ignore[union-attr]
    torch.testing.assert_close(together.contributions(x), target.contributions(x))  # type: ignore[operator]
    check_expert(together, x)
    calls: list[int] = []
    forward = experts.Gaussian.forward

    def counted(expert: experts.Gaussian, x: Tensor) -> Tensor:
        calls.append(len(x))
        return forward(expert, x)

    monkeypatch.setattr(experts.Gaussian, "forward", counted)
    kernel = poe.samplers.MALA(0.1)
    g = torch.Generator().manual_seed(0)
    initial = torch.zeros(4, 2)
    draws = poe.sample(
        target, 400, kernel=kernel, warmup=3, initial=initial, generator=g, progress=False
    )
    num_steps = 3 + 100
    # One a step, not two, of all four chains; the start is looked at and tried, and begun from.
    assert num_steps <= calls.count(4) <= num_steps + 50
    torch.testing.assert_close(draws.log_density, target(draws.samples))


def test_nothing_to_merge_leaves_the_expert_alone() -> None:
    target = experts.Gaussian([0.0, 1.0], scale=1.0) * Counting()
    assert merged(target) is target
    expert = network()
    assert merged(expert) is expert


def test_learned_exponents_are_sampled_as_they_are() -> None:
    weight = nn.Parameter(torch.tensor(0.5))
    a, b = experts.Gaussian([0.0, 1.0], scale=1.0), experts.Gaussian([2.0, 0.0], scale=0.5)
    target = a * Counting() * b**weight
    together = merged(target)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(together(x), target(x).detach())
    assert not together(x).requires_grad
