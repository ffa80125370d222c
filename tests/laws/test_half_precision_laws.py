"""Half precision and autocast, over every expert and entry point: an answer, or words.

What comes is no bare error of torch, and no log-density, sum or draw of so few bits. A new expert
enters by its line among those of the expert laws, an entry point by one here.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from poe.core.randomness import Lent
from poe.samplers import MALA, Gibbs
from tests.laws.test_expert_laws import EXPERTS

pytestmark = [
    pytest.mark.filterwarnings("ignore::poe.TrustWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
Call = Callable[[poe.Expert, Tensor], object]
HALF = (torch.bfloat16, torch.float16)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _kernel(expert: poe.Expert) -> object:
    return Gibbs(expert.space) if expert.space.is_discrete else MALA(0.01)


ENTRY_POINTS: dict[str, Call] = {
    "log_density": lambda e, x: e(x),
    "score": lambda e, x: e.score(x),
    "product": lambda e, x: (e * e**0.5)(x),
    "sample": lambda e, x: poe.sample(
        e, 8, warmup=4, num_chains=4, generator=seeded(), progress=False
    ),
    "sample by a kernel": lambda e, x: poe.sample(
        e,
        8,
        warmup=4,
        num_chains=4,
        kernel=_kernel(e),
        generator=seeded(),
        progress=False,  # type: ignore[arg-type]
    ),
    "sample from x": lambda e, x: poe.sample(
        e, 8, warmup=4, initial=x, generator=seeded(), progress=False
    ),
    "smc": lambda e, x: poe.smc(e, 64, num_moves=1, generator=seeded(), progress=False),
    "log_partition": lambda e, x: poe.log_partition(e, generator=seeded(), progress=False),
    "normalize": lambda e, x: poe.normalize(e, generator=seeded()),
    "advance": lambda e, x: poe.advance(e, _kernel(e), x, 2, generator=seeded()),  # type: ignore[arg-type]
}
SLOW_TO_START = ("NumPyro", "JaxLogDensity", "OnnxClassifier")
"""They compile at every call; ``JEM`` and others stand for them."""


def _built(name: str) -> tuple[poe.Expert, Tensor]:
    """The expert, and positions: a copy, since ``.to`` changes what others hold as well."""
    with Lent(seeded()):
        expert, x = EXPERTS[name]()
    return copy.deepcopy(expert), x


def _in_half(name: str, dtype: torch.dtype) -> tuple[poe.Expert, Tensor]:
    expert, x = _built(name)
    return expert.to(dtype), x.to(dtype) if x.is_floating_point() else x


def _tried(call: Call, expert: poe.Expert, x: Tensor) -> None:
    """Every outcome but an answer of full precision, or an error of this package, is an error."""
    try:
        found = call(expert, x)
    except poe.PoeError:
        return
    for part in (found, getattr(found, "samples", None), getattr(found, "value", None)):
        if isinstance(part, Tensor) and call is not ENTRY_POINTS["score"]:
            assert part.dtype not in HALF


@pytest.mark.law
@pytest.mark.parametrize("name", [name for name in EXPERTS if name not in SLOW_TO_START])
def test_every_expert_in_half_precision(name: str) -> None:
    expert, x = _in_half(name, torch.bfloat16)
    for call in ENTRY_POINTS.values():
        _tried(call, expert, x)


@pytest.mark.law
@pytest.mark.parametrize("name", [name for name in EXPERTS if name not in SLOW_TO_START])
def test_every_expert_under_autocast(name: str) -> None:
    expert, x = _built(name)
    for call in ENTRY_POINTS.values():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _tried(call, expert, x)


FEW = ("Gaussian, full", "Wishart family", "RBM", "MADE", "Mixture", "CausalTransformer", "Beta")


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("dtype", HALF)
def test_some_experts_in_half_precision(name: str, dtype: torch.dtype) -> None:
    for entry_point in ("log_density", "sample", "sample from x", "log_partition"):
        _tried(ENTRY_POINTS[entry_point], *_in_half(name, dtype))


@pytest.mark.parametrize("name", ["sample", "smc", "log_partition", "normalize", "advance"])
@pytest.mark.parametrize("context", [
    contextlib.nullcontext(),
    torch.autocast("cpu", dtype=torch.bfloat16),
], ids=["half", "autocast"])  # fmt: skip
def test_the_remedy_is_told(name: str, context: contextlib.AbstractContextManager[object]) -> None:
    x = torch.zeros(4, 2)
    gaussian = experts.Gaussian([0.0, 0.0], scale=1.0)
    expert = gaussian if isinstance(context, torch.autocast) else gaussian.to(torch.bfloat16)
    with context, pytest.raises(poe.DtypeError, match=r"poe\.Autocast\(expert, torch\.bfloat16\)"):
        ENTRY_POINTS[name](expert, x)


def _net(dtype: torch.dtype) -> nn.Module:
    with Lent(seeded()):
        net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    return net.to(dtype)


def test_the_remedy_works() -> None:
    fast = poe.Autocast(poe.FromEnergy(_net(torch.float32), space=poe.Real(2)))
    target = fast * experts.Gaussian([0.0, 0.0], scale=1.0)
    draws = poe.sample(target, 8, warmup=8, num_chains=4, generator=seeded(), progress=False)
    assert draws.samples.dtype == draws.log_density.dtype == torch.float32


def test_a_network_that_casts_for_itself_is_left_alone() -> None:
    net = _net(torch.bfloat16)
    energy = poe.FromEnergy(lambda x: net(x.to(torch.bfloat16)), space=poe.Real(2))
    target = energy * experts.Gaussian([0.0, 0.0], scale=1.0)
    draws = poe.sample(target, 8, warmup=8, num_chains=4, generator=seeded(), progress=False)
    assert draws.log_density.dtype == torch.float32


def test_a_network_in_half_precision_that_is_given_floats_is_told_of() -> None:
    expert = poe.FromEnergy(_net(torch.bfloat16), space=poe.Real(2))
    with pytest.raises(poe.DtypeError, match=r"expert\.to\(torch\.float32\), and poe\.Autocast"):
        poe.sample(expert, 8, generator=seeded(), progress=False)


def test_many_half_precise_values_are_summed_in_float32() -> None:
    """1000 times 0.1 is 100, where bfloat16 counts on to 32 and stands still."""
    tenth = poe.FromLogDensity(
        lambda x: torch.full(x.shape[:1], 0.1, dtype=torch.bfloat16), space=poe.Real(1)
    )
    value = poe.Product(*[tenth] * 1000)(torch.zeros(2, 1))
    expected = 1000 * torch.tensor(0.1, dtype=torch.bfloat16).item()
    assert value.dtype == torch.float32
    assert math.isclose(value[0].item(), expected, rel_tol=1e-5)


@pytest.mark.parametrize("dtype", HALF)
def test_diagnostics_of_stored_half_precise_draws_are_those_of_the_draws(
    dtype: torch.dtype,
) -> None:
    rounded = torch.randn(4, 500, 1, generator=seeded()).to(dtype)
    for statistic in ("r_hat", "ess_bulk", "ess_tail", "ess_mean", "mcse_mean", "mcse_sd"):
        function = getattr(poe.diagnostics, statistic)
        torch.testing.assert_close(function(rounded).double(), function(rounded.double()).double())
