"""Where chains start, and in what dtype."""

from __future__ import annotations

import torch
from torch import Tensor

import poe
from poe.density.checks import floats_of
from poe.density.coordinates import Coordinates
from poe.samplers.guarded import Raised
from poe.tuning.start import start


class Wide(poe.Expert):
    """A normal around a mean in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.space = poe.Real(2)
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return -0.5 * (x - self.mean).square().sum(-1)


def test_an_exponent_has_no_say_in_the_dtype() -> None:
    assert floats_of(Wide()) == torch.float64
    assert floats_of(Wide() ** torch.tensor(0.5)) == torch.float64
    assert floats_of(poe.FromLogDensity(lambda x: x.sum(-1), space=poe.Real(2)) ** 0.5) == (
        torch.get_default_dtype()
    )


def test_the_start_has_the_dtype_of_the_target_and_says_where_it_comes_from() -> None:
    target, g = Wide() ** torch.tensor(0.5), torch.Generator().manual_seed(0)
    x, where = start(target, 3, None, Coordinates(target.space), g, Raised())
    assert x.shape == (3, 2)
    assert x.dtype == torch.float64
    assert where == "standard normals"
    initial = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    x, where = start(target, 3, initial, Coordinates(target.space), g, Raised())
    assert torch.equal(x, initial)
    assert not x.requires_grad
    assert where == "`initial`"
