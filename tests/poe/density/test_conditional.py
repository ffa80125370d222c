"""Conditionals: bind first, then compose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import poe
from tests.seeds import seeded


class Labelled(poe.Conditional):
    """A normal around the label's location."""

    def __init__(self) -> None:
        super().__init__()
        self.space = poe.Real(1)
        self.register_buffer("locs", torch.tensor([[0.0], [5.0]]))

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        loc = nn.functional.embedding(condition, self.locs)
        return torch.distributions.Normal(loc, 1.0).log_prob(x).sum(-1)


class Normalized(Labelled):
    is_normalized = True

    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        loc = nn.functional.embedding(condition, self.locs)
        return loc + torch.randn(num_samples, 1, generator=generator)


X = torch.zeros(3, 1)


@pytest.mark.parametrize("label", [1, torch.tensor(1)])
def test_one_label_for_the_whole_batch(label: int | Tensor) -> None:
    expert = Labelled().given(label)
    torch.testing.assert_close(expert(X), torch.full((3,), -0.9189385 - 12.5))
    assert expert(X[0]).shape == ()
    assert expert(torch.zeros(2, 3, 1)).shape == (2, 3)


def test_a_batch_of_densities() -> None:
    expert = Labelled().given(torch.tensor([0, 1, 0]))
    torch.testing.assert_close(expert(X), -0.9189385 - torch.tensor([0.0, 12.5, 0.0]))


@pytest.mark.parametrize("batch", [(2,), (), (3, 3), (3, 1)])
def test_a_batch_of_densities_takes_its_own_batch_only(batch: tuple[int, ...]) -> None:
    expert = Labelled().given(torch.tensor([0, 1, 0]))
    with pytest.raises(poe.ShapeError, match=r"batch shape \(3,\), one for each condition"):
        expert(torch.zeros(*batch, 1))


def test_given_composes() -> None:
    conditional = Labelled()
    product = conditional.given(0) * conditional.given(1) ** 0.5
    assert product.names == ("Given", "Given_2")
    torch.testing.assert_close(product.contributions(X).sum(-1), product(X))


def test_unnormalised_conditional_has_no_log_prob() -> None:
    expert = Labelled().given(0)
    assert not hasattr(expert, "log_prob")
    with pytest.raises(AttributeError, match="Given has no log_prob"):
        expert.log_prob(X)
    with pytest.raises(AttributeError, match="Given has no exact sample"):
        expert.sample(3)


def test_normalised_conditional_has_log_prob_and_sample() -> None:
    expert = Normalized().given(1)
    assert torch.equal(expert.log_prob(X), expert(X))
    g = torch.Generator().manual_seed(0)
    draws = expert.sample(4000, generator=g)
    assert abs(draws.mean().item() - 5) < 4 / 4000**0.5


@seeded()
def test_sample_of_a_batch_of_densities_is_one_each() -> None:
    expert = Normalized().given(torch.tensor([0, 1]))
    assert expert.sample(2).shape == (2, 1)
    with pytest.raises(poe.ShapeError, match="one for each condition"):
        expert.sample(3)


def test_condition_moves_with_the_expert() -> None:
    assert Labelled().given(1).to("meta").condition.is_meta


@pytest.mark.parametrize("condition", ["seven", None, True, [1]])
def test_condition_is_a_number_or_a_tensor(condition: object) -> None:
    with pytest.raises(poe.DtypeError, match="expected a condition that is a number or a tensor"):
        Labelled().given(condition)  # type: ignore[arg-type]


def test_printed_tree_shows_the_condition() -> None:
    assert "condition=1" in repr(Labelled().given(1))
    assert "condition=(2,)" in repr(Labelled().given(torch.tensor([0, 1])))
