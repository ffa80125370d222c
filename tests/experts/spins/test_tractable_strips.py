"""Strips and the couplings between them: the same density, and log Z from there."""

from __future__ import annotations

import math

import pytest
import torch

import poe
from experts import Bernoulli, Ising
from poe.density.capabilities import can_sample_exactly, in_tractable_parts
from poe.normalizers import MBAR

SHAPES = [(20, 20), (40, 18), (18, 40)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("periodic", [False, True])
def test_the_parts_are_the_whole(shape: tuple[int, int], periodic: bool) -> None:
    g = torch.Generator().manual_seed(0)
    coupling = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    field = torch.randn(shape, generator=g, dtype=torch.float64)
    model = Ising.grid(shape, coupling, field, periodic=periodic)
    parts = in_tractable_parts(model)
    assert isinstance(parts, poe.Product)
    strips, between = parts.experts
    assert can_sample_exactly(strips)
    assert len(between.couplings) < 0.12 * len(model.couplings)
    x = (torch.randn(7, *shape, generator=g) > 0).double()
    torch.testing.assert_close(parts(x), model(x), rtol=0, atol=1e-10)


def test_what_is_summed_as_it_is_or_no_grid_stays_whole() -> None:
    for model in (Ising.grid((40, 8), 0.3), Ising(torch.ones(30, 30).triu(1)), Bernoulli([0.1])):
        assert in_tractable_parts(model) is model


@pytest.mark.law
@pytest.mark.parametrize("coupling", [0.3, 0.4406868])
def test_log_partition_is_within_its_error(coupling: float) -> None:
    """Of a torus that can just be summed, with a field: at its own start it is known anyhow."""
    model = Ising.grid((18, 11), coupling, 0.02)
    truth = poe.log_partition(model)
    assert truth.is_exact
    z = []
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        found = poe.log_partition(model, method=MBAR(512), generator=g, progress=False)
        z.append((found.value - truth.value) / found.std_error)
    assert max(map(abs, z)) < 5  # of 15 degrees of freedom


def kac_ward(model: Ising) -> float:
    """log Z of a free grid without fields: 2^n ∏ cosh J √det(1 − A), A by the turns of paths.

    Source: Kac & Ward 1952; as a theorem: Kager, Lis & Meester 2013.
    """
    cols = model.fields.shape[1]
    one, other = model.edges
    source, target = torch.cat([one, other]), torch.cat([other, one])
    steps = torch.stack([target % cols - source % cols, target // cols - source // cols], 1)
    angle = torch.atan2(steps[:, 1].double(), steps[:, 0].double())
    weight = torch.tanh(model.couplings.double()).repeat(2)
    follows = (target[:, None] == source) & (source[:, None] != target)
    turn = (angle - angle[:, None] + math.pi) % (2 * math.pi) - math.pi
    paths = follows * torch.exp(0.5j * turn) * weight[:, None]
    _, log_det = torch.linalg.slogdet(torch.eye(len(paths)) - paths)
    return (
        model.fields.numel() * math.log(2)
        + model.couplings.double().cosh().log().sum().item()
        + 0.5 * log_det.real.item()
    )


@pytest.mark.parametrize("shape", [(4, 5), (16, 24), (30, 16)])
def test_strips_up_to_sixteen_wide_are_exact(shape: tuple[int, int]) -> None:
    """By a determinant that has nothing in common with a transfer matrix; couplings of any sign."""
    g = torch.Generator().manual_seed(0)
    coupling = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    model = Ising.grid(shape, coupling)
    found = poe.log_partition(model)
    assert found.is_exact
    assert abs(found.value.item() - kac_ward(model)) < 1e-8 * abs(found.value.item())
