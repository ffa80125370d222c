"""No entry point lets a function's changes of its argument in: not to a chain, nor to the caller.

A new entry point enters by a line in `ENTRY_POINTS`, a new way to change x by one in `CHANGES`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import experts
import poe

CHANGES: dict[str, Callable[[Tensor], object]] = {
    "by torch": lambda x: x.abs_(),
    "of a detached view": lambda x: x.detach().abs_(),
    "by numpy": lambda x: _absolute(x.detach().numpy()),
    "by index": lambda x: x.__setitem__(..., x.abs()),
}


def _absolute(array: object) -> None:
    import numpy as np

    np.abs(array, out=array)  # type: ignore[call-overload]


class Changing(poe.Expert):
    """N(1, 1) in each dimension, which leaves |x| in its argument."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.space, self.change = poe.Real(2), change

    def forward(self, x: Tensor) -> Tensor:
        value = -0.5 * (x - 1).square().sum(-1)
        self.change(x)
        return value


class ChangingConditional(poe.Conditional):
    """N(y, 1), which changes x and y."""

    space, condition_ndim = poe.Real(2), 1

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.change = change

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        value = -0.5 * (x - condition).square().sum(-1)
        self.change(x)
        self.change(condition)
        return value


class ChangingMap(torch.nn.Module):
    """The identity, which changes z."""

    space = poe.Real(2)

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.change = change

    def forward(self, z: Tensor) -> Tensor:
        moved = z.clone()
        self.change(z)
        return moved


normal = experts.Gaussian([1.0, 1.0], scale=[1.0, 1.0])
EXPERTS: dict[str, Callable[[Callable[[Tensor], object]], poe.Expert]] = {
    "expert": Changing,
    "factors": lambda change: poe.Product(Changing(change), Changing(change)) ** 0.5,
    "before another": lambda change: Changing(change) ** 0.5 * normal**0.5,
    "conditional": lambda change: ChangingConditional(change).given(torch.ones(2)),
    "map": lambda change: normal.at(ChangingMap(change)),
    "mixed": lambda change: poe.Mixture([Changing(change)] * 2, log_partitions=[1.8379, 1.8379]),
    "in chunks": lambda change: poe.Chunked(Changing(change), 3),
}
WALK = poe.samplers.MetropolisHastings(1.0)


def _g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _sampled(target: poe.Expert, x: Tensor) -> Tensor:
    return poe.sample(
        target, 400, kernel=WALK, initial=x, warmup=10, generator=_g(), progress=False
    ).samples


ENTRY_POINTS: dict[str, Callable[[poe.Expert, Tensor], object]] = {
    "call": lambda target, x: target(x),
    "log_density": lambda target, x: target.log_density(x),
    "energy": lambda target, x: target.energy(x),
    "contributions": lambda target, x: poe.Product(target, normal).contributions(x),
    "log_ratio": lambda target, x: poe.log_ratio(target, x, x + 1),
    "sample": _sampled,
    "advance": lambda target, x: poe.advance(target, WALK, x, 5, generator=_g()).positions,
    "contrastive divergence": lambda target, x: (
        poe.losses.contrastive_divergence(target, x, x + 1).value
    ),
}


@pytest.mark.parametrize("entry", ENTRY_POINTS)
@pytest.mark.parametrize("kind", EXPERTS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_function_that_changes_its_argument_changes_nothing_else(
    change: str, kind: str, entry: str
) -> None:
    x = torch.tensor([[-1.0, 2.0], [0.5, -3.0], [-0.2, -0.1], [2.0, 1.0]])
    before, ask = x.clone(), ENTRY_POINTS[entry]
    found = ask(EXPERTS[kind](CHANGES[change]), x)
    assert torch.equal(x, before)
    expected = ask(EXPERTS[kind](lambda x: None), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["expert", "factors", "before another", "conditional"])
@pytest.mark.parametrize("change", ["by torch", "of a detached view", "by index"])
def test_where_gradients_are_recorded_a_change_is_refused_in_words(change: str, kind: str) -> None:
    target, x = EXPERTS[kind](CHANGES[change]), -torch.ones(4, 2)
    if kind == "conditional":
        target = Changing(CHANGES[change]) * target
    with pytest.raises(poe.PoeError, match=r"leave its argument x as it is"):
        target.score(x)
    assert torch.equal(x, -torch.ones(4, 2))


UNSEEN: dict[str, Callable[[Tensor], object]] = {
    "by numpy": lambda x: _at_most_one(x.detach().numpy()),
    "of its data": lambda x: x.data.clamp_(max=1.0),
}


def _at_most_one(array: object) -> None:
    import numpy as np

    np.minimum(array, 1.0, out=array)  # type: ignore[call-overload]


@pytest.mark.parametrize("run", [poe.sample, poe.smc, poe.log_partition])
@pytest.mark.parametrize("space", [poe.Real(6), poe.Positive(6)])  # too many for quadrature
@pytest.mark.parametrize("change", UNSEEN)
def test_a_change_that_torch_does_not_count_is_found_at_the_start(
    change: str, space: poe.Space, run: Callable[..., object]
) -> None:
    def changing(x: Tensor) -> Tensor:
        UNSEEN[change](x)
        return -0.5 * x.square().sum(-1)

    after = poe.FromLogDensity(lambda x: -0.5 * (x - 3).square().sum(-1), space=space)
    target = poe.FromLogDensity(changing, space=space) * after
    more = () if run is poe.log_partition else (400,)
    with pytest.raises(poe.PoeError, match="whether gradients are recorded or not"):
        run(target, *more, generator=_g(), progress=False)


@pytest.mark.parametrize("ask", [poe.Expert.score, poe.losses.score_matching])
def test_a_gradient_is_never_asked_for_at_the_callers_own_tensor(
    ask: Callable[[poe.Expert, Tensor], object],
) -> None:
    x = -torch.ones(4, 2)
    ask(Changing(CHANGES["by numpy"]), x)
    assert torch.equal(x, -torch.ones(4, 2))


def test_what_is_collected_may_change_the_draws_that_it_is_given() -> None:
    plain = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
    options = {"kernel": WALK, "warmup": 10, "progress": False}
    draws = poe.sample(plain, 400, generator=_g(), **options)
    bent = poe.sample(plain, 400, generator=_g(), collect=lambda x: x.clamp_(min=0), **options)
    assert torch.equal(bent.samples, draws.samples.clamp(min=0))
    assert torch.equal(bent.log_density, draws.log_density)


def test_a_callback_that_changes_the_start_changes_no_chain() -> None:
    plain = poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))
    start = torch.ones(4, 2)

    def run(callback: Callable[[object], object]) -> Tensor:
        x = start.clone()
        return poe.sample(
            plain, 400, kernel=poe.samplers.MetropolisHastings(1e-30), initial=x, warmup=1,
            generator=_g(), progress=False, callback=lambda report: callback(x),
        ).samples  # fmt: skip

    assert torch.equal(run(lambda x: None), run(lambda x: x.zero_()))  # type: ignore[attr-defined]


def test_a_replay_buffer_is_no_view_of_what_its_start_keeps() -> None:
    class Stored(poe.Expert):
        space = poe.Real(1)

        def __init__(self) -> None:
            super().__init__()
            self.kept = torch.zeros(5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return -x.square().sum(-1)

        def sample(self, num_samples: int, *, generator: object = None) -> Tensor:
            return self.kept[:num_samples]

    start = Stored()
    buffer = poe.ReplayBuffer(start, 5)
    buffer.put(torch.arange(5), torch.ones(5, 1))
    assert torch.equal(start.kept, torch.zeros(5, 1))


@pytest.mark.parametrize("space", [poe.Real(2), poe.Positive(2)])
def test_switching_off_the_gradient_of_x_gives_no_score_of_zero(space: poe.Space) -> None:
    def switching(x: Tensor) -> Tensor:
        return -x.requires_grad_(False).square().sum(-1)

    plain = poe.FromLogDensity(switching, space=space)
    other = poe.FromLogDensity(lambda x: -x.square().sum(-1), space=space)
    x = torch.ones(4, 2)
    for target in (plain, plain * other, other * plain):
        with pytest.raises(poe.GradientError, match=r"leaves x.requires_grad as it is"):
            target.score(x)
    with pytest.raises(poe.PoeError, match=r"x.requires_grad as it is|leave its argument x as"):
        poe.sample(
            plain, 40, kernel=poe.samplers.MALA(0.1), warmup=0, generator=_g(), progress=False
        )
