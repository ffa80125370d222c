"""normflows' models as experts and conditionals: the same values, draws, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import normflows as nf
import pytest
import torch
from torch import Tensor, nn

import poe
from experts.adapters.normflows import NormflowsClassFlow, NormflowsContextFlow, NormflowsFlow
from poe.testing import expert_laws as laws
from tests.missing import import_without
from tests.seeds import seeded

L, B = nf.flows, nf.distributions


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int, *shape: int) -> Tensor:
    return torch.randn(n, *shape, generator=rng())


def couplings(dropout: float | None = None) -> list[nn.Module]:
    steps: list[nn.Module] = []
    for _ in range(2):
        net = nf.nets.MLP([1, 6, 2], leaky=0.1, dropout=dropout)
        steps += [L.AffineCouplingBlock(net), L.Permute(2, mode="swap")]
    return steps


def lipschitz(size: int) -> L.Residual:
    return L.Residual(nf.nets.LipschitzMLP([size, 6, size], lipschitz_const=0.9))


@seeded()
def flow(*steps: nn.Module, base: nn.Module | None = None) -> nf.NormalizingFlow:
    return nf.NormalizingFlow(base or B.DiagGaussian(2), list(steps) or couplings())


@seeded()
def glow(class_cond: bool) -> nf.MultiscaleFlow:
    shapes = [(8, 1, 1), (2, 2, 2)]
    base = [B.ClassCondDiagGaussian(s, 3) if class_cond else B.DiagGaussian(s) for s in shapes]
    blocks = [[L.GlowBlock(c, 4, split_mode="channel", scale=True), L.Squeeze()] for c in (8, 4)]
    model = nf.MultiscaleFlow(base, blocks, [L.Merge()], class_cond=class_cond)
    model.log_prob(points(20, 1, 4, 4), torch.zeros(20).long())  # ActNorm sees data
    return model


FLOWS: dict[str, Callable[[], nn.Module]] = {
    "affine couplings": flow,
    "mixture base": lambda: flow(base=B.GaussianMixture(3, 2)),
    "autoregressive splines": lambda: flow(
        L.AutoregressiveRationalQuadraticSpline(2, 1, 6), L.LULinearPermute(2)
    ),
    "coupled splines": lambda: flow(L.CoupledRationalQuadraticSpline(2, 1, 6)),
    "masked affine": lambda: flow(L.MaskedAffineAutoregressive(2, 6)),
    "planar, leaky": lambda: flow(L.Planar((2,), act="leaky_relu")),
    "residual, 2-D": lambda: flow(lipschitz(2)).eval(),
    "shifted": lambda: flow(*couplings(), nf.transforms.Shift()),
    "Glow": lambda: glow(False),
}


@pytest.mark.parametrize("name", FLOWS)
@seeded()
def test_a_flow_is_an_expert_with_the_same_density_and_draws(name: str) -> None:
    model = FLOWS[name]()
    expert = poe.as_expert(model)
    x = expert.sample(5, generator=rng())
    assert isinstance(expert, NormflowsFlow)
    given = (None,) if name == "Glow" else ()
    kept = x.clone()
    torch.testing.assert_close(expert.log_prob(x), model.log_prob(x.clone(), *given))
    assert torch.equal(x, kept)  # though Shift changes its input in place
    assert expert.space == poe.Real(x.shape[1:])
    for law in (laws.batch_shape, laws.dtype, laws.one_by_one, laws.score, laws.sampling):
        law(expert, x)


@seeded()
def test_draws_go_back_to_the_base() -> None:
    expert = poe.as_expert(flow().double())
    z = expert.flow.inverse(expert.sample(20_000, generator=rng())).detach()
    for values, mean in ((z, 0.0), (z**2, 1.0)):
        assert ((values.mean(0) - mean).abs() < 4 * values.std(0) / len(z) ** 0.5).all()


@pytest.mark.parametrize("name", ["class base", "Glow"])
@seeded()
def test_a_flow_with_classes_is_a_conditional(name: str) -> None:
    if name == "Glow":
        model = glow(True)
    else:
        model = nf.ClassCondFlow(B.ClassCondDiagGaussian(2, 3), couplings())
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    conditional, y = poe.as_expert(model), torch.tensor([2, 0, 1])
    assert isinstance(conditional, NormflowsClassFlow)
    each, one = conditional.given(y), conditional.given(1)
    x = each.sample(3, generator=rng())
    torch.testing.assert_close(each.log_prob(x), model.log_prob(x, y))
    torch.testing.assert_close(one.log_prob(x), model.log_prob(x, torch.ones(3).long()))
    assert not torch.allclose(one(x), each(x))
    for law in (laws.batch_shape, laws.dtype, laws.sampling):
        law(one, x)


@pytest.mark.parametrize("base", ["DiagGaussian", "ConditionalDiagGaussian"])
@seeded()
def test_a_flow_with_a_context_is_a_conditional(base: str) -> None:
    q0 = B.base.ConditionalDiagGaussian(2, nn.Linear(3, 4)) if "Cond" in base else B.DiagGaussian(2)
    step = L.MaskedAffineAutoregressive(2, 6, context_features=3)
    model = nf.ConditionalNormalizingFlow(q0, [step])
    conditional, y = poe.as_expert(model), points(4, 3)
    assert isinstance(conditional, NormflowsContextFlow)
    each, one = conditional.given(y), conditional.given(y[0])
    x = each.sample(4, generator=rng())
    torch.testing.assert_close(each.log_prob(x), model.log_prob(x, context=y))
    torch.testing.assert_close(one.log_prob(x), model.log_prob(x, context=y[:1].expand(4, 3)))
    for law in (laws.batch_shape, laws.dtype, laws.sampling):
        law(one, x)
    with pytest.raises(poe.DtypeError, match=r"context of floats, got torch\.int64"):
        conditional.given(torch.tensor([1, 0, 0]))(x)


@seeded()
def test_what_is_no_class_is_refused() -> None:
    conditional = poe.as_expert(nf.ClassCondFlow(B.ClassCondDiagGaussian(2, 3), couplings()))
    with pytest.raises(poe.PoeError, match=r"classes from 0 to 2, got 3"):
        conditional.given(3)
    with pytest.raises(poe.DtypeError, match=r"class index.*got torch.float32.*argmax"):
        conditional.given(torch.eye(3))


@seeded()
def test_logit_as_the_outermost_layer_makes_an_interval() -> None:
    model = flow(*couplings(), nf.transforms.Logit(0.05))
    expert = poe.as_expert(model)
    assert expert.space == poe.Interval(2, -0.05 / 0.9, 0.95 / 0.9)
    x = expert.sample(5, generator=rng())
    torch.testing.assert_close(expert(x), model.log_prob(x))
    assert expert(torch.full((1, 2), 2.0)).item() == -torch.inf
    with pytest.raises(poe.AdaptationError, match=r"Logit as the outermost layer.*FromLogDensity"):
        poe.as_expert(flow(nf.transforms.Logit(0.05), *couplings()))


TARGET = B.TwoMoons()
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no inverse": (lambda: flow(L.Planar((2,))), "its Planar has no inverse"),
    "no inverse either": (lambda: flow(L.Radial((2,))), "its Radial has no inverse"),
    "batch statistics": (
        lambda: flow(L.BatchNorm()),
        "its BatchNorm depends on the rest of the batch; use ActNorm",
    ),
    "no data seen": (
        lambda: flow(L.ActNorm((2,))),
        "its ActNorm takes its scale from the first batch and has seen none",
    ),
    "a chain": (
        lambda: flow(L.MetropolisHastings(TARGET, B.DiagGaussianProposal((2,), 0.1), 2)),
        "its MetropolisHastings steps at random",
    ),
    "Hutchinson's trace": (
        lambda: flow(lipschitz(3), base=B.DiagGaussian(3)).eval(),
        r"its Residual has a log-determinant that is a random estimate \(Hutchinson's\)",
    ),
    "training mode": (lambda: flow(lipschitz(2)), "its Residual .*in evaluation mode"),
    "periodic": (
        lambda: flow(base=B.UniformGaussian(2, [0])),
        "its UniformGaussian has periodic values",
    ),
    "not normalised": (
        lambda: flow(base=B.GaussianPCA(2, 1)),
        "its GaussianPCA has a log_prob that is not normalised",
    ),
    "dropout": (
        lambda: flow(*couplings(dropout=0.5)),
        r"NormalizingFlow in evaluation mode.*\(Dropout\) in training mode.*model.eval\(\)",
    ),
    "no draws": (lambda: flow(base=TARGET), "expected a NormalizingFlow that draws and inverts"),
    "no density": (
        lambda: nf.NormalizingFlowVAE(B.DiagGaussian(2)),
        "cannot tell what NormalizingFlowVAE returns or where x lives; use poe.FromLogDensity",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@seeded()
def test_what_is_no_density_is_refused(name: str) -> None:
    build, words = REFUSED[name]
    with pytest.raises(poe.AdaptationError, match=words):
        poe.as_expert(build())


@seeded()
def test_corrected_kernels_refuse_an_estimated_trace() -> None:
    model = flow(lipschitz(3), base=B.DiagGaussian(3)).eval()
    for parameter in model.flows.parameters():
        nn.init.normal_(parameter, std=0.5)
    expert = poe.FromLogDensity(model.log_prob, space=poe.Real(3))
    with pytest.raises(poe.PoeError, match="expert 'FromLogDensity' gave values that differ"):
        poe.sample(expert, 8, kernel=poe.samplers.MALA(0.1), warmup=1, progress=False)


def test_without_normflows_the_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    message = r'normflows to be installed, got none: pip install "product-of-experts\[normflows\]"'
    with pytest.raises(ImportError, match=message):
        import_without("normflows", "experts.adapters.normflows", monkeypatch)
