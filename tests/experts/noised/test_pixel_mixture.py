"""The autoregressive density: causal, normalised, and sampled exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from experts.noised.pixel_mixture import draw
from tests.seeds import seeded

Randomize = Callable[[nn.Module], None]
LABELS = ("a", "b", "c")


def make(shape: tuple[int, int], noise_level: float = 0.1) -> experts.PixelMixture:
    return experts.PixelMixture(
        shape, LABELS, noise_level, channels=4, blocks=2, components=3
    ).double()


def images(count: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


@seeded()
def test_each_pixel_depends_on_those_before_it_and_on_no_other(randomize: Randomize) -> None:
    model = make((3, 4))
    randomize(model)
    label, level = torch.tensor([1]), model.noise_level[None]

    def parameters(x: Tensor) -> Tensor:
        return model.net(x, label, level).flatten(2)[0]

    jacobian = torch.autograd.functional.jacobian(parameters, images(1, 3, 4))
    depends = jacobian.reshape(-1, 12, 12).abs().amax(0) > 0
    assert torch.equal(depends, torch.ones(12, 12).tril(-1).bool())


@seeded()
def test_far_pixels_are_hidden_by_the_masks_of_all_layers(randomize: Randomize) -> None:
    """On an image wider and higher than the first kernel: nothing later than the pixel leaks in."""
    model = make((8, 14))
    randomize(model)
    x = images(1, 8, 14).requires_grad_()
    label, level = torch.tensor([0]), model.noise_level[None]
    for row, column in [(0, 0), (3, 13), (5, 6), (7, 0)]:
        value = model.net(x, label, level)[0, :, row, column].square().sum()
        (gradient,) = torch.autograd.grad(value, x, materialize_grads=True)
        place = row * 14 + column
        assert not gradient.flatten()[place:].any()
        assert gradient.flatten()[:place].any() or place == 0


@seeded()
def test_pixels_one_by_one_give_what_the_whole_network_gives(randomize: Randomize) -> None:
    model = make((7, 5))
    randomize(model)
    x, label = images(3, 7, 5), torch.tensor([0, 2, 1])
    level = model.noise_level.expand(3)
    embedding = model.net.embed(label, level)
    seen, expected = model.net.blank(x), model.net(x, label, level)
    _, reach, top, _ = model.net.first.around
    for row, column in itertools.product(range(7), range(5)):
        found = model.net.pixel(seen, embedding, row, column)[..., 0, 0]
        torch.testing.assert_close(found, expected[..., row, column], rtol=1e-12, atol=1e-12)
        seen[0][:, 0, row + top, column + reach] = x[:, row, column]


@pytest.mark.parametrize("label", ["a", "c"])
@seeded()
def test_two_pixels_integrate_to_one_and_have_the_moments_of_the_samples(
    label: str, randomize: Randomize, check_two_pixels: Callable[[poe.Expert], None]
) -> None:
    model = make((1, 2), noise_level=0.4)
    randomize(model)
    check_two_pixels(model.given(label))


@seeded()
def test_a_column_of_two_pixels_too(
    randomize: Randomize, check_two_pixels: Callable[[poe.Expert], None]
) -> None:
    """The second pixel lies in the next row: what it sees was carried there pixel by pixel."""
    model = make((2, 1), noise_level=0.4)
    randomize(model)
    turned = poe.Real((1, 2))

    class Turned(poe.Expert):
        space = turned

        def forward(self, x: Tensor) -> Tensor:
            return model.given("b")(x.mT)

        def sample(self, num_samples: int, *, generator: torch.Generator) -> Tensor:
            return model.given("b").sample(num_samples, generator=generator).mT

    check_two_pixels(Turned())


@seeded()
def test_the_density_is_the_product_of_the_mixtures(randomize: Randomize) -> None:
    model = make((2, 3))
    randomize(model)
    x, label = images(4, 2, 3), torch.tensor([0, 1, 2, 0])
    weight, mean, scale = model.mixture(x, label, model.noise_level.expand(4))
    normal = torch.distributions.Normal(mean, scale).log_prob(x[:, None])
    expected = (weight + normal).logsumexp(1).sum((-2, -1))
    torch.testing.assert_close(model.given(label).log_prob(x), expected)


@seeded()
def test_no_conditional_is_narrower_than_the_noise(randomize: Randomize) -> None:
    model = make((3, 3), noise_level=0.25)
    randomize(model)
    _, _, scale = model.mixture(images(5, 3, 3), torch.zeros(5).long(), torch.full((5,), 0.25))
    assert scale.min() >= 0.25


def test_draws_of_a_mixture_have_its_weights() -> None:
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    size = (40_000, 3, 1, 1)
    mean = torch.tensor([-10.0, 0.0, 10.0], dtype=torch.float64).view(1, 3, 1, 1).expand(size)
    log_weight = weights.log().view(1, 3, 1, 1).expand(size)
    x = draw(log_weight, mean, torch.ones(size), torch.Generator().manual_seed(0)).flatten()
    rates = torch.stack([x < -5, x.abs() <= 5, x > 5]).double().mean(1)
    z = (rates - weights) / (weights * (1 - weights) / len(x)).sqrt()
    assert z.abs().max() < 4, z


@seeded()
def test_the_same_seed_gives_the_same_bits_and_the_global_generator_is_left_alone() -> None:
    expert = make((4, 4)).given("a")
    before = torch.random.get_rng_state()
    first, second, other = (
        expert.sample(3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.equal(expert.sample(3), expert.sample(3))
    assert torch.equal(before, torch.random.get_rng_state())


@seeded()
def test_a_batch_of_labels_is_each_label_alone(randomize: Randomize) -> None:
    model = make((4, 4))
    randomize(model)
    x = images(3, 4, 4)
    together = model.given(torch.tensor([2, 0, 1])).log_prob(x)
    alone = [model.given(label).log_prob(x[i]) for i, label in enumerate(["c", "a", "b"])]
    torch.testing.assert_close(together, torch.stack(alone))
    assert len({model.given(label)(x[0]).item() for label in LABELS}) == 3


@seeded()
def test_samples_of_a_batch_of_labels_are_those_of_each_label(randomize: Randomize) -> None:
    model = make((4, 4))
    randomize(model)

    def sample(condition: Tensor) -> Tensor:
        return model.given(condition).sample(2, generator=torch.Generator().manual_seed(3))

    mixed = sample(torch.tensor([0, 2]))
    torch.testing.assert_close(mixed[0], sample(torch.tensor(0))[0])
    torch.testing.assert_close(mixed[1], sample(torch.tensor(2))[1])
    assert not torch.allclose(mixed[1], sample(torch.tensor(0))[1])


@seeded()
def test_any_batch_shape() -> None:
    model = make((4, 4))
    expert = model.given("a")
    x = images(6, 4, 4)
    torch.testing.assert_close(expert(x.reshape(2, 3, 4, 4)), expert(x).reshape(2, 3))
    assert expert(x[0]).shape == ()
    assert expert(x[:0]).shape == (0,)
    assert expert.sample(0).shape == (0, 4, 4)


@seeded()
def test_precision_and_device_follow_the_model() -> None:
    model = make((4, 4))
    x = images(3, 4, 4)
    exact = model.given("b")(x)
    assert exact.dtype == model.given("b").sample(2).dtype == torch.float64
    model.float()
    assert model.given("b").sample(2).dtype == torch.float32
    torch.testing.assert_close(model.given("b")(x.float()), exact.float(), rtol=1e-4, atol=1e-4)
    on_meta = model.given("b").to("meta")
    assert on_meta(torch.empty(3, 4, 4, device="meta")).shape == (3,)
