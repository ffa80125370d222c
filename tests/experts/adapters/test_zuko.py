"""zuko's flows as experts and conditionals: the same values, exact draws, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import zuko
from torch import Tensor, distributions as D, nn

import experts
import poe
from experts.adapters.zuko import ZukoConditional, ZukoFlow, context_size
from poe.testing import expert_laws as laws
from tests.missing import import_without
from tests.seeds import seeded

SMALL = {"transforms": 2, "hidden_features": (6,)}
F, GMM = zuko.flows, zuko.mixtures.GMM
Build = Callable[[int], zuko.lazy.LazyDistribution]

FAMILIES: dict[str, Build] = {
    "NICE": lambda c: F.NICE(2, c, **SMALL),
    "MAF": lambda c: F.MAF(2, c, **SMALL),
    "MAF, 1-D": lambda c: F.MAF(1, c, **SMALL),
    "NSF": lambda c: F.NSF(2, c, bins=4, **SMALL),
    "NCSF": lambda c: F.NCSF(2, c, bins=4, **SMALL),
    "SOSPF": lambda c: F.SOSPF(2, c, **SMALL),
    "BPF": lambda c: F.BPF(2, c, degree=4, **SMALL),
    "NAF": lambda c: F.NAF(
        2, c, transforms=1, hidden_features=(6,), network={"hidden_features": (4,)}
    ),
    "GF": lambda c: F.GF(2, c, transforms=1, hidden_features=(6,)),
    "CNF": lambda c: F.CNF(2, c, hidden_features=(6,)),
    "GMM, full": lambda c: GMM(2, c, hidden_features=(6,)) if c else GMM(2),
    "GMM, diagonal": lambda c: (
        GMM(2, c, covariance_type="diagonal", hidden_features=(6,))
        if c
        else GMM(2, covariance_type="diagonal")
    ),
}


@seeded()
def make(name: str, context: int = 0) -> zuko.lazy.LazyDistribution:
    return FAMILIES[name](context).double()


def points(n: int, *shape: int) -> Tensor:
    return torch.randn(n, *shape, generator=generator(), dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_flow_is_an_expert_with_the_same_density_and_draws(name: str) -> None:
    flow = make(name)
    expert = poe.as_expert(flow)
    x = expert.sample(5, generator=generator())
    assert isinstance(expert, ZukoFlow)
    assert expert.space.contains(x).all()
    assert torch.equal(expert.log_prob(x), flow().log_prob(x))
    assert torch.equal(expert.sample(5, generator=generator()), x)
    for law in (laws.batch_shape, laws.dtype, laws.sampling):
        law(expert, x)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_flow_with_a_context_is_a_conditional(name: str) -> None:
    flow = make(name, 3)
    conditional, y = poe.as_expert(flow), points(5, 3)
    assert isinstance(conditional, ZukoConditional)
    assert context_size(flow) == 3
    each, one = conditional.given(y), conditional.given(y[0])
    x = each.sample(5, generator=generator())
    assert x.shape == (5, *conditional.space.event_shape)
    torch.testing.assert_close(each.log_prob(x), flow(y).log_prob(x))
    torch.testing.assert_close(one.log_prob(x), flow(y[0]).log_prob(x))
    assert one.sample(4, generator=generator()).shape == (4, *conditional.space.event_shape)


def test_circular_flows_live_on_an_interval() -> None:
    expert = poe.as_expert(make("NCSF"))
    assert expert.space == poe.Interval(2, -torch.pi, torch.pi)
    x = torch.tensor([[7.0, 0.0], [0.0, 0.0]]).double()
    assert expert(x).isfinite().tolist() == [False, True]


def test_what_the_base_excludes_is_minus_infinity() -> None:
    box = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.BoxUniform, -torch.ones(2), torch.ones(2), buffer=True
    )
    flow = zuko.lazy.Flow(make("MAF").transform.float(), box)
    expert = poe.as_expert(flow)
    assert expert.space == poe.Real(2)
    x = expert.sample(9, generator=generator())
    assert expert(x).isfinite().all()
    assert expert(x + 9).tolist() == [-torch.inf] * 9


@seeded()
def test_embedded_contexts_are_taken_by_an_example() -> None:
    class Embedded(zuko.lazy.LazyDistribution):
        def __init__(self) -> None:
            super().__init__()
            self.flow, self.embed = (
                F.MAF(2, 4, **SMALL),
                nn.Sequential(nn.Flatten(-2), nn.Linear(6, 4)),
            )

        def forward(self, c: Tensor | None = None) -> D.Distribution:
            return self.flow(self.embed(c))

    flow = Embedded()
    with pytest.raises(poe.AdaptationError, match=r"given no context.*example=context\) takes any"):
        poe.as_expert(flow)
    conditional = ZukoConditional(flow, example=torch.zeros(2, 3))
    assert conditional.given(torch.ones(2, 3))(torch.zeros(5, 2)).shape == (5,)
    assert conditional.given(torch.ones(5, 2, 3)).is_batch


def test_parameters_learn_and_move() -> None:
    expert = poe.as_expert(copy.deepcopy(make("MAF")))
    (-expert(points(4, 2)).sum()).backward()
    assert all(p.grad is not None for p in expert.parameters())
    assert expert.to("meta")(torch.zeros(3, 2, dtype=torch.float64, device="meta")).shape == (3,)


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_a_posterior_times_a_prior_is_sampled() -> None:
    posterior = poe.as_expert(make("MAF", 3)).given(torch.ones(3).double())
    product = posterior * experts.Gaussian(torch.zeros(2).double(), scale=1.0)
    draws = poe.sample(product, 40, warmup=10, generator=generator(), progress=False)
    assert draws.samples.shape == (4, 10, 2)


@seeded()
def test_a_stochastic_trace_is_refused_with_the_remedy_and_by_corrected_kernels() -> None:
    flow = F.CNF(2, hidden_features=(6,), exact=False)
    with pytest.raises(poe.AdaptationError, match=r"Hutchinson's.*flow.transform.exact = True"):
        poe.as_expert(flow)
    flow.transform.exact = True
    expert = poe.as_expert(flow)
    flow.transform.exact = False
    with pytest.raises(poe.PoeError, match="expert 'ZukoFlow' gave values that differ by up to"):
        poe.sample(expert, 8, kernel=poe.samplers.MALA(0.1), warmup=1, progress=False)


def test_dropout_in_training_mode_is_refused() -> None:
    flow = make("MAF")
    flow.transform.transforms[0].hyper.append(nn.Dropout(0.5))
    with pytest.raises(poe.AdaptationError, match=r"MAF in evaluation mode.*\(Dropout\).*eval\(\)"):
        poe.as_expert(flow)
    poe.as_expert(flow.eval())


def test_contexts_of_integers_are_refused() -> None:
    conditional = poe.as_expert(make("MAF", 3))
    with pytest.raises(poe.DtypeError, match=r"floats, got torch.int64; use context.float\(\)"):
        conditional.given(torch.tensor([1, 0, 0]))(points(2, 2))


@seeded()
def test_a_wrong_example_a_batch_and_what_is_no_flow_are_refused() -> None:
    with pytest.raises(poe.AdaptationError, match=r"given a context of shape \(4,\), got mat1"):
        ZukoConditional(make("MAF", 3), example=torch.zeros(4).double())
    batch = zuko.lazy.UnconditionalDistribution(D.Normal, torch.zeros(3), torch.ones(3))
    with pytest.raises(poe.AdaptationError, match=r"got a batch of shape \(3,\)"):
        poe.as_expert(batch)
    with pytest.raises(poe.AdaptationError, match=r"zuko.lazy.LazyDistribution, got Linear"):
        ZukoFlow(nn.Linear(2, 2))


with seeded():
    DISTRIBUTIONS: dict[str, tuple[D.Distribution, poe.Space]] = {
        "DiagNormal": (zuko.distributions.DiagNormal(torch.zeros(2), torch.ones(2)), poe.Real(2)),
        "BoxUniform": (
            zuko.distributions.BoxUniform(-torch.ones(2), torch.ones(2)),
            poe.Interval(2, -1, 1),
        ),
        "Mixture": (
            zuko.distributions.Mixture(
                zuko.distributions.DiagNormal(torch.zeros(3, 2), torch.ones(3, 2)),
                torch.arange(3.0),
            ),
            poe.Real(2),
        ),
        "NormalizingFlow": (
            zuko.distributions.NormalizingFlow(D.ExpTransform().inv, D.Normal(0.0, 1.0)),
            poe.Positive(()),
        ),
    }


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_distribution_of_zuko_is_one_of_torch(name: str) -> None:
    distribution, space = DISTRIBUTIONS[name]
    expert = poe.as_expert(distribution)
    x = expert.sample(5, generator=generator())
    assert isinstance(expert, poe.FromDistribution)
    assert expert.space == space
    torch.testing.assert_close(expert(x), distribution.log_prob(x))


@pytest.mark.parametrize(
    "distribution",
    [make("MAF")(), zuko.distributions.Sort(D.Normal(0.0, 1.0), 3)],
    ids=["of a flow", "Sort"],
)
def test_other_distributions_of_zuko_are_refused_with_the_remedy(distribution: object) -> None:
    with pytest.raises(poe.AdaptationError, match=r"cannot take .* apart.*zuko.lazy"):
        poe.as_expert(distribution)


def test_without_zuko_the_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    message = r'expected zuko to be installed, got none: pip install "product-of-experts\[zuko\]"'
    with pytest.raises(ImportError, match=message):
        import_without("zuko", "experts.adapters.zuko", monkeypatch)
