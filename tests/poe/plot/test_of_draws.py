"""What ``poe.plot`` shows of draws: pairs, traces, contributions and disagreement."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import experts
import poe
from poe import plot
from tests.missing import hide

DrawsOf = Callable[..., poe.Draws]


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_pairs_are_weighted_histograms(draws_of: DrawsOf) -> None:
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]).reshape(2, 2, 2)
    weights = torch.tensor([[0.4, 0.3], [0.2, 0.1]])
    figure = plot.pairs(draws_of(x, weights.log()))
    grid = np.array(figure.axes).reshape(2, 2)
    first = [bar.get_height() for bar in grid[0, 0].patches]
    second = [bar.get_height() for bar in grid[1, 1].patches]
    np.testing.assert_allclose(first, [0.5, 0.5])  # a bar for each whole number, of width 1
    np.testing.assert_allclose(second, [0.3, 0.7])
    (mesh,) = grid[1, 0].collections
    np.testing.assert_allclose(mesh.get_array(), [[0.1, 0.2], [0.4, 0.3]])
    # sd 0.5 and sqrt(0.21), covariance 0.3 - 0.5 * 0.7.
    (text,) = grid[0, 1].texts
    assert text.get_text() == f"{-0.05 / (0.5 * 0.21**0.5):.2f}".replace("-", "−")
    assert (grid[1, 0].get_xlabel(), grid[1, 0].get_ylabel()) == ("x[0]", "x[1]")


def test_pairs_bins_hold_all_draws(draws_of: DrawsOf) -> None:
    x = _normal(4, 200, 3)
    grid = np.array(plot.pairs(draws_of(x)).axes).reshape(3, 3)
    for element in range(3):
        bars = grid[element, element].patches
        edges = [bar.get_x() for bar in bars] + [bars[-1].get_x() + bars[-1].get_width()]
        count, _ = np.histogram(x[..., element].flatten().double().numpy(), edges)
        density = count / 800 / np.diff(edges)
        np.testing.assert_allclose([bar.get_height() for bar in bars], density, atol=2e-2)


def test_pairs_choose_elements(draws_of: DrawsOf) -> None:
    draws = draws_of(_normal(2, 10, 3, 4))
    with pytest.raises(poe.PoeError, match=r"expected 1 to 8 elements, got 12 .*elements="):
        plot.pairs(draws)
    figure = plot.pairs(draws, elements=[(0, 1), 11])
    assert [axis.get_xlabel() for axis in figure.axes[2:]] == ["x[0, 1]", "x[2, 3]"]
    for wrong in (12, -1, (3, 0), (1,)):
        with pytest.raises(poe.PoeError, match="numbers from 0 to 11, or one index for each"):
            plot.pairs(draws, elements=[wrong])


def test_draws_that_are_not_finite_are_counted(draws_of: DrawsOf) -> None:
    x = _normal(2, 10, 2)
    x[0, 3, 1] = torch.nan
    figure = plot.pairs(draws_of(x))
    assert figure.get_supxlabel() == "1 draws that are not finite left out"
    with pytest.raises(poe.PoeError, match="expected draws that are finite, got none"):
        plot.pairs(draws_of(torch.full((1, 3, 2), torch.nan)))
    with pytest.raises(poe.PoeError, match="expected draws to be a Draws, got a tensor"):
        plot.pairs(x)  # type: ignore[arg-type]


def test_traces_are_the_energies(draws_of: DrawsOf) -> None:
    draws = draws_of(_normal(3, 15, 2))
    (axis,) = plot.trace(draws).axes
    assert len(axis.lines) == 3
    for drawn, log_density in zip(axis.lines, draws.log_density, strict=True):
        np.testing.assert_allclose(drawn.get_ydata(), -log_density.numpy())
        np.testing.assert_array_equal(drawn.get_xdata(), np.arange(1, 16))
    assert axis.get_xlabel() == "draw"
    assert axis.get_ylabel().startswith("energy E(x)")


def test_chains_that_stand_out_are_named(draws_of: DrawsOf) -> None:
    x = _normal(100, 40, 1)
    x[77] += 500.0
    draws = draws_of(x)
    draws.log_density[3, 5] = -torch.inf
    (axis,) = plot.trace(draws).axes
    named = [one.get_label() for one in axis.lines if not str(one.get_label()).startswith("_")]
    assert named == ["chain 77: escaped"]
    (note,) = axis.texts
    assert note.get_text() == f"{len(axis.lines)} of 100 chains; 1 energies are not finite"
    assert len(axis.lines) in (40, 41)


def test_what_has_no_order_has_no_trace(plane: poe.Product, draws_of: DrawsOf) -> None:
    weighted = draws_of(_normal(2, 10, 2), torch.zeros(2, 10))
    for call in (lambda: plot.trace(weighted), lambda: plot.disagreement(plane, weighted)):
        with pytest.raises(poe.PoeError, match="got weighted draws, which have no order"):
            call()


def test_bars_end_where_the_log_density_is(line: poe.Product) -> None:
    x = torch.tensor([[-1.0], [0.5], [2.0]])
    (axis,) = plot.contributions(line, x).axes
    assert [c.get_label() for c in axis.containers] == ["wide", "sharp$^{0.5}$", "bump$^{-1}$"]
    widths = np.array([[bar.get_width() for bar in bars] for bars in axis.containers]).T
    np.testing.assert_allclose(widths, line.contributions(x).numpy(), rtol=1e-6)
    np.testing.assert_allclose(axis.lines[0].get_xdata(), line(x).numpy(), rtol=1e-5)
    for row in range(3):  # end to end, on either side of 0
        bars = [bars[row] for bars in axis.containers]
        for sign in (1, -1):
            side = [bar for bar in bars if sign * bar.get_width() > 0]
            ends = np.cumsum([0.0] + [bar.get_width() for bar in side])
            np.testing.assert_allclose([bar.get_x() for bar in side], ends[:-1], atol=1e-6)
    (axis,) = plot.contributions(line, x, reference=torch.tensor([1.0])).axes
    ratio = poe.log_ratio(line, x, torch.ones(3, 1))
    np.testing.assert_allclose(axis.lines[0].get_xdata(), ratio.numpy(), rtol=1e-4)


def test_who_excludes_x_is_named() -> None:
    half = poe.FromLogDensity(
        lambda x: torch.where(x[..., 0] > 0, 0.0, -torch.inf), space=poe.Real(1)
    )
    product = poe.Product(gaussian=experts.Gaussian([0.0], scale=[1.0]), half=half)
    (axis,) = plot.contributions(product, torch.tensor([[1.0], [-1.0]])).axes
    assert [text.get_text() for text in axis.texts] == ["half: −∞"]
    assert axis.texts[0].xy[1] == 1
    assert list(axis.lines[0].get_ydata()) == [0]  # no sum for the second


def test_points_are_contributions_less_their_mean(line: poe.Product, draws_of: DrawsOf) -> None:
    x = _normal(2, 50, 1)
    (axis,) = plot.contributions(line, draws_of(x)).axes
    assert len(axis.collections) == 4
    said = line.contributions(x.flatten(0, 1)).double()
    said = torch.cat([said, said.sum(1, keepdim=True)], 1)
    said = said - said.mean(0)
    for row, points in enumerate(axis.collections):
        found = np.sort(np.asarray(points.get_offsets())[:, 0])
        np.testing.assert_allclose(found, said[:, row].sort().values.numpy(), atol=1e-5)
        assert np.abs(np.asarray(points.get_offsets())[:, 1] - row).max() <= 0.41
    expected = [f"sd {value:.2g}" for value in said.std(0, correction=0).tolist()]
    assert [text.get_text() for text in axis.texts] == expected
    labels = [text.get_text() for text in axis.get_yticklabels()]
    assert labels == ["wide", "sharp$^{0.5}$", "bump$^{-1}$", "product"]


def test_weights_choose_the_points(line: poe.Product, draws_of: DrawsOf) -> None:
    x = torch.tensor([0.0, 1.0, torch.nan, 2.0]).reshape(1, 4, 1)
    log_weights = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).log()
    (axis,) = plot.contributions(line, draws_of(x, log_weights)).axes
    said = line.contributions(torch.tensor([[0.0], [1.0]])).double()
    expected = {round(float(v), 4) for v in (said - said.mean(0))[:, 0]}
    found = np.asarray(axis.collections[0].get_offsets())[:, 0]
    assert {round(float(v), 4) for v in found} == expected


def _each_its_own_class() -> tuple[poe.Product, poe.Draws]:
    """Two chains, each of which has a condition of its own."""
    step = experts.LinearGaussian(weight=[[1.0]], bias=[0.0], scale=[1.0])
    given = step.given(torch.tensor([[0.0], [100.0]]))
    product = poe.Product(given=given, wide=experts.Gaussian([0.0], scale=[50.0]))
    x = torch.stack([_normal(60, 1), 100 + 3 * _normal(60, 1)])
    return product, poe.Draws(x, torch.zeros(2, 60), "exact")


def test_chains_of_different_conditions_are_centred_each() -> None:
    product, draws = _each_its_own_class()
    (axis,) = plot.contributions(product, draws).axes
    offsets = np.asarray(axis.collections[1].get_offsets())[:, 0]
    assert np.abs(offsets).max() < 1.0  # log N(100; 0, 50) is 2 below log N(0; 0, 50)
    assert "its chain's mean" in axis.get_xlabel()
    (axis,) = plot.disagreement(product, draws, chain=1).axes
    assert _gaps(axis, 2).shape == (60,)


def _gaps(axis: object, count: int) -> np.ndarray:
    bars = axis.containers[:count]  # type: ignore[attr-defined]
    return np.array([[bar.get_height() for bar in one] for one in bars]).sum(0)


def test_disagreement_is_the_gap_of_what_experts_say(line: poe.Product, draws_of: DrawsOf) -> None:
    x = _normal(3, 50, 1)
    (axis,) = plot.disagreement(line, draws_of(x), chain=2).axes
    said = line.contributions(x[2]).double()
    z = (said - said.mean(0)) / said.std(0, correction=0)
    np.testing.assert_allclose(_gaps(axis, 3), (z.amax(1) - z.amin(1)).numpy(), atol=1e-4)
    for i, bars in enumerate(axis.containers[:3]):
        objects = [bar.get_height() > 0 for bar in bars]
        np.testing.assert_array_equal(objects, (z.argmin(1) == i).numpy())
    assert axis.lines[0].get_ydata()[0] == pytest.approx(1.6926, abs=1e-4)
    assert axis.get_xlabel() == "draw of chain 2"
    assert "if independent 1.69" in axis.texts[0].get_text()


def test_opposed_experts_lie_above_the_line_and_agreeing_ones_below(draws_of: DrawsOf) -> None:
    slope = poe.FromLogDensity(lambda x: x.sum(-1), space=poe.Real(1))
    draws = draws_of(_normal(1, 200, 1))
    for product, expected in (((slope * slope), 0.0), ((slope * slope**-1), 1.6)):
        (axis,) = plot.disagreement(product, draws).axes
        # z and -z: twice the mean of |z| = 0.798 of 200 draws; its standard error is 0.085.
        assert _gaps(axis, 2).mean() == pytest.approx(expected, abs=0.34)
    flat = poe.FromLogDensity(lambda x: 0 * x.sum(-1) + 0.1, space=poe.Real(1))
    (axis,) = plot.disagreement(slope * flat, draws).axes
    assert _gaps(axis, 2).mean() == pytest.approx(0.8, abs=0.17)


def test_what_cannot_be_shown_is_refused(line: poe.Product, draws_of: DrawsOf) -> None:
    gaussian = experts.Gaussian([0.0], scale=[1.0])
    draws = draws_of(_normal(2, 30, 1))
    with pytest.raises(poe.PoeError, match="at least two experts, got Gaussian"):
        plot.disagreement(gaussian, draws)
    with pytest.raises(poe.PoeError, match="expected a chain from 0 to 1, got 2"):
        plot.disagreement(line, draws, chain=2)
    with pytest.raises(poe.PoeError, match="expected at most 20 positions, got 30"):
        plot.contributions(line, draws.samples[0])
    with pytest.raises(poe.PoeError, match="expected no reference= for draws"):
        plot.contributions(line, draws, reference=torch.zeros(1))
    with pytest.raises(poe.ShapeError, match=r"expected a reference of shape \(1,\), got \(2,\)"):
        plot.contributions(line, torch.zeros(3, 1), reference=torch.zeros(2))
    with pytest.raises(poe.ShapeError, match="put the batch first"):
        plot.contributions(line, torch.zeros(3, 2))
    half = poe.FromLogDensity(
        lambda x: torch.where(x[..., 0] > 0, 0.0, -torch.inf), space=poe.Real(1)
    )
    for call in (plot.contributions, plot.disagreement):
        with pytest.raises(poe.NonFiniteError, match="these are no draws of this target"):
            call(gaussian * half, draws)
    with pytest.raises(poe.NonFiniteError, match=r"got NaN or \+inf of FromLogDensity"):
        plot.contributions(gaussian * half**-1, torch.tensor([[-1.0]]))


def test_axes_are_drawn_on(line: poe.Product, draws_of: DrawsOf) -> None:
    draws = draws_of(_normal(2, 30, 1))
    for call in (
        lambda axis: plot.trace(draws, axes=axis),
        lambda axis: plot.contributions(line, draws, axes=axis),
        lambda axis: plot.contributions(line, torch.zeros(2, 1), axes=axis),
        lambda axis: plot.disagreement(line, draws, axes=axis),
        lambda axis: plot.tree(line, axes=axis),
        lambda axis: plot.images(torch.zeros(2, 3, 3), axes=axis),
    ):
        mine = Figure()
        axis = mine.subfigures(1, 2)[0].add_subplot()
        assert call(axis) is mine
        assert axis.get_children()


def test_missing_matplotlib_is_asked_for_by_the_exact_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide("matplotlib", monkeypatch)
    expected = r'^poe.plot needs matplotlib: pip install "product-of-experts\[plots\]"$'
    with pytest.raises(ImportError, match=expected):
        poe.plot.images(torch.zeros(1, 2, 2))
