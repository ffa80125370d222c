"""Noise levels and labels: of one conditional, and of a whole product."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
import poe.io.tree
from experts.noised.embedding import LabelAndNoise
from tests.seeds import seeded

Randomize = Callable[[nn.Module], None]


@pytest.fixture
@seeded()
def families(randomize: Randomize) -> tuple[experts.NoisyConditional, ...]:
    shape, level = (4, 4), 0.1
    models = (
        experts.PixelMixture(shape, ("0", "1", "2"), level, channels=3, blocks=1, components=2),
        experts.ImageFlow(shape, ("left", "right"), level, layers=2, hidden=4),
        experts.ReconstructionEnergy(shape, ("thin", "thick", "any"), level, channels=2),
    )
    for model in models:
        randomize(model)
    return models


@pytest.fixture
def product(families: tuple[experts.NoisyConditional, ...]) -> poe.Product:
    digit, slant, thickness = families
    prior = slant.given("right") ** nn.Parameter(torch.tensor(0.5))
    joint = poe.Product(
        digit=digit.given("2"), slant=slant.given("left"), thickness=thickness.given(1) ** 0.7
    )
    return poe.Product(joint, prior=prior**-1)


def images(count: int = 3) -> Tensor:
    return 0.3 * torch.randn(count, 4, 4, generator=torch.Generator().manual_seed(0))


def test_another_level_shares_the_weights(
    families: tuple[experts.NoisyConditional, ...],
) -> None:
    for model in families:
        moved = model.at_noise_level(0.4)
        assert type(moved) is type(model)
        assert (moved.noise_level.item(), model.noise_level.item()) == pytest.approx((0.4, 0.1))
        pairs = zip(moved.parameters(), model.parameters(), strict=True)
        assert all(a is b for a, b in pairs)
        x, label = images(), torch.tensor([0, 1, 1])
        expected = model.log_density_at(x, label, torch.full((3,), 0.4))
        torch.testing.assert_close(moved.given(label)(x), expected)
        assert not torch.allclose(model.given(label)(x), expected)


@seeded()
def test_the_embedding_hears_the_label_and_the_noise_level(randomize: Randomize) -> None:
    embed = LabelAndNoise(3, 16)
    randomize(embed)
    label, level = torch.tensor([0, 1, 2, 0]), torch.tensor([0.1, 0.1, 0.1, 0.3])
    found = embed(label, level)
    assert found.shape == (4, 16)
    assert torch.pdist(found).min() > 0.01
    torch.testing.assert_close(embed(label[2:3], level[2:3]), found[2:3])


def test_one_level_for_each_chain(families: tuple[experts.NoisyConditional, ...]) -> None:
    levels = (0.1, 0.3, 0.9)
    for model in families:
        x = images()
        together = model.at_noise_level(torch.tensor(levels)).given(1)(x)
        alone = [model.at_noise_level(s).given(1)(x[i]) for i, s in enumerate(levels)]
        torch.testing.assert_close(together, torch.stack(alone))


def test_levels_of_another_batch_are_refused(
    families: tuple[experts.NoisyConditional, ...],
) -> None:
    for model in families:
        expert = model.at_noise_level(torch.tensor([0.1, 0.2])).given(0)
        with pytest.raises(poe.ShapeError, match=r"batch of shape \(2,\).*got \(3,\)"):
            expert(images(3))
    with pytest.raises(poe.ShapeError, match=r"batch of shape \(2,\).*got \(3,\)"):
        families[0].at_noise_level(torch.tensor([0.1, 0.2])).given(0).sample(3)


def test_a_whole_product_moves_with_its_exponents_and_names(product: poe.Product) -> None:
    x = images()
    moved = experts.noised.at_noise_level(product, 0.5)
    assert isinstance(moved, poe.Product)
    assert moved.names == product.names == ("digit", "slant", "thickness", "prior")
    at_level = [
        part.conditional.at_noise_level(0.5).given(part.condition)
        for part in product.modules()
        if isinstance(part, poe.Given)
    ]
    weights = torch.tensor([1.0, 1.0, 0.7, -0.5])
    expected = torch.stack([expert(x) for expert in at_level], -1) * weights
    torch.testing.assert_close(moved.contributions(x), expected)
    again = experts.noised.at_noise_level(moved, 0.1)
    torch.testing.assert_close(again(x), product(x))


def test_a_learned_exponent_stays_learned(product: poe.Product) -> None:
    moved = experts.noised.at_noise_level(product, 0.5)
    learned = [p for name, p in product.named_parameters() if name.endswith("exponent")]
    assert len(learned) == 1
    moved(images()).sum().backward()
    assert learned[0].grad is not None
    assert learned[0].grad != 0


def test_a_ladder_is_the_product_at_each_level(product: poe.Product) -> None:
    x = images()
    ladder = experts.noised.noise_ladder(product, [1.0, 0.3])
    assert isinstance(ladder, tuple)
    for expert, level in zip(ladder, (1.0, 0.3), strict=True):
        torch.testing.assert_close(expert(x), experts.noised.at_noise_level(product, level)(x))


def test_a_mixture_keeps_its_weights_and_log_partitions(
    families: tuple[experts.NoisyConditional, ...],
) -> None:
    x = images()
    parts = [families[2].given(label) for label in ("thin", "thick")]
    mixture = poe.Mixture(parts, [0.25, 0.75], log_partitions=[1.0, -2.0])
    expected = poe.Mixture(
        [experts.noised.at_noise_level(part, 0.5) for part in parts],
        [0.25, 0.75],
        log_partitions=[1.0, -2.0],
    )
    torch.testing.assert_close(experts.noised.at_noise_level(mixture, 0.5)(x), expected(x))


def test_unnormalised_densities_without_any_have_no_marginal() -> None:
    """Their mixture would need every log partition."""

    class Bowl(experts.NoisyConditional):
        def log_density_at(self, x: Tensor, label: Tensor, noise_level: Tensor) -> Tensor:
            return -x.square().sum((-2, -1)) * (1 + label)

    with pytest.raises(poe.NormalizationError):
        Bowl(poe.Real((4, 4)), ("a", "b"), 0.1).marginal()


def test_a_density_ratio_is_the_density_over_the_marginal(
    families: tuple[experts.NoisyConditional, ...],
) -> None:
    x, label = images(), torch.tensor([1, 0, 1])
    for model in families:
        ratio = experts.DensityRatio(model)
        for level in (0.1, 0.5):
            moved = model.at_noise_level(level)
            found = experts.noised.at_noise_level(ratio.given(label), level)
            expected = moved.given(label)(x) - moved.marginal()(x)
            torch.testing.assert_close(found(x), expected, rtol=1e-4, atol=1e-4)
            assert expected.abs().max() > 0.01
        by_name = ratio.given(model.labels[1])(x.reshape(1, 3, 4, 4))
        torch.testing.assert_close(by_name[0], ratio.given(1)(x))
        assert not poe.density.capabilities.is_normalized(ratio.given(1))
        assert not hasattr(ratio.given(1), "sample")


def test_a_density_ratio_is_saved(
    families: tuple[experts.NoisyConditional, ...], tmp_path: Path
) -> None:
    for i, model in enumerate(families):
        expert = experts.DensityRatio(model).given(0)
        poe.io.save(expert, tmp_path / str(i))
        assert torch.equal(poe.io.load(tmp_path / str(i))(images()), expert(images()))


def test_a_product_prints_as_a_short_tree(product: poe.Product) -> None:
    text = str(product)
    assert len(text.splitlines()) < 40
    assert "(conditional): ImageFlow(left, right; noise_level=0.1, " in text
    slant = product.experts[1]
    assert isinstance(slant, poe.Given)
    size = sum(parameter.numel() for parameter in slant.parameters())
    assert f"{size:,} parameters" in text
    model = slant.conditional.at_noise_level(torch.tensor([0.1, 0.2]))
    assert "noise_level=(2,)" in str(model)
    assert "noise_level=()" in str(slant.conditional.to("meta"))


def test_an_expert_without_noise_levels_is_refused() -> None:
    gaussian = experts.Gaussian([0.0], scale=1.0)
    with pytest.raises(poe.PoeError, match="got Gaussian: give a ladder"):
        experts.noised.at_noise_level(gaussian * gaussian, 0.5)


def test_a_label_is_a_name_an_index_or_a_tensor(
    families: tuple[experts.NoisyConditional, ...],
) -> None:
    x = images()
    for model in families:
        by_name = model.given(model.labels[1])(x)
        assert torch.equal(by_name, model.given(1)(x))
        assert torch.equal(by_name, model.given(torch.tensor(1))(x))
        torch.testing.assert_close(by_name, model.given(torch.tensor([1, 1, 1]))(x))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("7", r"one of the labels 0, 1, 2; got '7'"),
        (3, r"from 0 to 2 \(0, 1, 2\), got 3"),
        (-1, r"from 0 to 2 \(0, 1, 2\), got -1"),
        (torch.tensor([0, 3]), r"from 0 to 2 \(0, 1, 2\), got \[0, 3\]"),
        (1.0, r"integer index of a label, got torch.float32"),
        (torch.tensor([True]), r"integer index of a label, got torch.bool"),
        (torch.zeros(2, 2).long(), r"got shape \(2, 2\)"),
    ],
)
def test_what_is_no_label_is_refused(
    label: int | float | str | Tensor,
    message: str,
    families: tuple[experts.NoisyConditional, ...],
) -> None:
    with pytest.raises(poe.PoeError, match=message):
        families[0].given(label)


@pytest.mark.parametrize("level", [0.0, -0.1, float("nan"), float("inf"), [0.1, 0.0]])
def test_a_noise_level_that_is_not_positive_is_refused(
    level: float | list[float], families: tuple[experts.NoisyConditional, ...]
) -> None:
    with pytest.raises(poe.PoeError, match="expected a positive noise level, got"):
        families[0].at_noise_level(torch.tensor(level))
    with pytest.raises(poe.PoeError, match="expected a positive noise level, got"):
        experts.PixelMixture((4, 4), ("a",), torch.tensor(level), channels=2, blocks=1)


def test_a_product_of_the_families_is_saved_bit_for_bit(
    product: poe.Product, tmp_path: Path
) -> None:
    poe.io.save(product, tmp_path / "joint")
    loaded = poe.io.load(tmp_path / "joint")
    x = images()
    assert torch.equal(loaded(x), product(x))
    assert torch.equal(loaded.contributions(x), product.contributions(x))
    assert loaded.names == product.names
    first = loaded.experts[0]
    assert first.conditional.labels == ("0", "1", "2")
    generator = torch.Generator().manual_seed
    drawn, expected = (e.experts[0].sample(2, generator=generator(0)) for e in (loaded, product))
    assert torch.equal(drawn, expected)
    # The flow appears twice in the product: its weights are shared in the loaded one too.
    slants = [part for part in loaded.modules() if isinstance(part, poe.Given)][1::2]
    assert slants[0].conditional is slants[1].conditional


def test_other_levels_labels_and_precision_are_saved_too(
    families: tuple[experts.NoisyConditional, ...], tmp_path: Path
) -> None:
    levels = torch.tensor([0.2, 0.4, 0.8], dtype=torch.float64)
    for i, model in enumerate(families):
        expert = model.double().at_noise_level(levels).given(torch.tensor([0, 1, 0]))
        poe.io.save(expert, tmp_path / str(i))
        loaded = poe.io.load(tmp_path / str(i))
        assert type(loaded) is type(expert)
        assert torch.equal(loaded(images().double()), expert(images().double()))
        assert torch.equal(loaded.conditional.noise_level, levels)


@seeded()
def test_a_neural_energy_is_saved(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.SiLU(), nn.Linear(4, 1), nn.Flatten(0))
    expert, x = experts.NeuralEnergy(net, poe.Real(2)), torch.randn(3, 2)
    poe.io.save(expert, tmp_path)
    assert torch.equal(poe.io.load(tmp_path)(x), expert(x))
