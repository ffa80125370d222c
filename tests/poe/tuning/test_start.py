"""Where chains start, and in what dtype."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.density.checks import floats_of
from poe.density.coordinates import Coordinates
from poe.samplers.guarded import Raised
from poe.tuning.start import start, wider_start


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


@pytest.mark.parametrize(("dimension", "is_asked"), [(1, True), (128, True), (129, False)])
def test_a_wider_start_is_ten_times_as_wide_as_a_factor(dimension: int, is_asked: bool) -> None:
    prior = experts.Gaussian(torch.full((dimension,), 3.0), scale=2.0)
    other = poe.FromLogDensity(lambda x: -x.abs().sum(-1), space=poe.Real(dimension))
    g = torch.Generator().manual_seed(0)
    found = wider_start(poe.Product(prior, other), g)
    assert (found is not None) is is_asked
    assert wider_start(other, g) is None  # no factor is the start
    if found is not None:
        x = found.sample(4000, generator=g)
        assert 15 < x.std() < 25
        assert (x.mean() - 3).abs() < 2
