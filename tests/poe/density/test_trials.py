"""A log-density that is drawn anew at every call is refused by corrected kernels, by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from poe.density.trials import require_deterministic, training_layers
from tests.seeds import seeded

G = experts.Gaussian([0.0, 1.0], scale=1.0)


class Hutchinson(poe.Expert):
    """log N(x; 0, I) + v' A v, v ~ N(0, I): an unbiased estimate of a density with tr A added."""

    def __init__(self, spread: float = 1.0) -> None:
        super().__init__()
        self.space = poe.Real(2)
        self.register_buffer("A", spread * torch.tensor([[0.0, 1.0], [1.0, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        v = torch.randn(x.shape, generator=_noise)
        return -0.5 * x.square().sum(-1) + torch.einsum("...i,ij,...j", v, self.A, v)


_noise = torch.Generator().manual_seed(0)


def network(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 4), *layers, nn.Linear(4, 1), nn.Flatten(0))


def as_it_is(factor: poe.Expert) -> poe.Expert:
    return factor


def run(target: poe.Expert, kernel: object = None) -> poe.Draws:
    g = torch.Generator().manual_seed(0)
    return poe.sample(target, 40, kernel=kernel, warmup=4, generator=g, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", [None, poe.samplers.MALA(0.1), poe.samplers.HMC(0.1, 2)])
def test_noise_is_refused_and_the_expert_named(kernel: object) -> None:
    target = poe.Product(prior=G, trace=Hutchinson() ** 0.5)
    with pytest.raises(poe.PoeError, match=r"same log-density.*expert 'trace' gave.*Hutchinson"):
        run(target, kernel)


def test_an_expert_by_itself_is_named_by_its_class() -> None:
    with pytest.raises(poe.PoeError, match="expert 'Hutchinson' gave values that differ by up to"):
        run(Hutchinson())


def test_the_particles_of_smc_refuse_it_too() -> None:
    g = torch.Generator().manual_seed(0)
    with pytest.raises(poe.PoeError, match="expert 'Hutchinson' gave"):
        poe.smc(G * Hutchinson(), 256, generator=g, progress=False)


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_an_uncorrected_kernel_takes_it() -> None:
    assert run(Hutchinson(), poe.samplers.ULA(0.1)).guarantee == "biased"


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_rounding_is_no_noise() -> None:
    quiet = Hutchinson(spread=1e-6)
    assert run(quiet, poe.samplers.MALA(0.1)).guarantee == "asymptotically exact"


def test_the_same_nan_and_infinity_are_no_noise() -> None:
    u = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    values = torch.tensor([torch.nan, -torch.inf, 1.0])
    same = poe.FromLogDensity(lambda x: values, space=poe.Real(2))
    require_deterministic(same, same, as_it_is, u)
    calls = iter([values, values.clone().fill_(0.0), values, values])
    other = poe.FromLogDensity(lambda x: next(calls), space=poe.Real(2))
    with pytest.raises(poe.PoeError, match="same log-density from two calls"):
        require_deterministic(other, other, as_it_is, u)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Dropout(0.5), r"net\.1 \(Dropout\)"),
        (nn.AlphaDropout(0.5), r"net\.1 \(AlphaDropout\)"),
        (nn.BatchNorm1d(4), r"net\.1 \(BatchNorm1d\)"),
        (nn.RReLU(), r"net\.1 \(RReLU\)"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
@seeded()
def test_training_mode_is_refused_by_name_and_evaluation_mode_taken(
    layer: nn.Module, words: str
) -> None:
    target = poe.Product(prior=G, net=experts.NeuralEnergy(network(layer), poe.Real(2)))
    target.train()
    with pytest.raises(poe.PoeError, match=rf"expert 'net' has {words} in training mode.*eval\(\)"):
        run(target, poe.samplers.MALA(0.1))
    run(target.eval(), poe.samplers.MALA(0.1))


@seeded()
def test_which_layers_matter() -> None:
    harmless = nn.Sequential(nn.Dropout(0.0), nn.BatchNorm1d(2).eval(), nn.LayerNorm(2), nn.ReLU())
    assert training_layers(harmless) == []
    alone = nn.BatchNorm1d(2, track_running_stats=False).eval()
    assert training_layers(alone) == ["BatchNorm1d"]
    attention = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1)
    assert "self_attn (MultiheadAttention)" in training_layers(attention)
    assert training_layers(nn.LSTM(2, 2, 2, dropout=0.5)) == ["LSTM"]
    assert training_layers(attention.eval()) == []
