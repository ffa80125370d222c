"""Training against updates worked out by hand: each sign, each rate and each factor counts.

Rows, chains and starts are such that nothing is left to chance, so that the numbers agree to
rounding; the formulas are written out here once more, in plain numbers.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from experts import DBM, RBM
from experts.boltzmann.training import fit_dbm, fit_rbm, pretrain_dbm

DECAY, MOMENTUM = 0.2, 0.5
LOOKS = 10  # updates from one look of the mean to the next


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a))


@dataclass(frozen=True)
class Held:
    """One particle, (0, 1), that stays where it is."""

    def init(self, rbm: RBM, data: Tensor, *, generator: torch.Generator) -> Tensor:
        return torch.tensor([[0.0, 1.0]])

    def step(
        self, rbm: RBM, data: Tensor, particles: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        return particles

    def at_model(self, particles: Tensor) -> Tensor:
        return particles


def rbm_by_hand(first: list[float], num_updates: int) -> list[float]:
    """W, b and c after updates with the row (1, 0) and the particle (0, 1), from W ``first``.

    The visible centre is (1, 0), so that the row itself is 0 from there and the particle (-1, 1).
    With p = p(z | row), q = p(z | particle) and the hidden centre h:
    dW = (q - h)(1, -1), db = (1, -1) - h dW, dc = (p - q) - dW_1.
    The centre begins at ½ and goes a tenth of its way to p after the first update. Rates are
    1, 1 - 1/n, ..., and the velocity halves from update to update.
    """
    w, b, c, h = list(first), [math.log(3), -math.log(3)], 0.0, 0.5
    speed = [0.0] * 5
    for update in range(num_updates):
        p, q = sigmoid(c + w[0]), sigmoid(c + w[1])
        dw = [q - h, h - q]
        slopes = [
            dw[0] - DECAY * w[0],
            dw[1] - DECAY * w[1],
            1 - h * dw[0],
            -1 - h * dw[1],
            (p - q) - dw[0],
        ]
        rate = 1 - update / num_updates
        speed = [MOMENTUM * u + rate * g for u, g in zip(speed, slopes, strict=True)]
        w, b, c = (
            [w[0] + speed[0], w[1] + speed[1]],
            [b[0] + speed[2], b[1] + speed[3]],
            c + speed[4],
        )
        if update == 0:
            h += 0.1 * (sigmoid(c + w[0]) - h)
    return [*w, *b, c]


def small_rbm(num_updates: int) -> RBM:
    return fit_rbm(
        torch.tensor([[1.0, 0.0]]), 1, particles=Held(), num_epochs=num_updates, batch_size=1,
        learning_rate=1.0, momentum=MOMENTUM, weight_decay=DECAY, averaged=0.0,
        generator=seeded(), progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("num_updates", [1, 2, 3])
def test_an_rbm_moves_as_worked_out_by_hand(num_updates: int) -> None:
    first = torch.empty(2, 1).normal_(std=0.01, generator=seeded()).flatten().tolist()
    rbm = small_rbm(num_updates)
    found = torch.cat([rbm.W.flatten(), rbm.b, rbm.c])
    expected = torch.tensor(rbm_by_hand(first, num_updates))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


WEIGHTS = [-1.0, math.log(3) - 1]


def small_dbm() -> DBM:
    """(0, 1) and 1 in the even layers, whatever the odd one: biases of 40 leave no choice."""
    W0 = torch.tensor([[w] for w in WEIGHTS], dtype=torch.float64)
    W1 = torch.ones(1, 1, dtype=torch.float64)
    biases = [torch.tensor([-40.0, 40.0]), torch.zeros(1), torch.tensor([40.0])]
    return DBM([W0, W1], [b.double() for b in biases])


def dbm_by_hand(num_updates: int) -> list[float]:
    """W0, W1, b0, b1 and b2 after updates by the row (1, 0), with chains held at (0, 1) and 1.

    Of the odd unit the mean is p at the row and q at the chains, p = σ(b1 + w_1 + W1) and
    q = σ(b1 + w_2 + W1); at first they are σ(0) = ½ and σ(log 3) = ¾. The centres are (1, 0) for
    x, o for the odd unit, which begins at p and follows it by a hundredth, and 1 for the top:
    dW0 = (p, -q) - (1, 0)(p - q) - (1, -1) o = (q - o)(1, -1), dW1 = 0,
    db0 = (1, -1) - o dW0, db1 = (p - q) - dW0_1, db2 = 0. So the first update, at rate 1, gives
    W0_1 = -1 + ¼ + ⅕, W1 = 1 - ⅕ and b0_1 = -40 + 1 - ⅛.
    """
    w, top, b0, b1, speed = list(WEIGHTS), 1.0, [-40.0, 40.0], 0.0, [0.0] * 6
    o = sigmoid(b1 + w[0] + top)
    for update in range(num_updates):
        p, q = sigmoid(b1 + w[0] + top), sigmoid(b1 + w[1] + top)
        o += 0.01 * (p - o)
        dw = [q - o, o - q]
        slopes = [
            dw[0] - DECAY * w[0],
            dw[1] - DECAY * w[1],
            -DECAY * top,
            1 - o * dw[0],
            -1 - o * dw[1],
            (p - q) - dw[0],
        ]
        rate = 1 - update / num_updates
        speed = [MOMENTUM * u + rate * g for u, g in zip(speed, slopes, strict=True)]
        w, top = [w[0] + speed[0], w[1] + speed[1]], top + speed[2]
        b0, b1 = [b0[0] + speed[3], b0[1] + speed[4]], b1 + speed[5]
    return [*w, top, *b0, b1, 40.0]


@pytest.mark.parametrize("num_updates", [1, 2, 3])
def test_a_dbm_moves_as_worked_out_by_hand(num_updates: int) -> None:
    fitted = fit_dbm(
        small_dbm(), torch.tensor([[1.0, 0.0]]), num_epochs=num_updates, batch_size=1,
        num_chains=3, learning_rate=1.0, momentum=MOMENTUM, weight_decay=DECAY, averaged=0.0,
        generator=seeded(), progress=False,
    )  # fmt: skip
    found = torch.cat([value.flatten() for value in (*fitted.weights, *fitted.biases)])
    expected = torch.tensor(dbm_by_hand(num_updates), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_first_update_of_a_dbm_in_numbers() -> None:
    expected = [-0.55, 0.8 * (math.log(3) - 1) - 0.25, 0.8, -39.125, 39.125, -0.5, 40.0]
    assert dbm_by_hand(1) == pytest.approx(expected, abs=1e-12)


def rows(count: int = 8) -> Tensor:
    return torch.randint(2, (count, 4), generator=seeded(5)).float()


def trained_rbm(averaged: float, report=None) -> RBM:  # type: ignore[no-untyped-def]
    """Of 21 updates, one each epoch."""
    return fit_rbm(
        rows(), 2, num_epochs=21, averaged=averaged, learning_rate=0.3, generator=seeded(),
        report=report, progress=False,
    )  # fmt: skip


def trained_dbm(averaged: float, report=None) -> DBM:  # type: ignore[no-untyped-def]
    start = DBM([torch.ones(4, 2) / 4, -torch.ones(2, 1)], [torch.zeros(n) for n in (4, 2, 1)])
    return fit_dbm(
        start, rows(), num_epochs=21, averaged=averaged, learning_rate=0.3, num_chains=9,
        generator=seeded(), report=report, progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("train", [trained_rbm, trained_dbm])
@pytest.mark.parametrize(("averaged", "looked_at"), [(1.0, [0, 10, 20]), (0.6, [10, 20])])
def test_the_result_is_the_mean_of_those_looked_at(train, averaged, looked_at) -> None:  # type: ignore[no-untyped-def]
    """Without averages each report, and the result, is the latest; the mean moves nothing else."""
    seen: list[list[Tensor]] = []
    last = train(0.0, lambda _, model: seen.append([v.clone() for v in model.buffers()]))
    assert all(map(torch.equal, seen[-1], last.buffers()))
    mean = train(averaged)
    for k, found in enumerate(mean.buffers()):
        expected = torch.stack([seen[update][k] for update in looked_at]).mean(0)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert (found - seen[-1][k]).abs().max() > 1e-4


def test_pretraining_without_steps_leaves_what_each_layer_begins_with() -> None:
    """At rate 0 the weights and upper biases stay. A layer hears what the one below says twice,

    σ(2 xW), and begins at the log-odds of these features with one row of each value added; of the
    two biases of an inner layer, 0 from below and these from above, the DBM has the mean.
    """
    data = rows(30).double()
    dbm = pretrain_dbm(
        data, (4, 3, 2), num_epochs=2, learning_rate=0.0, generator=seeded(), progress=False
    )
    features = torch.sigmoid(2 * data @ dbm.W0)
    for found, seen, share in ((dbm.b0, data, 1.0), (dbm.b1, features, 0.5)):
        expected = share * torch.logit((seen.sum(0) + 1) / (len(seen) + 2))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert not dbm.b2.any()
    undoubled = torch.sigmoid(data @ dbm.W0)
    assert (features - undoubled).abs().max() > 1e-4


def test_pretraining_counts_the_input_twice_wherever_two_layers_will_be_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Upward everywhere but into the top layer, downward everywhere but onto x."""
    heard: list[tuple[int, float, float]] = []
    module = sys.modules[pretrain_dbm.__module__]
    plain = module.contrastive_divergence  # type: ignore[attr-defined]

    def noted(pair, x, generator):  # type: ignore[no-untyped-def]
        heard.append((len(pair.W), pair.up, pair.down))
        return plain(pair, x, generator)

    monkeypatch.setattr(module, "contrastive_divergence", noted)
    pretrain_dbm(rows(), (4, 3, 2, 1), num_epochs=1, generator=seeded(), progress=False)
    assert heard == [(4, 2, 1), (3, 2, 2), (2, 1, 2)]


@pytest.mark.parametrize(
    ("settings", "rates"), [({}, [0.5] * 3), ({"final_share": 0.25}, [0.5, 0.375, 0.25])]
)
def test_pretraining_moves_as_worked_out_by_hand(
    settings: dict[str, float], rates: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slopes of 3 for W, 2 for b and 1 for c, thrice; the velocity halves, W alone decays."""
    slopes = 3.0, 2.0, 1.0

    def given(pair, x, generator):  # type: ignore[no-untyped-def]
        return [torch.full_like(v, g) for v, g in zip(pair.parameters, slopes, strict=True)]

    monkeypatch.setattr(sys.modules[pretrain_dbm.__module__], "contrastive_divergence", given)
    found = pretrain_dbm(
        torch.ones(4, 1).double(), (1, 1), num_epochs=3, learning_rate=0.5, momentum=MOMENTUM,
        weight_decay=DECAY, generator=seeded(), progress=False, **settings,
    )  # fmt: skip
    values = [
        torch.empty(1, 1).double().normal_(0, 0.01, generator=seeded()).item(),
        math.log(5),
        0.0,
    ]
    speed = [0.0, 0.0, 0.0]
    for rate in rates:
        decays = [DECAY * values[0], 0.0, 0.0]
        moved = zip(speed, slopes, decays, strict=True)
        speed = [MOMENTUM * u + rate * (g - own) for u, g, own in moved]
        values = [v + u for v, u in zip(values, speed, strict=True)]
    expected = torch.tensor(values, dtype=torch.float64)
    result = torch.cat([v.flatten() for v in (found.W0, found.b0, found.b1)])
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
