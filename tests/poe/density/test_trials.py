"""What is found out by trying: noise, dependence on other rows, and a score that is no slope."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from poe.density.trials import (
    is_score_contradicted,
    require_deterministic,
    require_score_once,
    training_layers,
)
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


def normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


def numpy_part(x: Tensor) -> Tensor:
    return torch.from_numpy(-2 * ((x.detach().numpy() - 1) ** 2).sum(-1))


def rough(scale: float) -> Callable[[Tensor], Tensor]:
    """A network of many kinks, which works in float32."""
    with seeded():
        net = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        net.append(nn.Linear(64, 1))
    return lambda x: scale * net(scale * x.float())[..., 0].to(x.dtype)


def funnel(x: Tensor) -> Tensor:
    return -(x[:, 0] ** 2) / 18 - 0.5 * (x[:, 1:] ** 2).sum(-1) * (-x[:, 0]).exp() - x[:, 0]


RIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "Gaussian": normal,
    "narrow": lambda x: normal(1e4 * x),
    "broad": lambda x: normal(x / 1e4),
    "a large constant": lambda x: 1e6 + normal(x),
    "a huge constant": lambda x: 1e9 + normal(x),
    "kinks": lambda x: -x.abs().sum(-1),
    "one-sided kinks": lambda x: -(1 - x).relu().sum(-1),
    "cones": lambda x: -x.norm(dim=-1),
    "the largest": lambda x: -x.abs().amax(-1),
    "network": rough(1.0),
    "rough network": rough(10.0),
    "rounded to float32": lambda x: normal(x).float().to(x.dtype),
    "rounded to float16": lambda x: normal(x).half().to(x.dtype),
    "in bfloat16": lambda x: normal(x.bfloat16()).to(x.dtype),
    "rounded to 1e-3": lambda x: normal(x).round(decimals=3) + normal(x),
    "rounded to 1e-2": lambda x: (5 * normal(x)).round(decimals=2) + normal(x),
    "steps": lambda x: normal(x) + x.round().sum(-1),
    "steps without a graph": lambda x: normal(x) - x.detach().round().sum(-1),
    "a cliff": lambda x: normal(x).masked_fill(x[:, 0] < 0, -torch.inf),
    "two modes": lambda x: torch.logsumexp(torch.stack([normal(50 * (x - s)) for s in (1, -1)]), 0),
    "funnel": funnel,
    "heavy tails": lambda x: -2 * (1 + x.square() / 3).log().sum(-1),
    "waves": lambda x: normal(x) + 0.5 * (100 * x).sin().sum(-1),
    "fine waves": lambda x: normal(x) + 1e-3 * (1e4 * x).sin().sum(-1),
    "flat": lambda x: 0 * x.sum(-1),
    "clamped": lambda x: normal(x.clamp(-1, 1)),
    "a stable exponential": lambda x: (
        (x - x.amax(-1, keepdim=True).detach()).exp().sum(-1).log() + x.amax(-1).detach()
    ),
}
LOST: dict[str, Callable[[Tensor], Tensor]] = {
    "half": lambda x: normal(x) + normal(x.detach()),
    "a tenth": lambda x: normal(x) + 0.1 * normal(x.detach()),
    "by numpy": lambda x: normal(x) + numpy_part(x),
    "in float32": lambda x: normal(x) + normal(3 * x.detach().float()).to(x.dtype),
    "a factor": lambda x: normal(x) * (1 + x.detach().norm(dim=-1)),
    "one coordinate": lambda x: normal(torch.cat([x[:, :1].detach(), x[:, 1:]], -1)),
    "one mode": lambda x: torch.logsumexp(torch.stack([normal(x - 1), normal(x.detach() + 1)]), 0),
    "network": lambda x: normal(x) + rough(1.0)(10 * x.detach()),
    "kinks": lambda x: normal(x) - 3 * x.detach().abs().sum(-1),
    "beside a large constant": lambda x: 1e6 + normal(x) + 2 * normal(x.detach()),
    "narrow": lambda x: normal(1e4 * x) + normal(1e4 * x.detach()),
    "broad": lambda x: normal(x / 1e3) + normal(x.detach() / 1e3),
    "half of an exponential": lambda x: (
        (x - x.amax(-1, keepdim=True).detach()).exp().sum(-1).log() + x.amax(-1)
    ),
    "nearly all": lambda x: normal(x.detach()) + 0.01 * x.sum(-1),
}


def starts(num_chains: int, where: str, dtype: torch.dtype) -> Tensor:
    u = torch.randn(num_chains, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return {"apart": u, "at one place": u[:1].expand_as(u), "at 0": torch.zeros_like(u)}[where]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("where", ["apart", "at one place", "at 0"])
@pytest.mark.parametrize("num_chains", [1, 4, 64])
def test_a_lost_part_of_a_score_is_told_from_kinks_and_rounding(
    num_chains: int, where: str, dtype: torch.dtype
) -> None:
    u = starts(num_chains, where, dtype)

    def accused(functions: dict[str, Callable[[Tensor], Tensor]]) -> set[str]:
        made = {name: poe.FromLogDensity(fn, space=poe.Real(3)) for name, fn in functions.items()}
        return {name for name, expert in made.items() if is_score_contradicted(expert, u)}

    assert accused(RIGHT) == set()
    assert accused(LOST) == set(LOST)


def test_an_own_score_is_left_to_who_states_it() -> None:
    lost = poe.FromLogDensity(LOST["half"], space=poe.Real(3))
    u = starts(8, "apart", torch.float32)
    assert is_score_contradicted(lost, u)
    lost.has_own_score = True  # type: ignore[assignment]
    assert not is_score_contradicted(lost * lost, u)


def test_noise_is_no_lost_score() -> None:
    noisy, u = Hutchinson(), torch.randn(8, 2, generator=torch.Generator().manual_seed(2))
    assert not is_score_contradicted(noisy, u)


def test_an_expert_is_named_among_others() -> None:
    lost = poe.FromLogDensity(lambda x: normal(x) + normal(x.detach()), space=poe.Real(2))
    target = poe.Product(prior=G, seen=lost**0.5)
    with pytest.raises(
        poe.GradientError, match="that of expert 'seen' is another than differences"
    ):
        run(target, poe.samplers.ULA(0.1))
    chosen = run(target).choice
    assert chosen.endswith("its score is another than differences of its values show")


def test_what_is_called_again_and_again_is_compared_once() -> None:
    calls: list[int] = []

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return normal(x)

    expert = poe.FromLogDensity(counted, space=poe.Real(2))
    u = torch.ones(4, 2)
    require_score_once(expert, expert, as_it_is, u)
    before = len(calls)
    require_score_once(expert, expert, as_it_is, u)
    assert before > 0
    assert len(calls) == before
