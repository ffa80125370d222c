"""What the benchmarks measure with: their targets, and the figures they make of draws."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import experts
from tests.seeds import seeded

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts_import_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_scores_are_the_slopes_of_the_log_density(name: str) -> None:
    from targets import TARGETS, as_expert, summed, torch_operations

    target = TARGETS[name]
    g = torch.Generator().manual_seed(0)
    x, direction = torch.randn(2, 5, target.dimension, generator=g, dtype=torch.float64)
    energy = summed(target.energies(torch_operations(torch.float64)))
    step = 1e-5
    slope = -(energy(x + step * direction) - energy(x - step * direction)) / (2 * step)
    along = (as_expert(target).score(x.float()) * direction).sum(-1)
    torch.testing.assert_close(along, slope, rtol=1e-4, atol=1e-3)


def test_the_gaussian_is_the_one_whose_moments_are_given() -> None:
    from targets import TARGETS, summed, torch_operations

    target = TARGETS["a"]
    energy = summed(target.energies(torch_operations(torch.float64)))
    axes = torch.eye(100, dtype=torch.float64)
    precision = energy(axes[:, None] + axes) - energy(axes)[:, None] - energy(axes)
    variance = torch.linalg.inv(precision).diagonal()
    torch.testing.assert_close(variance, torch.tensor(target.variance))
    log_z = 0.5 * (100 * math.log(2 * math.pi) - torch.logdet(precision).item())
    assert log_z == pytest.approx(target.log_partition)


def test_the_ring_has_the_mass_and_the_variance_given() -> None:
    from targets import TARGETS, summed, torch_operations

    target = TARGETS["b"]
    energy = summed(target.energies(torch_operations(torch.float64)))
    # The sum over a grid finer than the modes is exact to rounding.
    axis = torch.arange(-8, 8, 0.1, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    mass = torch.exp(-energy(x)) * 0.01
    assert mass.sum().item() == pytest.approx(math.exp(target.log_partition))
    mean = mass @ x
    torch.testing.assert_close(mass @ (x - mean) ** 2, torch.tensor(target.variance))


def test_dbm_digits_bounds_the_log_probability_of_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """784 fair coins have 784 log 2 = 543.4 nats; a DBM hardly trained can be little better."""
    import dbm_digits
    import rbm_digits

    monkeypatch.setitem(rbm_digits.EPOCHS, 500, 1)
    rows = np.random.default_rng(0).integers(0, 2, (250, 784), dtype=np.uint8)
    train, test = (np.packbits(part, axis=1) for part in (rows[:200], rows[200:]))
    np.savez(tmp_path / "coins.npz", train=train, test=test)
    arguments = f"x {tmp_path / 'coins.npz'} --epochs 1 --levels 20"
    monkeypatch.setattr("sys.argv", arguments.split())
    dbm_digits.main()
    printed = capsys.readouterr().out
    bound = re.findall(r"bound on the log-probability of 50 test rows: (-[\d.]+) ", printed)
    assert -560 < float(bound[0]) < -540
    assert "goal -85.0: not reached" in printed


def test_distorted_digits_are_bits_moved_a_little() -> None:
    """A square of side 12 keeps its middle, about its area, and its place on average."""
    from binary_digits import distorted

    square = torch.zeros(28, 28)
    square[8:20, 8:20] = 1.0
    rows = square.reshape(1, -1).expand(4000, -1)
    moved = distorted(rows, torch.Generator().manual_seed(0)).reshape(-1, 28, 28)
    assert ((moved == 0) | (moved == 1)).all()
    assert moved[:, 13, 13].all()
    area, across = moved.sum((1, 2)), torch.arange(28.0) - 13.5
    z = (area / 144 - 1 - 2 * 0.04**2).mean() / (area / 144).std() * 4000**0.5
    assert abs(z) < 4  # E 1 / (wide high) = 1 + 2 s²
    for sums in (moved.sum(1), moved.sum(2)):
        place = (sums @ across) / area
        assert abs(place.mean()) < 4 * place.std() / 4000**0.5
        assert 0.28 < place.std() < 0.5  # pixels are whole: that adds to the shift's 0.28


def test_total_variation_of_mode_masses() -> None:
    from effective import mode_masses, total_variation

    means = np.array([[0.0, 0.0], [4.0, 0.0]])
    x = np.array([[[0.1, 1.0], [3.0, 0.0]], [[-5.0, 0.0], [1.9, 0.0]]])  # (chains, draws, 2)
    masses = mode_masses(x, means)
    assert masses.tolist() == [0.75, 0.25]
    assert total_variation(masses, np.array([0.5, 0.5])) == 0.25


def test_ess_sees_the_squares_of_antithetic_draws() -> None:
    from effective import ess

    rng = np.random.default_rng(0)
    independent = rng.standard_normal((20, 500, 1))
    # The sign alternates and the size hardly changes: the mean is known too well, the variance not.
    size = np.abs(rng.standard_normal((20, 1, 1))) + 0.1 * np.abs(independent)
    antithetic = size * np.where(np.arange(500) % 2, 1.0, -1.0)[:, None]
    assert 8000 < ess(independent) < 12000  # of 10,000 independent draws, estimated to some 2 %
    assert ess(antithetic) < 200


def test_composition_metrics_at_exact_points() -> None:
    import composition

    count = 200_000
    x = composition.exact(count, torch.Generator().manual_seed(0))
    # Within three sd in two dimensions; next to all mass is in the two modes.
    expected = math.erf(3 / math.sqrt(2)) ** 2
    error = math.sqrt(expected * (1 - expected) / count)
    assert abs(composition.accuracy(x) - expected) < 4 * error
    # Minus the entropy of two equal Gaussians; log p is −χ²₂/2 + const, of standard deviation 1.
    entropy = math.log(2 * 2 * math.pi * composition.SD**2) + 1
    # A quarter of the ring's mass is in the bar, the rest where it leaks.
    leak = -math.log1p(3 * composition.OUTER / composition.INNER)
    assert abs(composition.log_likelihood(x) + entropy - leak) < 4 / math.sqrt(count)


def test_the_diffused_bar_is_the_bar_in_normal_noise() -> None:
    import composition

    signal = 0.8
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 2, generator=g, dtype=torch.float64)
    sigma = math.sqrt(1 - signal)
    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 1000 - 1  # midpoints in (−1, 1)
    expected = torch.zeros(50, dtype=torch.float64)
    for axis, half in enumerate(composition.BAR):
        means = math.sqrt(signal) * half * grid
        density = torch.exp(-0.5 * ((x[:, axis, None] - means) / sigma) ** 2)
        expected += torch.log(density.mean(1) / (sigma * math.sqrt(2 * math.pi)))
    torch.testing.assert_close(composition.diffused_bar(signal)(x), expected, rtol=1e-5, atol=1e-5)


def test_the_floor_is_the_mean_distance_of_independent_draws() -> None:
    from discrete_kernels import floor_of

    g = torch.Generator().manual_seed(0)
    truth = torch.randn(50, generator=g, dtype=torch.float64).mul(1.5).softmax(0)
    for count in (20, 300):
        draws = torch.multinomial(truth.expand(4000, 50), count, True, generator=g)
        found = torch.zeros(4000, 50, dtype=torch.float64)
        found.scatter_add_(1, draws, torch.full(draws.shape, 1 / count, dtype=torch.float64))
        distances = 0.5 * (found - truth).abs().sum(1)
        error = (distances.std() / 4000**0.5).item()
        assert abs(distances.mean().item() - floor_of(truth, count)) < 4 * error


def test_rbms_of_digits_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import rbm_digits
    from binary_digits import digits

    bits = np.random.default_rng(0).random((300, 784)) < 0.2
    np.savez(tmp_path / "bits.npz", train=np.packbits(bits, 1), test=np.packbits(bits[:100], 1))
    train, test = digits(tmp_path / "bits.npz")
    assert torch.equal(train, torch.from_numpy(bits).to(torch.uint8))
    assert len(test) == 100
    monkeypatch.setattr("sys.argv", ["rbm_digits.py", str(tmp_path / "bits.npz"), "--fast"])
    rbm_digits.main()
    printed = capsys.readouterr().out
    error = float(re.findall(r"log Z \S+ \+- (\S+),", printed)[0])
    off = float(re.findall(r"annealed is off by (\S+)", printed)[0])
    assert abs(off) < 4 * error + 0.002  # printed to three decimals
    scores = [float(s) for s in re.findall(r"log-probability of 100 rows: (\S+)", printed)]
    entropy = 784 * (0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert len(scores) == 2
    assert all(abs(score - entropy) < 10 for score in scores)


@pytest.mark.parametrize("name", ["ours", "ebmkit", "torchebm"])
@seeded()
def test_all_take_the_same_pcd_update(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From chains that are all at 0 and hardly move, the first update is that of one gradient."""
    import pcd_update

    pytest.importorskip({"ebmkit": "ebm", "torchebm": "torchebm"}.get(name, "torch"))
    for setting, value in {"BATCH": 16, "STEPS": 2, "CHAINS": 40, "STEP_SIZE": 1e-10}.items():
        monkeypatch.setattr(pcd_update, setting, value)
    monkeypatch.setattr(pcd_update, "RESEEDED", 0.0)
    monkeypatch.setattr("torch.optim.Adam", lambda weights, _: torch.optim.SGD(weights, 1.0))
    monkeypatch.setattr("experts.Gaussian.sample", lambda *_, **__: torch.zeros(40, 28, 28))
    net = experts.neural.ResidualNetwork((28, 28), (2, 4))
    data = pcd_update.pictures()
    gap = net(torch.zeros_like(data)).mean() - net(data).mean()
    expected = torch.autograd.grad(gap, list(net.parameters()))
    before = [weight.detach().clone() for weight in net.parameters()]
    monkeypatch.setattr(pcd_update, "pictures", lambda: data)
    monkeypatch.setattr("torch.randn", _zeros)
    getattr(pcd_update, name)(net)()
    for old, new, slope in zip(before, net.parameters(), expected, strict=True):
        torch.testing.assert_close(old - new, slope, rtol=1e-2, atol=1e-3)


def _zeros(*shape: object, **_: object) -> torch.Tensor:
    """In the place of torch.randn, for peers that take no start distribution."""
    size = shape[0] if isinstance(shape[0], tuple) else shape
    return torch.zeros(size)  # type: ignore[arg-type]


def test_what_posteriors_read_is_what_is_known_of_them() -> None:
    pytest.importorskip("sklearn")
    from posteriors import POSTERIORS
    from trust_sampling import REFERENCES

    known = json.loads(REFERENCES.read_text())
    assert known.keys() == POSTERIORS.keys()
    generator = torch.Generator().manual_seed(0)
    for name, make in POSTERIORS.items():
        posterior = make()
        u = 0.3 * torch.randn(5, posterior.dimension, generator=generator, dtype=torch.float64)
        log_density, read = posterior.likelihood(torch, u), posterior.read(torch, u)
        alone = torch.stack([posterior.likelihood(torch, each) for each in u])
        assert torch.allclose(log_density, alone), name
        assert {len(values) for values in known[name].values()} == {read.shape[-1]}, name
        if posterior.easier is not None:
            assert known[name] == known[posterior.easier.__name__]
