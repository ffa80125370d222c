"""Nearest-neighbour energies, against distances computed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import poe
from experts import Neighbours, RelativeNeighbours
from experts.tables import neighbours as source


def _table(n: int, d: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0])
def test_energy_is_the_mean_log_distance(norm: float) -> None:
    points, x = _table(20, 3), 2 * _table(25, 3)[20:]
    distance = (x[:, None] - points).abs().pow(norm).mean(-1).pow(1 / norm).sort(-1).values
    log_distance = 0.5 * (distance[:, :4].square() + 0.03**2).log()
    expert = Neighbours(points, 4, norm=norm)
    torch.testing.assert_close(expert.energy(x), 3 * log_distance.mean(-1))


def test_slope_far_away_is_minus_the_dimension() -> None:
    expert, far = Neighbours(_table(10, 4)), torch.full((1, 4), 1e9, dtype=torch.float64)
    drop = expert(far) - expert(10 * far)
    torch.testing.assert_close(drop, 4 * torch.tensor([10.0], dtype=torch.float64).log())


def test_stored_row_is_judged_by_the_others() -> None:
    points = _table(12, 3)
    expert = Neighbours(points, 2)
    for i in range(len(points)):
        others = torch.cat([points[:i], points[i + 1 :]])
        torch.testing.assert_close(expert(points[i]), Neighbours(others, 2)(points[i]))


def test_repeated_row_has_a_neighbour_at_distance_zero() -> None:
    points = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    expected = -2 * torch.tensor(0.03).log()
    torch.testing.assert_close(Neighbours(points)(points[0]), expected)


def test_relative_density_is_against_the_neighbours_own() -> None:
    points, x = _table(15, 2), 2 * _table(18, 2)[15:]
    plain = Neighbours(points, 3)
    nearest = torch.cdist(x, points).argsort(-1)[:, :3]
    expected = plain(x) - plain(points)[nearest].mean(-1)
    torch.testing.assert_close(RelativeNeighbours(points, 3)(x), expected)


def test_relative_density_does_not_know_the_unit() -> None:
    points, x = _table(15, 2), _table(18, 2)[15:]
    small = RelativeNeighbours(points, 3, resolution=0.01)
    large = RelativeNeighbours(1000 * points, 3, resolution=10.0)
    torch.testing.assert_close(small(x), large(1000 * x))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expert, x = RelativeNeighbours(_table(15, 2), 3), _table(20, 2)
    whole = expert(x)
    monkeypatch.setattr(source, "_CHUNK_SIZE", 7)
    assert torch.equal(expert(x), whole)


def test_saved_and_loaded(tmp_path: Path) -> None:
    expert = Neighbours(_table(6, 2), norm=1.0) * RelativeNeighbours(_table(6, 2), 2) ** 0.5
    poe.save(expert, tmp_path / "expert")
    assert torch.equal(poe.load(tmp_path / "expert")(_table(3, 2)), expert(_table(3, 2)))


@pytest.mark.parametrize("points", [torch.zeros(3), torch.zeros(2, 1)])
def test_too_few_rows_are_refused(points: Tensor) -> None:
    with pytest.raises(poe.ShapeError, match=r"points of shape \(n, d\) with n > .* = 2"):
        Neighbours(points, 2)


def test_settings_that_are_not_positive_are_refused() -> None:
    for setting in ({"num_neighbours": 0}, {"norm": 0.0}, {"resolution": 0.0}):
        (name,) = setting
        with pytest.raises(poe.PoeError, match=f"{name} must be .*, got 0"):
            Neighbours(torch.zeros(3, 1), **setting)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Neighbours, RelativeNeighbours])
@pytest.mark.parametrize("resolution", [0.03, 0.3])
def test_which_row_is_x_itself_does_not_depend_on_the_dtype(
    kind: type[Neighbours], resolution: float
) -> None:
    """At distances around the square roots of both dtypes' eps, 1e-8 and 3e-4."""
    away = torch.logspace(-9, 0, 28, dtype=torch.float64)
    away = away[(away / (1e-3 * resolution) - 1).abs() > 0.01]
    points = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    exact = kind(points, 1, resolution=resolution)(away[:, None])
    single = kind(points.float(), 1, resolution=resolution)(away[:, None].float())
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_row_is_x_itself_within_a_thousandth_of_the_resolution() -> None:
    expert = Neighbours(torch.tensor([[0.0], [1.0]], dtype=torch.float64), resolution=0.1)
    near, beyond = expert(torch.tensor([[0.99e-4], [1.01e-4]], dtype=torch.float64)).tolist()
    assert near == pytest.approx(-0.5 * torch.tensor(1.01).log().item(), abs=2e-4)
    assert beyond == pytest.approx(-torch.tensor(0.1).log().item(), abs=2e-4)
