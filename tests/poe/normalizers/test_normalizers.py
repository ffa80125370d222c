"""Estimates of log Z: within their errors and bounds of the truth, and loud where they fail."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe import normalizers
from poe.core.affine import fit_affine
from poe.diagnostics.weights import tail_index
from poe.normalizers.enumeration import states
from poe.normalizers.mbar import mbar
from poe.normalizers.sides import Sides, group_doubts, share_doubts
from poe.particles.fitted import FittedGaussian, fit_mixture

MAX_Z = 4.0
METHODS = (
    normalizers.MBAR(1024),
    normalizers.SMC(1024),
    normalizers.ThermodynamicIntegration(1024),
    normalizers.ImportanceSampling(4096),
    normalizers.Bridge(1024),
    normalizers.AIS(256),
)
RBM_WEIGHTS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gamma_product(x: Tensor) -> Tensor:
    """Unnormalised Gammas of shape 1, 2, 3, 4 and rate 1."""
    return (torch.arange(4.0) * x.log() - x).sum(-1)


QUARTIC = (
    poe.FromEnergy(lambda x: (x**4).sum(-1), space=poe.Real(6)),
    6 * math.log(2 * math.gamma(1.25)),
)
GAMMAS = (
    poe.FromLogDensity(gamma_product, space=poe.Positive(4)),
    sum(math.lgamma(k) for k in (1, 2, 3, 4)),
)
RBM = (
    poe.FromLogDensity(
        lambda x: torch.nn.functional.softplus(x @ RBM_WEIGHTS).sum(-1), space=poe.Binary(8)
    ),
    None,
)
TARGETS = {"quartic": QUARTIC, "Gammas": GAMMAS, "RBM": RBM}


def truth_of(name: str) -> float:
    target, truth = TARGETS[name]
    return poe.log_partition(target).value.item() if truth is None else truth


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_every_method_is_within_its_error_and_bounds(method: normalizers.Method, name: str) -> None:
    found = poe.log_partition(TARGETS[name][0], method=method, generator=generator(1))
    truth = truth_of(name)
    assert abs(found.value.item() - truth) < MAX_Z * found.std_error.item()
    assert found.std_error < 0.1
    assert found.lower - found.std_error < truth < found.upper + found.std_error
    assert found.is_trusted
    assert found.ess > 100
    assert found.num_evaluations > 1000
    assert ("all states alike" if name == "RBM" else "fitted") in found.method
    assert found.rests_on


@pytest.mark.law
def test_errors_and_bounds_hold_over_many_seeds() -> None:
    target, truth = QUARTIC
    method, runs = normalizers.MBAR(256), 16
    found = [poe.log_partition(target, method=method, generator=generator(s)) for s in range(runs)]
    z = torch.stack([(f.value - truth) / f.std_error for f in found]).double()
    # Student's t of 15 degrees of freedom.
    variance, fourth = 15 / 13, 3 * 15**2 / (13 * 11)
    spread = math.sqrt((fourth - variance**2) / runs)
    assert abs(z.mean()) < MAX_Z * math.sqrt(variance / runs)
    assert z.square().mean() < variance + MAX_Z * spread
    covered = sum(bool(f.lower <= truth <= f.upper) for f in found) / runs
    assert covered > 0.95 - MAX_Z * math.sqrt(0.05 * 0.95 / runs)


def test_a_product_without_a_method_is_estimated_beyond_three_dimensions() -> None:
    prior = experts.Gaussian(torch.zeros(8), scale=2.0)
    likelihood = poe.FromLogDensity(
        lambda x: -0.5 * ((x - 1.0) / 0.5).square().sum(-1), space=poe.Real(8)
    )
    found = poe.log_partition(prior * likelihood, generator=generator())
    one = math.log(0.5 * math.sqrt(2 * math.pi)) - 0.5 * math.log(2 * math.pi * 4.25) - 0.5 / 4.25
    assert "multistate" in found.method
    assert abs(found.value.item() - 8 * one) < MAX_Z * found.std_error.item()
    assert found.std_error < 0.01


@pytest.mark.law
def test_a_start_that_misses_a_mode_is_said() -> None:
    """Half of the mass: from one mode alone the weights are equal, and their error is nil."""
    d = 4
    loc = torch.zeros(d)
    loc[0] = 8.0
    modes = [experts.Gaussian(sign * loc, scale=1.0) for sign in (-1.0, 1.0)]
    target = poe.FromLogDensity((modes[0] | modes[1]).forward, space=poe.Real(d))
    for method in METHODS:
        if isinstance(method, normalizers.Bridge):  # its draws of the target owe nothing to it
            continue
        with pytest.warns(poe.TrustWarning, match="log Z is not to be trusted"):
            found = poe.log_partition(target, method=method, start=modes[0], generator=generator())
        assert not found.is_trusted
    for method in (None, normalizers.Bridge(1024)):
        found = poe.log_partition(target, method=method, generator=generator())
        assert abs(found.value.item()) < MAX_Z * found.std_error.item()
        assert found.is_trusted


def test_a_start_too_narrow_for_importance_sampling_is_said() -> None:
    narrow = experts.Gaussian(torch.zeros(6), scale=0.2)
    with pytest.warns(poe.TrustWarning, match="tail of index"):
        found = poe.log_partition(
            QUARTIC[0],
            method=normalizers.ImportanceSampling(4096),
            start=narrow,
            generator=generator(),
        )
    assert any("broader start" in remark for remark in found.remarks)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    one, two, three = (
        poe.log_partition(GAMMAS[0], method=METHODS[0], generator=generator(seed)).value
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (experts.Gaussian([0.0], scale=[1.0]), "share one space"),
        (poe.FromEnergy(lambda x: x.square().sum(-1), space=poe.Real(6)), "exact draws"),
    ],
)
def test_an_unusable_start_is_refused(start: poe.Expert, message: str) -> None:
    with pytest.raises(poe.PoeError, match=message):
        poe.log_partition(QUARTIC[0], start=start, generator=generator())


def test_exact_methods_that_do_not_apply_are_refused() -> None:
    with pytest.raises(poe.NormalizationError, match="closed form"):
        poe.log_partition(QUARTIC[0], method=normalizers.ClosedForm())
    with pytest.raises(poe.NormalizationError, match="states to sum over"):
        poe.log_partition(QUARTIC[0], method=normalizers.Enumeration())
    with pytest.raises(poe.NormalizationError):
        poe.log_partition(QUARTIC[0], method=normalizers.Quadrature())
    with pytest.raises(poe.PoeError, match="substeps"):
        normalizers.AIS(substeps=0)


def test_an_infinite_start_of_the_integrand_is_refused_by_integration() -> None:
    half = poe.FromLogDensity(
        lambda x: (-x.square().sum(-1)).masked_fill(x[..., 0] < 0, -torch.inf), space=poe.Real(4)
    )
    start = experts.Gaussian(torch.zeros(4), scale=1.0)
    method = normalizers.ThermodynamicIntegration(512)
    with pytest.raises(poe.NormalizationError, match="inside the target's support"):
        poe.log_partition(half, method=method, start=start, generator=generator())
    found = poe.log_partition(half, start=start, generator=generator())
    truth = 2 * math.log(math.pi) - math.log(2)
    assert abs(found.value.item() - truth) < MAX_Z * found.std_error.item()
    assert found.is_trusted
    assert found.lower < truth < found.upper


def test_mbar_of_three_gaussians_and_its_error() -> None:
    """log Z of exp(−x²/2s²) is log s + a constant; the errors are those over many runs."""
    scales, runs = torch.tensor([1.0, 1.5, 2.5], dtype=torch.float64), 100
    scores = []
    for seed in range(runs):
        noise = torch.randn(3, 20, 50, generator=generator(seed), dtype=torch.float64)
        x = (scales[:, None, None] * noise).permute(1, 0, 2).reshape(20, 150)
        log_densities = -0.5 * (x / scales[:, None, None]).square()
        found = mbar(log_densities, torch.tensor([50, 50, 50]))
        scores.append((found.log_z[-1] - scales[-1].log()) / found.std_error)
    z = torch.stack(scores)
    assert abs(z.mean()) < MAX_Z / math.sqrt(runs)
    assert abs(z.square().mean() - 1.1) < MAX_Z * math.sqrt(2.5 / runs)


def test_mbar_of_densities_that_do_not_overlap_is_refused() -> None:
    apart = torch.full((2, 4, 6), -torch.inf)
    apart[0, :, :3], apart[1, :, 3:] = 0.0, 0.0
    with pytest.raises(poe.NormalizationError, match="overlap"):
        mbar(apart, torch.tensor([3, 3]))


def test_fitted_densities_are_normalised_and_sampled() -> None:
    g = generator()
    x = torch.cat([torch.randn(400, 2, generator=g), 5 + 0.5 * torch.randn(400, 2, generator=g)])
    for fitted in (
        FittedGaussian(fit_affine(x), poe.Real(2)),
        fit_mixture(x, 2, poe.Real(2), g),
    ):
        assert abs(poe.log_partition(fitted, method=normalizers.Quadrature()).value) < 1e-4
        drawn = fitted.sample(40_000, generator=g)
        error = x.std(0) * math.sqrt(1 / 40_000 + 1e-4)  # the ridge moves means a little
        assert ((drawn.mean(0) - x.mean(0)).abs() < MAX_Z * error).all()


def test_unequal_shares_are_told_and_equal_ones_are_not() -> None:
    g = generator()
    settled = torch.randn(8, 128, generator=g)
    assert share_doubts(settled, 32) == []
    assert len(share_doubts(settled + torch.tensor([3.0] + [0.0] * 7)[:, None], 32)) == 1
    assert share_doubts(torch.full((8, 128), -torch.inf), 32) == []


def test_a_target_that_is_its_own_start_is_not_doubted() -> None:
    target = experts.Ising.grid((4, 4), coupling=0.3)  # small enough to be sampled exactly
    found = poe.log_partition(target, method=normalizers.MBAR(512), generator=generator())
    assert found.is_trusted
    assert (found.value - poe.log_partition(target).value).abs() <= MAX_Z * found.std_error


@pytest.mark.law
def test_no_phase_of_a_lattice_is_lost() -> None:
    # A 6 x 6 torus has two phases of equal mass: without one of them log Z is short of log 2.
    coupling, n = 0.6, 6

    def log_density(x: Tensor) -> Tensor:
        s = 2 * x - 1
        return coupling * (s * s.roll(1, -1) + s * s.roll(1, -2)).sum((-2, -1))

    rows = 2 * states(poe.Binary(n)).double() - 1
    within = coupling * (rows * rows.roll(1, 1)).sum(1)
    transfer = (coupling * rows @ rows.mT + 0.5 * (within[:, None] + within)).exp()
    truth = torch.linalg.eigvalsh(transfer).pow(n).sum().log()
    target = poe.FromLogDensity(log_density, space=poe.Binary((n, n)))
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        found = poe.log_partition(target, method=normalizers.MBAR(512), generator=g)
        assert (found.value - truth).abs() < MAX_Z * found.std_error
        assert found.std_error < 0.2


def test_the_tail_index_of_known_tails() -> None:
    u = torch.rand(20_000, generator=generator()).double()
    for index in (0.3, 0.5, 0.9, 1.5):
        error = (1 + index) / math.sqrt(3 * math.sqrt(20_000))
        assert abs(tail_index(-index * u.log()) - index) < MAX_Z * error
    assert tail_index(torch.zeros(100)) == -math.inf
    assert tail_index(torch.full((100,), -torch.inf)) == math.inf


def test_sides_and_groups_that_contradict_each_other_are_said() -> None:
    noise = 0.01 * torch.randn(2, 16, generator=generator(), dtype=torch.float64)
    close = Sides(noise[0], noise[1])
    assert close.lower < 0 < close.upper
    assert not close.doubts()
    assert "differ by" in Sides(noise[0], noise[1] + 0.5).doubts()[0].text
    assert "apart" in Sides(noise[0], noise[1] + 5.0).doubts()[0].text
    assert not group_doubts(noise[0])
    assert "groups are worth 1.0" in group_doubts(torch.tensor([0.0, 30.0, 0.0, 1.0]))[0].text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_in_a_closure_are_taken_in_their_own_dtype(dtype: torch.dtype) -> None:
    scale = torch.tensor([[2.0]], dtype=dtype)
    target = poe.FromLogDensity(lambda x: -0.5 * (x @ scale).square().sum(-1), space=poe.Real(1))
    truth = 0.5 * math.log(2 * math.pi) - math.log(2)
    assert poe.log_partition(target).value.item() == pytest.approx(truth, abs=1e-5)


@pytest.mark.parametrize(
    "method",
    [normalizers.AIS(256, 1), normalizers.MBAR(256), normalizers.ImportanceSampling(1024)],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.parametrize(
    "space", [poe.Binary(3), poe.Categorical((5,), 3), poe.Binary(40)], ids=str
)
def test_a_target_of_no_energy_is_not_doubted(
    method: normalizers.Method, space: poe.Binary | poe.Categorical
) -> None:
    uniform = poe.FromLogDensity(lambda x: torch.full(x.shape[:-1], 2.5), space=space)
    found = poe.log_partition(uniform, method=method, generator=generator(), progress=False)
    truth = 2.5 + space.event_shape.numel() * math.log(space.num_values)
    assert found.remarks == ()
    assert found.value.item() == pytest.approx(truth, rel=1e-6)
