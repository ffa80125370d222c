"""Mixtures on patches, and their products with what was seen, in closed form on tiles."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import poe
from experts import (
    Gaussian,
    GaussianLikelihood,
    PatchMixture,
    SaltAndPepper,
    TiledMixture,
)
from experts.images import (
    BlockMean,
    Blur,
    Identity,
    Mask,
    TileGibbs,
    Window,
)
from experts.images.tiled_mixture import (
    as_picture,
    as_tiles,
    observed,
    own_precisions,
)
from poe.testing import LawError
from tests.laws.kernels import check_kernel


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


FILTERS, LOGITS = randn(3, 2, 2, seed=1), torch.tensor([0.5, -0.5], dtype=torch.float64)
TRILS = torch.stack([0.3 * torch.eye(3), torch.eye(3)]).double() + randn(2, 3, 3, seed=2).tril(-1)
BROAD = Gaussian(torch.full((4, 4), 0.5, dtype=torch.float64), scale=1.0)


def patches(stride: int, shape: tuple[int, int] = (4, 4)) -> PatchMixture:
    return PatchMixture(FILTERS, LOGITS, TRILS, shape, stride)


@pytest.mark.parametrize("stride", [1, 2])
def test_density_is_the_product_over_patches(stride: int) -> None:
    normals = MultivariateNormal(torch.zeros(3).double(), scale_tril=TRILS)
    mixture = MixtureSameFamily(Categorical(logits=LOGITS), normals)
    x, total = randn(3, 4, 4, seed=3), torch.zeros(3).double()
    for row in range(0, 3, stride):
        for col in range(0, 3, stride):
            part = x[:, row : row + 2, col : col + 2].flatten(1)
            total += mixture.log_prob(part @ FILTERS.flatten(1).T)
    torch.testing.assert_close(patches(stride)(x), total)


SEEN = {
    "noise": GaussianLikelihood(Identity((4, 4)), randn(4, 4, seed=4), 0.5),
    "missing": GaussianLikelihood(Mask(torch.eye(4).double()), randn(4, 4, seed=4), 0.5),
    "means": GaussianLikelihood(BlockMean((4, 4), 2), randn(2, 2, seed=4), 0.5),
    "a window": GaussianLikelihood(Identity((2, 3)), randn(2, 3, seed=4), 0.5).at(
        Window((4, 4), (2, 3), (1, 1))
    ),
}


@pytest.mark.law
@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
def test_tiles_are_drawn_from_their_posterior(seen: poe.Expert) -> None:
    """Block Gibbs of the product, which knows nothing of tiles, leaves their draws as they are."""
    target = poe.Product(patches(2), BROAD, seen)
    simple, g, n = poe.simplify(target).expert, torch.Generator().manual_seed(0), 40_000
    assert isinstance(simple, TiledMixture)
    exact = poe.sample(target, n, generator=g, progress=False)
    assert exact.guarantee == "exact"
    x, factors = exact.samples.flatten(0, 1), poe.gaussian_factors(target)
    assert factors is not None
    check_kernel(poe.samplers.GaussianGibbs(factors, 24), target, x, num_steps=2, generator=g)
    z = (x.mean(0) - simple.mean()) / (x.std(0) / n**0.5)
    assert z.abs().max() < 4


@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
def test_log_z_is_that_of_enumerated_components(seen: poe.Expert) -> None:
    """One tile of 1 x 2 pixels, by quadrature; then that the density is as it was."""
    small = PatchMixture(randn(1, 1, 2, seed=1), LOGITS, TRILS[:, :1, :1], (1, 2), (1, 2))
    near = Gaussian(torch.tensor([[0.2, -0.4]], dtype=torch.float64), scale=0.7)
    product = small * near
    by_closed_form = poe.log_partition(product)
    assert by_closed_form.std_error == 0
    density = poe.FromLogDensity(lambda x: product(x), space=product.space)
    quadrature = poe.log_partition(density, method=poe.normalizers.Quadrature())
    torch.testing.assert_close(by_closed_form.value, quadrature.value, atol=1e-5, rtol=1e-5)
    target = poe.Product(patches(2), BROAD, seen)
    simple, constant = poe.simplify(target)
    x = randn(5, 4, 4, seed=6)
    torch.testing.assert_close(simple(x) + constant, target(x))


def blurred() -> tuple[poe.Product, tuple[poe.GaussianFactor, ...]]:
    seen = GaussianLikelihood(Blur(randn(3, 3, seed=7), (4, 4)), randn(2, 2, seed=8), 0.5)
    factors = poe.gaussian_factors(BROAD * seen)
    assert factors is not None
    return poe.Product(patches(2), BROAD, seen), factors


def enumerated_draws(n: int, generator: torch.Generator) -> Tensor:
    """Of the four tiles' 16 pairs of components, each a Gaussian of all 16 pixels."""
    known = observed(patches(2), blurred()[1])
    assert known is not None
    q = known.times(torch.eye(16).double().view(16, 4, 4)).flatten(1)
    bank = patches(2).bank
    own, prior = own_precisions(patches(2))
    logs, means, factors = [], [], []
    for chosen in itertools.product(range(2), repeat=4):
        tiles = as_tiles(torch.eye(16).double().view(16, 4, 4), bank)
        images = torch.einsum("tij,ntj->nti", own[list(chosen)], tiles)
        precision = q + as_picture(images, bank).flatten(1)
        shift = known.shift.flatten()
        mean = torch.linalg.solve(precision, shift)
        logs.append(prior[list(chosen)].sum() + 0.5 * shift @ mean - 0.5 * torch.logdet(precision))
        means.append(mean)
        factors.append(torch.linalg.inv(torch.linalg.cholesky(precision)))
    which = torch.multinomial(torch.stack(logs).softmax(0), n, True, generator=generator)
    noise = torch.randn(n, 1, 16, generator=generator, dtype=torch.float64)
    drawn = torch.stack(means)[which] + (noise @ torch.stack(factors)[which])[:, 0]
    return drawn.view(n, 4, 4)


@pytest.mark.law
def test_tile_by_tile_a_blur_is_left_invariant() -> None:
    g, (target, factors) = torch.Generator().manual_seed(0), blurred()
    kernel = TileGibbs(patches(2), factors)
    check_kernel(kernel, target, enumerated_draws(40_000, g), num_steps=4, generator=g)


@dataclass(frozen=True, eq=False)
class AllAtOnce(TileGibbs):
    """Draws tiles that touch given each other's old values."""

    def transition(self, target, state, noise):  # type: ignore[no-untyped-def]
        x, bank = state.position, self.patches.bank
        parts = []
        for colour in self._colours:
            alone = copy.copy(self)
            object.__setattr__(alone, "_colours", (colour,))
            moved, info = TileGibbs.transition(alone, target, state, noise)
            parts.append((colour.tiles, as_tiles(moved.position, bank)[:, colour.tiles]))
        tiles = as_tiles(x, bank)
        for which, drawn in parts:
            tiles = tiles.index_copy(1, which, drawn)
        return self.state_at(target, as_picture(tiles, bank)), info


@pytest.mark.law
def test_the_law_goes_red_where_tiles_that_touch_move_at_once() -> None:
    g, (target, factors) = torch.Generator().manual_seed(0), blurred()
    kernel, exact = AllAtOnce(patches(2), factors), enumerated_draws(40_000, g)
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check_kernel(kernel, target, exact, num_steps=4, generator=g)


def test_tiles_joined_too_far_are_refused() -> None:
    wide = GaussianLikelihood(Blur(randn(5, 5, seed=7), (8, 8)), randn(4, 4, seed=8), 0.5)
    factors = poe.gaussian_factors(wide)
    assert factors is not None
    with pytest.raises(poe.PoeError, match="tiles of one colour joined"):
        TileGibbs(patches(2, (8, 8)), factors)
    with pytest.raises(poe.PoeError, match="patches that overlap"):
        TileGibbs(patches(1), blurred()[1])


def test_what_joins_tiles_is_left_to_samplers() -> None:
    salted = SaltAndPepper(randn(4, 4, seed=8), 0.3)
    bare = poe.FromLogDensity(lambda x: -x.square().sum((-2, -1)), space=poe.Real((4, 4)))
    for other in (blurred()[0].experts[2], salted, bare):
        target = poe.Product(patches(2), BROAD, other)
        assert not isinstance(poe.simplify(target).expert, TiledMixture)
    assert not isinstance(poe.simplify(patches(1) * BROAD).expert, TiledMixture)


def steps() -> PatchMixture:
    """Of how far two pixels differ it knows, and nothing of how bright they are."""
    return PatchMixture(torch.tensor([[[0.7, -0.7]]]), [0.0], [[[0.5]]], (1, 4), (1, 2))


def masked(*mask: float) -> GaussianLikelihood:
    return GaussianLikelihood(Mask(torch.tensor([mask])), torch.zeros(1, 4), 0.5)


@pytest.mark.parametrize("mask", [(1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0), (0.0,) * 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tile_of_which_nothing_is_seen_is_named(
    mask: tuple[float, ...], dtype: torch.dtype
) -> None:
    target = (steps() * masked(*mask)).to(dtype)
    where = "columns 0 to 1" if mask[0] == 0 else "columns 2 to 3"
    says = f"PatchMixture and GaussianLikelihood.*rows 0 to 0 and {where}"
    options = {"generator": torch.Generator().manual_seed(0), "progress": False}
    for ask in (
        lambda: poe.simplify(target),
        lambda: poe.sample(target, 10, **options),
        lambda: poe.log_partition(target, **options),
        lambda: TileGibbs(steps().to(dtype), poe.gaussian_factors(masked(*mask).to(dtype))),
    ):
        with pytest.raises(poe.ImproperError, match=says.split(r".*")[-1]):
            ask()
    with pytest.raises(poe.ImproperError, match=says):
        poe.simplify(target)


def test_a_pixel_of_each_tile_is_enough() -> None:
    target = steps() * masked(1.0, 0.0, 0.0, 1.0)
    assert isinstance(poe.simplify(target).expert, TiledMixture)
    assert poe.log_partition(target).value.isfinite()


def test_a_faint_factor_is_not_taken_for_none() -> None:
    """A scale of 300 gives a precision of 1e-5 beside one of 2, and is proper."""
    target = steps() * Gaussian(torch.zeros(1, 4), scale=300.0)
    expected = (steps().double() * Gaussian(torch.zeros(1, 4).double(), scale=300.0)).double()
    exact = poe.log_partition(expected).value
    # Beside 2, in single precision, 300⁻² is known to 2⁻²³, that is 1 %, after the sum and again
    # after elimination; half its log counts.
    digits = 0.5 * 2 * 2**-23 * 300**2
    torch.testing.assert_close(poe.log_partition(target).value.double(), exact, rtol=0, atol=digits)


def test_a_factor_below_rounding_is_refused_in_words() -> None:
    target = steps() * Gaussian(torch.zeros(1, 4), scale=1e5)
    with pytest.raises(poe.PoeError, match=r"so faint .* use \.double\(\)"):
        poe.simplify(target)
    assert poe.log_partition(target.double()).value.isfinite()


def test_draws_are_made_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One factorisation for all draws of a chunk, and the chunks have the mean of the posterior."""
    expert = poe.simplify(patches(2) * BROAD).expert
    assert isinstance(expert, TiledMixture)
    factorise, calls = torch.linalg.cholesky_ex, []
    monkeypatch.setattr(
        torch.linalg, "cholesky_ex", lambda matrix: calls.append(1) or factorise(matrix)
    )
    expert.sample(3000, generator=torch.Generator().manual_seed(0))
    assert len(calls) == 1
    monkeypatch.setattr(
        "experts.images.tiled_mixture.MAX_NUMBERS", 1000 * expert.precisions.numel()
    )
    x = expert.sample(3000, generator=torch.Generator().manual_seed(0))
    assert len(calls) == 4
    assert ((x.mean(0) - expert.mean()).abs() < 5 * x.std(0) / len(x) ** 0.5).all()


def test_survives_storage(tmp_path: Path) -> None:
    poe.save(patches(1), tmp_path / "patches")
    x = randn(2, 4, 4, seed=3)
    assert torch.equal(poe.load(tmp_path / "patches")(x), patches(1)(x))
    assert torch.equal(patches(2).on((6, 8)).logits, LOGITS)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(poe.ShapeError, match="scale_trils of shape"):
        PatchMixture(FILTERS, LOGITS, TRILS[:1], (4, 4))
    with pytest.raises(poe.ShapeError, match="a part inside the picture"):
        Window((4, 4), (2, 3), (3, 0))
