"""Ranges and sizes: bijections keep Z, features keep ratios, borders go to borders."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributions as D, nn
from torch.distributions import Transform

import experts
import poe
from poe.core.image_of_space import moved
from poe.ranges import Floats, Indices, Rescale, Resize, logit

F64 = torch.float64


def beta(count: int) -> poe.Expert:
    a, b = torch.tensor([2.0, 3.0], dtype=F64)[:count], torch.tensor([1.5, 2.0], dtype=F64)[:count]
    return poe.as_expert(D.Independent(D.Beta(a, b), 1))


def energy(space: poe.Space) -> poe.Expert:
    """Knows nothing of its borders: it is finite beyond them."""
    return poe.FromEnergy(lambda x: (x - 0.3).square().sum(-1), space=space)


def log_z(expert: poe.Expert) -> float:
    return poe.log_partition(
        poe.FromLogDensity(expert.forward, space=expert.space),
        method=poe.normalizers.Quadrature(),
    ).value.item()


# As densities: the same Z, by quadrature that knows nothing of closed forms


@pytest.mark.law
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("bijection", "space"),
    [
        (Rescale(0, 1, -1, 1), "Interval({}, -1, 1)"),
        (Rescale(0, 1, 0, 255), "Interval({}, 0, 255)"),
        (logit(), "Real({})"),
        (D.ComposeTransform([Rescale(0, 1, 0, 255), logit(0, 255)]), "Real({})"),
    ],
    ids=["to signs", "to levels", "to logits", "to logits of levels"],
)
def test_a_moved_density_has_the_same_normaliser(
    bijection: Transform, space: str, count: int
) -> None:
    moved_beta = poe.Transformed(beta(count), bijection)
    assert str(moved_beta.space) == space.format(count)
    assert abs(log_z(moved_beta)) < 1e-6
    unnormalised = energy(poe.Interval(count, 0, 1))
    there = poe.Transformed(unnormalised, bijection)
    assert log_z(there) == pytest.approx(log_z(unnormalised), abs=1e-6)


@pytest.mark.law
def test_an_expert_on_logits_comes_to_the_interval() -> None:
    gaussian = experts.Gaussian(torch.tensor([0.5, -1.0], dtype=F64), scale=[1.0, 2.0])
    pictures = poe.Transformed(gaussian, logit(0, 255).inv)
    assert pictures.space == poe.Interval(2, 0, 255)
    assert abs(log_z(pictures)) < 1e-5
    x = pictures.sample(5, generator=torch.Generator().manual_seed(0))
    assert pictures.space.contains(x).all()
    torch.testing.assert_close(
        poe.Transformed(pictures, logit(0, 255)).log_prob(logit(0, 255)(x)),
        gaussian.log_prob(logit(0, 255)(x)),
    )


@pytest.mark.parametrize(
    "make", [lambda: Rescale(0, 255, -1, 1), lambda: logit(-1, 3), lambda: logit(-1, 3).inv]
)
def test_the_jacobian_is_that_of_autograd(make: Callable[[], Transform]) -> None:
    bijection = make()
    x = torch.linspace(-0.9, 2.9, 7, dtype=F64).requires_grad_()
    y = bijection(x)
    [slope] = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(bijection.log_abs_det_jacobian(x, y), slope.abs().log())
    torch.testing.assert_close(bijection.inv(y), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "ends", [(0, 255, -1, 1), (0.1, 0.7, 0, 1), (-1, 1, 0, 255), (100, 101, -3.3, 1e-3)]
)
def test_borders_go_to_borders_and_come_back(
    ends: tuple[float, float, float, float], dtype: torch.dtype
) -> None:
    low, high, to_low, to_high = ends
    x = torch.tensor([low, high], dtype=dtype)
    y = Rescale(*ends)(x)
    assert torch.equal(y, torch.tensor([to_low, to_high], dtype=dtype))
    assert torch.equal(Rescale(*ends).inv(y), x)
    expert = poe.Transformed(energy(poe.Interval(2, low, high)), Rescale(*ends))
    assert bool(expert(y).isfinite())


def test_rounding_takes_nothing_across_a_border() -> None:
    levels = torch.arange(256.0)
    y = Rescale(0, 255, 0.1, 0.7)(levels)
    back = Rescale(0, 255, 0.1, 0.7).inv(y)
    assert bool(((back >= 0) & (back <= 255)).all())
    torch.testing.assert_close(back, levels, rtol=0, atol=1e-3)
    assert Rescale(0, 1, 0, 1)(torch.tensor([-1e-3, 1.001])).tolist() == pytest.approx(
        [-1e-3, 1.001]
    )


def test_outside_of_the_image_nothing_is() -> None:
    expert = poe.Transformed(energy(poe.Interval(1, 0, 1)), Rescale(0, 1, -1, 1))
    inside, outside = expert(torch.tensor([[0.5], [1.5]]))
    assert bool(inside.isfinite())
    assert outside == -torch.inf


def test_a_bijection_defined_more_widely_than_the_expert_is_cut() -> None:
    unit = energy(poe.Interval(1, 0, 1))
    expert = poe.Transformed(unit, D.ExpTransform())  # reaches [1, e] of Positive(1)
    assert expert.space == poe.Positive(1)
    values = expert(torch.tensor([[0.5], [2.0], [3.0]], dtype=F64))
    assert values.isfinite().tolist() == [False, True, False]
    assert log_z(expert) == pytest.approx(log_z(unit), abs=1e-3)


@pytest.mark.parametrize(
    ("space", "bijection", "image"),
    [
        (poe.Interval(2, 0, 1), D.AffineTransform(-1.0, 2.0), poe.Interval(2, -1, 1)),
        (poe.Interval(2, 0.1, 0.7), D.AffineTransform(0.1, 0.6).inv, poe.Interval(2, 0, 1)),
        (poe.Interval(2, 0, 1), D.AffineTransform(0.0, -2.0), poe.Interval(2, -2, 0)),
        (poe.Interval(2, 0, 1), D.AffineTransform(torch.zeros(2), torch.tensor([1.0, 2.0])), None),
        (poe.Positive(2), D.AffineTransform(0.0, 2.0), poe.Positive(2)),
        (poe.Positive(2), D.AffineTransform(1.0, 2.0), None),
        (poe.Real(2), D.AffineTransform(1.0, 2.0), poe.Real(2)),
        (poe.Interval(4, 0, 1), D.ReshapeTransform((4,), (2, 2)), poe.Interval((2, 2), 0, 1)),
        (poe.Positive((2, 2)), D.ReshapeTransform((4,), (2, 2)).inv, poe.Positive(4)),
        (poe.Interval(2, -1, 3), poe.Interval(2, -1, 3).to_unconstrained, poe.Real(2)),
        (poe.Real(2), poe.Interval(2, -1, 3).to_unconstrained.inv, poe.Interval(2, -1, 3)),
        (poe.Simplex(3), poe.Simplex(3).to_unconstrained, poe.Real(2)),
        (poe.Interval(2, 0, 2), D.ExpTransform(), None),
    ],
    ids=str,
)
def test_where_a_bijection_takes_a_space(
    space: poe.Space, bijection: Transform, image: poe.Space | None
) -> None:
    assert moved(space, bijection) == image


@pytest.mark.parametrize(
    ("expert", "bijection", "words"),
    [
        (energy(poe.Real(2)), Rescale(0, 1, -1, 1), r"on Interval\(2, 0, 1\), where Rescale is .*"
         r"got one on Real\(2\)"),
        (energy(poe.Interval(2, 0, 255)), logit(), r"on Interval\(2, 0, 1\).*\(2, 0, 255\)"),
        (energy(poe.Real(2)), D.ExpTransform().inv, r"on Positive\(2\).*Real\(2\)"),
        (energy(poe.Simplex(2)), D.AffineTransform(0.0, 2.0), r"on Real\(2\).*Simplex\(2\)"),
    ],
)  # fmt: skip
def test_a_bijection_is_refused_where_it_is_not_defined(
    expert: poe.Expert, bijection: Transform, words: str
) -> None:
    with pytest.raises(poe.PoeError, match=f"expected an expert {words}: bring it there first"):
        poe.Transformed(expert, bijection)


@pytest.mark.parametrize("ends", [(1, 0, 0, 1), (0, 1, 1, 1), (0, math.inf, 0, 1)])
def test_bounds_are_finite_and_in_order(ends: tuple[float, float, float, float]) -> None:
    with pytest.raises(poe.PoeError, match="expected finite bounds low < high, got"):
        Rescale(*ends)


# As features: no Jacobian, and ratios are those of what is seen


def test_a_bijection_read_as_a_feature_has_no_jacobian() -> None:
    expert = beta(2)
    y = torch.tensor([[-0.5, 0.25], [0.5, -0.75]], dtype=F64)
    seen, density = (
        expert.at(Rescale(-1, 1, 0, 1)),
        poe.Transformed(expert, Rescale(0, 1, -1, 1)),
    )
    assert seen.space == density.space == poe.Interval(2, -1, 1)
    torch.testing.assert_close(seen(y) - density(y), torch.full((2,), 2 * math.log(2), dtype=F64))
    by_features = poe.log_ratio(seen, y[:1], y[1:])
    of_what_is_seen = poe.log_ratio(expert, (y[:1] + 1) / 2, (y[1:] + 1) / 2)
    torch.testing.assert_close(by_features, of_what_is_seen)


def test_ratios_through_logits_differ_by_the_jacobian_only_as_densities() -> None:
    expert, y = beta(1), torch.tensor([[-0.5], [2.0]], dtype=F64)
    x = y.sigmoid()
    torch.testing.assert_close(
        poe.log_ratio(expert.at(logit().inv), y[:1], y[1:]), poe.log_ratio(expert, x[:1], x[1:])
    )
    slope = (x * (1 - x)).log().sum(-1)
    torch.testing.assert_close(
        poe.log_ratio(poe.Transformed(expert, logit()), y[:1], y[1:]),
        poe.log_ratio(expert, x[:1], x[1:]) + slope[:1] - slope[1:],
    )


def test_where_a_feature_lives_must_be_known() -> None:
    with pytest.raises(poe.PoeError, match=r"where the input of Feature lives; use expert\.at\("):
        beta(1).at(D.ExpTransform())
    seen = beta(1).at(D.SigmoidTransform(), poe.Real(1))
    assert seen.space == poe.Real(1)


@pytest.mark.parametrize("mode", ["area", "nearest", "bilinear", "bicubic"])
def test_resize_keeps_flat_pictures_and_gradients(mode: str) -> None:
    resize = Resize((3, 4), mode)  # type: ignore[arg-type]
    x = torch.full((2, 3, 8, 8), 0.25, requires_grad=True)
    y = resize(x)
    assert y.shape == (2, 3, 3, 4)
    torch.testing.assert_close(y, torch.full_like(y, 0.25))
    assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape
    assert resize(torch.zeros(8, 8)).shape == (3, 4)


def test_area_averages_what_falls_into_a_pixel() -> None:
    x = torch.arange(16.0).reshape(4, 4)
    expected = x.reshape(2, 2, 2, 2).mean((1, 3))
    torch.testing.assert_close(Resize((2, 2))(x), expected)


def test_pictures_of_another_size_and_range_are_seen_by_an_expert() -> None:
    space = poe.Interval((2, 2), -1, 1)
    small = poe.FromEnergy(lambda x: x.square().sum((-2, -1)), space=space)
    large = poe.Interval((4, 4), 0, 1)
    seen = small.at(
        nn.Sequential(Resize((2, 2)), poe.core.distribution_modules.Feature(Rescale(0, 1, -1, 1))),
        large,
    )
    x = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    means = x.reshape(3, 2, 2, 2, 2).mean((2, 4))
    torch.testing.assert_close(seen(x), small(2 * means - 1))
    assert seen.score(x).shape == x.shape


@pytest.mark.parametrize("map", [Resize((2, 2)), Indices(), Floats()])
def test_what_is_no_bijection_is_refused_as_a_density(map: nn.Module) -> None:
    with pytest.raises(poe.PoeError, match=r"expected a bijective .* goes in expert\.at\(map\)"):
        poe.Transformed(energy(poe.Real((4, 4))), map)  # type: ignore[arg-type]


def test_resize_says_what_it_cannot() -> None:
    with pytest.raises(poe.ShapeError, match=r"expected size=\(height, width\), got \(2,\)"):
        Resize((2,))
    with pytest.raises(poe.PoeError, match=r"expected mode 'area', .* got 'best'"):
        Resize((2, 2), "best")  # type: ignore[arg-type]
    with pytest.raises(poe.DtypeError, match=r"of floats to resize, got torch.uint8; use x.float"):
        Resize((2, 2))(torch.zeros(4, 4, dtype=torch.uint8))


# Discrete spaces


def table(logits: Tensor) -> poe.Expert:
    return poe.as_expert(D.Independent(D.Categorical(logits=logits), 1))


def test_levels_become_a_density_on_the_unit_interval_and_on_logits() -> None:
    levels = table(torch.randn(1, 8, generator=torch.Generator().manual_seed(0), dtype=F64))
    unit = poe.Transformed(poe.Dequantized(levels), Rescale(0, 8, 0, 1))
    assert unit.space == poe.Interval(1, 0, 1)
    centres = (torch.arange(8, dtype=F64)[:, None] + 0.5) / 8
    torch.testing.assert_close(unit(centres) - math.log(8), levels(torch.arange(8)[:, None]))
    total = (unit(centres).exp() / 8).sum().item()
    assert total == pytest.approx(1.0, abs=1e-12)  # constant in each cell, so this is the integral
    x = unit.sample(1000, generator=torch.Generator().manual_seed(0))
    assert bool(poe.Transformed(unit, logit())(logit()(x)).isfinite().all())


def test_counts_become_a_density_on_positive_numbers() -> None:
    counts = poe.as_expert(D.Independent(D.Poisson(torch.tensor([2.5], dtype=F64)), 1))
    spread = poe.Dequantized(counts)
    assert spread.space == poe.Positive(1)
    k = torch.arange(60, dtype=F64)[:, None]
    torch.testing.assert_close(spread(k + 0.25), counts(k))
    assert spread(k + 0.25).exp().sum().item() == pytest.approx(1.0, abs=1e-9)
    assert spread(torch.tensor([[-0.5]], dtype=F64)).item() == -torch.inf
    x = spread.sample(20_000, generator=torch.Generator().manual_seed(0))
    z = (x.mean() - 3.0) / ((2.5 + 1 / 12) ** 0.5 / 20_000**0.5)
    assert abs(z.item()) < 4


def test_bits_and_indices_are_one_space_read_in_two_ways() -> None:
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    bits = table(logits).at(Indices(), poe.Binary(2))
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert torch.equal(bits(x), table(logits)(x.long()))
    rbm = experts.RBM(torch.ones(2, 1), torch.zeros(2), torch.zeros(1))
    assert torch.equal(rbm.at(Floats(), poe.Categorical(2, 2))(x.long()), rbm(x))
    together = bits * rbm
    assert poe.log_partition(together).method == "enumeration"


# What they share with all experts


@pytest.mark.parametrize(
    "expert",
    [
        poe.Transformed(beta(2), Rescale(0, 1, -1, 1)),
        poe.Transformed(beta(2), logit()),
        beta(2).at(Rescale(-1, 1, 0, 1)),
        poe.FromDistribution(D.Independent(D.Normal(torch.zeros(2, 2), 1.0), 2)).at(
            Resize((2, 2), "nearest"), poe.Real((4, 4))
        ),
        table(torch.zeros(2, 2)).at(Indices(), poe.Binary(2)),
    ],
    ids=["rescaled", "logit", "feature", "resized", "indices"],
)
def test_they_are_saved_and_copied(expert: poe.Expert, tmp_path: Path) -> None:
    poe.save(expert, tmp_path / "expert")
    loaded = poe.load(tmp_path / "expert")
    assert loaded.space == expert.space
    x = torch.full((3, *expert.space.event_shape), 0.5, dtype=F64)
    x = x.round() if expert.space.is_discrete else x
    x = x.to(torch.float32) if isinstance(expert.space, poe.Real) and x.ndim == 3 else x
    assert torch.equal(loaded(x), expert(x))
    assert torch.equal(copy.deepcopy(expert)(x), expert(x))


def test_rescaled_densities_are_sampled() -> None:
    target = poe.Transformed(energy(poe.Interval(1, 0, 1)), Rescale(0, 1, -1, 1))
    draws = poe.sample(
        target, 400, num_chains=4, warmup=100, progress=False,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert target.space.contains(draws.samples).all()


def test_on_the_meta_device() -> None:
    x = torch.empty(3, 2, device="meta")
    assert poe.Transformed(beta(2).to("meta"), Rescale(0, 1, -1, 1))(x).shape == (3,)
    assert Resize((2, 2))(torch.empty(3, 4, 4, device="meta")).shape == (3, 2, 2)
