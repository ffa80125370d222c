"""The shipped judge of a digit's class."""

from __future__ import annotations

import pytest
import torch

import experts
from poe.demo.judge import Judge, load_facts, load_judge
from tests.seeds import seeded


def test_the_judge_knows_its_trade() -> None:
    facts = load_facts()
    assert 0.97 <= facts.accuracy_clean <= 1
    assert 0.97 <= facts.accuracy_noisy <= 1
    assert len(facts.distances) == 10
    assert min(facts.distances) > 0


def test_the_weights_are_the_trained_ones() -> None:
    """It reads what the class expert writes; 0.9 is far from both chance and its own errors."""
    digits = torch.arange(10).repeat(4)
    model = experts.load("digits-class")
    images = model.given(digits).sample(40, generator=torch.Generator().manual_seed(0))
    agree = (load_judge().classify(images) == digits).float().mean().item()
    standard_error = (0.9 * 0.1 / 40) ** 0.5
    assert agree > 0.9 - 3 * standard_error


def test_an_answer_is_the_class_with_the_largest_logit_and_always_the_same() -> None:
    judge = load_judge()
    images = torch.rand(5, 16, 16, generator=torch.Generator().manual_seed(0))
    logits = judge(images)
    assert logits.shape == (5, 10)
    assert torch.equal(judge.classify(images), logits.argmax(1))
    assert torch.equal(judge(images), logits)  # dropout is off
    assert torch.equal(load_judge()(images), logits)
    torch.testing.assert_close(judge(images[2:3]), logits[2:3])


def test_the_shipped_judge_is_fixed() -> None:
    judge = load_judge()
    assert not judge.training
    assert not any(parameter.requires_grad for parameter in judge.parameters())


@seeded()
def test_other_weights_do_not_fit() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        Judge(channels=3).load_state_dict(load_judge().state_dict())
