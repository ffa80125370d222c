"""Texts: models of the next token, constraints as automata, and their product, by enumeration."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poe
from experts.language import (
    Automaton,
    NextToken,
    Vocabulary,
    at_most_tokens,
    avoids,
    contains,
    foreseen,
    log_after,
    matches,
    token_frequencies,
)
from experts.language.pattern_syntax import parsed
from experts.language.regular_sets import derivative, is_nullable
from poe.diagnostics.weights import normalized_weights
from poe.normalizers.enumeration import states
from tests.laws.discrete import check_islands

VOCABULARY = Vocabulary(["", "a", "b", "ab"], ends=[0])
LENGTH = 4
SPACE = poe.Sequence(4, LENGTH)


class LastTwo(nn.Module):
    """Logits by the last two tokens and the place: any table would do."""

    def __init__(self, num_tokens: int, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.register_buffer("logits", torch.randn(9, num_tokens + 1, num_tokens + 1, num_tokens,
                                                   generator=g, dtype=torch.float64))  # fmt: skip

    def forward(self, prefix: Tensor) -> Tensor:
        n, t = prefix.shape
        before = torch.cat([prefix.new_full((n, 2), self.logits.shape[-1]), prefix], 1)
        return self.logits[t, before[:, -1], before[:, -2]]


poe.io.register_module(LastTwo, lambda m: {"num_tokens": m.logits.shape[-1], "seed": 0})


def model(seed: int = 0) -> NextToken:
    return NextToken(LastTwo(4, seed).eval(), VOCABULARY, LENGTH)


def accepted(automaton: Automaton) -> list[str]:
    x = states(automaton.space)
    return VOCABULARY.read(x[automaton(x) == 0])


def test_probabilities_of_texts_of_at_most_four_tokens_sum_to_one() -> None:
    x = states(SPACE)
    log_prob = model().log_prob(x)
    assert log_prob.logsumexp(0).abs() < 1e-12
    # After an end there is padding, and each text has one way to be padded.
    is_padded = VOCABULARY.is_over(x).logical_and(x != 0).any(1)
    assert (log_prob[is_padded] == -math.inf).all()
    assert log_prob[~is_padded].isfinite().all()
    assert int((~is_padded).sum()) == 1 + 3 + 9 + 27 + 81


def test_padding_adds_nothing() -> None:
    """log p of an ended text is the same in an event of more places."""
    net = LastTwo(4, 0).eval()
    short, long = (NextToken(net, VOCABULARY, length) for length in (3, 6))
    text = torch.tensor([[3, 1, 0]])
    padded = nn.functional.pad(text, (0, 3))
    torch.testing.assert_close(short(text), long(padded))
    assert long.log_conditionals(padded)[0, 4:].tolist() == [[0.0, *[-math.inf] * 3]] * 2


def test_padding_may_be_a_token_of_its_own_and_ends_may_be_several() -> None:
    vocabulary = Vocabulary(["a", "", "", ""], ends=[1, 2], padding=3)
    expert = NextToken(LastTwo(4, 0).eval(), vocabulary, 3)
    x = states(expert.space)
    log_prob = expert.log_prob(x)
    assert log_prob.logsumexp(0).abs() < 1e-12
    found = expert(torch.tensor([[0, 1, 3], [0, 2, 3], [0, 1, 1], [1, 0, 3]])).isfinite()
    assert found.tolist() == [True, True, False, False]
    assert vocabulary.read(torch.tensor([[0, 0, 2], [1, 3, 3]])) == ["aa", ""]


def test_a_vocabulary_without_ends_has_texts_of_one_length() -> None:
    expert = NextToken(LastTwo(2, 0).eval(), Vocabulary("ab"), 3)
    assert expert.log_prob(states(expert.space)).isfinite().all()


@pytest.mark.parametrize(
    ("pattern", "alphabet"),
    [
        ("(a|b)+1?", "ab1"), ("[^a]b", "abé"), ("a{2,3}", "ab"), ("(?:ab)*", "ab"),
        (r"\d\D|\W+", "a1-"), ("[a-b1]{1,}é?", "abé1"), (".*ab.*", "ab\n"), (r"\w+\s", "a \n"),
        ("(a|)b", "ab"), ("[]a-]+", "]a-"), ("a?:b", "a:b"), ("((a|b)(1|b))*", "ab1"), ("", "a"),
    ],
)  # fmt: skip
def test_patterns_match_what_pythons_do(pattern: str, alphabet: str) -> None:
    for length in range(5):
        for letters in itertools.product(alphabet, repeat=length):
            text, rest = "".join(letters), parsed(pattern)
            for byte in text.encode():
                rest = derivative(rest, byte)
            assert is_nullable(rest) == bool(re.fullmatch(pattern, text, re.ASCII)), text


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(a", r"expected '\)' at place 2"), ("a)", "opening bracket"), ("*a", "to repeat"),
        ("a**", "one repetition"), ("a{3,2}", "m <= n"), ("(?=a)", "plain group"),
        (r"\1", "after the backslash"), ("^a", "no anchor"), ("[b-a]", "from low to high"),
        ("[a", "character of the class"), ("a{,3}", r"\{m\}, \{m,\} or \{m,n\}"),
    ],
)  # fmt: skip
def test_patterns_that_no_automaton_knows_are_refused(pattern: str, words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        parsed(pattern)


@pytest.mark.parametrize(
    ("build", "holds"),
    [
        (lambda: matches("(ab)+a?", VOCABULARY, LENGTH), lambda t: re.fullmatch("(ab)+a?", t)),
        (lambda: contains("bab", VOCABULARY, LENGTH), lambda t: "bab" in t),
        (lambda: avoids("ab", VOCABULARY, LENGTH), lambda t: "ab" not in t),
    ],
    ids=["matches", "contains", "avoids"],
)
def test_automata_accept_texts_by_what_they_say(
    build: Callable[[], Automaton], holds: Callable[[str], object]
) -> None:
    """Of every sequence of tokens: padded rightly, and the text is in the set."""
    automaton, x = build(), states(SPACE)
    is_padded = ~(VOCABULARY.is_over(x) & (x != 0)).any(1)
    expected = [bool(p and holds(t)) for p, t in zip(is_padded, VOCABULARY.read(x), strict=True)]
    assert (automaton(x) == 0).tolist() == expected
    assert poe.log_partition(automaton).value.exp().round() == sum(expected)


def test_at_most_so_many_tokens() -> None:
    x = states(SPACE)
    found = at_most_tokens(2, VOCABULARY, LENGTH)(x) == 0
    is_padded = ~(VOCABULARY.is_over(x) & (x != 0)).any(1)
    num_tokens = (~VOCABULARY.is_over(x) & (x != 0)).sum(1)
    assert torch.equal(found, is_padded & (num_tokens <= 2))


def test_a_special_token_that_is_no_end_is_no_text() -> None:
    vocabulary = Vocabulary(["", "a", ""], ends=[0])
    assert matches("a*", vocabulary, 2)(torch.tensor([[1, 1], [1, 2]])).tolist() == [0, -math.inf]


def test_a_look_ahead_is_the_best_twist_for_independent_tokens() -> None:
    """log ψ of each prefix: the probability that its continuations satisfy the constraint."""
    automaton = contains("bab", VOCABULARY, LENGTH)
    log_p = torch.tensor([0.1, 0.3, 0.4, 0.2]).log()
    twist, x = foreseen(automaton, log_p), states(SPACE)
    weights = (log_p[x].sum(1) + automaton(x)).exp()
    total = weights.sum()
    for prefix in states(poe.Sequence(4, 2)):
        state, value = twist.begin(1), 0.0
        for place, token in enumerate(prefix):
            value += twist.log_next(state, place)[0, token]
            state = twist.append(state, place, token[None])
        follows = (x[:, :2] == prefix).all(1)
        given = weights[follows].sum() / log_p[prefix].sum().exp()
        torch.testing.assert_close(torch.as_tensor(value).exp(), given / total)


def model_of_three() -> NextToken:
    return NextToken(LastTwo(4, 0).eval(), VOCABULARY, 3)


def test_constraints_merge_into_one_that_looks_ahead_for_both() -> None:
    both = poe.Product(contains("bb", VOCABULARY, 3), contains("ab", VOCABULARY, 3))
    merged = poe.simplify(model_of_three() * both).expert
    assert isinstance(merged, poe.Product)
    assert [type(factor) for factor in merged.experts] == [NextToken, Automaton]
    x = states(both.space)
    torch.testing.assert_close(merged.experts[1](x), both(x))
    with pytest.raises(poe.PoeError, match="a sequence of 2 tokens that the automaton accepts"):
        matches("a" * 7, VOCABULARY, 2)


def table_of(target: poe.Expert) -> Tensor:
    values = target(states(target.space)).double()
    return values.softmax(0)


def frequencies(x: Tensor, weights: Tensor) -> Tensor:
    places = (x.reshape(-1, LENGTH) * 4 ** torch.arange(LENGTH - 1, -1, -1)).sum(1)
    return torch.zeros(4**LENGTH).double().index_add(0, places, weights.flatten())


def test_model_and_topic_and_constraints_are_drawn_from_their_global_product() -> None:
    """Against the enumerated table, but for the islands' noise; token by token it is far off."""
    base, topic = model(0), model(1)
    wish = contains("bab", VOCABULARY, LENGTH) * at_most_tokens(3, VOCABULARY, LENGTH)
    target = base * topic**0.8 / base**0.8 * wish
    truth = table_of(target)
    g = torch.Generator().manual_seed(0)
    ahead = foreseen(contains("bab", VOCABULARY, LENGTH), token_frequencies(base, 200, generator=g))
    draws = poe.smc_over_positions(target, 60_000, twists=[ahead], generator=g, progress=False)
    assert draws.log_weights is not None
    assert draws.log_partition is not None
    weights = normalized_weights(draws.log_weights)
    by_island = [frequencies(*island) for island in zip(draws.samples, weights, strict=True)]
    check_islands(torch.stack(by_island), truth, g)
    log_z = target(states(SPACE)).logsumexp(0)
    gap = (draws.log_partition.value - log_z).abs()
    assert gap < 4 * draws.log_partition.std_error + 1e-6
    local = poe.LocalProduct(SPACE, poe.structure.twists.twists(target))
    token_by_token = local.log_prob(states(SPACE)).exp()
    token_by_token = token_by_token.masked_fill(truth == 0, 0.0)
    assert 0.5 * (token_by_token / token_by_token.sum() - truth).abs().sum() > 0.1


def test_token_frequencies_are_means_over_the_models_own_prefixes() -> None:
    expert, g = model(), torch.Generator().manual_seed(0)
    found = token_frequencies(expert, 20_000, generator=g).exp()
    x = states(SPACE)
    is_open = ~VOCABULARY.is_over(x)
    p = expert.log_prob(x).exp().double()
    # A ratio of means over texts: what a text's open prefixes say in sum, and how many they are.
    said = (expert.log_conditionals(x).exp() * is_open[..., None]).sum(1).double()
    count = is_open.sum(1).double()
    expected = (p @ said) / (p @ count)
    variance = p @ (said - count[:, None] * expected).square()
    std_error = (variance / 20_000).sqrt() / (p @ count)
    assert ((found - expected).abs() < 4 * std_error + 1e-6).all()


def test_what_follows_a_prefix_needs_no_whole_event() -> None:
    x = torch.tensor([[3, 1, 2, 0]])
    expected = model().log_conditionals(x)[:, 2]
    torch.testing.assert_close(log_after(model(), x[:, :2]), expected)


def test_saved_and_loaded(tmp_path: Path) -> None:
    target = model(0) * contains("bab", VOCABULARY, LENGTH)
    poe.save(target, tmp_path / "texts")
    loaded, x = poe.load(tmp_path / "texts"), states(SPACE)
    assert torch.equal(loaded(x), target(x))
    assert repr(loaded) == repr(target)


@pytest.mark.parametrize(
    ("provoke", "words"),
    [
        (lambda: Vocabulary("ab", ends=[2]), r"ends and padding among tokens 0 ... 1, got \[2\]"),
        (lambda: Vocabulary("ab", padding=1), "nothing says where it begins"),
        (lambda: NextToken(LastTwo(4, 0), VOCABULARY, 4), "in evaluation mode, .* call .eval"),
        (lambda: model()(torch.zeros(2, 4)), "tokens as integers, got torch.float32: give token"),
        (lambda: model().log_prob(torch.tensor([[0, 4, 0, 0]])), "got 4 in event 0: tokens are"),
        (
            lambda: NextToken(lambda p: torch.zeros(len(p), 5), VOCABULARY, 4).sample(2),
            r"logits of shape \(2, 4\)",
        ),
        (lambda: at_most_tokens(4, VOCABULARY, 4), "a number of tokens from 0 to 3"),
        (lambda: at_most_tokens(1, Vocabulary("ab"), 4), "a vocabulary with ends"),
        (
            lambda: foreseen(contains("b", VOCABULARY, 3), torch.zeros(4).log()),
            "every token to have some frequency",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_words(provoke: Callable[[], object], words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        provoke()


def test_a_net_that_went_back_to_training_is_found_out() -> None:
    expert = model()
    expert.train()
    with pytest.raises(poe.AdaptationError, match="in evaluation mode"):
        expert(torch.zeros(1, 4, dtype=torch.long))


@pytest.mark.parametrize(
    ("transitions", "classes", "accepting", "words"),
    [
        ([[0.0, 1.5], [1.0, 0.0]], [0, 1], [True, False], "transitions must be whole numbers"),
        (
            [[0, 1], [1, 0]],
            torch.tensor([0.2, 1.0]),
            [True, False],
            "classes must be whole numbers",
        ),
        ([[0, 1], [1, 0]], [0, 1], [0.3, 0.0], "accepting must be whole numbers"),
        ([[0, 2], [1, 0]], [0, 1], [True, False], "transitions among the states 0 ... 1, got 2"),
        ([[0, -1], [1, 0]], [0, 1], [True, False], "transitions among the states 0 ... 1, got -1"),
        ([[0, 1], [1, 0]], [0, 2], [True, False], "classes among the classes 0 ... 1, got 2"),
        (
            [[0, 1], [1, 0]],
            [0, 1],
            [True],
            r"accepting \(states,\), got \(2, 2\), \(2,\) and \(1,\)",
        ),
    ],
)
def test_an_automaton_refuses_states_that_are_none(
    transitions: Any, classes: Any, accepting: Any, words: str
) -> None:
    with pytest.raises(poe.PoeError, match=words):
        Automaton(transitions, classes, accepting, length=3)


@pytest.mark.parametrize("wrong", [{"ends": [0.5]}, {"ends": [0], "padding": 0.5}])
def test_a_vocabulary_refuses_tokens_that_are_no_whole_numbers(wrong: dict[str, Any]) -> None:
    with pytest.raises(poe.PoeError, match=r"must be a whole number, got 0\.5"):
        Vocabulary(["", "a"], **wrong)
