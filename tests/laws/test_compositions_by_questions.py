"""Every composition by every question: an answer, handed on, or a reason; and the answers are true.

A new composition enters by a line in `SAMPLES`, a new question by a function in `TRUE`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, distributions as D

import experts
import poe
from poe.core.affine import Dense, Diagonal
from poe.density.capabilities import (
    can_sample_exactly,
    check_proper,
    combine,
    conditionals,
    distribute,
    exact_log_partition,
    in_tractable_parts,
    is_normalized,
    label_pairs,
    log_density_of_one_hot,
    log_prob_of,
    sampler_of,
    simplify,
    spin_pairs,
    tails,
    widen,
)
from poe.density.checks import floats_of
from poe.density.coordinates import Rescaled
from poe.density.expert import Wrapper
from poe.density.latent import Posterior
from poe.density.one_hot import one_hot
from poe.density.questions import QUESTIONS, answer_of, own_question, question
from poe.density.wrappers import Merged, merged
from poe.normalizers.choose import own_method
from poe.normalizers.enumeration import states
from poe.probabilities.density_bounds import bounds, has_exact_log_density, log_density_bounds
from poe.probabilities.normalizer_error import sensitivities
from poe.samplers.guarded import Guarded, Raised
from poe.structure.discrete import structure_of
from poe.structure.elements import InFloat64
from poe.structure.gaussian_factors import gaussian_factors
from poe.structure.twists import twists
from poe.testing import check_expert
from poe.tuning.choice import Choice, by_structure, on_discrete
from poe.tuning.truncation import Tabulated, table_of
from tests.seeds import seeded

Question = Callable[..., Any]


def normals(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Told(Wrapper):
    """A user's own wrapper."""

    def __init__(self, expert: poe.Expert) -> None:
        super().__init__()
        self.space, self.expert = expert.space, expert

    def inner(self) -> poe.Expert:
        return self.expert

    def forward(self, x: Tensor) -> Tensor:
        return self.expert(x)


class Labelled(poe.Conditional):
    """Normal at the label."""

    space = poe.Real(1)
    is_normalized = True

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        return D.Normal(condition.to(x), 1.0).log_prob(x).sum(-1)

    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return condition + torch.randn(num_samples, 1, generator=generator)


narrow = experts.Gaussian([0.5, -1.0], scale=[0.5, 2.0])
broad = experts.Gaussian([0.0, 0.0], covariance=[[2.0, 0.5], [0.5, 1.0]])
line = experts.Gaussian([0.5], scale=[0.7])
coins = experts.Bernoulli([0.5, -1.0, 0.2])
magnet = experts.Ising([[0.0, 0.5, -0.3], [0.5, 0.0, 0.8], [-0.3, 0.8, 0.0]], [0.1, -0.4, 0.2])
labels = experts.Categorical([[0.0, 1.0, -1.0], [0.5, 0.0, 0.2]])
clock = experts.Potts([[0], [1]], 0.5, [[0.0, 0.3, 0.1], [0.2, 0.0, 0.0]], 2, num_labels=3)
step = experts.LinearGaussian([[2.0]], bias=[1.0], scale=[0.5])
shift = D.AffineTransform(torch.tensor([1.0, 0.0]), torch.tensor([2.0, -0.5]))
quartic = poe.FromEnergy(lambda x: x.square().square().sum(-1), space=poe.Real(2))
dense = Dense(torch.tensor([1.0, 2.0]), torch.tensor([[2.0, 0.0], [0.5, 0.3]]))
with seeded():
    made = experts.NADE(3, 4).requires_grad_(False)
for _weights in made.parameters():
    _weights.copy_(torch.arange(float(_weights.numel())).sin().reshape(_weights.shape))


def with_estimate(expert: poe.Expert) -> poe.Normalized:
    found = poe.log_partition(expert)
    return poe.Normalized(expert, found._replace(std_error=torch.tensor(0.1)))


def alike(*all_of: poe.Expert) -> poe.Together:
    return poe.Together(poe.Product(*all_of))


SAMPLES: dict[type[poe.Expert], list[poe.Expert]] = {
    poe.Tempered: [narrow**0.5, magnet**2, clock**0.5, made**2, poe.Tempered(coins**2, 0.5)],
    poe.Product: [narrow * broad, narrow * quartic, magnet * coins, clock * labels, made * coins],
    poe.Mixture: [
        narrow | broad,
        coins | coins**2 | coins,
        labels | labels,
        poe.Mixture([labels, clock], [0.3, 0.7], log_partitions=[None, 1.5]),
    ],
    poe.At: [narrow.at(shift), poe.as_expert(D.Beta(2.0, 3.0)).at(poe.ranges.Rescale(-1, 1, 0, 1))],
    poe.Transformed: [
        poe.Transformed(narrow, shift),
        poe.Transformed(narrow**2, shift),
        poe.Transformed(line**2, D.ExpTransform()),
        poe.Transformed(narrow * quartic, shift),
    ],
    poe.Dequantized: [
        poe.Dequantized(coins),
        poe.Dequantized(labels**2),
        poe.Dequantized(poe.as_expert(D.Poisson(2.0))),
    ],
    poe.Relaxed: [poe.Relaxed(magnet)],
    poe.Given: [Labelled().given(1)],
    poe.Chain: [poe.Chain(line, step), poe.Chain(line**2, step)],
    poe.Marginal: [poe.Marginal(line, step, torch.tensor([[0.1], [-0.4], [1.0]]))],
    Posterior: [Posterior(line, step, torch.tensor([0.3]))],
    poe.Autocast: [poe.Autocast(e) for e in (narrow, magnet, labels)],
    poe.Chunked: [
        poe.Chunked(e, 1000)
        for e in (narrow, narrow**2, quartic, magnet, coins**2, labels, clock, made, narrow | broad)
    ],
    Guarded: [Guarded(e, Raised()) for e in (narrow, narrow**2, quartic, magnet, labels, clock)],
    poe.Normalized: [poe.normalize(e) for e in (narrow**2, magnet, labels**2, clock, made**2)]
    + [with_estimate(narrow * quartic), with_estimate(magnet)],
    poe.Together: [alike(narrow, narrow), alike(coins, coins), alike(labels, labels)],
    InFloat64: [InFloat64(e) for e in (narrow**2, quartic, magnet * coins, narrow | broad)],
    Tabulated: [Tabulated(e, table_of(e, Raised())) for e in (experts.Poisson([2.0]) ** 2,)],
    Merged: [merged(poe.Product(narrow, quartic, narrow))],
    Rescaled: [
        Rescaled(e, affine)
        for e in (narrow, broad**2, narrow | broad, narrow * quartic)
        for affine in (dense, Diagonal(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.5])))
    ],
    Told: [Told(e) for e in (narrow, narrow**2, magnet, labels, clock, made)],
}
NESTED: list[poe.Expert] = [
    poe.Chunked(poe.Autocast(magnet**0.5), 2),
    poe.Chunked(poe.Chunked(magnet**2, 3), 2),
    poe.Normalized(poe.Chunked(magnet, 2), poe.log_partition(magnet)),
    poe.Chunked(magnet, 2) ** 2 * Told(coins),
    poe.Chunked(clock, 2) * poe.normalize(labels**2),
    poe.Chunked(Told(poe.Transformed(line**2, D.AffineTransform(1.0, 2.0))), 1000),
    Rescaled(poe.Chunked(poe.Transformed(narrow, shift), 1000), dense),
    poe.Dequantized(poe.Chunked(coins**2, 500)),
    poe.Mixture([poe.Chunked(labels, 2), poe.normalize(labels**2)]),
    poe.Chunked(labels | labels, 2),
    Told(poe.Chunked(made, 2)) ** 2,
    poe.Chain(poe.Chunked(line**2, 1000), step),
]
LEAVES = {
    "Autoregressive", "FittedGaussian", "FittedMixture", "FittedStudents", "FittedTransport",
    "FromDistribution", "FromEnergy", "FromLogDensity", "FromNetwork", "FromOneHot", "LocalProduct",
    "OfParts", "RoundedNormals", "Uniform", "Wrapper",
}  # fmt: skip


def classes(kind: type = poe.Expert) -> Iterator[type]:
    for sub in kind.__subclasses__():
        yield sub
        yield from classes(sub)


def everything() -> list[Any]:
    every = [*itertools.chain(*SAMPLES.values()), *NESTED]
    return [pytest.param(e, id=f"{i}-{outline(e)}") for i, e in enumerate(every)]


def outline(expert: poe.Expert) -> str:
    inside = [type(part).__name__ for part in expert.modules() if isinstance(part, poe.Expert)]
    return "-".join(inside[:3])


@pytest.mark.parametrize("ask", QUESTIONS, ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
def test_no_cell_is_empty(kind: type[poe.Expert], ask: Any) -> None:
    assert answer_of(ask, kind), (
        f"{kind.__name__} has no answer to {ask.__name__}: register a rule, make it a Wrapper, or "
        "say by keeps_default why the default is right"
    )


def test_every_composition_is_among_the_samples() -> None:
    ours = {k for k in classes() if k.__module__.startswith("poe.") and k.__name__[0] != "_"}
    ours -= {k for k in ours if k.__module__.startswith(("poe.studio", "poe.demo", "poe.cli"))}
    assert {k.__name__ for k in ours - set(SAMPLES)} <= LEAVES
    for kind, samples in SAMPLES.items():
        assert all(type(sample) is kind for sample in samples)


def test_every_question_is_tried() -> None:
    assert set(QUESTIONS) == {*TRUE, *OF_FORM}


# What the answers are held to: the log-density itself.


def events(expert: poe.Expert, num: int = 6) -> Tensor:
    """Some events of any space, where the log-density is finite."""
    g = torch.Generator().manual_seed(1)
    space = expert.space
    if space.num_values is not None:
        x = torch.randint(space.num_values, (num, *space.event_shape), generator=g)
        return x.float() if isinstance(space, poe.Binary) else x
    if isinstance(space, poe.Count):
        return torch.randint(6, (num, *space.event_shape), generator=g).float()
    u = torch.randn(num, *space.unconstrained().event_shape, generator=g)
    return space.to_unconstrained.inv(u)


def same(got: Tensor, expected: Tensor, digits: float = 1e-4) -> None:
    torch.testing.assert_close(got.double(), expected.double(), rtol=digits, atol=digits)


def constant(values: Tensor) -> None:
    same(values - values[0], torch.zeros_like(values))


def conditionals_are_true(expert: poe.Expert) -> None:
    found = conditionals(expert)
    if found is None or found.num_hidden:
        return
    x = events(expert)
    log_odds = found.given(x, torch.zeros(len(x), 0))(x)
    for i in range(x.shape[1]):
        up, down = x.index_fill(1, torch.tensor(i), 1.0), x.index_fill(1, torch.tensor(i), 0.0)
        same(log_odds[:, i], expert(up) - expert(down))


def spin_pairs_are_true(expert: poe.Expert) -> None:
    found = spin_pairs(expert)
    if found is not None:
        x = events(expert)
        s = 2 * x.flatten(1) - 1
        pairs = (found.couplings * s[:, found.edges[0]] * s[:, found.edges[1]]).sum(1)
        constant(expert(x) - pairs - s @ found.fields)


def label_pairs_are_true(expert: poe.Expert) -> None:
    found = label_pairs(expert)
    if found is not None:
        x = events(expert).flatten(1).long()
        agree = x[:, found.edges[0]] == x[:, found.edges[1]]
        fields = found.fields[torch.arange(x.shape[1]), x].sum(1)
        constant(expert(events(expert)) - (found.couplings * agree).sum(1) - fields)


def one_hot_is_true(expert: poe.Expert) -> None:
    found = log_density_of_one_hot(expert)
    if found is None or expert.space.num_values is None:
        return
    x = events(expert)
    digits = 0.02 if isinstance(expert, poe.Autocast) else 1e-4
    same(found(one_hot(x, expert.space.num_values, floats_of(expert))), expert(x), digits)


def log_partition_is_true(expert: poe.Expert) -> None:
    found = exact_log_partition(expert)
    if found is None:
        assert not is_normalized(expert)
        return
    if is_normalized(expert):
        same(expert(events(expert)) - found, expert.log_prob(events(expert)))
    if expert.space.num_values is not None:
        same(expert(states(expert.space)).double().logsumexp(0), found)
        return
    log_weights = weighted(expert.space, expert)[1]
    z = (log_weights - found).exp()
    assert abs(z.mean() - 1) < 4.5 * z.std() / len(z) ** 0.5


def log_prob_is_true(expert: poe.Expert) -> None:
    found = log_prob_of(expert)
    assert hasattr(expert, "log_prob") == (found is not None)
    assert is_normalized(expert) == (found is not None) or isinstance(expert, poe.Normalized)
    if found is not None:
        x = events(expert)
        same(found(x), expert.log_prob(x))
        constant(found(x) - expert(x))


def sampler_is_true(expert: poe.Expert) -> None:
    found = sampler_of(expert)
    assert hasattr(expert, "sample") == (found is not None) == can_sample_exactly(expert)
    if found is None:
        return
    num = 4000
    draws = found(num, generator=torch.Generator().manual_seed(0))
    assert draws.shape == (num, *expert.space.event_shape)
    assert expert.space.contains(draws).all()
    assert expert(draws).isfinite().all()
    log_prob = log_prob_of(expert)
    if log_prob is None:
        return
    if expert.space.num_values is not None:
        where = states(expert.space).to(draws.dtype)
        share = (draws[:, None] == where).reshape(num, len(where), -1).all(-1).double().mean(0)
        p = log_prob(where).double().exp()
        deviations = (share - p) / (p * (1 - p) / num).sqrt()
    else:  # E log p, against that of weighted draws of a broad Gaussian in open coordinates
        values = log_prob(draws).double()
        expected, error = expected_log_prob(expert.space, log_prob)
        deviations = (values.mean() - expected) / torch.hypot(values.std() / num**0.5, error)
    assert deviations.abs().max() < 4.5


def expected_log_prob(
    space: poe.Space, log_prob: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """E log p with its standard error, by importance sampling."""
    logs, log_weights = weighted(space, log_prob)
    weights, kept = log_weights.exp(), logs.nan_to_num(neginf=0.0)
    expected = (weights * kept).sum() / weights.sum()
    return expected, (weights * (kept - expected)).square().sum().sqrt() / weights.sum()


def weighted(
    space: poe.Space, log_density: Callable[[Tensor], Tensor], num: int = 10_000
) -> tuple[Tensor, Tensor]:
    """What a density says of draws of a broad one, and their log-weights: `(num,)` each."""
    g = torch.Generator().manual_seed(3)
    shape = space.unconstrained().event_shape
    normal = torch.randn(num, *shape, generator=g)
    chi_square = torch.randn(num, 4, generator=g).square().sum(1)
    spread = 2 * (4 / chi_square).sqrt().reshape(num, *[1] * len(shape))
    u = normal * spread  # Student's t with 4 degrees of freedom, all elements on one scale
    d = max(1, shape.numel())
    distance = (u / 2).square().reshape(num, -1).sum(1).double()
    log_q = (
        math.lgamma((4 + d) / 2) - math.lgamma(2.0) - 0.5 * d * math.log(4 * math.pi)
        - d * math.log(2.0) - 0.5 * (4 + d) * (1 + distance / 4).log()
    )  # fmt: skip
    x = space.to_unconstrained.inv(u)
    jacobian = space.to_unconstrained.inv.log_abs_det_jacobian(u, x)
    logs = log_density(x).double()
    return logs, logs + jacobian.reshape(num, -1).sum(1) - log_q


def tails_are_true(expert: poe.Expert) -> None:
    found = tails(expert)
    if found is None or not isinstance(expert.space, poe.Real):
        return
    far = 1e6
    u = torch.randn(8, *expert.space.event_shape, generator=torch.Generator().manual_seed(2))
    flat = u.flatten(1).double()
    grown = 0.5 * torch.einsum("ni,kij,nj->kn", flat, found, flat).amin(0)
    digits = 0.02 if isinstance(expert, poe.Autocast) else 1e-4
    same(-expert(far * u).double() / far**2, grown, digits)


def proper_is_true(expert: poe.Expert) -> None:
    check_proper(expert)  # all samples are


def gaussian_factors_are_true(expert: poe.Expert) -> None:
    found = gaussian_factors(expert)
    if found is None or not all(factor.is_fixed for factor in found):
        return
    x = events(expert)
    total = torch.zeros(len(x))
    for factor in found:
        response = factor.operator(x)
        gap = response - factor.target
        weights = factor.draw(response, torch.full_like(response, 0.5))
        total = total - 0.5 * (gap * weights.times(gap)).flatten(1).sum(1)
    constant(expert(x) - total)


def twists_are_true(expert: poe.Expert) -> None:
    """What they say of all prefixes adds up to what the parts with twists say of the whole."""
    own = [part for part in parts(expert) if twists(part)]
    x = events(expert).long()
    for part in own:
        total = torch.zeros(len(x))
        for twist in twists(part):
            state: Any = twist.begin(len(x))  # type: ignore[operator]
            for place in range(x.shape[1]):
                now = twist.log_next(state, place)  # type: ignore[operator]
                total = total + now[torch.arange(len(x)), x[:, place]]
                state = twist.append(state, place, x[:, place])  # type: ignore[operator]
        constant(part(x.float()) - total)
    assert bool(own) == bool(twists(expert))


def parts(expert: poe.Expert) -> list[poe.Expert]:
    return [factor for _, factor in expert._factors()]


def bounds_are_true(expert: poe.Expert) -> None:
    x = events(expert)
    if has_exact_log_density(expert):
        found = log_density_bounds(expert, x)
        same(found.lower, expert(x))
        same(found.upper, expert(x))
    else:
        assert isinstance(expert, poe.Marginal | poe.Normalized | poe.Mixture)


def has_exact_log_density_is_true(expert: poe.Expert) -> None:
    is_estimate = any(
        isinstance(m, poe.Marginal)
        or (isinstance(m, poe.Normalized) and not m.log_partition.is_exact)
        or (isinstance(m, poe.Mixture) and any(e is not None for e in m.estimates))
        for m in expert.modules()
    )
    assert has_exact_log_density(expert) == (not is_estimate)


def sensitivities_are_true(expert: poe.Expert) -> None:
    try:
        found = sensitivities(expert, events(expert))
    except poe.NormalizationError:
        assert not has_exact_log_density(expert)
        return
    for normalized, slope in found.items():
        x = events(expert)
        before = expert(x)
        normalized.value += 0.5
        after = expert(x)
        normalized.value -= 0.5
        same((after - before) / 0.5, slope, 1e-3)


TRUE: dict[Question, Callable[[poe.Expert], None]] = {
    bounds: bounds_are_true,
    can_sample_exactly: sampler_is_true,
    check_proper: proper_is_true,
    conditionals: conditionals_are_true,
    exact_log_partition: log_partition_is_true,
    gaussian_factors: gaussian_factors_are_true,
    has_exact_log_density: has_exact_log_density_is_true,
    is_normalized: log_prob_is_true,
    label_pairs: label_pairs_are_true,
    log_density_of_one_hot: one_hot_is_true,
    log_prob_of: log_prob_is_true,
    sampler_of: sampler_is_true,
    sensitivities: sensitivities_are_true,
    spin_pairs: spin_pairs_are_true,
    tails: tails_are_true,
    twists: twists_are_true,
}
OF_FORM = {
    combine,
    distribute,
    experts.noised.ladder.at_noise_level,
    in_tractable_parts,
    own_method,
    simplify,
    widen,
}
"""These give another expert back, or a method: held to by the laws of each family."""


@pytest.mark.parametrize("check", dict.fromkeys(TRUE.values()), ids=lambda check: check.__name__)
@pytest.mark.parametrize("expert", everything())
def test_the_answer_is_true(expert: poe.Expert, check: Callable[[poe.Expert], None]) -> None:
    with torch.no_grad() if check is not bounds_are_true else torch.enable_grad():
        check(expert)


@pytest.mark.parametrize("expert", everything())
def test_another_form_says_the_same(expert: poe.Expert) -> None:
    x = events(expert)
    simple, log_constant = simplify(expert)
    same(simple(x) + log_constant, expert(x))
    same(in_tractable_parts(expert)(x), expert(x))


@pytest.mark.parametrize(
    "expert",
    [e for kind in (poe.Chunked, Told, poe.Normalized) for e in SAMPLES[kind]] + NESTED,
    ids=outline,
)
def test_wrappers_obey_the_laws(expert: poe.Expert) -> None:
    # Autocast says that its score is not quite its gradient; Rescaled's map does not move along.
    if not any(isinstance(part, poe.Autocast | Rescaled) for part in expert.modules()):
        check_expert(expert, events(expert))


# What is handed on counts.


STRUCTURED = [
    experts.Ising.grid((4, 4), coupling=0.3),
    experts.Ising.grid((4, 4), coupling=0.3, field=normals(4, 4)),
    experts.RBM(normals(6, 3), torch.zeros(6), torch.zeros(3)),
    experts.Potts.grid((3, 3), num_labels=3, coupling=0.4),
]


def _chosen(expert: poe.Expert) -> Choice:
    known = structure_of(expert)
    return by_structure(known) or on_discrete(known)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda e: poe.Chunked(e, 3),
        Told,
        lambda e: poe.Chunked(Told(e), 2),
        lambda e: poe.Normalized(e, poe.log_partition(magnet)),
    ],
    ids=["Chunked", "Told", "nested", "Normalized"],
)
@pytest.mark.parametrize("expert", STRUCTURED, ids=["clusters", "grid", "RBM", "Potts"])
def test_a_wrapped_expert_gets_the_same_kernel(
    expert: poe.Expert, wrap: Callable[[poe.Expert], poe.Expert]
) -> None:
    plain, wrapped = _chosen(expert), _chosen(wrap(expert))
    assert type(wrapped.kernel) is type(plain.kernel)
    assert wrapped.why == plain.why


def test_a_chunked_expert_draws_the_same() -> None:
    for expert in STRUCTURED[1:3]:
        plain, chunked = (
            poe.sample(
                e, 40, num_chains=4, generator=torch.Generator().manual_seed(0), progress=False
            )
            for e in (expert, poe.Chunked(expert, 3))
        )
        assert torch.equal(plain.samples, chunked.samples)


improper = experts.Gaussian([0.0], scale=[1.0]) / experts.Gaussian([0.0], scale=[0.5])
runaway = poe.as_expert(D.Poisson(2.0)) / poe.as_expert(D.Poisson(3.0)) ** 2


@pytest.mark.parametrize(
    "expert",
    [
        poe.Chunked(improper, 3),
        poe.Autocast(improper),
        poe.Chunked(poe.Autocast(improper), 3),
        Told(improper),
        poe.Transformed(improper, D.AffineTransform(0.0, 2.0)),
        improper.at(D.AffineTransform(0.0, 2.0)),
        Rescaled(improper, Diagonal(torch.zeros(1), torch.ones(1))),
        poe.Chain(improper, step),
        alike(line**-1, line**-1),
        poe.Tempered(poe.Chunked(improper, 3), 2.0),
        poe.Autocast(line) * poe.Chunked(line, 3) ** -2,
        poe.Dequantized(runaway),
    ],
    ids=outline,
)
def test_what_is_improper_inside_is_refused(expert: poe.Expert) -> None:
    with pytest.raises(poe.ImproperError):
        check_proper(expert)
    with pytest.raises(poe.ImproperError):
        poe.sample(expert, 10, progress=False)


def test_a_users_own_question_and_rule() -> None:
    @question
    def num_wells(expert: poe.Expert, least: int) -> int | None:
        return None

    @own_question
    def size(expert: poe.Expert) -> int:
        return 0

    try:
        num_wells.register(experts.Gaussian)(lambda expert, least: max(1, least))
        assert num_wells(poe.Chunked(Told(poe.normalize(narrow)), 3), 0) == 1
        assert num_wells(poe.Chunked(poe.Autocast(narrow), 3), 0) is None
        size.register(experts.Gaussian)(lambda expert: 2)
        assert (size(narrow), size(Told(narrow))) == (2, 0)
        assert answer_of(num_wells, poe.Mixture) is None
    finally:
        QUESTIONS.remove(num_wells)
        QUESTIONS.remove(size)

    class Louder(Told):
        """A wrapper with a rule and a method of its own."""

        def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
            return torch.zeros(num_samples, *self.space.event_shape)

    tails.register(Louder)(lambda expert: None)
    louder = Louder(quartic)
    assert tails(Louder(narrow)) is None
    assert can_sample_exactly(louder)
    assert not can_sample_exactly(Told(quartic))
    assert math.isfinite(sampler_of(louder)(3).sum())  # type: ignore[misc]
