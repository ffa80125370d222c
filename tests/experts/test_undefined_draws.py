"""Kernels that draw from conditionals tell where a density is undefined, as all kernels do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.samplers.kernel import Kernel, all_accepted


class NowAndThen(poe.Expert):
    """The log-density of an expert, and what is no number for the second chain."""

    def __init__(self, expert: poe.Expert, wrong: float) -> None:
        super().__init__()
        self.space, self.expert, self.wrong = expert.space, expert, wrong

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.expert(x)
        return value.masked_fill(torch.arange(len(value)) == 1, self.wrong)


RBM = experts.RBM([[0.5], [1.0]], [0.0, 0.0], [0.0])
LABELS = experts.PottsRBM(torch.zeros(2, 3, 1), torch.zeros(2, 3), [0.0])
REALS = experts.GaussianRBM([[2.0]], [0.0], [0.0])
PATCHES = experts.PatchMixture(torch.tensor([[[0.7, -0.7]]]), [0.0], [[[0.5]]], (1, 4), (1, 2))
BROAD = experts.Gaussian(torch.zeros(1, 4), scale=1.0)
KERNELS: dict[str, tuple[Kernel[Any], poe.Expert]] = {
    "LayerGibbs": (experts.boltzmann.LayerGibbs(RBM), RBM),
    "LayerGibbs, labels": (experts.boltzmann.LayerGibbs(LABELS), LABELS),
    "LayerGibbs, reals": (experts.boltzmann.LayerGibbs(REALS), REALS),
    "TileGibbs": (experts.images.TileGibbs(PATCHES, poe.gaussian_factors(BROAD)), PATCHES * BROAD),
}


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", KERNELS)
def test_what_is_undefined_is_divergent_and_not_accepted(name: str, wrong: float) -> None:
    kernel, expert = KERNELS[name]
    target = NowAndThen(expert, wrong)
    state = kernel.init(expert, torch.zeros(3, *expert.space.event_shape))
    _, info = kernel.step(target, state, generator=torch.Generator().manual_seed(0))
    at_fault = [False, True, False]
    assert info.is_undefined.tolist() == info.is_divergent.tolist() == at_fault
    assert (~info.is_accepted).tolist() == (info.acceptance_probability == 0).tolist() == at_fault
    assert not info.is_outside.any()


def test_where_all_is_defined_all_is_accepted() -> None:
    info = all_accepted(torch.tensor([0.0, -torch.inf, torch.nan, torch.inf]))
    assert info.is_accepted.tolist() == [True, True, False, False]
    assert info.is_undefined.tolist() == info.is_divergent.tolist() == [False, False, True, True]
