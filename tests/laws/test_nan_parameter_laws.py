"""A parameter or buffer that is no number is found before anything is said of an expert."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from poe.density.capabilities import can_sample_exactly
from poe.density.checks import require_numbers
from poe.density.closed_forms import require_agreement
from poe.normalizers.exact import in_closed_form
from tests.laws.test_expert_laws import EXPERTS, LabelledGaussian
from tests.seeds import seeded


def tensors(expert: nn.Module) -> list[Tensor]:
    found = [*expert.parameters(), *expert.buffers()]
    return [t for t in found if t.is_floating_point() and t.numel()]


def is_told(expert: poe.Expert, x: Tensor) -> bool:
    """Whether a run on it ends in an error that names it, or its log-density is NaN."""
    try:
        require_numbers(expert)
        known = in_closed_form(expert)
        if can_sample_exactly(expert):
            poe.sample(expert, len(x), num_chains=len(x), progress=False)
    except poe.NonFiniteError:
        return True
    assert known is None
    with torch.no_grad():
        return bool(expert(x).isnan().any())


@pytest.mark.parametrize("name", EXPERTS)
def test_nan_in_any_tensor_is_told(name: str) -> None:
    with seeded():
        plain, x = EXPERTS[name]()
    for index in range(len(tensors(plain))):
        for is_all in (True, False):  # or one number of it
            expert = copy.deepcopy(plain)
            tensor = tensors(expert)[index]
            tensor.data = tensor.data.clone()
            tensor.data[... if is_all else (0,) * tensor.ndim] = torch.nan
            assert is_told(expert, x) or torch.equal(expert(x), plain(x)), (index, is_all)


@pytest.mark.parametrize("infinity", [math.inf, -math.inf])
@pytest.mark.parametrize(
    "name",
    [
        "Gaussian", "Gaussian, full", "Gamma family", "Bernoulli family", "Categorical family",
        "Wishart family", "RBM", "Ising", "Potts", "DBM", "Mixture", "Product", "Chain",
        "Normalized", "KernelDensity", "MADE", "NADE", "CausalTransformer", "GaussianRBM",
    ],
)  # fmt: skip
def test_an_infinity_is_told_where_it_means_nothing(name: str, infinity: float) -> None:
    if name not in EXPERTS:
        pytest.fail(f"no expert {name}")
    with seeded():
        plain, x = EXPERTS[name]()
    for index in range(len(tensors(plain))):
        expert = copy.deepcopy(plain)
        tensors(expert)[index].data.fill_(infinity)
        if isinstance(expert, poe.Normalized) and index in (1, 2, 3):
            continue  # the error and the bounds of its normaliser
        assert is_told(expert, x), index


def normal(loc: Tensor | None = None) -> experts.Gaussian:
    return experts.Gaussian(torch.zeros(1) if loc is None else loc, scale=[1.0])


def diverged() -> experts.Gaussian:
    expert = normal(nn.Parameter(torch.zeros(1)))
    expert.loc.data.fill_(torch.nan)
    return expert


@pytest.mark.parametrize(
    "use",
    [
        lambda e: poe.sample(e, 100, progress=False),
        lambda e: poe.sample(e, 100, kernel=poe.samplers.MALA(0.1), progress=False),
        lambda e: poe.smc(e, 1000, progress=False),
        lambda e: poe.smc(normal(), 1000, start=e, progress=False),
        lambda e: poe.log_partition(e),
        lambda e: poe.log_partition(e, method=poe.normalizers.Quadrature()),
        lambda e: poe.log_partition(e, method=poe.normalizers.MBAR(), progress=False),
        lambda e: poe.normalize(e),
        lambda e: poe.any_of(e, normal()),
        lambda e: e.sample(3),
    ],
)
@pytest.mark.parametrize(
    "build",
    [
        lambda e: e,
        lambda e: normal() * e**0.5,
        lambda e: poe.Chunked(e, 10),
        lambda e: normal() | e,
        lambda e: poe.Transformed(e, torch.distributions.AffineTransform(0.0, 2.0)),
    ],
)
@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_every_entry_point_tells(
    use: Callable[[poe.Expert], Any], build: Callable[[poe.Expert], poe.Expert]
) -> None:
    with pytest.raises(
        poe.PoeError, match=r"got nan in 1 of 1 of its .*loc \(Gaussian\)|loc must be"
    ):
        use(build(diverged()))


def test_the_expert_is_called_by_its_name_in_the_product() -> None:
    target = poe.Product(prior=normal(), likelihood=diverged(), other=normal())
    with pytest.raises(
        poe.NonFiniteError, match=r"expert 'likelihood', got nan in 1 of 1 of its loc"
    ):
        poe.log_partition(target)


class Masked(poe.Expert):
    """A user's own: masks of −inf and data with NaN for what is missing are his affair."""

    def __init__(self) -> None:
        super().__init__()
        self.space = poe.Real(2)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("data", torch.tensor([1.0, torch.nan]))

    def forward(self, x: Tensor) -> Tensor:
        kept = self.mask.exp()  # type: ignore[operator]
        gap = (x - self.data.nan_to_num()) * (1 + kept)  # type: ignore[operator]
        return -gap.square().sum(-1)


class MaskedPair(poe.Autoregressive):
    """A user's normalised expert, one of whose buffers is a mask of −inf."""

    def __init__(self) -> None:
        super().__init__()
        self.space = poe.Binary(2)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def begin(self, num_sequences: int) -> poe.structure.autoregressive.PrefixState:
        return poe.structure.autoregressive.PrefixState(torch.zeros(num_sequences, 1))

    def log_next(self, state: Any, place: int) -> Tensor:
        logits = state.values.expand(-1, 2)
        return (logits + self.mask if place else logits).log_softmax(1)

    def append(self, state: Any, place: int, values: Tensor) -> Any:
        return state


EVALUATED = {
    "Classifier", "DensityRatio", "Discriminator", "JEM", "NeuralEnergy", "NoisyConditional",
    "NoisyEnergy", "ReconstructionEnergy", "VisibleDBM",
}  # fmt: skip
"""Nothing is known of these but what they evaluate to, or an expert inside says it."""


def test_every_expert_says_which_of_its_tensors_may_be_infinite() -> None:
    kinds = [kind for name in experts.__all__ if isinstance(kind := getattr(experts, name), type)]
    silent = {
        kind.__name__
        for kind in kinds
        if issubclass(kind, poe.Expert | poe.Conditional) and kind.may_be_infinite is None
    }
    assert silent == EVALUATED


def test_what_means_something_is_not_accused() -> None:
    assert poe.log_partition(MaskedPair()).value == 0
    assert (poe.sample(MaskedPair(), 20, progress=False).samples[..., 1] == 0).all()
    require_numbers(Masked() * experts.Gaussian([0.0, 0.0], 1.0))
    require_numbers(experts.FactorGraph(poe.Binary(2), [((0, 1), [[0.0, -torch.inf], [0.0, 0.0]])]))
    never = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    chain = experts.LinearChain(torch.zeros(3, 2), never)
    assert poe.log_partition(chain).is_trusted
    unbounded = poe.log_partition(normal())._replace(upper=torch.tensor(torch.inf))
    assert poe.normalize(normal(), unbounded).sample(3).isfinite().all()
    lazy = poe.FromEnergy(nn.Sequential(nn.LazyLinear(1), nn.Flatten(0)), space=poe.Real(2))
    require_numbers(lazy)
    require_numbers(experts.Gaussian([0.0], 1.0).to("meta"))
    large = experts.Gaussian(torch.full((4,), 3e38), 1.0)  # its sum is infinite, and it is not
    require_numbers(large)


def test_nan_is_never_trusted() -> None:
    found = poe.log_partition(normal())
    assert found.is_trusted
    assert not found._replace(value=torch.tensor(torch.nan)).is_trusted


class TwoFaced(experts.Gaussian):
    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x - 1)


class NoNumber(poe.Expert):
    """NaN comes from what no tensor shows."""

    space = poe.Real(1)

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1) * torch.nan

    def log_prob(self, x: Tensor) -> Tensor:
        return self(x)


def test_a_closed_form_is_held_to_the_log_density() -> None:
    with pytest.raises(poe.PoeError, match="TwoFaced and its log_prob to say the same"):
        poe.log_partition(TwoFaced([0.0], scale=[1.0]))
    with pytest.raises(poe.PoeError, match="TwoFaced and its log_prob to say the same"):
        poe.sample(TwoFaced([0.0], scale=[1.0]), 100, progress=False)
    with pytest.raises(poe.NonFiniteError, match="a number, got NaN"):
        poe.log_partition(NoNumber())


def test_rounding_is_no_disagreement() -> None:
    far = experts.Gaussian([1e4], scale=[1e-2])
    target = far * experts.Gaussian([-1e4], scale=[1e-2]) / far**0.5
    require_agreement(target, torch.tensor([[0.0], [3e4]]))
    require_agreement(
        LabelledGaussian().given(torch.tensor([0, 1])),
        torch.randn(2, 2, generator=torch.Generator().manual_seed(0)),
    )
