"""Every expert by every law; a new expert enters by one line. Then broken experts, law by law."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow as NFlow
from nflows.transforms import MaskedAffineAutoregressiveTransform
from torch import Tensor, distributions as D, nn

import experts
import poe
from experts import (
    DensityRatio,
    Flow,
    Gaussian,
    ImageFlow,
    NeuralEnergy,
    PixelMixture,
    ReconstructionEnergy,
)
from experts.adapters import onnx, pzflow
from experts.adapters.jax import JaxLogDensity
from experts.adapters.onnx import OnnxClassifier
from experts.noised.score_model import ScoreModel
from poe.density.capabilities import can_sample_exactly
from poe.density.conditional import num_conditions
from poe.testing import EXPERT_LAWS, LawError, check_expert, expert_laws as laws
from tests.seeds import seeded


class LabelledGaussian(poe.Conditional):
    is_normalized = True

    def __init__(self) -> None:
        super().__init__()
        self.space = poe.Real(2)
        self.locs = nn.Parameter(torch.tensor([[0.0, 1.0], [2.0, -1.0]]))

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        return normal(x - nn.functional.embedding(condition, self.locs))

    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        loc = self.locs[condition].detach()
        shape = (num_samples, 2)
        return loc + torch.randn(shape, generator=generator, dtype=loc.dtype, device=loc.device)


class LastScalar(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(-1)


def normal(x: Tensor) -> Tensor:
    return -0.5 * (x.square() + 1.8378770664093453).sum(-1)


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), LastScalar())


class OneHotPair(nn.Module):
    """Two sites and how each pair of their values goes together: (*batch, 2, 3) -> (*batch,)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("coupling", torch.arange(9.0).reshape(3, 3).cos())

    def forward(self, z: Tensor) -> Tensor:
        return torch.einsum("...u,uv,...v->...", z[..., 0, :], self.coupling, z[..., 1, :])


class FromPrefix(nn.Module):
    """Logits of three tokens by the sum of those so far: (n, t) -> (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("logits", torch.arange(30.0).reshape(10, 3).sin())

    def forward(self, prefix: Tensor) -> Tensor:
        return self.logits[prefix.sum(1)]


def _flow() -> NFlow:
    made = MaskedAffineAutoregressiveTransform(2, 8, activation=torch.tanh)
    return NFlow(made, StandardNormal([2]))


def _zuko_flow(context: int = 0) -> nn.Module:
    import zuko

    return zuko.flows.MAF(2, context, transforms=1, hidden_features=(6,), activation=nn.Tanh)


def _normflows_flow() -> nn.Module:
    import normflows

    flow = normflows.flows.MaskedAffineAutoregressive(2, 6)
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(2), [flow])


def _numpyro_gamma() -> Any:
    import jax
    import numpyro

    return numpyro.distributions.Gamma(jax.numpy.array([1.5, 2.0]), 1.0).to_event(1)


def _gaussian_mixture() -> Any:
    from sklearn.mixture import GaussianMixture

    return GaussianMixture(2, random_state=0).fit(_table())


def _kernel_density() -> Any:
    from sklearn.neighbors import KernelDensity

    return KernelDensity().fit(_table())


def _table() -> np.ndarray:
    return _real(20, 2).double().numpy()


def _quartic(x: Any) -> Any:
    return -(x**4).sum() + x[0, 0] * x[1, 1]


def _kept() -> Tensor:
    return (1 - torch.linspace(1e-4, 0.5, 10)).cumprod(0)


class NoiseOfNormal(nn.Module):
    """What a diffusion model of N(0, 4 I) predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", _kept())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        kept = self.kept[t][:, None]
        return (1 - kept).sqrt() * x / (1 + 3 * kept)


def _table_flow() -> dict[str, object]:
    """A flow in two columns, as pzflow keeps it."""
    net = [(_real(1, 4).numpy(), _real(4).numpy()), (), (_real(4, 8).numpy(), _real(8).numpy())]
    coupling = ("NeuralSplineCoupling", (3, 5, 1, 4, None, 0, False))
    return {
        "class": "Flow",
        "data_columns": ("a", "b"),
        "conditional_columns": None,
        "latent_info": ("Normal", (2,)),
        "bijector_info": ("Chain", (coupling, ("Roll", (1,)))),
        "params": ((), [net, ()]),
    }


def _tokens(n: int, k: int, *shape: int) -> Tensor:
    return torch.randint(k, (n, *shape), generator=torch.Generator().manual_seed(1))


def _real(n: int, *shape: int) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))


a = Gaussian([0.0, 1.0], scale=[1.0, 2.0])
b = Gaussian([1.0, -1.0], covariance=[[2.0, 0.5], [0.5, 1.0]])
line = Gaussian([0.5], scale=0.7)
matrix = torch.eye(2) + 0.1

EXPERTS: dict[str, Callable[[], tuple[poe.Expert, Tensor]]] = {
    "Gaussian": lambda: (a, _real(4, 2)),
    "Gaussian, 1-D": lambda: (line, _real(4, 1)),
    "Gaussian, full": lambda: (b, _real(4, 2)),
    "Gaussian, image": lambda: (Gaussian(torch.zeros(1, 3, 3), scale=0.5), _real(3, 1, 3, 3)),
    "Tempered": lambda: (poe.Tempered(a, 0.3), _real(4, 2)),
    "Product": lambda: (a * b**0.5 / a**0.25, _real(4, 2)),
    "Product, learned exponent": lambda: (
        poe.Product(a, style=b ** nn.Parameter(torch.tensor(0.7))),
        _real(4, 2),
    ),
    "Mixture": lambda: (poe.Mixture([a, b], [0.3, 0.7]), _real(4, 2)),
    "Mixture, estimated": lambda: (
        poe.Mixture([a, b**2], [0.3, 0.7], log_partitions=[None, -1.0]),
        _real(4, 2),
    ),
    "Normalized": lambda: (poe.normalize(a * b**0.5), _real(4, 2)),
    "Normalized, estimated": lambda: (
        poe.normalize(poe.FromEnergy(lambda x: x.pow(4).sum(-1), space=poe.Real(2))),
        _real(4, 2),
    ),
    "Any of": lambda: (
        poe.any_of(a, poe.FromEnergy(lambda x: x.pow(4).sum(-1), space=poe.Real(2))),
        _real(4, 2),
    ),
    "Chain": lambda: (
        poe.Chain(line, experts.LinearGaussian([[2.0]], bias=[1.0], scale=[0.5])),
        _real(4, 2),
    ),
    "Chain, of an unnormalised prior": lambda: (
        poe.Chain(line**2, experts.LinearGaussian([[2.0]], bias=[1.0], scale=[0.5])),
        _real(4, 2),
    ),
    "Marginal": lambda: (
        poe.Marginal(line, experts.LinearGaussian([[2.0]], bias=[1.0], scale=[0.5]), _real(64, 1)),
        _real(4, 1),
    ),
    "Posterior": lambda: (
        poe.Marginal(
            line, experts.LinearGaussian([[2.0]], bias=[1.0], scale=[0.5]), _real(64, 1)
        ).posterior(torch.ones(1)),
        _real(4, 1),
    ),
    "Transformed": lambda: (
        poe.Transformed(b, D.AffineTransform(torch.ones(2), torch.tensor([2.0, -3.0]))),
        _real(4, 2),
    ),
    "Transformed, positive": lambda: (poe.Transformed(line, D.ExpTransform()), _real(4, 1).exp()),
    "Transformed, to another range": lambda: (
        poe.Transformed(
            poe.as_expert(D.Independent(D.Beta(torch.full((2,), 2.0), torch.full((2,), 3.0)), 1)),
            poe.ranges.Rescale(0, 1, -1, 1),
        ),
        _real(4, 2).tanh(),
    ),
    "At": lambda: (line.at(nn.Linear(2, 1), poe.Real(2)), _real(4, 2)),
    "At, other sizes": lambda: (
        poe.as_expert(D.Independent(D.Normal(torch.zeros(1, 2), 1.0), 2)).at(
            poe.ranges.Resize((1, 2)), poe.Real((2, 4))
        ),
        _real(4, 2, 4),
    ),
    "Given": lambda: (LabelledGaussian().given(1), _real(4, 2)),
    "Given, a batch of densities": lambda: (
        LabelledGaussian().given(torch.tensor([0, 1, 1, 0])),
        _real(4, 2),
    ),
    "FromLogDensity": lambda: (
        poe.FromLogDensity(lambda x: -x.pow(4).sum(-1), space=poe.Real(2)),
        _real(4, 2),
    ),
    "FromEnergy": lambda: (
        poe.FromEnergy(lambda x: x.pow(4).sum(-1), space=poe.Real(2)),
        _real(4, 2),
    ),
    "exponential": lambda: (poe.link.exponential(_network(), poe.Real(2)), _real(4, 2)),
    "square": lambda: (poe.link.square(_network(), poe.Real(2)), _real(4, 2)),
    "absolute": lambda: (poe.link.absolute(_network(), poe.Real(2)), _real(4, 2)),
    "softplus": lambda: (poe.link.softplus(_network(), poe.Real(2)), _real(4, 2)),
    "Exponential family": lambda: (experts.Exponential([0.5, 3.0]), _real(4, 2).exp()),
    "Gamma family": lambda: (experts.Gamma([0.7, 4.0], [1.5, 3.0]), _real(4, 2).exp()),
    "Beta family": lambda: (experts.Beta([0.7, 4.0], [1.5, 3.0]), _real(4, 2).sigmoid()),
    "Dirichlet family": lambda: (experts.Dirichlet([0.7, 1.0, 4.0]), _real(4, 3).softmax(-1)),
    "Bernoulli family": lambda: (experts.Bernoulli([-2.0, 1.0]), (_real(4, 2) > 0).float()),
    "Ising": lambda: (
        experts.Ising([[0.0, 0.7], [0.7, 0.0]], [0.3, -0.2]),
        (_real(4, 2) > 0).float(),
    ),
    "Ising, grid": lambda: (
        experts.Ising.grid((12, 12), 0.3, 0.1, periodic=True),
        (_real(4, 12, 12) > 0).float(),
    ),
    "Ising, grid that can be drawn from": lambda: (
        experts.Ising.grid((12, 3), 0.3, 0.1),
        (_real(4, 12, 3) > 0).float(),
    ),
    "Potts": lambda: (
        experts.Potts.grid((2, 3), 0.7, 3, [0.3, -0.2, 0.0]),
        torch.randint(3, (4, 2, 3), generator=torch.Generator().manual_seed(0)),
    ),
    "DBM": lambda: (
        experts.DBM([_real(3, 2), _real(2, 2)], [_real(3), _real(2), _real(2)]),
        (_real(4, 5) > 0).float(),
    ),
    "DBM, x alone": lambda: (
        experts.VisibleDBM(experts.DBM([_real(3, 2), _real(2, 2)], [_real(3), _real(2), _real(2)])),
        (_real(4, 3) > 0).float(),
    ),
    "Categorical family": lambda: (
        experts.Categorical([[0.3, -1.0, 2.0]]),
        torch.tensor([[0], [1], [2]]),
    ),
    "Poisson family": lambda: (experts.Poisson([0.3, 7.0]), _real(4, 2).exp().round()),
    "VonMises family": lambda: (experts.VonMises([0.3, -3.0], [0.5, 4.0]), _real(4, 2).tanh()),
    "Wishart family": lambda: (experts.Wishart(4.0, torch.eye(2)), matrix.expand(3, 2, 2).clone()),
    "RBM": lambda: (experts.RBM(_real(3, 2), _real(3), _real(2)), (_real(4, 3) > 0).float()),
    "RBMs": lambda: (
        experts.RBM(_real(3, 2), _real(3), _real(2)) ** 2
        * experts.RBM(_real(3, 1), [0.0] * 3, [1.0]),
        (_real(4, 3) > 0).float(),
    ),
    "MADE": lambda: (experts.MADE(3, hidden=(5, 4)), (_real(4, 3) > 0).float()),
    "MADE, image": lambda: (experts.MADE((2, 2), hidden=()), (_real(4, 2, 2) > 0).float()),
    "NADE": lambda: (experts.NADE(3, hidden=4), (_real(4, 3) > 0).float()),
    "CausalTransformer": lambda: (
        experts.CausalTransformer(4, 3, width=8, num_heads=2, num_layers=2),
        _tokens(4, 4, 3),
    ),
    "LocalProduct": lambda: (
        poe.LocalProduct(poe.Binary(3), [experts.MADE(3), experts.NADE(3)]),
        (_real(4, 3) > 0).float(),
    ),
    "FactorGraph": lambda: (
        experts.FactorGraph(poe.Binary(3), [((0, 2), _real(2, 2)), ((2, 1, 0), _real(2, 2, 2))]),
        (_real(4, 3) > 0).float(),
    ),
    "FactorGraph, tokens": lambda: (
        experts.FactorGraph(poe.Sequence(3, 4), [((i, i + 1), _real(3, 3)) for i in range(3)]),
        _tokens(4, 3, 4),
    ),
    "LinearChain": lambda: (experts.LinearChain(_real(3, 4), _real(2, 4, 4)), _tokens(4, 4, 3)),
    "NextToken": lambda: (
        experts.language.NextToken(
            FromPrefix().eval(), experts.language.Vocabulary(["", "a", "b"], ends=[0]), 3
        ),
        torch.tensor([[1, 2, 1], [2, 0, 0], [1, 1, 0]]),
    ),
    "Automaton": lambda: (
        experts.language.contains(
            "ab", experts.language.Vocabulary(["", "a", "b", "ab"], ends=[0]), 3
        ),
        torch.tensor([[3, 0, 0], [1, 2, 3], [1, 1, 2]]),
    ),
    "at_most": lambda: (experts.graphs.at_most(2, 3), torch.eye(3)),
    "parity": lambda: (experts.graphs.parity((2, 2), odd=True), torch.eye(4).reshape(4, 2, 2)),
    "Classifier": lambda: (
        experts.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), poe.Sequence(4, 3)).given(
            1
        ),
        _tokens(4, 4, 3),
    ),
    "OnnxClassifier": lambda: (OnnxClassifier(onnx.example(), label=1), _real(4, 2)),
    "TableFlow": lambda: (pzflow.of_state(_table_flow()), _real(4, 2)),
    "JaxLogDensity": lambda: (JaxLogDensity(_quartic, space=poe.Real((2, 2))), _real(4, 2, 2)),
    "NumPyro": lambda: (
        poe.as_expert(_numpyro_gamma()),
        _real(4, 2).exp(),
    ),
    "ScoreModel": lambda: (
        ScoreModel(NoiseOfNormal(), _kept(), space=poe.Real(2)).given(3),
        _real(4, 2),
    ),
    "JEM": lambda: (
        experts.JEM(nn.Sequential(nn.Linear(2, 5), nn.SiLU(), nn.Linear(5, 3)), poe.Real(2)),
        _real(4, 2),
    ),
    "JEM, of tokens, one class": lambda: (
        experts.JEM(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), poe.Sequence(4, 3)).given(1),
        _tokens(4, 4, 3),
    ),
    "GaussianRBM": lambda: (
        experts.GaussianRBM(_real(3, 2), _real(3), _real(2), scale=[0.5, 1.0, 2.0]),
        _real(4, 3),
    ),
    "PottsRBM": lambda: (
        experts.PottsRBM(_real(3, 4, 2), _real(3, 4), _real(2)),
        torch.tensor([[0, 1, 3], [2, 2, 0]]),
    ),
    "Gammas": lambda: (
        poe.Product(a=experts.Gamma([2.0], [1.0]), b=experts.Gamma([3.0], [0.5]) ** 0.5),
        _real(4, 1).exp(),
    ),
    "Normal": lambda: (poe.as_expert(D.Normal(0.3, 2.0)), _real(4)),
    "Gamma": lambda: (poe.as_expert(D.Gamma(2.0, 1.5)), _real(4).exp()),
    "Beta": lambda: (poe.as_expert(D.Beta(2.0, 3.0)), _real(4).sigmoid()),
    "Uniform": lambda: (poe.as_expert(D.Uniform(-1.0, 2.0)), _real(4).sigmoid()),
    "Dirichlet": lambda: (
        poe.as_expert(D.Dirichlet(torch.tensor([2.0, 3.0, 1.5]))),
        _real(4, 3).softmax(-1),
    ),
    "Wishart": lambda: (
        poe.as_expert(D.Wishart(4.0, torch.eye(2))),
        matrix.expand(3, 2, 2).clone(),
    ),
    "Bernoulli": lambda: (
        poe.as_expert(D.Independent(D.Bernoulli(torch.tensor([0.2, 0.7])), 1)),
        torch.tensor([[0.0, 1.0], [1.0, 1.0]]),
    ),
    "From one-hot values": lambda: (
        poe.FromOneHot(OneHotPair(), space=poe.Categorical((2,), 3)),
        torch.tensor([[0, 2], [1, 1], [2, 0]]),
    ),
    "Categorical": lambda: (
        poe.as_expert(D.Categorical(torch.tensor([0.2, 0.8]))),
        torch.tensor([0, 1, 1]),
    ),
    "Dequantized, counts": lambda: (
        poe.Dequantized(poe.as_expert(D.Independent(D.Poisson(torch.tensor([1.0, 3.0])), 1))),
        _real(4, 2).exp(),
    ),
    "Dequantized": lambda: (
        poe.Dequantized(poe.as_expert(D.Categorical(torch.tensor([0.2, 0.8])))),
        torch.tensor([0.3, 1.7]),
    ),
    "Relaxed": lambda: (
        poe.Relaxed(poe.FromLogDensity(lambda x: x.square().sum(-1), space=poe.Binary(2))),
        _real(4, 2).sigmoid(),
    ),
    "Flow": lambda: (Flow(_flow()), _real(3, 2)),
    "ZukoFlow": lambda: (poe.as_expert(_zuko_flow()), _real(3, 2)),
    "ZukoConditional": lambda: (poe.as_expert(_zuko_flow(3)).given(torch.ones(3)), _real(3, 2)),
    "NormflowsFlow": lambda: (poe.as_expert(_normflows_flow()), _real(3, 2)),
    "GaussianMixture of scikit-learn": lambda: (
        poe.as_expert(_gaussian_mixture()),
        _real(4, 2),
    ),
    "KernelDensity of scikit-learn": lambda: (poe.as_expert(_kernel_density()), _real(4, 2)),
    "KernelDensity": lambda: (
        experts.KernelDensity(_real(5, 1), 0.5, "epanechnikov"),
        _real(5, 1) + 0.1,
    ),
    "Neighbours": lambda: (experts.Neighbours(_real(9, 2) + 0.1, 2), _real(4, 2)),
    "RelativeNeighbours": lambda: (experts.RelativeNeighbours(_real(9, 2) + 0.1, 3), _real(4, 2)),
    "Neighbours, at normal scores": lambda: (
        experts.Neighbours(_real(9, 2), norm=1.0).at(
            nn.Sequential(
                experts.tables.Standardize.fitted(_real(9, 2)),
                experts.tables.NormalScores.fitted(_real(9, 2)),
            ),
            poe.Real(2),
        ),
        _real(4, 2) + 0.1,
    ),
    "NeuralEnergy": lambda: (NeuralEnergy(_network(), poe.Real(2)), _real(3, 2)),
    "NeuralEnergy, perceptron": lambda: (
        NeuralEnergy(experts.neural.MultilayerPerceptron((2,), (8, 8)), poe.Real(2)),
        _real(3, 2),
    ),
    "NeuralEnergy, residual": lambda: (
        NeuralEnergy(
            experts.neural.ResidualNetwork((2, 8, 8), (4, 8), spectral_norm=True),
            poe.Real((2, 8, 8)),
        ),
        _real(3, 2, 8, 8),
    ),
    "NoisyEnergy": lambda: (
        experts.NoisyEnergy((8, 8), ("a", "b"), 0.5, channels=(4, 8)).given("b"),
        _real(3, 8, 8),
    ),
    "ProbabilisticPCA": lambda: (
        experts.ProbabilisticPCA(_real(2, 3), _real(2, 3, 2), 0.5),
        _real(4, 2, 3),
    ),
    "PixelMixture": lambda: (
        PixelMixture((1, 2), ("a", "b"), 0.5, channels=3, blocks=1, components=2).given("b"),
        _real(3, 1, 2),
    ),
    "ImageFlow": lambda: (
        ImageFlow((1, 2), ("a", "b"), 0.5, layers=2, hidden=4).given("b"),
        _real(3, 1, 2),
    ),
    "ImageFlow, a batch of densities": lambda: (
        ImageFlow((2, 2), ("a", "b"), 0.5, layers=2, hidden=4).given(torch.tensor([1, 0, 1])),
        _real(3, 2, 2),
    ),
    "DensityRatio": lambda: (
        DensityRatio(ImageFlow((1, 2), ("a", "b"), 0.5, layers=2, hidden=4)).given("b"),
        _real(3, 1, 2),
    ),
    "VAE": lambda: (
        experts.VAE(
            nn.Linear(2, 4),
            experts.GaussianDecoder(nn.Linear(2, 2), torch.tensor([0.0, -1.0]), (2,)),
            _real(8, 2),
        ),
        _real(4, 2),
    ),
    "Discriminator": lambda: (experts.Discriminator(nn.Linear(2, 1), poe.Real(2)), _real(4, 2)),
    "FieldOfExperts": lambda: (
        experts.FieldOfExperts(_real(3, 2, 2), _real(3, 2), [0.5, 2.0], (4, 3)),
        _real(4, 4, 3),
    ),
    "GaussianLikelihood": lambda: (
        experts.GaussianLikelihood(experts.images.Blur(_real(3, 3), (4, 5)), _real(2, 3), 0.5),
        _real(4, 4, 5),
    ),
    "PatchMixture": lambda: (
        experts.PatchMixture(_real(3, 2, 2), _real(2), torch.eye(3).repeat(2, 1, 1), (4, 3)),
        _real(4, 4, 3),
    ),
    "PatchMixture, on tiles": lambda: (
        experts.PatchMixture(_real(1, 1, 2), _real(2), [[[0.5]], [[2.0]]], (1, 2), (1, 2))
        * Gaussian(torch.zeros(1, 2), scale=1.0),
        _real(4, 1, 2),
    ),
    "SaltAndPepper": lambda: (
        experts.SaltAndPepper(torch.tensor([0.5, 1.0]), 0.3, scale=0.5),
        _real(4, 2),
    ),
    "ReconstructionEnergy": lambda: (
        ReconstructionEnergy((4, 4), ("a", "b", "any"), 0.5, channels=2).given("b"),
        _real(3, 4, 4),
    ),
}


CASES = [
    pytest.param(name, marks=pytest.mark.law) if name in ("TableFlow", "NumPyro") else name
    for name in EXPERTS
]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, poe.Expert, Tensor]:
    """Made here and not at import: its numbers are the same, whichever files are collected."""
    with seeded():
        return request.param, *EXPERTS[request.param]()


@pytest.mark.parametrize("law", EXPERT_LAWS, ids=lambda law: law.__name__)
def test_law(case: tuple[str, poe.Expert, Tensor], law: laws.Law) -> None:
    name, expert, x = case
    if name == "Wishart" and law is laws.device:
        pytest.skip("torch.distributions.Wishart looks at its numbers when it is built")
    law(expert, x)


def test_draws_carry_no_gradient_whatever_is_learned(case: tuple[str, poe.Expert, Tensor]) -> None:
    expert, x = copy.deepcopy(case[1]), case[2]
    if not can_sample_exactly(expert):
        pytest.skip("has no draws")
    for where, tensor in (*expert.named_parameters(), *expert.named_buffers()):
        # A learned exponent of RBMs is not merged: there are no draws then.
        if tensor.is_floating_point() and not where.endswith("exponent"):
            tensor.requires_grad_()
    draws = expert.sample(len(x), generator=torch.Generator().manual_seed(0))
    assert not draws.requires_grad


def test_no_draws_are_as_good_as_some(case: tuple[str, poe.Expert, Tensor]) -> None:
    expert = case[1]
    if not can_sample_exactly(expert) or num_conditions(expert):
        pytest.skip("has no draws, or so many for each of its conditions")
    draws = expert.sample(0, generator=torch.Generator().manual_seed(0))
    assert draws.shape == (0, *expert.space.event_shape)


class Broken(poe.Expert):
    """A standard normal on Real(1), with one thing wrong."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.space = poe.Real(1)
        self.register_buffer("one", torch.ones(1))
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(x)


class Claiming(Broken):
    """Claims that its log-density is normalised, and that it can be sampled."""

    draws = staticmethod(lambda n, g: torch.randn(n, 1, generator=g))

    def log_prob(self, x: Tensor) -> Tensor:
        return self(x)

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.draws(num_samples, generator)


def _drawing(draws: Callable[[int, torch.Generator], Tensor]) -> Claiming:
    expert = Claiming(normal)
    expert.draws = draws  # type: ignore[assignment]
    return expert


class Detached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return normal(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient[:, None] * 3.0


BROKEN: dict[str, Callable[[], tuple[laws.Law, poe.Expert]]] = {
    "NaN": lambda: (laws.finite_log_density, Broken(lambda x: (x.sum(-1) - 100).log())),
    "random": lambda: (laws.finite_log_density, Broken(lambda x: normal(x) + torch.rand(len(x)))),
    "one batch dimension only": lambda: (
        laws.batch_shape,
        Broken(lambda x: torch.mm(x, x.new_ones(1, 1))[:, 0]),
    ),
    "batch mean": lambda: (laws.one_by_one, Broken(lambda x: normal(x - x.mean(0)))),
    "always float32": lambda: (laws.dtype, Broken(lambda x: normal(x.float()))),
    "tensor left in float32": lambda: (
        laws.dtype,
        Broken(lambda x: (x @ torch.ones(1, 1, dtype=torch.float32)).sum(-1)),
    ),
    "half precision inside": lambda: (
        laws.score,
        Broken(lambda x: normal(x.bfloat16()).to(x.dtype)),
    ),
    "hard-coded device": lambda: (
        laws.device,
        Broken(lambda x: normal(x - torch.ones(1, device="cpu"))),
    ),
    "comes back to the cpu": lambda: (laws.device, Broken(lambda x: torch.zeros(len(x)))),
    "detached": lambda: (laws.score, Broken(lambda x: normal(x.detach()) + 0 * x.sum(-1))),
    "wrong backward": lambda: (laws.score, Broken(Detached.apply)),
    "not normalised": lambda: (laws.normalization, Claiming(lambda x: normal(x) + 0.01)),
    "draws of the wrong shape": lambda: (
        laws.sampling,
        _drawing(lambda n, g: torch.randn(n, generator=g)),
    ),
    "draws globally": lambda: (laws.sampling, _drawing(lambda n, g: torch.randn(n, 1))),
    "ignores the seed": lambda: (
        laws.sampling,
        _drawing(lambda n, g: torch.rand(n, 1, generator=torch.Generator().manual_seed(g.seed()))),
    ),
    "draws carry a gradient": lambda: (
        laws.sampling,
        _drawing(lambda n, g: torch.randn(n, 1, generator=g, requires_grad=True)),
    ),
    "draws outside": lambda: (laws.sampling, _drawing(lambda n, g: torch.full((n, 1), torch.nan))),
}


@pytest.mark.parametrize("name", BROKEN)
@seeded()
def test_law_catches(name: str) -> None:
    law, expert = BROKEN[name]()
    with pytest.raises((LawError, poe.PoeError)):
        law(expert, _real(4, 1))


@pytest.mark.parametrize("name", BROKEN)
@seeded()
def test_check_expert_catches(name: str) -> None:
    with pytest.raises((LawError, poe.PoeError)):
        check_expert(BROKEN[name]()[1], _real(4, 1))


def test_healthy_twin_of_the_broken_ones_passes() -> None:
    check_expert(Claiming(normal), _real(4, 1))


def test_check_expert_needs_a_batch() -> None:
    with pytest.raises(poe.PoeError, match=r"expected x of shape \(n, \*event\)"):
        check_expert(line, torch.zeros(1, 1))


def test_check_expert_leaves_the_expert_as_it_is() -> None:
    expert = Gaussian([0.0], scale=1.0)
    check_expert(expert, _real(3, 1))
    assert expert.loc.dtype == torch.float32
    assert expert.loc.device.type == "cpu"
