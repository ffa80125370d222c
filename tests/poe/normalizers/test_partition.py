"""Log partitions by closed form, enumeration and quadrature, and the refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, distributions as D

import poe
from experts import Gaussian
from poe.normalizers.enumeration import states
from poe.normalizers.exact import QuadratureOr


def real(fn: Callable[[Tensor], Tensor], d: int = 1) -> poe.Expert:
    return poe.FromLogDensity(fn, space=poe.Real(d))


def hidden(expert: poe.Expert) -> poe.Expert:
    """The same density, known as a function only."""
    return poe.FromLogDensity(expert.forward, space=expert.space)


def quadratic(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def gaussian(loc: list[float], **spread: object) -> Gaussian:
    return Gaussian(torch.tensor(loc, dtype=torch.float64), **spread)  # type: ignore[arg-type]


def test_closed_form_is_exact() -> None:
    result = poe.log_partition(Gaussian([-1.0], scale=[1.0]) * Gaussian([2.0], scale=[0.5]))
    assert result.method == "closed form"
    assert result.std_error.item() == 0
    assert result.lower == result.value == result.upper
    # N(-1; 2, 1 + 1/4) is the integral of the product.
    expected = D.Normal(2.0, math.sqrt(1.25)).log_prob(torch.tensor(-1.0))
    torch.testing.assert_close(result.value, expected)


QUADRATURE: dict[str, tuple[poe.Expert, float]] = {
    "quartic": (real(lambda x: -x.pow(4).sum(-1)), math.log(2 * math.gamma(1.25))),
    "narrow and far": (hidden(gaussian([1000.0], scale=1e-3)), 0.0),
    "broad": (hidden(gaussian([5.0], scale=100.0)), 0.0),
    "two modes": (hidden(gaussian([-20.0], scale=0.1) | gaussian([30.0], scale=0.01)), 0.0),
    "heavy tails": (real(lambda x: -torch.log1p(x.square()).sum(-1)), math.log(math.pi)),
    "huge": (real(lambda x: 5000 - quadratic(x)), 5000 + 0.5 * math.log(math.pi)),
    "2-D, correlated": (
        hidden(gaussian([3.0, 1.0], covariance=[[1.0, 0.99], [0.99, 1.0]])),
        0.0,
    ),
    "positive": (hidden(poe.as_expert(D.Gamma(2.0, 3.0)).double()), 0.0),
    "interval": (hidden(poe.as_expert(D.Beta(2.0, 3.0)).double()), 0.0),
    "scalar event": (
        poe.FromEnergy(lambda x: x.square(), space=poe.Real(())),
        math.log(math.pi) / 2,
    ),
}


@pytest.mark.parametrize("name", QUADRATURE)
def test_quadrature_finds_the_integral(name: str) -> None:
    expert, expected = QUADRATURE[name]
    result = poe.log_partition(expert)
    assert result.method == "quadrature"
    assert abs(result.value.item() - expected) < 1e-8 * max(1, abs(expected))
    assert result.lower <= result.value <= result.upper


def test_quadrature_in_float32_knows_its_error() -> None:
    mixture = Gaussian([0.0, 1.0], scale=1.0) | Gaussian([3.0, 1.0], scale=0.3)
    wrapped = poe.FromLogDensity(torch.nn.Sequential(mixture), space=poe.Real(2))
    result = poe.log_partition(wrapped)
    assert result.value.dtype == torch.float32
    assert result.std_error.item() < 1e-4
    assert abs(result.value.item()) < 4 * result.std_error.item()


def test_quadrature_of_a_jump_says_its_error() -> None:
    def disc(x: Tensor) -> Tensor:
        return torch.zeros(len(x), dtype=x.dtype).masked_fill(quadratic(x) > 1, -torch.inf)

    result = poe.log_partition(real(disc, 2))
    assert abs(result.value.item() - math.log(math.pi)) < 4 * result.std_error.item()
    assert result.std_error.item() < 1e-3


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: 0 * quadratic(x),
        quadratic,
        lambda x: -0.5 * torch.log1p(quadratic(x)),
        lambda x: -(x.sum(-1)),
    ],
    ids=["flat", "growing", "1 / x", "one-sided"],
)
def test_escaping_mass_is_improper(fn: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(poe.ImproperError, match="die out towards infinity"):
        poe.log_partition(real(fn))


def test_improper_in_two_dimensions() -> None:
    with pytest.raises(poe.ImproperError, match="die out"):
        poe.log_partition(real(lambda x: -x[..., 0].square(), 2))


@pytest.mark.slow
def test_nan_is_reported_with_the_place() -> None:
    with pytest.raises(poe.NonFiniteError, match=r"NaN or \+inf at x = \["):
        poe.log_partition(real(lambda x: (x.sum(-1) - 1).log()))


@pytest.mark.parametrize("offset", [-2.0, 1.0, 2.5])
@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1e-6), (0.0, 1e-8), (1.0, 1e-5)])
def test_a_needle_at_a_border_of_cells_is_seen_on_both_sides(
    loc: float, scale: float, offset: float
) -> None:
    """N(1e-6, 1e-12) was .841 instead of 1: the cells to the left of 0 saw nothing of it."""

    def log_density(x: Tensor) -> Tensor:
        return -0.5 * ((x.sum(-1) - loc) / scale - offset).square()

    found = poe.log_partition(real(log_density), progress=False)
    truth = math.log(scale) + 0.5 * math.log(2 * math.pi)
    assert abs(found.value - truth) < 1e-3  # of what single precision makes of x
    assert found.method == "quadrature"


def test_nan_far_out_is_told_and_another_method_taken() -> None:
    """A Gumbel whose author multiplies 0 by an infinite exp: NaN beyond 88 in single precision."""
    target = real(lambda x: (-x - (-x).exp() + 0.0 * x.exp()).sum(-1))
    with pytest.warns(poe.TrustWarning, match=r"NaN or \+inf at x = \["):
        found = poe.log_partition(target, generator=torch.Generator().manual_seed(0))
    assert abs(found.value) < 4 * found.std_error + 1e-3
    assert "quadrature met what is no number" in found.method


def test_nothing_anywhere_is_reported() -> None:
    with pytest.raises(poe.NonFiniteError, match="-inf wherever it was looked at"):
        poe.log_partition(real(lambda x: torch.full_like(x[:, 0], -torch.inf)))


def test_enumeration_of_a_small_binary_space() -> None:
    coupling = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    expert = poe.FromLogDensity(
        lambda x: torch.einsum("bi,ij,bj->b", x, coupling, x), space=poe.Binary(6)
    )
    result = poe.log_partition(expert)
    total = sum(
        math.exp(float(x @ coupling @ x))
        for x in torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6)
    )
    assert result.method == "enumeration"
    assert abs(result.value.item() - math.log(total)) < 1e-5


def test_enumeration_of_a_normalised_discrete_expert() -> None:
    coin = poe.as_expert(D.Binomial(5, torch.tensor(0.3)))
    assert poe.log_partition(hidden(coin)).method == "enumeration"
    assert abs(poe.log_partition(hidden(coin)).value.item()) < 1e-6


PRECISION = torch.tensor([[2.0, 0.9, 0.0], [0.9, 1.0, 0.3], [0.0, 0.3, 0.5]], dtype=torch.float64)


@pytest.mark.law
@pytest.mark.parametrize(
    ("expert", "truth"),
    [
        (
            real(lambda x: -0.5 * (x * (x @ PRECISION)).sum(-1), 3),
            1.5 * math.log(2 * math.pi) - 0.5 * math.log(torch.linalg.det(PRECISION)),
        ),
        (real(lambda x: -x.pow(4).sum(-1), 3), 3 * math.log(2 * math.gamma(1.25))),
        (
            poe.FromLogDensity(lambda x: (1.5 * x.log() - x).sum(-1), space=poe.Positive(3)),
            3 * math.lgamma(2.5),
        ),
    ],
    ids=["Gaussian", "quartic", "Gamma"],
)
def test_quadrature_in_three_dimensions(expert: poe.Expert, truth: float) -> None:
    found = poe.log_partition(expert)
    assert found.method == "quadrature"
    assert abs(found.value.item() - truth) < 1e-8
    assert abs(found.value.item() - truth) < 3 * found.std_error.item() + 1e-14


@pytest.mark.law
@pytest.mark.parametrize(("d", "scale"), [(1, 0.003), (2, 0.03), (3, 0.1)])
def test_quadrature_loses_no_narrow_mode_beside_another(d: int, scale: float) -> None:
    """The nodes are wider apart: what one mode has nodes in must not hide the other."""
    g = torch.Generator().manual_seed(0)
    for _ in range(4):
        means = 4 * torch.randn(2, d, generator=g, dtype=torch.float64)
        one, other = (
            Gaussian(mean, scale=torch.full((d,), scale, dtype=torch.float64)) for mean in means
        )
        found = poe.log_partition(hidden(one | other))
        assert abs(found.value.item()) < 3 * found.std_error.item() + 1e-9


def test_enumeration_streams_over_more_states_than_fit_in_a_table() -> None:
    """A chain of 21 spins, by its transfer matrix, and independent classes of their own weights."""
    field, coupling, n = 0.2, 0.7, 21

    def chain(x: Tensor) -> Tensor:
        spins = 2 * x - 1
        return field * spins.sum(-1) + coupling * (spins[..., 1:] * spins[..., :-1]).sum(-1)

    sign = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    transfer = (coupling * sign[:, None] * sign + field * sign).exp()
    mass = (field * sign).exp()
    for _ in range(n - 1):
        mass = mass @ transfer
    found = poe.log_partition(poe.FromLogDensity(chain, space=poe.Binary(n)))
    assert found.method == "enumeration"
    torch.testing.assert_close(found.value.double(), mass.sum().log(), rtol=1e-6, atol=0)
    weights = torch.randn(3, 60, generator=torch.Generator().manual_seed(0))
    classes = poe.FromLogDensity(
        lambda x: weights.expand(len(x), 3, 60).gather(2, x[..., None]).sum((1, 2)),
        space=poe.Categorical((3,), 60),
    )
    expected = weights.logsumexp(1).sum()
    torch.testing.assert_close(poe.log_partition(classes).value, expected)


def test_states_lists_every_event_once() -> None:
    table = states(poe.Categorical((2,), 3))
    assert table.shape == (9, 2)
    assert len(table.unique(dim=0)) == 9
    assert states(poe.Binary((2, 2))).shape == (16, 2, 2)
    assert states(poe.Binary(())).tolist() == [0.0, 1.0]
    with pytest.raises(poe.NormalizationError, match="at most"):
        states(poe.Binary(100))


def test_product_of_a_closed_form_and_a_function_uses_quadrature() -> None:
    product = (
        gaussian([0.0], scale=1.0) / gaussian([0.0], scale=0.9) * real(lambda x: -x.pow(4).sum(-1))
    )
    assert poe.log_partition(product).method == "quadrature"


EDGES: dict[str, tuple[poe.Space, tuple[float, float]]] = {
    "unit": (poe.Interval(1), (0.0, 1.0)),
    "symmetric": (poe.Interval(1, -1, 1), (-1.0, 1.0)),
    "far from 0": (poe.Interval(1, 2, 5), (2.0, 5.0)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("a", [0.5, 0.2, 0.05])
@pytest.mark.parametrize("name", EDGES)
def test_mass_within_rounding_of_an_edge_is_not_lost(
    name: str, a: float, dtype: torch.dtype
) -> None:
    space, (low, high) = EDGES[name]

    def log_density(x: Tensor) -> Tensor:
        return ((a - 1) * ((x - low).log() + (high - x).log())).sum(-1)

    found = poe.log_partition(in_dtype(log_density, space, dtype))
    truth = 2 * math.lgamma(a) - math.lgamma(2 * a) + (2 * a - 1) * math.log(high - low)
    assert abs(found.value.item() - truth) < 4 * found.std_error.item() + 1e-10
    assert found.std_error < (2e-4 if dtype == torch.float64 else 0.02)
    assert found.method == "quadrature"
    assert found.is_trusted
    assert ("power law" in found.rests_on) == (a < 0.5 or dtype == torch.float32)


def in_dtype(fn: Callable[[Tensor], Tensor], space: poe.Space, dtype: torch.dtype) -> poe.Expert:
    """A log-density that wants x in that dtype."""

    class Energy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("one", torch.ones(1, dtype=dtype))

        def forward(self, x: Tensor) -> Tensor:
            return fn(x)

    return poe.FromLogDensity(Energy(), space=space)


FAR_OUT: dict[str, tuple[poe.Expert, float]] = {
    "t with 0.1 degrees of freedom": (
        real(lambda x: -0.55 * torch.log1p(10 * x.square()).sum(-1)),
        math.lgamma(0.05) - math.lgamma(0.55) + 0.5 * math.log(0.1 * math.pi),
    ),
    "a scale of 1e12": (real(lambda x: -x.abs().sum(-1) / 1e12), math.log(2e12)),
    "Gamma of shape 0.01": (
        poe.FromLogDensity(lambda x: (-0.99 * x.log() - x).sum(-1), space=poe.Positive(1)),
        math.lgamma(0.01),
    ),
}


@pytest.mark.parametrize("name", FAR_OUT)
def test_mass_far_out_is_found_or_continued(name: str) -> None:
    expert, truth = FAR_OUT[name]
    found = poe.log_partition(expert)
    assert found.method == "quadrature"
    assert abs(found.value.item() - truth) < 1e-8 * max(1, abs(truth))


@pytest.mark.parametrize(("d", "ratio"), [(1, 1e5), (2, 1e3)])
def test_a_needle_on_top_of_a_broad_peak_is_found(d: int, ratio: float) -> None:
    mean = torch.tensor([0.3, 0.2][:d], dtype=torch.float64)
    broad, needle = (Gaussian(mean, scale=torch.full_like(mean, s)) for s in (1.0, 1 / ratio))
    found = poe.log_partition(hidden(broad | needle))
    assert abs(found.value.item()) < 4 * found.std_error.item() + 1e-9


def test_quadrature_stops_at_the_rounding_of_a_density() -> None:
    num_asked = []

    def rounded(x: Tensor) -> Tensor:
        num_asked.append(len(x))
        return (-500 * quadratic(x)).round() / 1e3

    found = poe.log_partition(real(rounded))
    assert found.method == "quadrature"
    assert abs(found.value.item() - 0.5 * math.log(2 * math.pi)) < 4 * found.std_error.item() + 1e-5
    assert 1e-7 < found.std_error < 1e-3
    assert sum(num_asked) < 200_000


def test_overflow_far_out_does_not_hide_an_integral() -> None:
    """Next to where an energy overflows its values are huge, and weigh nothing."""

    def log_density(x: Tensor) -> Tensor:
        return -quadratic(x) - (0.7 * quadratic(x)).exp()

    found = poe.log_partition(real(log_density, 2))
    r = torch.linspace(0, 4, 100_001, dtype=torch.float64)
    radial = (r * (log_density(r[:, None])).exp()).sum() * (r[1] - r[0]) * 2 * math.pi
    assert found.method == "quadrature"
    assert abs(found.value.item() - radial.log().item()) < 1e-7


@pytest.mark.slow
def test_quadrature_that_does_not_converge_hands_over_or_says_so() -> None:
    """A thin shell aslant to all cells, of which few evaluations see next to nothing."""

    def shell(x: Tensor) -> Tensor:
        return -0.5 * ((quadratic(x).sqrt() - 3) / 0.02).square()

    target, few = real(shell, 3), poe.normalizers.Quadrature(max_evaluations=1)
    with pytest.raises(poe.NormalizationError, match=r"did not converge: 1\d* evaluations"):
        poe.log_partition(target, method=few)
    method = QuadratureOr(poe.normalizers.MBAR(512), few)
    g = torch.Generator().manual_seed(0)
    found = poe.log_partition(target, method=method, generator=g, progress=False)
    assert found.method.endswith("quadrature did not converge")
    truth = math.log(4 * math.pi * 0.02 * math.sqrt(2 * math.pi) * (9 + 0.02**2))
    assert abs(found.value.item() - truth) < 4 * found.std_error.item() or found.remarks


@pytest.mark.parametrize("a", [0.0, -0.5])
def test_mass_that_does_not_die_out_at_an_edge_is_improper(a: float) -> None:
    power = poe.FromLogDensity(lambda x: (a - 1) * x.log().sum(-1), space=poe.Interval(1))
    with pytest.raises(poe.ImproperError, match=r"towards (the )?edges"):
        poe.log_partition(power)
