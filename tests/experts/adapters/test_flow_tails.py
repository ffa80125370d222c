"""The tails of spline flows: read from their base and linear parts, and true far out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import experts
import poe
from poe.density.capabilities import tails
from poe.structure.proper import is_proper
from tests.seeds import seeded

DIMENSION = 3
Make = Callable[[str], poe.Expert]


def of_nflows(kind: str) -> poe.Expert:
    distributions = pytest.importorskip("nflows.distributions")
    flows, transforms = (
        pytest.importorskip("nflows.flows"),
        pytest.importorskip("nflows.transforms"),
    )
    spline = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform
    options = {"num_bins": 4, "tails": "linear", "tail_bound": 3.0}
    made = {
        "splines and LU": lambda: [
            spline(DIMENSION, 8, **options),
            transforms.LULinear(DIMENSION),
            transforms.InverseTransform(transforms.ReversePermutation(DIMENSION)),
            spline(DIMENSION, 8, **options),
        ],
        "a spline": lambda: [transforms.PiecewiseQuadraticCDF([DIMENSION], tails="linear")],
        "affine by a network": lambda: [
            transforms.MaskedAffineAutoregressiveTransform(DIMENSION, 8)
        ],
    }[kind]()
    base = distributions.StandardNormal([DIMENSION])
    return _moved(flows.Flow(transforms.CompositeTransform(made), base))


def of_zuko(kind: str) -> poe.Expert:
    flows = pytest.importorskip("zuko").flows
    return _moved({"splines": flows.NSF, "affine by a network": flows.MAF}[kind](DIMENSION))


def _moved(flow: torch.nn.Module) -> poe.Expert:
    """With weights that are not those of the start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return poe.as_expert(flow.eval())


KNOWN = [(of_nflows, "splines and LU"), (of_nflows, "a spline"), (of_zuko, "splines")]


@pytest.mark.parametrize(("make", "kind"), KNOWN)
def test_tails_are_those_of_the_density_far_out(make: Make, kind: str) -> None:
    with seeded():
        expert = make(kind)
    growth = tails(expert)
    directions = torch.randn(64, DIMENSION, generator=torch.Generator().manual_seed(1))
    far = -2 * expert(1e6 * directions).detach().double() / 1e12
    told = ((directions.double() @ growth[0]) * directions).sum(-1)
    torch.testing.assert_close(far, told, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("make", "kind"), KNOWN)
def test_flows_divided_by_priors_are_decided(make: Make, kind: str) -> None:
    with seeded():
        flow = make(kind)
    sharp, broad = (experts.Gaussian([0.0] * DIMENSION, scale=[s] * DIMENSION) for s in (0.05, 50))
    assert is_proper(flow * flow / sharp) is False
    assert is_proper(flow / broad) is True
    with pytest.raises(poe.ImproperError, match="infinite mass"):
        poe.sample(flow / sharp, 10, progress=False)


@pytest.mark.parametrize("make", [of_nflows, of_zuko])
def test_what_scales_by_a_network_is_left_open(make: Make) -> None:
    with seeded():
        assert tails(make("affine by a network")) is None
