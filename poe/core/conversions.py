"""Which bridge leads an expert from one space to another, written as it is called."""

from __future__ import annotations

import math

from poe.core.joint_space import Joint
from poe.core.space import (
    Binary,
    Count,
    Interval,
    Positive,
    Real,
    Simplex,
    Space,
)

Elementwise = Real | Positive | Interval


def way_together(one: str, one_space: Space, other: str, other_space: Space) -> str:
    """How two named experts come to one space: the same words, whichever is named first.

    Where one space lies inside the other, both most often speak of the same x, such as a flow and a
    prior on a box: then the wider one is read there as it is. Else, or where they speak of
    different coordinates of one thing, a density moves (``bridge``).

    >>> way_together("prior", poe.Positive(2), "flow", poe.Real(2)).partition(", cut")[0]
    'where both speak of the same x, use flow.at(torch.nn.Identity(), poe.Positive(2))'
    """
    pairs = [(one, one_space, other_space), (other, other_space, one_space)]
    for name, wide, narrow in pairs:
        if _lies_within(narrow, wide):
            cut = f"{name}.at(torch.nn.Identity(), {_named(narrow)})"
            moved = (
                "" if _as_density(wide, narrow) is None else f"; {_otherwise(name, wide, narrow)}"
            )
            return f"where both speak of the same x, use {cut}, cut off where {narrow} ends{moved}"
    name, source, goal = min(pairs, key=lambda pair: _standing(pair[1]))
    return f"with {name} as expert, {bridge(source, goal)}"


def bridge(source: Space, goal: Space) -> str:
    """How an expert on ``source`` is brought to ``goal``, in words that name the call.

    Densities move with their Jacobian (``poe.Transformed``, exact) where there is a bijection;
    discrete ones are spread over cells first (``poe.Dequantized``, exact). What is no bijection is
    read as a feature (``expert.at``), which weighs x and is a density of nothing.

    >>> bridge(poe.Interval(2, 0, 255), poe.Interval(2, -1, 1))
    'use poe.Transformed(expert, poe.ranges.Rescale(0, 255, -1, 1))'
    """
    if isinstance(source, Joint) or isinstance(goal, Joint):
        return _of_mixed(source, goal)
    if source.is_discrete and goal.is_discrete:
        return _relabelled(source, goal)
    if goal.is_discrete:
        return _at_points(source, goal)
    density = _as_density(source, goal)
    if density is None:
        return _as_feature(source, goal)
    if isinstance(source, Binary) and goal == Interval(source.shape, 0, 1):
        return f"use {density}, exactly, or poe.Relaxed(expert), its own formula in between, biased"
    if isinstance(source, Real) and isinstance(goal, Positive | Interval):
        cut = f"expert.at(torch.nn.Identity(), {_named(goal)})"
        return f"use {density}, or, to cut it off where {goal} ends, {cut}"
    return f"use {density}"


def _lies_within(narrow: Space, wide: Space) -> bool:
    """Whether each x of a continuous space is one of the other too, as it stands."""
    is_apart = narrow.is_discrete or wide.is_discrete or narrow.event_shape != wide.event_shape
    if is_apart or narrow == wide:
        return False
    low, high = _ends(narrow)
    if isinstance(wide, Interval):
        return wide.low <= low and high <= wide.high
    return isinstance(wide, Real) or (isinstance(wide, Positive) and low >= 0)


def _ends(space: Space) -> tuple[float, float]:
    """Between which numbers all elements lie."""
    if isinstance(space, Interval):
        return space.low, space.high
    if isinstance(space, Simplex):
        return 0.0, 1.0
    return (0.0 if isinstance(space, Positive) else -math.inf), math.inf


def _otherwise(name: str, wide: Space, narrow: Space) -> str:
    units = "in other units" if isinstance(wide, Interval) else "of unconstrained coordinates"
    density = _as_density(wide, narrow) or ""
    return f"where {name} is a density {units}, {density.replace('expert', name)}"


def _standing(space: Space) -> tuple[bool, bool, float, int, str]:
    """In which order spaces are left for another: the last is where experts meet."""
    is_mixed = isinstance(space, Joint)
    return is_mixed, space.is_discrete, -_most(space), _numel(space), str(space)


def _as_density(source: Space, goal: Space) -> str | None:
    """Dequantized, reshaped and moved, as far as each is needed; None where sizes differ."""
    expert, place = "expert", source
    if source.is_discrete:
        expert, place = "poe.Dequantized(expert)", _cells(source)
    if place == goal:
        return expert
    if isinstance(place, Interval) and isinstance(goal, Interval):
        if _numel(place) != _numel(goal):
            return None
        expert = _reshaped(expert, place, goal)
        ends = ", ".join(map(_number, (place.low, place.high, goal.low, goal.high)))
        same = (place.low, place.high) == (goal.low, goal.high)
        return expert if same else f"poe.Transformed({expert}, poe.ranges.Rescale({ends}))"
    if type(place) is type(goal) and isinstance(place, Elementwise):
        return _reshaped(expert, place, goal) if _numel(place) == _numel(goal) else None
    line, end = place.unconstrained(), goal.unconstrained()
    if _numel(line) != _numel(end):
        return None
    if not isinstance(place, Real):
        expert = f"poe.Transformed({expert}, {_named(place)}.to_unconstrained)"
    expert = _reshaped(expert, line, end)
    if isinstance(goal, Real):
        return expert
    return f"poe.Transformed({expert}, {_named(goal)}.to_unconstrained.inv)"


def _reshaped(expert: str, source: Space, goal: Space) -> str:
    shapes = tuple(source.event_shape), tuple(goal.event_shape)
    if shapes[0] == shapes[1]:
        return expert
    reshape = f"torch.distributions.ReshapeTransform({shapes[0]}, {shapes[1]})"
    return f"poe.Transformed({expert}, {reshape})"


def _as_feature(source: Space, goal: Space) -> str:
    """Between other numbers of elements there is no bijection."""
    size = tuple(source.event_shape)
    is_picture = (
        len(size) >= 2
        and len(size) == len(goal.event_shape)
        and size[:-2] == tuple(goal.event_shape[:-2])
    )
    is_same_range = type(source) is type(goal) and isinstance(source, Elementwise)
    if is_picture and is_same_range and _range(source) == _range(goal):
        return (
            f"use expert.at(poe.ranges.Resize({size[-2:]}), {_named(goal)}), a feature: pictures "
            "of other sizes have no bijection"
        )
    return (
        f"use expert.at(map, {_named(goal)}), a feature, with an nn.Module map from there to "
        f"{source}: other numbers of elements have no bijection"
    )


def _relabelled(source: Space, goal: Space) -> str:
    """Between discrete spaces a one-to-one map needs no Jacobian, and a part of one is a cut."""
    cast = "Floats" if isinstance(source, Binary | Count) else "Indices"
    fits = _most(goal) <= _most(source)
    if source.event_shape == goal.event_shape and fits:
        is_same = _most(goal) == _most(source)
        kept = "the same values" if is_same else f"cut to the values of {goal}"
        return f"use expert.at(poe.ranges.{cast}(), {_named(goal)}): {kept}"
    remedy = "other shapes" if fits else f"more values than {source} has"
    return (
        f"use expert.at(map, {_named(goal)}), with an nn.Module map from there to {source}, since "
        f"{goal} has {remedy}" + ("" if fits else "; or bring the other expert to this space")
    )


def _at_points(source: Space, goal: Space) -> str:
    """A density read at the points of a discrete space weighs them."""
    if source.event_shape == goal.event_shape:
        return (
            f"use expert.at(poe.ranges.Floats(), {_named(goal)}) to weigh those points by its "
            "density, or bring the other expert to it by poe.Dequantized"
        )
    return (
        f"use expert.at(map, {_named(goal)}), with an nn.Module map from there to {source}, or "
        "bring the other expert to it by poe.Dequantized"
    )


def _of_mixed(source: Space, goal: Space) -> str:
    if isinstance(goal, Joint) and source in goal.parts:
        index = goal.parts.index(source)
        return (
            f"use expert.at(map, {_named(goal)}), with an nn.Module map that returns "
            f"space.split(x)[{index}], to let it speak of that part alone"
        )
    return (
        f"use expert.at(map, {_named(goal)}), with an nn.Module map from there to {source}: no "
        "bijection leads from or to a mixed state"
    )


def _cells(source: Space) -> Space:
    if isinstance(source, Count):
        return Positive(source.shape)
    return Interval(source.event_shape, 0, source.num_values or 1)


def _numel(space: Space) -> int:
    return space.event_shape.numel()


def _most(space: Space) -> float:
    return math.inf if space.num_values is None else space.num_values


def _range(space: Space) -> tuple[float, float] | None:
    return (space.low, space.high) if isinstance(space, Interval) else None


def _named(space: Space) -> str:
    """The space as one writes it.

    >>> _named(poe.Joint((poe.Real(2), poe.Categorical((), 3))))
    'poe.Joint((poe.Real(2), poe.Categorical((), 3)))'
    """
    if isinstance(space, Interval):
        size = space.event_shape[0] if len(space.event_shape) == 1 else tuple(space.event_shape)
        return f"poe.Interval({size}, {_number(space.low)}, {_number(space.high)})"
    if isinstance(space, Joint):
        return f"poe.Joint(({', '.join(map(_named, space.parts))}))"
    return f"poe.{space}"


def _number(value: float) -> str:
    """As short as it is exact."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
