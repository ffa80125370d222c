"""MADE, NADE and the causal transformer: against their enumerated tables, place by place."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from poe.normalizers.enumeration import states
from poe.structure.autoregressive import Autoregressive, draw_value
from tests.seeds import seeded

NUM_DRAWS = 40_000


def loud(model: Autoregressive) -> Autoregressive:
    """Weights large enough for conditionals that matter, in float64; always the same."""
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(1.2 * torch.randn(parameter.shape, generator=g) / parameter.ndim**0.5)
    return model.double()


with seeded():
    MODELS: dict[str, Autoregressive] = {
        "MADE": loud(experts.MADE(4, hidden=(6,))),
        "MADE, two layers, an image": loud(experts.MADE((2, 3), hidden=(9, 7))),
        "MADE, one element": loud(experts.MADE(1)),
        "MADE, no hidden layer": loud(experts.MADE(3, hidden=())),
        "NADE": loud(experts.NADE(4, hidden=3)),
        "NADE, image": loud(experts.NADE((2, 2), hidden=5)),
        "transformer": loud(experts.CausalTransformer(3, 4, width=8, num_heads=2)),
        "transformer, one token": loud(
            experts.CausalTransformer(5, 1, width=4, num_heads=1, num_layers=1)
        ),
        "local product": poe.LocalProduct(
            poe.Binary(4), [loud(experts.MADE(4)), loud(experts.NADE(4, 3))]
        ),
    }
NETWORKS = {name: model for name, model in MODELS.items() if "local" not in name}


def events(model: Autoregressive) -> Tensor:
    x = states(model.space)
    return x.double() if x.is_floating_point() else x


def places_of(model: Autoregressive, x: Tensor) -> Tensor:
    """The number of each event in lexicographic order."""
    k, n = model.space.num_values, model.space.event_shape.numel()
    assert k is not None
    return (x.reshape(len(x), n).long() * k ** torch.arange(n - 1, -1, -1)).sum(1)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_probabilities_sum_to_one(model: Autoregressive) -> None:
    total = model.log_prob(events(model)).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-12, rtol=0)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_conditionals_are_those_of_the_table(model: Autoregressive) -> None:
    """p(v | prefix) by summing the joint table over all that comes after."""
    k, n = model.space.num_values, model.space.event_shape.numel()
    assert k is not None
    table = model.log_prob(events(model)).exp().reshape([k] * n)
    found = model.log_conditionals(events(model)).exp().reshape(*[k] * n, n, k)
    for place in range(n):
        prefix = table.sum(tuple(range(place + 1, n))) if place < n - 1 else table
        truth = prefix / prefix.sum(-1, keepdim=True)
        truth = truth.reshape(*[k] * place, *[1] * (n - place), k).expand(*[k] * n, k)
        torch.testing.assert_close(found[..., place, :], truth)


@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS.keys())
def test_step_by_step_says_what_one_pass_says(model: Autoregressive) -> None:
    x = events(model)
    stepwise = Autoregressive.log_conditionals(model, x)
    torch.testing.assert_close(stepwise, model.log_conditionals(x))
    torch.testing.assert_close(Autoregressive.forward(model, x), model(x))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_draws_have_the_frequencies_of_the_table(model: Autoregressive) -> None:
    draws = model.sample(NUM_DRAWS, generator=torch.Generator().manual_seed(0))
    truth = model.log_prob(events(model)).exp().detach()
    counts = torch.bincount(places_of(model, draws), minlength=len(truth)) / NUM_DRAWS
    std_error = (truth * (1 - truth) / NUM_DRAWS).sqrt()
    # Of some dozens of states the largest |z| of honest draws is above 4.5 once in a thousand.
    assert ((counts - truth).abs() < 4.5 * std_error).all()


@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS.keys())
@seeded()
def test_no_place_sees_itself_or_what_comes_after(model: Autoregressive) -> None:
    if isinstance(model.space, poe.Binary):
        x = torch.rand(1, *model.space.event_shape, dtype=torch.float64)
        flat = model.space.event_shape.numel()
        jacobian = torch.autograd.functional.jacobian(model.log_conditionals, x)
        jacobian = jacobian.reshape(flat, 2, flat)
        assert (jacobian.abs().amax(1).triu() == 0).all()
        before = jacobian.abs().amax(1).tril(-1)
        assert (before[torch.tril_indices(flat, flat, -1).unbind(0)] > 0).all()
        return
    first = torch.zeros(1, *model.space.event_shape, dtype=torch.long)
    for place in range(first.shape[1]):
        changed = first.clone()
        changed[:, place] = 1
        same, moved = model.log_conditionals(first), model.log_conditionals(changed)
        torch.testing.assert_close(same[:, : place + 1], moved[:, : place + 1])


def test_gradients_at_bits_are_the_slopes_between_them() -> None:
    """Linear in the last element: the score there is the difference of its two values."""
    for model in (MODELS["MADE"], MODELS["NADE"]):
        x = events(model).requires_grad_()
        (score,) = torch.autograd.grad(model(x).sum(), x)
        one, zero = x.detach().clone(), x.detach().clone()
        one[:, -1], zero[:, -1] = 1, 0
        torch.testing.assert_close(score[:, -1], model(one) - model(zero))
        assert (score[:, 0] != 0).all()


def test_one_hot_tokens_say_the_same_and_have_a_gradient() -> None:
    model = MODELS["transformer"]
    assert isinstance(model, experts.CausalTransformer)
    x = events(model)
    z = nn.functional.one_hot(x, 3).double().requires_grad_()
    value = model.log_density_of_one_hot(z)
    torch.testing.assert_close(value, model(x))
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert gradient.shape == (81, 4, 3)
    own = model.log_conditionals(x)
    assert ((gradient - own)[:, 0].std(-1) > 1e-3).all()  # the first has a say in all that follow
    # The last token has one in its own term alone: there the gradient is exact.
    torch.testing.assert_close(gradient[:, -1], own[:, -1])


@pytest.mark.law
@pytest.mark.parametrize(
    "build",
    [
        lambda: experts.MADE(4, hidden=(32,)),
        lambda: experts.NADE(4, hidden=16),
        lambda: experts.CausalTransformer(2, 4, width=32, num_heads=4),
    ],
    ids=["MADE", "NADE", "transformer"],
)
@seeded()
def test_they_learn_a_table_by_gradient(build: Callable[[], Autoregressive]) -> None:
    """Three free bits, and one that repeats the first: from 0.7 nats too many to hardly any."""
    model = build()
    bits = states(poe.Binary(3))
    x = torch.cat([bits, bits[:, :1]], 1)
    x = x if isinstance(model.space, poe.Binary) else x.long()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    excess = []
    for _ in range(500):
        loss = -model.log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        excess.append(loss.item() - math.log(8))
    assert excess[0] > 0.4
    assert excess[-1] < 0.02


def test_a_value_without_weight_is_never_drawn() -> None:
    log_weights = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]]).expand(5, -1)
    uniform = torch.tensor([0.0, 0.26, 0.27, 1 - 2**-53, 1.0], dtype=torch.float64)
    assert draw_value(log_weights, uniform).tolist() == [1, 1, 3, 3, 3]


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_and_loaded_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    poe.save(model, tmp_path / "model")
    loaded = poe.load(tmp_path / "model")
    assert repr(loaded) == repr(model)
    assert torch.equal(loaded(events(model)), model(events(model)))


@pytest.mark.parametrize("name", MODELS)
def test_values_outside_of_the_space_are_refused(name: str) -> None:
    model = MODELS[name]
    x = events(model)[:2].clone()
    x.view(2, -1)[1, 0] = -1
    with pytest.raises(poe.PoeError, match=r"expected x in .*, got -1\S* in event 1: .* 0 "):
        model.log_prob(x)


def test_a_token_outside_of_the_vocabulary_has_no_density() -> None:
    model = MODELS["transformer"]
    assert model(torch.tensor([[0, 3, 0, 0], [0, -1, 0, 0]])).tolist() == [-math.inf] * 2


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: experts.MADE(0), "at least one element"),
        (lambda: experts.MADE(3, hidden=(4, 0)), "one unit a layer"),
        (lambda: experts.NADE(3, hidden=0), "one hidden unit"),
        (lambda: experts.CausalTransformer(3, 4, width=6, num_heads=4), "multiple of num_heads"),
        (lambda: MODELS["MADE"].log_prob(torch.zeros(2, 5)), r"\(\*batch, 4\)"),
    ],
)
def test_bad_settings_are_refused_in_words(build: Callable[[], object], words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        build()
