"""Mixtures on patches, and their products with what was seen, in closed form on tiles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import poe
from experts import (
    BlockMean,
    Blur,
    Gaussian,
    GaussianLikelihood,
    Identity,
    Mask,
    PatchMixture,
    SaltAndPepper,
    TiledMixture,
    Window,
)
from poe.testing import check_kernel


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
    check_kernel(poe.samplers.GaussianGibbs(factors, 24), target, x, num_steps=4, generator=g)
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
    density = poe.FromLogDensity(product, space=product.space)
    quadrature = poe.log_partition(density, method=poe.normalizers.Quadrature())
    torch.testing.assert_close(by_closed_form.value, quadrature.value, atol=1e-5, rtol=1e-5)
    target = poe.Product(patches(2), BROAD, seen)
    simple, constant = poe.simplify(target)
    x = randn(5, 4, 4, seed=6)
    torch.testing.assert_close(simple(x) + constant, target(x))


def test_what_joins_tiles_is_left_to_samplers() -> None:
    blurred = GaussianLikelihood(Blur(randn(3, 3, seed=7), (4, 4)), randn(2, 2, seed=8), 0.5)
    salted = SaltAndPepper(randn(4, 4, seed=8), 0.3)
    bare = poe.FromLogDensity(lambda x: -x.square().sum((-2, -1)), space=poe.Real((4, 4)))
    for other in (blurred, salted, bare):
        target = poe.Product(patches(2), BROAD, other)
        assert not isinstance(poe.simplify(target).expert, TiledMixture)
    assert not isinstance(poe.simplify(patches(1) * BROAD).expert, TiledMixture)


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
