"""Where the density of an nflows flow lies: what its layers map to all of the base's space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import singledispatch

import torch
from nflows.flows import Flow as NFlow
from nflows.transforms import (
    CompositeTransform,
    IdentityTransform,
    InverseTransform,
    MaskedPiecewiseCubicAutoregressiveTransform,
    MaskedPiecewiseLinearAutoregressiveTransform,
    MaskedPiecewiseQuadraticAutoregressiveTransform,
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
    MultiscaleCompositeTransform,
    Permutation,
    PiecewiseCubicCDF,
    PiecewiseCubicCouplingTransform,
    PiecewiseLinearCDF,
    PiecewiseLinearCouplingTransform,
    PiecewiseQuadraticCDF,
    PiecewiseQuadraticCouplingTransform,
    PiecewiseRationalQuadraticCDF,
    PiecewiseRationalQuadraticCouplingTransform,
    PointwiseAffineTransform,
    Sigmoid,
    SqueezeTransform,
    Tanh,
    Transform,
)
from nflows.transforms.coupling import PiecewiseCouplingTransform
from nflows.transforms.nonlinearities import CauchyCDF
from torch import Tensor

import poe

Range = tuple[float, float]
"""The lowest and the highest value of every element."""
SPLINES = (
    MaskedPiecewiseCubicAutoregressiveTransform,
    MaskedPiecewiseLinearAutoregressiveTransform,
    MaskedPiecewiseQuadraticAutoregressiveTransform,
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
    PiecewiseCubicCDF,
    PiecewiseCubicCouplingTransform,
    PiecewiseLinearCDF,
    PiecewiseLinearCouplingTransform,
    PiecewiseQuadraticCDF,
    PiecewiseQuadraticCouplingTransform,
    PiecewiseRationalQuadraticCDF,
    PiecewiseRationalQuadraticCouplingTransform,
)
"""Of the unit interval; with linear tails they move elements within a box, and leave it outside."""
REALS: Range = (-math.inf, math.inf)
UNIT: Range = (0.0, 1.0)


def support(flow: NFlow, shape: torch.Size) -> poe.Space:
    """The space that a flow's layers map one to one to the reals, where its base lives.

    Args:
        flow: Any of nflows.
        shape: Of one event.

    Returns:
        Real, or an interval.

    Raises:
        AdaptationError: Where draws of the base have no image under the inverse, or images leave
            the reals, as by a spline without tails beside a normal base: that is no density.

    Example:
        >>> from nflows.distributions import StandardNormal
        >>> from nflows.transforms import Logit
        >>> support(NFlow(Logit(), StandardNormal([2])), torch.Size([2]))
        Interval(shape=(2,), low=0.0, high=1.0)
    """
    found = domain(flow._transform, REALS)
    return poe.Real(shape) if found == REALS else poe.Interval(shape, *found)


@singledispatch
def domain(layer: Transform, image: Range) -> Range:
    """Where a layer's input must lie for its output to be all of ``image``.

    Args:
        layer: Of nflows; one that is not known is taken for a map of the reals to themselves.
        image: What the next layer, or the base, takes.

    Returns:
        The range of every element of its input.

    Raises:
        AdaptationError: Where its output is something else.
    """
    return _exactly(layer, image, REALS, REALS)


@domain.register
def _(layer: IdentityTransform | Permutation | SqueezeTransform, image: Range) -> Range:
    return image


@domain.register
def _(layer: CompositeTransform, image: Range) -> Range:
    return _through(reversed(list(layer._transforms)), image)


@domain.register
def _(layer: MultiscaleCompositeTransform, image: Range) -> Range:
    """A part of the first layer's output is the base's at once: so all must stay on its space."""
    for each in layer._transforms:
        _exactly(layer, domain(each, image), REALS, REALS)
    return image


@domain.register
def _(layer: InverseTransform, image: Range) -> Range:
    """The range that the layer itself maps the image to."""
    return _image(layer._transform, image)


@domain.register
def _(layer: PointwiseAffineTransform, image: Range) -> Range:
    return _moved(layer, image, layer.inverse)


@domain.register
def _(layer: Sigmoid | CauchyCDF, image: Range) -> Range:
    return _exactly(layer, image, UNIT, REALS)


@domain.register
def _(layer: Tanh, image: Range) -> Range:
    return _exactly(layer, image, (-1.0, 1.0), REALS)


def _of_spline(layer: Transform, image: Range) -> Range:
    """A spline maps the unit interval to itself, and with tails the reals."""
    own = UNIT if getattr(layer, "tails", None) is None else REALS
    return _exactly(layer, image, own, own)


for _spline in (*SPLINES, PiecewiseCouplingTransform):
    domain.register(_spline)(_of_spline)


def _through(layers: Iterable[Transform], image: Range) -> Range:
    """Of several layers, the last one first."""
    for layer in layers:
        image = domain(layer, image)
    return image


def _image(layer: Transform, given: Range) -> Range:
    """What a layer maps a range to: one of the two that some layer here maps to."""
    if isinstance(layer, CompositeTransform):
        for each in layer._transforms:
            given = _image(each, given)
        return given
    if isinstance(layer, InverseTransform):
        return domain(layer._transform, given)
    if isinstance(layer, PointwiseAffineTransform):
        return _moved(layer, given, layer)
    for image in (given, REALS, UNIT, (-1.0, 1.0)):
        if _maps(layer, given, image):
            return image
    raise _no_density(layer, f"does not take the elements of {_said(given)} that come to it")


def _maps(layer: Transform, given: Range, image: Range) -> bool:
    try:
        return domain(layer, image) == given
    except poe.AdaptationError:
        return False


def _moved(layer: PointwiseAffineTransform, image: Range, move: Transform) -> Range:
    """The ends of a range under an affine map, which must be the same for every element."""
    if image == REALS:
        return REALS
    shape = torch.broadcast_shapes(layer._shift.shape, layer._scale.shape)
    ends = torch.stack([layer._shift.new_full(shape, end) for end in image])
    low, high = move(ends)[0].aminmax(dim=0)
    if bool((low != low.flatten()[0]).any() | (high != high.flatten()[0]).any()):
        raise _no_density(layer, "gives each element an interval of its own")
    return float(low.flatten()[0]), float(high.flatten()[0])


def _exactly(layer: Transform, image: Range, own: Range, given: Range) -> Range:
    if image != own:
        raise _no_density(layer, f"maps to {_said(own)}, and what follows it takes {_said(image)}")
    return given


def _no_density(layer: Transform, why: str) -> poe.AdaptationError:
    return poe.AdaptationError(
        f"expected layers that map the data's space one to one to the reals, where the flow's base "
        f"lives, got a {type(layer).__name__} that {why}, so that the flow is no density of "
        "integral 1: give splines tails='linear', or put a Sigmoid before and a Logit after what "
        "maps the unit interval to itself (nflows.transforms.CompositeCDFTransform)"
    )


def _said(values: Range) -> str:
    return "the reals" if values == REALS else f"[{values[0]:g}, {values[1]:g}]"


def on_support(space: poe.Space, x: Tensor, of_rows: Callable[[Tensor], Tensor]) -> Tensor:
    """What layers say of rows on a flow's support; −inf off it, and NaN of what is no number.

    Layers have no value there: splines look numbers up in bins, and raise.

    Args:
        space: Real, or an interval.
        x: ``(*batch, *event)``.
        of_rows: ``(n, *event)`` to ``(n,)``.

    Returns:
        ``(*batch,)``.
    """
    rows = x.reshape(-1, *space.event_shape)
    is_on = (space.contains(rows) & rows.flatten(1).isfinite().all(1)).reshape(
        -1, *[1] * len(space.event_shape)
    )
    middle = (space.low + space.high) / 2 if isinstance(space, poe.Interval) else 0.0
    value = of_rows(torch.where(is_on, rows, middle))
    is_undefined = rows.flatten(1).isnan().any(1) | isinstance(space, poe.Real)
    elsewhere = torch.where(is_undefined, torch.nan, -torch.inf).to(value)
    return torch.where(is_on.flatten(), value, elsewhere).reshape(space.batch_shape(x))
