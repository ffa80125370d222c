"""Pictures of coloured polygons with known factors: 32 x 32, three channels of ink, antialiased.

A picture has one object, whose shape, colour, size, place and rotation are its labels, or it is a
scene of two to four small objects, of which only the places are told. Ink is 0 for white paper and
1 for full ink, so that a picture to look at is one minus ink. Every polygon is convex, the
intersection of half-planes n'p <= h, and a pixel is covered by 1/2 - max_k (n_k'p - h_k), clamped
to [0, 1]: exact where one edge, level or upright, crosses the pixel.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SIZE = 32

SHAPES = ("square", "triangle", "bar")
COLOURS = ("red", "green", "blue", "yellow")
SIZES = ("small", "large")
COLUMNS = ("left", "centre", "right")
ROWS = ("top", "middle", "bottom")
ROTATIONS = ("upright", "turned")

FACTORS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "x": COLUMNS,
    "y": ROWS,
    "rotation": ROTATIONS,
}

SEVERAL = "several"
"""What every attribute calls a picture of more than one object."""

HELD_OUT_FACTORS = ("shape", "colour", "size", "rotation")
HELD_OUT = (
    ("square", "red", "large", "turned"),
    ("square", "yellow", "small", "upright"),
    ("triangle", "green", "small", "turned"),
    ("triangle", "yellow", "large", "upright"),
    ("bar", "blue", "small", "upright"),
    ("bar", "green", "large", "turned"),
)
"""One eighth of the combinations of these four factors: no expert sees a picture of any."""

# The angles of the edges' normals, and the edges' distances from the centre, at area one.
_THIRD = 2 * math.pi / 3
_LONG, _SHORT = math.sqrt(2.4) / 2, math.sqrt(1 / 2.4) / 2
_INRADIUS = 1 / math.sqrt(3 * math.sqrt(3))
ANGLES = torch.tensor(
    [
        [0.0, math.pi / 2, math.pi, 1.5 * math.pi],
        [math.pi / 2, math.pi / 2 + _THIRD, math.pi / 2 - _THIRD, math.pi / 2],
        [0.0, math.pi / 2, math.pi, 1.5 * math.pi],
    ]
)
DISTANCES = torch.tensor([[0.5] * 4, [_INRADIUS] * 4, [_SHORT, _LONG, _SHORT, _LONG]])
PERIODS = torch.tensor([math.pi / 2, _THIRD, math.pi])
"""After a turn by this angle a shape looks the same."""

# Ink of each colour: one minus its red, green and blue.
INKS = torch.tensor([[0.1, 0.8, 0.8], [0.8, 0.35, 0.7], [0.8, 0.65, 0.1], [0.05, 0.25, 0.9]])
AREAS = torch.tensor([36.0, 90.0])
PLACES = torch.tensor([10.0, 16.0, 22.0])

NEAR = 0.15
"""So far from a named colour, in each channel, is another one at least; data vary by 0.04."""

CELL = 4
"""The side of the cells that "an object is here" is told of; there are 8 x 8."""
CELLS = SIZE // CELL
MOST_OBJECTS = 4
MARGIN = 5.5
APART = 11.5
"""Objects of a scene are so far from each other that they never touch."""


def labels_of(name: str) -> tuple[str, ...]:
    """What an attribute can say of a picture."""
    return (*FACTORS[name], SEVERAL)


class Objects(NamedTuple):
    """n objects: shape and colour ``(n,)`` as indices, area, centre ``(n, 2)`` as x and y in
    pixels from the upper left corner, angle in radians and ink ``(n, 3)``."""

    shape: Tensor
    area: Tensor
    centre: Tensor
    angle: Tensor
    ink: Tensor


class Pictures(NamedTuple):
    """Ink ``(n, 3, 32, 32)``; the six labels ``(n, 6)``, -1 in scenes; whether an object's centre
    is in each cell ``(n, 8, 8)``, row by row."""

    ink: Tensor
    labels: Tensor
    present: Tensor


def coverage(shape: Tensor, area: Tensor, centre: Tensor, angle: Tensor) -> Tensor:
    """How much of each pixel an object covers: n objects -> (n, 32, 32)."""
    pixel = torch.arange(SIZE) + 0.5
    across = pixel[None, None, :] - centre[:, 0, None, None]
    down = pixel[None, :, None] - centre[:, 1, None, None]
    normal = ANGLES[shape] + angle[:, None]
    reach = DISTANCES[shape] * area.sqrt()[:, None]
    beyond = torch.full((len(shape), SIZE, SIZE), -torch.inf)
    for k in range(ANGLES.shape[1]):
        towards = normal[:, k].cos()[:, None, None] * across
        towards = towards + normal[:, k].sin()[:, None, None] * down
        beyond = torch.maximum(beyond, towards - reach[:, k, None, None])
    return (0.5 - beyond).clamp(0, 1)


def draw(objects: Objects) -> Tensor:
    """Ink on paper: n objects -> (n, 3, 32, 32)."""
    covered = coverage(objects.shape, objects.area, objects.centre, objects.angle)
    return covered[:, None] * objects.ink[:, :, None, None]


def uniform(shape: tuple[int, ...], width: float, generator: torch.Generator) -> Tensor:
    """Between minus and plus ``width``."""
    return (2 * torch.rand(shape, generator=generator) - 1) * width


def objects_of(labels: Tensor, generator: torch.Generator) -> Objects:
    """Objects with these six labels (n, 6), and what the labels leave open drawn at random."""
    n = len(labels)
    shape, colour, size, x, y, turned = labels.unbind(-1)
    return Objects(
        shape,
        AREAS[size] * (1 + uniform((n,), 0.12, generator)),
        torch.stack([PLACES[x], PLACES[y]], -1) + uniform((n, 2), 1.2, generator),
        PERIODS[shape] * (0.5 * turned + uniform((n,), 0.06, generator)),
        INKS[colour] + uniform((n, 3), 0.04, generator),
    )


def is_held_out(labels: Tensor) -> Tensor:
    """Whether no expert may see these six labels: (n, 6) -> (n,)."""
    names = list(FACTORS)
    held_out = torch.tensor(
        [
            [FACTORS[f].index(v) for f, v in zip(HELD_OUT_FACTORS, one, strict=True)]
            for one in HELD_OUT
        ]
    )
    own = labels[:, [names.index(factor) for factor in HELD_OUT_FACTORS]]
    return (own[:, None] == held_out).all(-1).any(-1)


def random_labels(
    n: int, generator: torch.Generator, *, held_out: bool, sizes: int = len(SIZES)
) -> Tensor:
    """Six labels of n objects, all of held-out combinations, or none; the first ``sizes`` sizes.

    Shapes: (n, 6).
    """
    counts = [sizes if name == "size" else len(values) for name, values in FACTORS.items()]
    columns = [torch.randint(count, (20 * n + 99,), generator=generator) for count in counts]
    labels = torch.stack(columns, -1)
    return labels[is_held_out(labels) == held_out][:n]


def singles(labels: Tensor, generator: torch.Generator) -> Pictures:
    """A picture of one object for each row of six labels."""
    objects = objects_of(labels, generator)
    return Pictures(draw(objects), labels, presence(objects.centre[:, None]))


def scenes(n: int, generator: torch.Generator) -> Pictures:
    """Pictures of two to four small objects of any shape, colour and rotation, held-out ones not.

    A place for the next object is drawn up to twenty times; where none is free, there are fewer.
    """
    ink = torch.zeros(n, 3, SIZE, SIZE)
    wanted = torch.randint(2, MOST_OBJECTS + 1, (n,), generator=generator)
    centres = torch.full((n, MOST_OBJECTS, 2), -100.0)
    for index in range(MOST_OBJECTS):
        place, is_free = free_place(centres, generator)
        is_drawn = is_free & (wanted > index)
        labels = random_labels(n, generator, held_out=False, sizes=1)
        objects = objects_of(labels, generator)._replace(centre=place)
        ink += draw(objects) * is_drawn[:, None, None, None]
        centres[:, index] = torch.where(is_drawn[:, None], place, centres[:, index])
    return Pictures(ink, torch.full((n, len(FACTORS)), -1), presence(centres))


def free_place(centres: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A place (n, 2) far enough from the others (n, k, 2), and whether one was found (n,)."""
    n = len(centres)
    half = SIZE / 2
    tries = half + uniform((n, 20, 2), half - MARGIN, generator)
    is_far = (torch.cdist(tries, centres) > APART).all(-1)
    first = is_far.int().argmax(1)
    return tries[torch.arange(n), first], is_far.any(1)


def other_colours(n: int, generator: torch.Generator) -> Tensor:
    """Ink (n, 3) of any colour that is neither pale nor grey."""
    ink = torch.rand(60 * n + 600, 3, generator=generator)
    is_strong = (ink.norm(dim=1) > 0.8) & (ink.amax(1) - ink.amin(1) > 0.4)
    return ink[is_strong][:n]


def in_other_colours(n: int, seed: int = 1, at_once: int = 600) -> Tensor:
    """Ink of single objects in colours that no label is told of: (about n, 3, 32, 32).

    None is so near to a named colour that it would be a picture of a held-out combination.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for _ in range(0, n, at_once):
        labels = random_labels(at_once, generator, held_out=False)
        objects = objects_of(labels, generator)._replace(ink=other_colours(at_once, generator))
        distance = (objects.ink[:, None] - INKS).abs().amax(2)  # to each named colour
        own = labels.clone()
        own[:, 1] = distance.argmin(1)
        is_apart = ~is_held_out(own) | (distance.amin(1) > NEAR)
        blocks.append(draw(objects)[is_apart])
    return torch.cat(blocks)


def presence(centres: Tensor) -> Tensor:
    """Whether each cell has a centre in it: (n, k, 2), far outside where there is none."""
    cell = (centres / CELL).floor().long()
    here = (cell[..., None, None, 0] == torch.arange(CELLS)) & (
        cell[..., None, None, 1] == torch.arange(CELLS)[:, None]
    )
    return here.any(1)


def training_pictures(n: int, seed: int = 0, at_once: int = 600) -> Pictures:
    """n pictures without the held-out combinations: two thirds single objects, one third scenes."""
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for _ in range(0, n, at_once):
        labels = random_labels(2 * at_once // 3, generator, held_out=False)
        blocks += [singles(labels, generator), scenes(at_once // 3, generator)]
    return Pictures(*(torch.cat(parts)[:n] for parts in zip(*blocks, strict=True)))
