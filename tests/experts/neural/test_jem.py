"""The energy of a classifier: its marginal, its joint and its posterior belong together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import poe
from experts import JEM
from experts.neural import jem_loss
from poe.losses import contrastive_divergence
from poe.normalizers.enumeration import states
from tests.seeds import seeded

SPACE = poe.Binary(4)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def jem() -> JEM:
    net = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(generator=rng(1))
    return JEM(net, SPACE)


@seeded()
def test_joint_is_marginal_times_posterior() -> None:
    model, x = jem(), states(SPACE).double()
    logits = model.classifier.net(x)
    torch.testing.assert_close(model(x), logits.logsumexp(-1))
    for label in range(3):
        joint = model.given(label)(x)
        torch.testing.assert_close(joint, logits[:, label])
        torch.testing.assert_close(joint, model(x) + model.classifier.given(label)(x))
    some = torch.tensor([2, 0, 1])
    torch.testing.assert_close(model.given(some)(x[:3]), logits[torch.arange(3), some])


@seeded()
def test_the_loss_has_the_gradient_of_the_joint_likelihood() -> None:
    model, table = jem(), states(SPACE).double()
    data, labels = table[torch.tensor([1, 5, 5, 12])], torch.tensor([0, 2, 1, 1])
    parameters = list(model.parameters())
    # −E log p(x, y), by enumeration.
    exact = model(table).logsumexp(0) - model.given(labels)(data).mean()
    truth = torch.autograd.grad(exact, parameters)
    # Exact draws of the model, in twenty batches.
    weights, g = model(table).softmax(0).detach(), rng()
    found = []
    for _ in range(40):
        draws = table[torch.multinomial(weights, 2000, replacement=True, generator=g)]
        value, _ = jem_loss(model, data, labels, draws)
        found.append(torch.cat([p.flatten() for p in torch.autograd.grad(value, parameters)]))
    gradients = torch.stack(found)
    error = gradients.std(0) / len(found) ** 0.5
    difference = gradients.mean(0) - torch.cat([p.flatten() for p in truth])
    assert (difference.abs() <= 4 * error + 1e-12).all()


@seeded()
def test_its_parts() -> None:
    model, table = jem(), states(SPACE).double()
    data, labels = table[:4], torch.tensor([0, 2, 1, 1])
    value, parts = jem_loss(model, data, labels, table[5:], regularization=0.1)
    divergence = contrastive_divergence(model, data, table[5:], regularization=0.1)
    logits = model.classifier.logits(data)
    torch.testing.assert_close(value, divergence.value + parts["cross_entropy"])
    torch.testing.assert_close(
        parts["cross_entropy"], nn.functional.cross_entropy(logits, labels).detach()
    )
    assert parts["accuracy"] == (logits.argmax(-1) == labels).double().mean()
    assert divergence.parts.items() <= parts.items()


class Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0] * 0 - torch.inf, x[:, 0]], -1)


def test_a_cross_entropy_that_is_no_number_is_refused() -> None:
    model, x = JEM(Infinite(), poe.Real(1)), torch.ones(2, 1)
    with pytest.raises(poe.NonFiniteError, match="cross-entropy, got inf under JEM"):
        jem_loss(model, x, torch.tensor([0, 1]), x)


@seeded()
def test_it_multiplies_is_saved_and_refuses_what_is_no_class(tmp_path: Path) -> None:
    model, x = jem(), states(SPACE).double()
    product = poe.Product(prior=model, label=model.classifier.given(1))
    torch.testing.assert_close(product(x), model.given(1)(x))
    poe.save(model, tmp_path / "jem")
    poe.save(model.given(2), tmp_path / "given")
    assert torch.equal(poe.load(tmp_path / "jem")(x), model(x))
    assert torch.equal(poe.load(tmp_path / "given")(x), model.given(2)(x))
    with pytest.raises(poe.PoeError, match="no class 3 of 3"):
        model.given(3)
