"""Classifiers as experts on tokens and bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import experts
import poe
from poe.normalizers.enumeration import states
from tests.seeds import seeded

SPACE = poe.Sequence(4, 3)
with seeded():
    NET = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def test_it_says_how_probable_the_class_is() -> None:
    classifier, x = experts.Classifier(NET, SPACE), states(SPACE)
    logits = NET(nn.functional.one_hot(x, 4).double())
    for label in range(3):
        torch.testing.assert_close(classifier.given(label)(x), logits.log_softmax(1)[:, label])
    total = torch.stack([classifier.given(label)(x) for label in range(3)]).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros_like(total))
    assert classifier.given(1)(x.reshape(4, 16, 3)).shape == (4, 16)


def test_one_output_is_the_logit_of_the_second_class() -> None:
    with seeded():
        net = nn.Linear(2, 1).double()
    x = torch.tensor([[0.3, -2.0], [50.0, 1.0]], dtype=torch.float64)
    classifier, logit = experts.Classifier(net, poe.Real(2)), net(x)[:, 0]
    for label, sign in ((0, -1), (1, 1)):
        truth = nn.functional.logsigmoid(sign * logit)
        torch.testing.assert_close(classifier.given(label)(x), truth)
    with pytest.raises(poe.PoeError, match="no class 2 of 2"):
        classifier.given(2)


class Squashed(nn.Module):
    """Probabilities by functions, where no layer tells."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = self.net(x)
        return values.softmax(1) if values.shape[1] > 1 else values.sigmoid()


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_probabilities_in_place_of_logits_are_refused(num_outputs: int) -> None:
    with seeded():
        net = nn.Linear(2, num_outputs)
    for last in (nn.Softmax(1), nn.Sigmoid(), nn.Sequential(nn.Sigmoid())):
        with pytest.raises(poe.AdaptationError, match=r"ends in (Softmax|Sigmoid)"):
            experts.Classifier(nn.Sequential(net, last), poe.Real(2))
    with pytest.raises(poe.AdaptationError, match="got probabilities"):
        experts.Classifier(Squashed(net), poe.Real(2)).given(0)
    experts.Classifier(nn.Sequential(net, nn.LogSoftmax(1)), poe.Real(2)).given(0)


def test_logits_that_look_like_probabilities_near_zero_are_taken() -> None:
    with seeded():
        net = nn.Linear(2, 1)
    nn.init.constant_(net.weight, 0.1)
    nn.init.constant_(net.bias, 0.5)
    assert experts.Classifier(net, poe.Real(2)).given(1)(torch.zeros(1, 2)).shape == (1,)


def test_a_label_for_each_chain() -> None:
    labels, x = torch.tensor([0, 2, 1]), states(SPACE)[7:10]
    found = experts.Classifier(NET, SPACE).given(labels)(x)
    truth = NET(nn.functional.one_hot(x, 4).double()).log_softmax(1)[torch.arange(3), labels]
    torch.testing.assert_close(found, truth)


@seeded()
def test_gradients_exist_in_one_hot_tokens_and_in_bits() -> None:
    expert, x = experts.Classifier(NET, SPACE).given(1), states(SPACE)
    z = nn.functional.one_hot(x, 4).double().requires_grad_()
    value = expert.log_density_of_one_hot(z)
    torch.testing.assert_close(value, expert(x))
    assert (torch.autograd.grad(value.sum(), z)[0] != 0).any(-1).all()
    bits = experts.Classifier(nn.Linear(3, 2), poe.Binary(3)).given(0)
    y = states(poe.Binary(3)).requires_grad_()
    assert (torch.autograd.grad(bits(y).sum(), y)[0] != 0).all()


@seeded()
def test_it_multiplies_with_a_model_of_tokens() -> None:
    model = experts.CausalTransformer(4, 3, width=8, num_heads=2).double()
    target = model * experts.Classifier(NET, SPACE).given(2)
    truth = target(states(SPACE)).logsumexp(0)
    torch.testing.assert_close(poe.log_partition(target).value, truth)


def test_saved_and_loaded(tmp_path: Path) -> None:
    expert = experts.Classifier(NET, SPACE).given(2)
    poe.save(expert, tmp_path / "c")
    assert torch.equal(poe.load(tmp_path / "c")(states(SPACE)), expert(states(SPACE)))


def test_bad_labels_and_nets_are_refused_in_words() -> None:
    classifier = experts.Classifier(NET, SPACE)
    for label in (1.5, -1, "cat", True):
        with pytest.raises(poe.PoeError, match="that is a class index"):
            classifier.given(label)
    with pytest.raises(poe.PoeError, match="no class 3 of 3"):
        classifier.given(3)
    with pytest.raises(poe.ShapeError, match=r"logits \(n, classes\)"):
        experts.Classifier(nn.Sequential(nn.Flatten(0)), SPACE).given(0)
