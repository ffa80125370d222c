"""Transition scores: chains of any length, and learning them from tags alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import experts
import poe
from experts import Transitions
from experts.graphs import fit_transitions


def randn(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


TRANSITIONS = Transitions(randn(3), randn(3, 3, seed=1), randn(3, seed=2))


def sentences(n: int) -> tuple[Tensor, Tensor]:
    """Exact draws of lengths 2 to 5."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 6, (n,), generator=g)
    return TRANSITIONS.chains(lengths).sample(1, generator=g)[0], lengths


def test_chains_of_each_length_and_with_emissions() -> None:
    lengths, emissions = torch.tensor([1, 3]), randn(2, 4, 3, seed=3)
    chains = TRANSITIONS.chains(lengths, emissions)
    for i, length in enumerate(lengths.tolist()):
        alone = TRANSITIONS.of_length(length)
        tagger = experts.Categorical(emissions[i, :length])
        simple, log_constant = poe.simplify(alone * tagger)
        log_norm = emissions[i, :length].logsumexp(-1).sum()
        assert isinstance(simple, experts.LinearChain)
        found = poe.log_partition(simple).value + log_constant + log_norm
        torch.testing.assert_close(chains.log_partition()[i], found)
    torch.testing.assert_close(TRANSITIONS.of_length(1).unary[0], randn(3) + randn(3, seed=2))


def test_the_fit_has_the_moments_of_the_sentences() -> None:
    tags, lengths = sentences(500)
    decay = 1e-3
    found = fit_transitions(tags, lengths, 3, weight_decay=decay)
    marginals = found.chains(lengths).marginals()
    first = torch.nn.functional.one_hot(tags[:, 0], 3).double().mean(0)
    expected = marginals.tags[:, 0].mean(0) + decay * found.start
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-5)
    steps = (tags[:, :-1] * 3 + tags[:, 1:])[torch.arange(1, 5) < lengths[:, None]]
    pairs = torch.bincount(steps, minlength=9).reshape(3, 3) / 500
    expected = marginals.pairs.sum(1).mean(0) + decay * found.pairs
    torch.testing.assert_close(pairs.double(), expected, rtol=0, atol=1e-5)


def test_the_fit_finds_what_the_sentences_were_drawn_from() -> None:
    tags, lengths = sentences(40_000)
    found = fit_transitions(tags, lengths, 3, weight_decay=1e-7)
    # Scores are not unique: a tag's column less another's row changes nothing. Densities are.
    gain = found.chains(lengths).log_prob(tags) - TRANSITIONS.chains(lengths).log_prob(tags)
    # Twice the gain of n sentences is chi-squared with at most 3 + 9 + 3 degrees of freedom.
    assert 0 < 2 * float(gain.sum()) < 15 + 4 * 30**0.5


def test_scores_and_emissions_learn_together() -> None:
    parts = [torch.nn.Parameter(part) for part in (randn(3), randn(3, 3), randn(3))]
    transitions = Transitions(*parts)
    emissions = randn(8, 5, 3).requires_grad_()
    tags, lengths = sentences(8)
    transitions.chains(lengths, emissions).log_prob(tags).mean().neg().backward()
    assert all(part.grad is not None and part.grad.any() for part in [*parts, emissions])
    assert emissions.grad is not None
    assert not emissions.grad[torch.arange(5) >= lengths[:, None]].any()


def test_saved_and_loaded(tmp_path: Path) -> None:
    poe.save(TRANSITIONS, tmp_path / "transitions")
    loaded = poe.load(tmp_path / "transitions")
    assert isinstance(loaded, Transitions)
    for name, values in TRANSITIONS.named_buffers():
        assert torch.equal(loaded.get_buffer(name), values)


def test_bad_input_is_refused_in_words() -> None:
    with pytest.raises(poe.ShapeError, match=r"pairs \(k, k\)"):
        Transitions(torch.zeros(2), torch.zeros(3, 3), torch.zeros(3))
    with pytest.raises(poe.PoeError, match="above 0, got 0"):
        fit_transitions(torch.zeros(1, 2).long(), torch.tensor([2]), 2, weight_decay=0)
    with pytest.raises(poe.PoeError, match="tags from 0 to 1"):
        fit_transitions(torch.full((1, 2), 2), torch.tensor([2]), 2)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["start", "pairs", "end"])
def test_nan_and_plus_infinity_are_refused(name: str, wrong: float) -> None:
    values = {"start": torch.zeros(2), "pairs": torch.zeros(2, 2), "end": torch.zeros(2)}
    values[name][..., 0] = wrong
    with pytest.raises(poe.PoeError, match=f"{name} must be numbers or -inf, got {wrong:g}"):
        Transitions(**values)


def test_whole_numbers_are_converted() -> None:
    given = Transitions([0, 1], [[1, 0], [0, 1]], torch.tensor([0, 1]))
    assert given.start.dtype == given.pairs.dtype == given.end.dtype == torch.get_default_dtype()
    torch.testing.assert_close(
        given.of_length(2)(torch.tensor([[0, 0], [1, 1]])), torch.tensor([1.0, 3.0])
    )
