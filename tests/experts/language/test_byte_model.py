"""A model of tokens as one of bytes: against all ways to write every text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import poe
from experts.language import NextToken, OverBytes, Vocabulary
from experts.language.byte_model import END
from poe.normalizers.enumeration import states
from poe.structure.autoregressive import at_rows
from tests.experts.language.test_text_constraints import LastTwo
from tests.laws.discrete import check_islands

FIRST = Vocabulary(["", "a", "b", "ab"], ends=[0])
SECOND = Vocabulary(["", "a", "b", "ba", "aa"], ends=[0])
LENGTH = 4


def tokens_of(vocabulary: Vocabulary, seed: int) -> NextToken:
    return NextToken(LastTwo(vocabulary.size, seed).eval(), vocabulary, LENGTH + 1)


def over_bytes(vocabulary: Vocabulary, seed: int, num_ways: int = 16) -> OverBytes:
    model = tokens_of(vocabulary, seed)
    return OverBytes(model, vocabulary, LENGTH, num_ways=num_ways).double()


def texts() -> Tensor:
    """All events of the bytes a and b, and of an end: (31, 4)."""
    x = torch.tensor([END, *b"ab"])[states(poe.Sequence(3, LENGTH))]
    ended = x == END
    return x[(ended.cummax(1).values == ended).all(1)]


def truth(vocabulary: Vocabulary, seed: int) -> Tensor:
    """Their probabilities: the sum over every sequence of tokens that writes them."""
    model = tokens_of(vocabulary, seed)
    x = states(model.space)
    found = dict.fromkeys(map(tuple, texts().tolist()), 0.0)
    for text, p in zip(vocabulary.spell(x), model.log_prob(x).exp().tolist(), strict=True):
        found[tuple((list(text) + [END] * LENGTH)[:LENGTH])] += p
    return torch.tensor(list(found.values()), dtype=torch.float64)


@pytest.mark.parametrize(("vocabulary", "seed"), [(FIRST, 0), (SECOND, 1)])
def test_probabilities_of_bytes_are_sums_over_all_ways_to_write_them(
    vocabulary: Vocabulary, seed: int
) -> None:
    expert, x = over_bytes(vocabulary, seed), texts()
    torch.testing.assert_close(expert.log_prob(x).exp(), truth(vocabulary, seed))
    assert expert.log_kept(x).abs().max() < 1e-12


def test_too_few_ways_are_normalised_and_say_what_they_leave_out() -> None:
    expert, x = over_bytes(FIRST, 0, num_ways=2), texts()
    log_prob, log_truth = expert.log_prob(x), truth(FIRST, 0).log()
    assert log_prob.logsumexp(0).abs() < 1e-12
    bound = log_prob + expert.log_kept(x)
    assert (bound < log_truth + 1e-12).all()
    assert (bound < log_truth - 0.01).any()
    assert (log_prob - log_truth).abs().max() > 0.01


def test_special_tokens_that_are_no_end_are_left_out() -> None:
    vocabulary = Vocabulary(["", "a", ""], ends=[0])
    logits = torch.tensor([0.2, 0.3, 0.5]).log()
    model = NextToken(lambda prefix: logits.expand(len(prefix), 3), vocabulary, 3)
    expert = OverBytes(model, vocabulary, 2)
    x = torch.tensor([[97, 97], [97, END], [END, END]])
    expected = torch.tensor([0.3**2, 0.3 * 0.2, 0.2])
    torch.testing.assert_close((expert.log_prob(x) + expert.log_kept(x)).exp(), expected)
    assert expert.log_prob(x).logsumexp(0).abs() < 1e-6


def test_bytes_that_no_token_writes_have_no_density() -> None:
    x = torch.tensor([[98, 99, 97, 97], [END, 97, END, END], [99, 99, 99, 99]])
    assert over_bytes(FIRST, 0)(x).tolist() == [-torch.inf] * 3


@pytest.mark.law
def test_models_of_other_tokens_agree_on_bytes() -> None:
    """Their product, by particles, against the table of both."""
    target, x = over_bytes(FIRST, 0, 8) * over_bytes(SECOND, 1, 8), texts()
    expected = truth(FIRST, 0) * truth(SECOND, 1)
    g = torch.Generator().manual_seed(0)
    draws = poe.smc_over_positions(target, 80_000, generator=g, progress=False)
    assert draws.log_weights is not None
    assert draws.log_partition is not None
    weights = draws.log_weights.flatten().softmax(0).view(draws.log_weights.shape)
    is_text = (draws.samples[..., None, :] == x).all(-1)
    check_islands((weights[..., None] * is_text).sum(1), expected / expected.sum(), g)
    gap = (draws.log_partition.value - expected.sum().log()).abs()
    assert gap < 4 * draws.log_partition.std_error


def test_prefixes_are_chosen_by_rows_and_saved(tmp_path: Path) -> None:
    expert, x = over_bytes(FIRST, 0), texts()[:6]
    state = expert.append(expert.begin(6), 0, x[:, 0])
    rows = torch.tensor([5, 0])
    torch.testing.assert_close(
        expert.log_next(at_rows(state, rows), 1), expert.log_next(state, 1)[rows]
    )
    poe.save(expert, tmp_path / "bytes")
    assert torch.equal(poe.load(tmp_path / "bytes")(x), expert(x))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: OverBytes(tokens_of(FIRST, 0), SECOND, 4), "a model of the vocabulary's 5 tokens"),
        (lambda: OverBytes(tokens_of(FIRST, 0), FIRST, 5), "at least 6 tokens for 5 bytes"),
        (lambda: OverBytes(tokens_of(FIRST, 0), FIRST, 4, num_ways=0), "num_ways >= 1"),
    ],
)
def test_what_does_not_fit_is_refused(build: Callable[[], object], words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        build()
