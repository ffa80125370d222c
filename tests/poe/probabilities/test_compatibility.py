"""Who agrees with whom: Gaussians in closed form, finite spaces by enumeration, draws beyond."""

from __future__ import annotations

import copy
import itertools
import math
from functools import partial

import pytest
import torch
from torch.distributions import MultivariateNormal

import poe
from experts import Bernoulli, Gamma, Gaussian, LinearGaussian, Poisson
from poe.core.doubt import Doubt, Kind
from poe.density.normalized import LogPartition
from poe.normalizers.enumeration import states
from poe.probabilities.overlap import by_draws, log_integral

FAMILY = (
    Gaussian([0.0, 1.0], covariance=[[2.0, 0.3], [0.3, 1.0]]),
    Gaussian([1.0, 0.0], scale=[0.5, 1.0]),
    Gaussian([-6.0, 4.0], scale=[1.0, 2.0]),
)


def overlap(one: Gaussian, other: Gaussian) -> float:
    """log ∫ N N = log N(m1; m2, S1 + S2)."""
    spread = MultivariateNormal(other.loc, one.covariance + other.covariance)
    return spread.log_prob(one.loc).item()


def truths(experts: tuple[Gaussian, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    log_overlap = torch.tensor([[overlap(a, b) for b in experts] for a in experts]).double()
    own = log_overlap.diagonal()
    return log_overlap, (own[:, None] + own) / 2 - log_overlap


def test_gaussians_in_closed_form() -> None:
    found = poe.compatibility(*FAMILY)
    log_overlap, divergence = truths(FAMILY)
    torch.testing.assert_close(found.log_overlap, log_overlap, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.divergence, divergence, rtol=1e-5, atol=1e-5)
    assert found.log_overlap_error.abs().max() == 0
    assert found.divergence.diagonal().tolist() == [0.0] * 3
    a, b, c = FAMILY
    mutual = poe.log_partition(a * b * c).value.double()
    torch.testing.assert_close(found.mutual_log_overlap, mutual)
    powers = torch.stack([poe.log_partition(q**3).value for q in FAMILY]).double()
    torch.testing.assert_close(found.mutual_divergence, powers.mean() - mutual)


def _with_constant(q: Gaussian, x: torch.Tensor) -> torch.Tensor:
    return 5.0 + q(x)


def test_constants_in_front_and_the_generality_of_experts_have_no_say() -> None:
    """Unnormalised densities on Real(2), by quadrature, in float64."""
    hidden = [
        poe.FromLogDensity(partial(_with_constant, copy.deepcopy(q).double()), space=poe.Real(2))
        for q in FAMILY[:2]
    ]
    found = poe.compatibility(*hidden)
    log_overlap, divergence = truths(FAMILY[:2])
    assert bool(
        ((found.log_overlap - log_overlap).abs() < 1e-5 + 3 * found.log_overlap_error).all()
    )
    assert bool(((found.divergence - divergence).abs() < 1e-5 + 3 * found.divergence_error).all())
    assert found.names == ("FromLogDensity", "FromLogDensity_2")
    assert bool((found.log_overlap_error > 0).all())


def test_finite_space_by_enumeration() -> None:
    a, b = Bernoulli([0.3, -2.0, 1.0]), Bernoulli([-1.0, 0.0, 0.5])
    scaled = poe.FromLogDensity(lambda x: 3 + a(x), space=poe.Binary(3))
    found = poe.compatibility(scaled, b, a**0.5)
    x = states(poe.Binary(3))
    q = torch.stack([a(x), b(x), 0.5 * a(x)]).double().softmax(-1)
    inner = q @ q.T
    torch.testing.assert_close(found.log_overlap, inner.log(), rtol=0, atol=2e-6)
    norm = inner.diagonal().sqrt()
    cosine = inner / norm.outer(norm)
    torch.testing.assert_close(found.divergence, -cosine.log(), rtol=0, atol=2e-6)
    mutual = q.prod(0).sum().log()
    torch.testing.assert_close(found.mutual_log_overlap, mutual, rtol=0, atol=2e-6)
    expected = -(q.prod(0).sum() / (q**3).sum(-1).pow(1 / 3).prod()).log()
    torch.testing.assert_close(found.mutual_divergence, expected, rtol=0, atol=2e-6)
    assert found.words == ("no two of them contradict each other",)


def test_two_experts_have_one_divergence() -> None:
    found = poe.compatibility(*FAMILY[:2])
    torch.testing.assert_close(found.mutual_divergence, found.divergence[0, 1])
    torch.testing.assert_close(found.mutual_log_overlap, found.log_overlap[0, 1])


def test_a_product_gives_its_factors_and_says_who_contradicts_whom() -> None:
    at = [Gaussian([place], scale=1.0) for place in (-1.0, 0.0, 6.0)]
    found = poe.compatibility(poe.Product(left=at[0], middle=at[1], right=at[2]))
    assert found.contradictions == (("left", "right"), ("middle", "right"))
    text = str(found)
    assert "left and right contradict each other: the cosine between their densities is" in text
    assert "-13.516" in text  # log N(-1; 6, 2)
    assert "±" not in text


def test_all_together_may_contradict_where_no_pair_does() -> None:
    """Each of three next to excludes another one of three classes: two share one, three none."""
    corner = [
        poe.FromLogDensity(lambda x, k=k: -14.0 * (x[..., 0] == k), space=poe.Categorical(1, 3))
        for k in range(3)
    ]
    found = poe.compatibility(*corner)
    assert found.contradictions == ()
    assert found.words == ("no pair contradicts each other, but all of them together do",)


def test_disjoint_supports_exclude_each_other() -> None:
    one, other = (
        poe.FromLogDensity(
            lambda x, k=k: torch.where(x[..., 0] == k, 0.0, -torch.inf), space=poe.Binary(2)
        )
        for k in (0, 1)
    )
    found = poe.compatibility(poe.Product(one=one, other=other))
    assert found.log_overlap[0, 1] == -torch.inf
    assert found.divergence[0, 1] == torch.inf
    assert found.words == ("one and other exclude each other: nowhere are both densities positive",)
    assert not found.missing


def test_square_without_an_integral_is_nan_and_said() -> None:
    """x^(-0.7) exp(-x) has an integral, its square has none; the other's pairs are there."""
    found = poe.compatibility(poe.Product(sharp=Gamma([0.3], [1.0]), tame=Gamma([2.0], [1.0])))
    assert found.log_overlap.isnan().tolist() == [[True, False], [False, False]]
    assert found.divergence.isnan().tolist() == [[True, True], [True, False]]
    # ∫ x^(0.3 - 1 + 1) e^(-2x) / (Γ(0.3) Γ(2))
    expected = math.lgamma(1.3) - 1.3 * math.log(2) - math.lgamma(0.3)
    assert found.log_overlap[0, 1].item() == pytest.approx(expected, abs=1e-5)
    (text,) = found.missing
    assert text.startswith("∫ sharp · sharp could not be had: ")
    assert text in str(found)
    assert "no two of them contradict" not in str(found)


def test_errors_of_estimates_add_up() -> None:
    """Each log ∫ off by 0.1: log ∫qr - log Z_q - log Z_r by √3 · 0.1, D by √1.5 · 0.1."""

    def guess(target: poe.Expert) -> LogPartition:
        return poe.log_partition(target)._replace(std_error=torch.tensor(0.1), ess=100.0)

    found = poe.compatibility(*FAMILY[:2], estimator=guess)
    assert found.log_overlap_error[0, 1].item() == pytest.approx(0.1 * 3**0.5)
    assert found.log_overlap_error[0, 0].item() == pytest.approx(0.1 * 5**0.5)
    assert found.divergence_error[0, 1].item() == pytest.approx(0.1 * 1.5**0.5)
    assert found.divergence_error[0, 0] == 0
    assert "± 0.12" in str(found)


def test_untrusted_integrals_are_warned_of_by_name() -> None:
    def doubt(target: poe.Expert) -> LogPartition:
        return poe.log_partition(target)._replace(doubts=(Doubt(Kind.OTHER, "who knows"),))

    with pytest.warns(poe.TrustWarning, match=r"∫ a · b: who knows"):
        found = poe.compatibility(poe.Product(a=FAMILY[0], b=FAMILY[1]), estimator=doubt)
    assert "∫ a: who knows" in found.remarks


def no_method(target: poe.Expert) -> LogPartition:
    raise poe.NormalizationError("nothing here")


def test_by_draws_where_there_is_no_method() -> None:
    d = 8
    a, b = Gaussian(torch.zeros(d), scale=1.0), Gaussian(torch.full((d,), 0.5), scale=1.5)
    found = log_integral([a, b], no_method, torch.Generator().manual_seed(0))
    assert found.method == "importance sampling by draws of Gaussian"
    assert found.is_trusted
    assert 0 < found.std_error < 0.02
    assert abs(found.value.item() - overlap(a, b)) < 4 * found.std_error.item()


def test_standard_error_by_draws_is_the_spread_of_repeated_runs() -> None:
    """Of 200 runs, whose sd has a relative error of 1/√400 = 5 %."""
    a, b = Gaussian(torch.zeros(5), scale=1.0), Gaussian(torch.full((5,), 0.5), scale=1.5)
    g = torch.Generator().manual_seed(0)
    runs = [by_draws(a, [b], g) for _ in range(200)]
    spread = torch.stack([run.value for run in runs]).std()
    claimed = torch.stack([run.std_error for run in runs]).mean()
    assert abs(spread / claimed - 1) < 4 * 0.05


def test_few_draws_that_count_are_said() -> None:
    a, b = Gaussian(torch.zeros(20), scale=1.0), Gaussian(torch.full((20,), 3.0), scale=0.3)
    found = by_draws(a, [b], torch.Generator().manual_seed(0))
    assert not found.is_trusted
    assert "too few to be trusted" in found.remarks[0]


def test_few_dimensions_are_not_left_to_draws() -> None:
    with pytest.raises(poe.NormalizationError, match="nothing here"):
        log_integral([FAMILY[0], FAMILY[1]], no_method)
    counts = log_integral([Poisson([2.0]), Poisson([3.0])], no_method)
    k = torch.arange(60.0)[:, None]
    expected = (Poisson([2.0])(k) + Poisson([3.0])(k)).logsumexp(0)
    assert abs(counts.value - expected) < 4 * counts.std_error


def test_one_alone_two_spaces_and_batches_are_refused() -> None:
    with pytest.raises(poe.PoeError, match="two experts or more, or a product of them, got 1"):
        poe.compatibility(FAMILY[0])
    with pytest.raises(poe.SpaceMismatchError, match="experts of a comparison share one space"):
        poe.compatibility(FAMILY[0], Gaussian([0.0], scale=1.0))
    step = LinearGaussian([[1.0]], [0.0], [1.0]).given(torch.ones(3, 1))
    with pytest.raises(poe.PoeError, match="got a batch of them"):
        poe.compatibility(step, Gaussian([0.0], scale=1.0))


def test_divergences_are_those_of_densities() -> None:
    """Not negative, symmetric, and those of any order of the experts."""
    found, turned = poe.compatibility(*FAMILY), poe.compatibility(*FAMILY[::-1])
    assert torch.equal(found.divergence, found.divergence.T)
    torch.testing.assert_close(found.divergence, turned.divergence.flip(0, 1))
    pairs = itertools.combinations(range(3), 2)
    assert all(found.divergence[pair] > 0 for pair in pairs)
