"""Pictures of frames, without a browser."""

from __future__ import annotations

import base64
import io

import pytest
import torch

import poe
from poe.studio import pictures, words
from poe.studio.draw import Frame, Settings, run
from poe.studio.model import compose
from poe.studio.offer import Choice

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return list(run(compose([Choice("ring"), Choice("bar")]), Settings(num_draws=2)))


def test_every_frame_of_the_plane_is_drawn(frames: list[Frame]) -> None:
    from PIL import Image

    product = compose([Choice("ring"), Choice("bar")]).product
    for frame in (frames[0], frames[-1]):
        for figure in (
            pictures.draws(product, frame),
            pictures.contributions(product.names, frame.contributions),
            pictures.trace(frame),
        ):
            kind, content = pictures.data_url(figure).split(",")
            assert kind == "data:image/png;base64"
            image = Image.open(io.BytesIO(base64.b64decode(content)))
            assert len(image.convert("L").getcolors() or []) > 3


def test_points_are_where_the_chains_are(frames: list[Frame]) -> None:
    product = compose([Choice("ring"), Choice("bar")]).product
    axis = pictures.plane(product, frames[-1]).axes[0]
    shown = torch.as_tensor(axis.collections[-1].get_offsets().data)
    torch.testing.assert_close(shown.float(), frames[-1].x)


def test_pictures_are_set_in_a_grid() -> None:
    x = torch.arange(6.0)[:, None, None].expand(6, 4, 4) / 5
    sheet = pictures.images(x, 0.0, 1.0, "gray").axes[0].images[0].get_array()
    size = 4 * pictures.ENLARGED + 2 * pictures.GAP
    assert sheet.shape == (2 * size, 3 * size)
    middle = sheet[size // 2 :: size, size // 2 :: size]
    assert middle.flatten().tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_contributions_name_every_expert_with_its_mean() -> None:
    values = torch.tensor([[1.0, -2.0], [3.0, -2.0]])
    said = [text.get_text() for text in pictures.contributions(("a", "b"), values).axes[0].texts]
    assert said == ["a", "+2.0 ± 1.4", "b", "\u22122.0 ± 0.0"]


def test_the_trace_has_the_way_in_grey_and_the_draws_in_colour(frames: list[Frame]) -> None:
    assert frames[-1].num_before == 2
    lines = pictures.trace(frames[-1]).axes[0].lines
    colors = {line.get_color() for line in lines}
    assert pictures.COLORS[0] in colors
    assert len(colors) == 3  # and the line between them
    assert pictures.trace(frames[0]).axes[0].lines[0].get_color() not in pictures.COLORS


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (poe.SpaceMismatchError("x"), "These experts live on different spaces"),
        (poe.NonFiniteError("x"), "This cannot be sampled"),
    ],
)
def test_refusals_have_titles(error: poe.PoeError, title: str) -> None:
    assert words.title(error) == title
