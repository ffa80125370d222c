"""What the lines, panels and bars of ``poe.plot.densities`` hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import experts
import poe
from poe import plot

DrawsOf = Callable[..., poe.Draws]


def test_lines_are_the_densities(line: poe.Product) -> None:
    figure = plot.densities(line, -4.0, 3.0)
    (axis,) = figure.axes
    labels = ["wide", "sharp$^{0.5}$", "bump$^{-1}$", "product"]
    assert [one.get_label() for one in axis.lines] == labels
    assert [text.get_text() for text in axis.get_legend().get_texts()] == labels
    for factor, drawn in zip([*line.experts, line], axis.lines, strict=True):
        x = torch.as_tensor(np.array(drawn.get_xdata()))
        found = np.array(drawn.get_ydata())
        fine = torch.linspace(-4, 3, 20_001, dtype=torch.float64)[:, None]
        z = torch.trapezoid(factor(fine.float()).double().exp(), fine[:, 0])
        exact = factor(x.float()[:, None]).double().exp() / z
        # The midpoint rule of 1000 cells is off by h^2 / 24 of the slopes at the ends: below 1e-4.
        np.testing.assert_allclose(found, exact.numpy(), rtol=1e-4, atol=1e-7)
    assert axis.get_xlim() == (-4.0, 3.0)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("x[0]", "density on the window")
    assert [one.get_linestyle() for one in axis.lines] == ["-", "-", "--", "-"]
    expected = list(plot.colors(line).values())
    assert [to_hex(one.get_color()).upper() for one in axis.lines[:3]] == expected


def test_draws_are_a_weighted_histogram_in_the_window(draws_of: DrawsOf) -> None:
    x = torch.tensor([0.15, 0.15, 0.95, 5.0, float("nan")]).reshape(1, 5, 1)
    weights = torch.tensor([[0.25, 0.25, 0.4, 0.1, 0.0]])
    gaussian = experts.Gaussian([0.0], scale=[1.0])
    draws = draws_of(x, weights.log())
    (axis,) = plot.densities(gaussian, 0.0, 1.0, draws=draws).axes
    heights = np.array([bar.get_height() for bar in axis.patches])
    width = axis.patches[0].get_width()
    # Of the weight within the window 5 / 9 are at 0.15 and 4 / 9 at 0.95.
    assert heights.sum() * width == pytest.approx(1.0)
    assert heights[int(0.15 / width)] * width == pytest.approx(5 / 9)
    assert heights[int(0.95 / width)] * width == pytest.approx(4 / 9)
    with pytest.raises(poe.PoeError, match="expected draws within the window from -9 to -8"):
        plot.densities(gaussian, -9.0, -8.0, draws=draws)


def test_window_ends_with_the_space_or_a_little_beyond_the_draws(draws_of: DrawsOf) -> None:
    beta = experts.Beta(torch.tensor([2.0]), torch.tensor([3.0]))
    (axis,) = plot.densities(beta).axes
    assert axis.get_xlim() == (0.0, 1.0)
    (axis,) = plot.densities(beta, -3.0, 0.5).axes
    assert axis.get_xlim() == (0.0, 0.5)
    gamma = experts.Gamma(torch.tensor([2.0]), torch.tensor([1.0]))
    draws = draws_of(torch.tensor([1.0, 3.0]).reshape(1, 2, 1))
    (axis,) = plot.densities(gamma, draws=draws).axes
    assert axis.get_xlim() == pytest.approx((0.84, 3.16))
    with pytest.raises(poe.PoeError, match=r"expected high=, a number .* or draws="):
        plot.densities(gamma)
    with pytest.raises(poe.PoeError, match="expected low < high within Positive"):
        plot.densities(gamma, -3.0, -1.0)
    with pytest.raises(poe.ShapeError, match="expected low as one finite number"):
        plot.densities(gamma, [1.0, 2.0], 3.0)
    with pytest.raises(poe.PoeError, match="expected x in Positive"):
        plot.densities(gamma, draws=draws_of(-torch.ones(1, 2, 1)))


def test_panels_enclose_the_mass_that_they_say(plane: poe.Product) -> None:
    figure = plot.densities(plane, [-6.0, -7.0], [6.0, 7.0])
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["a", "b", "product"]
    assert figure.axes[0].get_ylabel() == "x[1]"
    assert {axis.get_xlabel() for axis in figure.axes} == {"x[0]"}
    assert "95 % of the mass" in figure.get_supxlabel()
    filled, _ = figure.axes[0].collections
    # Of N(0, S) in two dimensions the region of mass m has density > (1 - m) max.
    highest = 1 / (2 * math.pi * 2.0)
    exact = [highest * (1 - mass) for mass in (0.95, 0.8, 0.6, 0.4, 0.2)]
    # Cells of 12 / 160 x 14 / 160, of which the borders cut some: ten cells hold 0.5 % of the mass.
    np.testing.assert_allclose(filled.levels[:5], exact, atol=0.006 * highest)


def test_panels_have_the_draws_on_the_last(plane: poe.Product, draws_of: DrawsOf) -> None:
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]).reshape(1, 3, 2)
    weighted = draws_of(x, torch.tensor([[0.0, 0.0, -torch.inf]]))
    axes = plot.densities(plane, -5.0, 5.0, draws=weighted).axes
    assert [len(axis.collections) for axis in axes] == [2, 2, 3]
    np.testing.assert_array_equal(axes[2].collections[2].get_offsets(), [[0.0, 1.0], [2.0, 3.0]])
    assert axes[2].get_title() == "product, draws"


def test_density_that_is_alike_all_over_is_one_region() -> None:
    flat = poe.FromLogDensity(lambda x: 0 * x.sum(-1), space=poe.Interval(2, 0.0, 1.0))
    (axis,) = plot.densities(flat).axes
    filled, _ = axis.collections
    assert max(path.get_extents().width for path in filled.get_paths() if len(path)) > 0.99


def test_bars_are_the_probabilities(draws_of: DrawsOf) -> None:
    p = torch.tensor([0.6, 0.3])
    product = poe.Product(
        field=experts.Bernoulli(p.logit()),
        equal=poe.FromLogDensity(lambda x: (x[..., 0] == x[..., 1]).float(), space=poe.Binary(2)),
    )
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]).reshape(2, 2, 2)
    (axis,) = plot.densities(product, draws=draws_of(x)).axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["00", "01", "10", "11"]
    field, _, both = (
        np.array([bar.get_height() for bar in container]) for container in axis.containers
    )
    np.testing.assert_allclose(field, [0.28, 0.12, 0.42, 0.18], rtol=1e-5)
    expected = field * np.exp([1, 0, 0, 1])
    np.testing.assert_allclose(both, expected / expected.sum(), rtol=1e-5)
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [0.5, 0.25, 0.0, 0.25])
    with pytest.raises(poe.PoeError, match="expected no low= and high="):
        plot.densities(product, 0.0, 1.0)


def test_counts_are_shown_up_to_the_largest() -> None:
    poisson = experts.Poisson(torch.tensor([2.0]))
    (axis,) = plot.densities(poisson, 0, 3).axes
    heights = np.array([bar.get_height() for bar in axis.containers[0]])
    expected = np.array([1, 2, 2, 4 / 3])
    np.testing.assert_allclose(heights, expected / expected.sum(), rtol=1e-5)
    with pytest.raises(poe.PoeError, match="expected high=, the largest count"):
        plot.densities(poisson)


def test_axes_take_what_one_axis_is_enough_for(line: poe.Product, plane: poe.Product) -> None:
    mine = Figure()
    axis = mine.add_subplot()
    assert plot.densities(line, -4.0, 4.0, axes=axis) is mine
    assert len(axis.lines) == 4
    with pytest.raises(poe.PoeError, match="expected no axes=, since this needs a panel for each"):
        plot.densities(plane, -4.0, 4.0, axes=axis)


def test_other_spaces_and_broken_densities_are_refused() -> None:
    for expert in (
        experts.Gaussian([0.0] * 3, scale=[1.0] * 3),
        experts.Dirichlet(torch.ones(3)),
        experts.Bernoulli(torch.full((6,), 0.5)),
    ):
        with pytest.raises(poe.PoeError, match=r"finite space of at most 32 states, got .*pairs"):
            plot.densities(expert, 0.0, 1.0)
    nan = poe.FromLogDensity(lambda x: x.log().sum(-1), space=poe.Real(1))
    with pytest.raises(poe.NonFiniteError, match=r"got NaN or \+inf at 500 of 1000 points"):
        plot.densities(nan, -1.0, 1.0)
    nowhere = poe.FromLogDensity(lambda x: x.sum(-1) - torch.inf, space=poe.Real(1))
    with pytest.raises(poe.NonFiniteError, match="-inf all over it"):
        plot.densities(nowhere, -1.0, 1.0)
    with pytest.warns(poe.TrustWarning, match="hardly wider than one of the 1000 cells"):
        plot.densities(experts.Gaussian([0.05], scale=[1e-3]), -50.0, 50.0)


def test_colours_stay_when_experts_follow() -> None:
    gaussian = experts.Gaussian([0.0], scale=[1.0])
    few, many = poe.Product(*[gaussian] * 3), poe.Product(*[gaussian] * 14)
    shades = plot.colors(many)
    assert plot.colors(few).items() <= shades.items()
    assert len(set(shades.values())) == 14
