"""Neural energies: any network, and the conditional one of noised images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from tests.seeds import seeded

Randomize = Callable[[nn.Module], None]


def make(noise_level: float = 0.2) -> experts.ReconstructionEnergy:
    return experts.ReconstructionEnergy(
        (4, 8), ("thin", "thick", "any"), noise_level, channels=2, spread=0.3
    ).double()


def images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 4, 8, generator=generator, dtype=torch.float64)


@seeded()
def test_the_log_density_is_the_output_of_the_network() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1), nn.Flatten(0))
    expert, x = experts.NeuralEnergy(net, poe.Real(2)), torch.randn(3, 2)
    assert torch.equal(expert(x), net(x))
    assert torch.equal(expert.energy(x), -net(x))
    assert expert.double()(x.double()).dtype == torch.float64


@seeded()
def test_a_network_with_another_output_is_refused() -> None:
    expert = experts.NeuralEnergy(nn.Linear(2, 1), poe.Real(2))
    with pytest.raises(poe.ShapeError, match=r"shape \(3,\).*got \(3, 1\)"):
        expert(torch.zeros(3, 2))


@seeded()
def test_there_is_no_normaliser() -> None:
    for expert in (experts.NeuralEnergy(nn.Identity(), poe.Real(())), make().given("thin")):
        assert not poe.density.capabilities.is_normalized(expert)
        with pytest.raises(AttributeError, match="normaliser is not known"):
            _ = expert.log_prob


@pytest.mark.parametrize("noise_level", [0.05, 0.2, 3.0])
@seeded()
def test_the_energy_is_the_distance_to_the_reconstruction(
    noise_level: float, randomize: Randomize
) -> None:
    """The formula of the docstring, term by term."""
    model = make(noise_level)
    randomize(model)
    x, label, s, sigma = images(3), torch.tensor([0, 1, 0]), 0.3, noise_level
    total = s**2 + sigma**2
    level = torch.full((3,), sigma, dtype=torch.float64)
    embedding = model.embed(level)
    r = model.net(x / total**0.5, embedding)
    reconstruction = (s**2 * x + sigma * s * total**0.5 * r) / total
    expected = -(x - reconstruction).square().sum((-2, -1)) / (2 * sigma**2)
    torch.testing.assert_close(model.given("any")(x), expected)
    logits = model.posterior(x / total**0.5, model.embed_for_posterior(level))
    posterior = logits.log_softmax(-1)[torch.arange(3), label]
    torch.testing.assert_close(model.given(label)(x), expected + posterior)


@seeded()
def test_any_is_the_exact_marginal(randomize: Randomize) -> None:
    model = make()
    randomize(model)
    x = images(5)
    each = torch.stack([model.given("thin")(x), model.given("thick")(x)])
    torch.testing.assert_close(each.logsumexp(0), model.marginal()(x))
    assert (each[0] - each[1]).abs().min() > 1e-3


def test_any_is_the_last_label() -> None:
    for labels in (["a"], ["any", "a"], []):
        with pytest.raises(poe.PoeError, match="'any' as the last label, got"):
            experts.ReconstructionEnergy((4, 4), labels, 0.1)


@seeded()
def test_the_score_is_smooth_and_a_gradient_field(randomize: Randomize) -> None:
    """The Jacobian of the score is the Hessian of the log-density: finite and symmetric."""
    model = make()
    randomize(model)
    expert = model.given("thick")
    hessian = torch.autograd.functional.hessian(lambda x: expert(x), images(1)[0]).reshape(32, 32)
    assert hessian.abs().min(1).values.max() > 0
    torch.testing.assert_close(hessian, hessian.T)
    step = 1e-6 * images(1)[0]
    change = expert.score(images(1)[0] + step) - expert.score(images(1)[0] - step)
    expected = 2 * hessian @ step.flatten()
    torch.testing.assert_close(change.flatten(), expected, rtol=1e-4, atol=1e-8)
    # With activations of straight pieces the log-density would be quadratic piece by piece, and its
    # Hessian constant next to x: a smooth one changes in proportion to the step.
    place = images(1)[0]
    near, nearer = (
        torch.autograd.functional.hessian(expert, place + size * step).reshape(32, 32) - hessian
        for size in (1.0, 0.5)
    )
    assert near.abs().max() > 1e-9
    torch.testing.assert_close(nearer, near / 2, rtol=1e-2, atol=1e-11)


@seeded()
def test_a_batch_of_labels_is_each_label_alone(randomize: Randomize) -> None:
    model = make()
    randomize(model)
    x = images(2)
    alone = torch.stack([model.given("thick")(x[0]), model.given("thin")(x[1])])
    torch.testing.assert_close(model.given(torch.tensor([1, 0]))(x), alone)
    assert model.given("thick")(x[0]) != model.given("thin")(x[0])


def test_sides_that_cannot_be_halved_twice_are_refused() -> None:
    with pytest.raises(poe.ShapeError, match=r"divisible by 4, got \(6, 8\): pad"):
        experts.ReconstructionEnergy((6, 8), ["any"], 0.1)


@seeded()
def test_shapes_precision_and_device() -> None:
    model = make()
    expert, x = model.given("thin"), images(6)
    torch.testing.assert_close(expert(x.reshape(2, 3, 4, 8)), expert(x).reshape(2, 3))
    assert expert(x[0]).shape == ()
    assert expert(x).dtype == torch.float64
    exact = expert(x)
    torch.testing.assert_close(
        model.float().given("thin")(x.float()).double(), exact, rtol=1e-4, atol=0
    )
    assert expert.to("meta")(torch.empty(3, 4, 8, device="meta")).shape == (3,)


@seeded()
def test_any_label_alone_is_the_marginal_without_a_posterior() -> None:
    labelled, x = make(), images(3)
    alone = experts.ReconstructionEnergy((4, 8), ["any"], 0.2, channels=2, spread=0.3).double()
    assert not any("posterior" in name for name, _ in alone.named_parameters())
    alone.load_state_dict(labelled.state_dict(), strict=False)
    assert torch.equal(alone.given("any")(x), labelled.given("any")(x))
