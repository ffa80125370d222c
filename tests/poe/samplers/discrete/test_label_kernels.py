"""Kernels on labels by pairs and fields: enumeration, exact draws, and known mistakes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import experts
import poe
from experts import Categorical, Potts
from poe.density.adapt import Uniform
from poe.density.capabilities import LabelPairs, label_pairs
from poe.normalizers.enumeration import states
from poe.samplers import ChromaticGibbs, Gibbs, LabelClusters, ParallelTempering
from poe.samplers.discrete.chromatic import SitesNoise
from poe.samplers.discrete.clusters import LabelClusterNoise
from poe.samplers.kernel import Kernel
from poe.samplers.path import geometric_path
from poe.samplers.questions import at_level
from poe.testing import LawError
from tests.laws.discrete import exact_draws
from tests.laws.kernels import check_kernel, check_reaches_all

CHAINS = 40_000


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TRIANGLES = [[0, 1, 2, 2, 3], [1, 2, 0, 3, 4]]
TARGETS: dict[str, Callable[[], poe.Expert]] = {
    "attractive": lambda: Potts.grid((2, 3), 0.9, 3, periodic=True),
    "a field": lambda: Potts.grid((2, 3), 0.9, 3, [0.4, 0.0, -0.2]),
    "x classes": lambda: Potts.grid((2, 3), 0.7, 3) ** 1.5 * Categorical(randn(2, 3, 3, seed=1)),
    "triangles": lambda: Potts(TRIANGLES, randn(5, seed=2).abs(), randn(5, 3, seed=3), 5, 3),
    "a pair twice": lambda: Potts([[0, 1, 1], [1, 0, 2]], [0.5, 0.2, 0.7], 0.1, 4, 4),
}
REPULSIVE: dict[str, Callable[[], poe.Expert]] = {
    "couplings of both signs": lambda: Potts(TRIANGLES, randn(5, seed=4), randn(5, 3, seed=5), 5, 3)
}
KERNELS: dict[str, type[ChromaticGibbs] | type[LabelClusters]] = {
    "colours": ChromaticGibbs,
    "clusters": LabelClusters,
}
CASES = [
    pytest.param(KERNELS[kernel], target, id=f"{kernel}, {name}")
    for kernel in KERNELS
    for name, target in (TARGETS | (REPULSIVE if kernel == "colours" else {})).items()
]
each_case = pytest.mark.parametrize(("kind", "build"), CASES)


def of(kind: type[ChromaticGibbs] | type[LabelClusters], target: poe.Expert) -> Kernel:
    found = label_pairs(target)
    assert found is not None
    return kind(found)


@pytest.mark.law
@each_case
def test_invariance(
    kind: type[ChromaticGibbs] | type[LabelClusters], build: Callable[[], poe.Expert]
) -> None:
    target, g = build(), torch.Generator().manual_seed(2)
    exact = exact_draws(target, torch.Generator().manual_seed(3))
    check_kernel(of(kind, target), target, exact, num_steps=4, generator=g)


@pytest.mark.law
@each_case
def test_every_state_is_reached_and_each_step_accepted(
    kind: type[ChromaticGibbs] | type[LabelClusters], build: Callable[[], poe.Expert]
) -> None:
    target, g = build(), torch.Generator().manual_seed(0)
    kernel = of(kind, target)
    check_reaches_all(kernel, target, g)
    exact = exact_draws(target, g, 1000)
    state, info = kernel.step(target, kernel.init(target, exact), generator=g)
    assert info.is_accepted.all()
    torch.testing.assert_close(state.log_density, target(state.position))


@pytest.mark.law
@pytest.mark.parametrize("kind", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("mistake", ["couplings", "fields"])
def test_a_kernel_of_other_pairs_is_caught(
    kind: type[ChromaticGibbs] | type[LabelClusters], mistake: str
) -> None:
    target = TARGETS["triangles"]()
    pairs = label_pairs(target)
    assert pairs is not None
    wrong = pairs._replace(**{mistake: 1.2 * getattr(pairs, mistake)})
    exact = exact_draws(target, torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(2)
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check_kernel(kind(wrong), target, exact, num_steps=4, generator=g)


def test_one_step_of_clusters_by_hand() -> None:
    """Three sites in a row of labels 0, 0, 1, J = 1, field log 2 for label 1 of the last."""
    target = Potts([[0, 1], [1, 2]], 1.0, [[0.0, 0.0], [0.0, 0.0], [0.0, 2.0**0.5]], 3, 2)
    kernel, x = of(LabelClusters, target), torch.tensor([[0, 0, 1], [0, 0, 1]])
    # The first pair is joined where u < 1 − e⁻¹ = 0.632; the second differs, and never is. Labels:
    # 0 where u < ½, but of the last site where u < 1 / (1 + exp(√2)) = 0.196.
    bonds = torch.tensor([[0.62, 0.0], [0.64, 0.0]])
    sites = torch.tensor([[0.51, 0.0, 0.19], [0.49, 0.51, 0.2]])
    state, _ = kernel.transition(target, kernel.init(target, x), LabelClusterNoise(bonds, sites))  # type: ignore[attr-defined]
    assert state.position.tolist() == [[1, 1, 0], [0, 1, 1]]


def test_one_step_by_colours_by_hand() -> None:
    """A path of three: the ends are drawn given the middle, then the middle given both."""
    target = Potts([[0, 1], [1, 2]], [1.0, -1.0], 0.0, 3, 2)
    kernel, x = of(ChromaticGibbs, target), torch.tensor([[0, 0, 0]])
    # p(x₀ = 0) = e / (1 + e) = 0.731, p(x₂ = 0) = 0.269; the ends 1 and 0 both push x₁ to 1, of
    # which the probability of 0 is 1 / (1 + e²) = 0.119.
    noise = SitesNoise(torch.tensor([[0.74, 0.12, 0.26]]))
    state, _ = kernel.transition(target, kernel.init(target, x), noise)  # type: ignore[attr-defined]
    assert state.position.tolist() == [[1, 1, 0]]


def test_the_pairs_of_compositions() -> None:
    potts, classes = TARGETS["a field"](), Categorical(randn(2, 3, 3, seed=0))
    compositions = (potts, potts**0.3 * classes, poe.Product(potts, classes**-1.0) ** 2, classes)
    for target in (*compositions, Uniform(potts.space)):
        found, x = label_pairs(target), states(target.space)
        assert found is not None
        fields = found.fields.reshape(2, 3, 3)
        gap = target(x) - Potts(found.edges, found.couplings, fields, (2, 3), 3)(x)
        torch.testing.assert_close(gap, gap[:1].expand_as(gap), rtol=0, atol=1e-5)
    other = poe.FromLogDensity(lambda x: x[:, 0, 0].float(), space=potts.space)
    assert label_pairs(other) is None
    assert label_pairs(other * potts) is None


def test_sample_chooses_clusters_where_they_move() -> None:
    g = torch.Generator().manual_seed(0)
    grid = Potts.grid((14, 14), 1.0, 3, [0.1, 0.0, 0.0])
    pulled = Potts.grid((14, 14), 1.0, 3) * Categorical(randn(14, 14, 3, seed=0))
    for target, kernel in ((grid, LabelClusters), (pulled, ChromaticGibbs)):
        draws = poe.sample(target, 40, num_chains=4, warmup=5, generator=g, progress=False)
        assert isinstance(draws.kernel, kernel)
        assert draws.guarantee == "asymptotically exact"


@pytest.mark.law
@pytest.mark.parametrize("name", ["a field", "x classes"])
def test_log_z_by_either_is_within_its_error(name: str) -> None:
    target = TARGETS[name]()
    truth, z = poe.log_partition(target).value, []
    for seed in range(8):
        found = poe.log_partition(
            target,
            method=poe.normalizers.AIS(256),
            start=Uniform(target.space),
            generator=torch.Generator().manual_seed(seed),
        )
        z.append((found.value - truth) / found.std_error)
    assert torch.stack(z).abs().max() < 4
    assert torch.stack(z).mean().abs() < 4 / 8**0.5


def test_levels_have_their_own_pairs() -> None:
    target, start = TARGETS["attractive"](), Potts.grid((2, 3), -1.0, 3)
    for kernel in (of(ChromaticGibbs, target), of(LabelClusters, target)):
        for begin, temperature, expected in (
            (Uniform(target.space), 0.5, type(kernel)),
            (start, 0.2, ChromaticGibbs),  # its pairs should still differ
        ):
            path = geometric_path(begin, target)
            found = at_level(kernel, path.at(temperature))
            assert type(found) is expected
            x = states(target.space)
            edges, couplings, fields = found.pairs  # type: ignore[attr-defined]
            model = Potts(edges, couplings, fields.reshape(2, 3, 3), (2, 3), 3)
            gap = model(x) - path.log_density(path.evaluate(x, with_score=False), temperature)
            torch.testing.assert_close(gap, gap[:1].expand_as(gap), rtol=0, atol=1e-5)
    other = poe.FromLogDensity(lambda x: x[:, 0, 0].float(), space=target.space)
    path = geometric_path(other, target)
    assert isinstance(at_level(of(LabelClusters, target), path.at(0.5)), Gibbs)


def test_what_they_cannot_draw_from_is_refused() -> None:
    repulsive = label_pairs(REPULSIVE["couplings of both signs"]())
    with pytest.raises(poe.PoeError, match=r"couplings of at least 0, got -.*ChromaticGibbs"):
        LabelClusters(repulsive)  # type: ignore[arg-type]
    ising = experts.Ising.grid((2, 2), 0.1)
    for kind in KERNELS.values():
        with pytest.raises(poe.PoeError, match=r"expected LabelPairs, got NoneType: .* use Gibbs"):
            kind(label_pairs(ising))  # type: ignore[arg-type]
    target, other = TARGETS["attractive"](), Potts.grid((2, 2), 0.1, 3)
    for kind in KERNELS.values():
        kernel, g = of(kind, target), torch.Generator().manual_seed(0)
        state = kernel.init(other, torch.zeros(4, 2, 2, dtype=torch.long))
        with pytest.raises(poe.ShapeError, match=r"of 6 elements.*got \(4, 2, 2\)"):
            kernel.step(other, state, generator=g)
        with pytest.raises(poe.PoeError, match="built for one density"):
            ParallelTempering(Uniform(target.space), kernel, (0.0, 1.0))


@pytest.mark.parametrize("kind", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_positions_keep_their_dtype(
    kind: type[ChromaticGibbs] | type[LabelClusters], dtype: torch.dtype
) -> None:
    target, g = TARGETS["a field"](), torch.Generator().manual_seed(0)
    kernel, x = of(kind, target), torch.ones(3, 2, 3, dtype=dtype)
    state, _ = kernel.step(target, kernel.init(target, x), generator=g)
    assert state.position.dtype == dtype
    assert target.space.contains(state.position).all()


def test_clusters_go_through_the_shapes_on_meta() -> None:
    target = Potts.grid((3, 3), 0.4, 3).to("meta")
    pairs = label_pairs(target)
    assert isinstance(pairs, LabelPairs)
    kernel, x = LabelClusters(pairs), torch.empty(5, 3, 3, device="meta")
    noise = LabelClusterNoise(torch.empty(5, 12, device="meta"), torch.empty(5, 9, device="meta"))
    state, _ = kernel.transition(target, kernel.state_at(target, x), noise)
    assert state.position.device.type == "meta"
    assert state.position.shape == (5, 3, 3)
