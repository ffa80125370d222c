"""The networks of neural energies: smooth, integrable, and the same function at every call."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from experts.neural.spectral_norm import normalize_spectrally, power_iterate
from tests.seeds import seeded

SILU_SLOPE = 1.0999
"""The largest slope of SiLU."""


@seeded()
def perceptron(**settings: object) -> experts.neural.MultilayerPerceptron:
    return experts.neural.MultilayerPerceptron((3,), (16, 16), **settings).double()  # type: ignore[arg-type]


@seeded()
def residual(**settings: object) -> experts.neural.ResidualNetwork:
    return experts.neural.ResidualNetwork((8, 8), (4, 8), **settings).double()  # type: ignore[arg-type]


def rows(n: int, *shape: int) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, *shape, generator=g, dtype=torch.float64)


@seeded()
def test_a_perceptron_is_its_formula() -> None:
    net, x = perceptron(spread=2.0), rows(4, 3)
    first, _, second, _, last = net.layers
    silu = nn.functional.silu
    expected = last(silu(second(silu(first(x)))))[:, 0] - x.square().sum(-1) / 8
    torch.testing.assert_close(net(x), expected)


@seeded()
def test_a_residual_network_is_its_formula() -> None:
    net, x = residual(spread=2.0), rows(4, 8, 8)
    silu = nn.functional.silu
    halve, block, halve_again, last_block = net.stages
    h = halve(x[:, None])
    h = halve_again(h + block.second(silu(block.first(silu(h)))))
    h = h + last_block.second(silu(last_block.first(silu(h))))
    expected = net.last(silu(h).flatten(1))[:, 0] - x.square().sum((-2, -1)) / 8
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize(("make", "shape"), [(perceptron, (3,)), (residual, (8, 8))])
@seeded()
def test_the_reference_wins_far_away(make: object, shape: tuple[int, ...]) -> None:
    """f(rt) / r² tends to −|t|² / 2s², whatever the direction t; without it f may grow."""
    away = rows(20, *shape)
    far = 1e6 * away
    slope = make(spread=3.0)(far) / 1e12  # type: ignore[operator]
    torch.testing.assert_close(slope, -away.flatten(1).square().sum(-1) / 18, rtol=1e-4, atol=0)
    assert make(spread=None)(far).max() > 0  # type: ignore[operator]


@pytest.mark.parametrize(("make", "shape"), [(perceptron, (3,)), (residual, (8, 8))])
@seeded()
def test_the_hessian_changes_in_proportion_to_the_step(
    make: object, shape: tuple[int, ...]
) -> None:
    """With activations of straight pieces it would be constant next to x."""
    net = make(spread=None)  # type: ignore[operator]
    place, step = 1e-4 * rows(2, *shape) + torch.tensor([[[0.3]], [[1e-3]]]).view(
        2, *[1] * len(shape)
    )

    def hessian(x: Tensor) -> Tensor:
        return torch.autograd.functional.hessian(lambda y: net(y), x)

    near, nearer = (hessian(place + size * step) - hessian(place) for size in (1.0, 0.5))
    assert near.abs().max() > 1e-9
    torch.testing.assert_close(nearer, near / 2, rtol=2e-2, atol=1e-2 * float(near.abs().max()))


@seeded()
def test_spectral_normalisation_bounds_the_slope() -> None:
    """Every layer has Lipschitz constant 1, SiLU 1.1, so the score at most 1.1²."""
    net = perceptron(spread=None, spectral_norm=True)
    for _ in range(100):
        power_iterate(net)
    for layer in net.layers[::2]:
        assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1.0, rel=1e-6)
    score = experts.NeuralEnergy(net, poe.Real(3)).score(10 * rows(200, 3))
    assert score.norm(dim=-1).max() <= SILU_SLOPE**2
    loose = perceptron(spread=None)
    with torch.no_grad():
        for layer in loose.layers[::2]:
            layer.weight.mul_(10.0)
    score = experts.NeuralEnergy(loose, poe.Real(3)).score(rows(200, 3))
    assert score.norm(dim=-1).max() > SILU_SLOPE**2  # so the bound is one


@pytest.mark.parametrize("training", [True, False])
@seeded()
def test_power_iteration_is_no_side_effect_of_a_call(training: bool) -> None:
    net = residual(spectral_norm=True).train(training)
    x, before = rows(2, 8, 8), copy.deepcopy(net.state_dict())
    first = net(x)
    assert torch.equal(net(x), first)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    with torch.no_grad():
        net.last.parametrizations.weight.original.add_(rows(1, 32))  # as an update would
    power_iterate(net)
    changed = {n for n, value in net.state_dict().items() if not torch.equal(before[n], value)}
    assert any(name.endswith(("_u", "_v")) for name in changed)


@seeded()
def test_power_iteration_leaves_other_networks_alone() -> None:
    net = perceptron()
    before = copy.deepcopy(net.state_dict())
    power_iterate(net)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@seeded()
def test_any_network_can_be_normalised() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.SiLU(), nn.Flatten(), nn.Linear(12, 1)).double()
    normalize_spectrally(net)
    x = rows(2, 1, 4, 4)
    assert torch.equal(net(x), net(x))
    for _ in range(100):
        power_iterate(net)
    kernel = net[0].weight.flatten(1)
    assert torch.linalg.matrix_norm(kernel, 2).item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
@seeded()
def test_saved_and_loaded_to_the_same_bits(training: bool, tmp_path: Path) -> None:
    for net, shape in (
        (perceptron(spectral_norm=True), (3,)),
        (residual(spectral_norm=True), (8, 8)),
        (residual(blocks=2, spread=None), (8, 8)),
    ):
        expert = experts.NeuralEnergy(net, poe.Real(shape)).train(training)
        poe.save(expert, tmp_path / "expert")
        loaded, x = poe.load(tmp_path / "expert"), rows(3, *shape)
        assert torch.equal(loaded(x), expert(x))
        assert torch.equal(loaded.train()(x), expert(x))
        power_iterate(loaded)
        power_iterate(expert)
        assert torch.equal(loaded(x), expert(x))


def test_sides_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(poe.ShapeError, match=r"divisible by 4, one halving.*got \(6, 8\): pad"):
        experts.neural.ResidualNetwork((6, 8), (4, 8))
    with pytest.raises(poe.ShapeError, match=r"expected images .*got \(8,\)"):
        experts.neural.ResidualNetwork((8,), (4,))


@seeded()
def noisy(noise_level: float = 0.2) -> experts.NoisyEnergy:
    return experts.NoisyEnergy(
        (8, 8), ["a", "b"], noise_level, channels=(4, 8), spread=0.5
    ).double()


@pytest.mark.parametrize("noise_level", [0.05, 2.0])
@seeded()
def test_an_energy_per_noise_level_is_its_formula(noise_level: float) -> None:
    model, x, label = noisy(noise_level), rows(3, 8, 8), torch.tensor([0, 1, 0])
    total = (0.25 + noise_level**2) ** 0.5
    embedding = model.embed(label, torch.full((3,), noise_level, dtype=torch.float64))
    h = x[:, None] / total
    for halve, block in zip(model.halving, model.blocks, strict=True):
        h = halve(h)
        gain, shift = block.film(embedding)[:, :, None, None].chunk(2, 1)
        inner = block.first(nn.functional.silu(h)) * (1 + gain) + shift
        h = h + block.second(nn.functional.silu(inner))
    g = model.last(nn.functional.silu(h).flatten(1))[:, 0]
    expected = -x.square().sum((-2, -1)) / (2 * total**2) + g * total / noise_level
    torch.testing.assert_close(model.given(label)(x), expected)


@seeded()
def test_each_chain_may_have_its_own_level() -> None:
    model, x = noisy(), rows(2, 8, 8)
    levels = torch.tensor([0.1, 0.7], dtype=torch.float64)
    alone = [model.at_noise_level(float(s)).given("b")(x[i]) for i, s in enumerate(levels)]
    torch.testing.assert_close(model.at_noise_level(levels).given("b")(x), torch.stack(alone))


def test_an_energy_per_noise_level_is_saved_and_loaded(tmp_path: Path) -> None:
    poe.save(noisy(), tmp_path / "expert")
    x = rows(2, 8, 8)
    assert torch.equal(poe.load(tmp_path / "expert").given("b")(x), noisy().given("b")(x))
