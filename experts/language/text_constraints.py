"""Constraints on texts as automata of tokens: a pattern, a word, a number of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from experts.language.automaton import MAX_STATES, Automaton
from experts.language.pattern_syntax import parsed
from experts.language.regular_sets import (
    ANYTHING,
    Term,
    byte_classes,
    derivative,
    is_nullable,
    literal,
)
from experts.language.vocabulary import Vocabulary
from poe import PoeError
from poe.core.arguments import checked


@checked
def matches(pattern: str, vocabulary: Vocabulary, length: int) -> Automaton:
    """The text as a whole matches a regular expression, whatever tokens write it.

    For the syntax see ``experts.language.pattern_syntax.parsed``. The text is what the tokens
    before its end write; one that has not ended is taken as it is (``at_most_tokens`` asks for an
    end).

    Args:
        pattern: The expression; for its syntax see ``experts.language.pattern_syntax.parsed``.
        vocabulary: What the tokens are written as.
        length: Tokens in an event.

    Returns:
        The automaton.

    Raises:
        PoeError: For another syntax, too many states, and where no text of that length matches.

    Example:
        >>> letters = Vocabulary(["", "a", "b", "ab"], ends=[0])
        >>> wish = matches("(ab)+", letters, length=3)
        >>> wish(torch.tensor([[3, 3, 0], [1, 2, 3], [1, 0, 0], [3, 1, 0]]))
        tensor([0., 0., -inf, -inf])
    """
    return automaton_of(parsed(pattern), vocabulary, length)


@checked
def contains(text: str, vocabulary: Vocabulary, length: int) -> Automaton:
    """The text contains another, as it is written.

    Args:
        text: The other.
        vocabulary: What the tokens are written as.
        length: Tokens in an event.

    Returns:
        The automaton.

    Raises:
        PoeError: For too many states, and where no text of that length contains it.

    Example:
        >>> letters = Vocabulary(["", "a", "b"], ends=[0])
        >>> wish = contains("ab", letters, length=3)
        >>> poe.log_partition(wish).value.exp()  # ab., aba, abb, aab, bab
        tensor(5.)
    """
    return automaton_of(ANYTHING + literal(text) + ANYTHING, vocabulary, length)


@checked
def avoids(text: str, vocabulary: Vocabulary, length: int) -> Automaton:
    """The text does not contain another.

    Args:
        text: The other.
        vocabulary: What the tokens are written as.
        length: Tokens in an event.

    Returns:
        The automaton.

    Raises:
        PoeError: For too many states, and where every text contains it.
    """
    return automaton_of(~(ANYTHING + literal(text) + ANYTHING), vocabulary, length)


@checked
def at_most_tokens(count: int, vocabulary: Vocabulary, length: int) -> Automaton:
    """The text has ended after at most so many tokens, its end not counted.

    Args:
        count: How many, ``0 <= count < length``.
        vocabulary: What the tokens are written as; it has ends.
        length: Tokens in an event.

    Returns:
        The automaton.

    Raises:
        PoeError: For another count, and a vocabulary without ends.

    Example:
        >>> letters = Vocabulary(["", "a", "b"], ends=[0])
        >>> at_most_tokens(1, letters, length=3)(torch.tensor([[1, 0, 0], [1, 2, 0], [1, 0, 1]]))
        tensor([0., -inf, -inf])
    """
    if not 0 <= count < length or vocabulary.padding is None:
        raise PoeError(
            f"expected a number of tokens from 0 to {length - 1} (the end takes a place of the "
            f"{length}) and a vocabulary with ends, got {count} and ends "
            f"{vocabulary.ends.tolist()}"
        )
    # In state s there are s tokens so far; too many lead to the state after these.
    table = torch.arange(1, count + 2)[:, None].expand(-1, vocabulary.size)
    may_end = torch.ones(count + 1, dtype=torch.bool)
    return _with_ends(table, may_end, ~may_end, vocabulary, length)


def automaton_of(term: Term, vocabulary: Vocabulary, length: int) -> Automaton:
    """The texts whose bytes are in a regular set.

    Args:
        term: The set.
        vocabulary: What the tokens are written as.
        length: Tokens in an event.

    Returns:
        The automaton.

    Raises:
        PoeError: For too many states, and where no text of that length is in it.
    """
    table, accepting = _byte_table(term)
    tokens = _token_table(table, vocabulary)
    return _with_ends(tokens, accepting, accepting, vocabulary, length)


def _byte_table(term: Term) -> tuple[Tensor, Tensor]:
    """What each byte does in each state ``(states, 256)``, and which accept: by derivatives."""
    number, states, rows = {term: 0}, [term], []
    for state in states:  # grows on the way
        row = [0] * 256
        for mask in byte_classes(state):
            members = [byte for byte in range(256) if mask >> byte & 1]
            after = derivative(state, members[0])
            if after not in number:
                number[after] = len(states)
                states.append(after)
            for byte in members:
                row[byte] = number[after]
        rows.append(row)
        if len(states) > MAX_STATES:
            raise PoeError(
                f"expected a pattern of at most {MAX_STATES} states, got more: shorten it, or its "
                "repetitions {m,n}"
            )
    return torch.tensor(rows), torch.tensor([is_nullable(state) for state in states])


def _token_table(table: Tensor, vocabulary: Vocabulary) -> Tensor:
    """What each token does in each state, byte after byte: ``(states, 256) -> (states, k)``.

    A token that writes nothing is no text: it leads to ``states``, which nothing leaves.
    """
    dead = len(table)
    table = torch.cat([table, torch.full((1, 256), dead)])
    found = torch.arange(dead)[:, None].repeat(1, vocabulary.size)
    for place in range(max(map(len, vocabulary.tokens))):
        longer = [i for i, token in enumerate(vocabulary.tokens) if len(token) > place]
        bytes_here = torch.tensor([vocabulary.tokens[i][place] for i in longer])
        found[:, longer] = table[found[:, longer], bytes_here]
    return found.masked_fill(vocabulary.is_special.cpu(), dead)


def _with_ends(
    table: Tensor, may_end: Tensor, accepting: Tensor, vocabulary: Vocabulary, length: int
) -> Automaton:
    """After ``(states, k)`` two more: ``states``, which nothing leaves, and the text that is over.

    An end leads there from where there may be one ``(states,)``; then padding alone stays.
    """
    dead, over, ends = len(table), len(table) + 1, vocabulary.ends.cpu()
    full = torch.cat([table, torch.full((2, vocabulary.size), dead)])
    if vocabulary.padding is not None:
        full[:, vocabulary.padding] = dead
        full[:dead, ends] = torch.where(may_end, over, dead)[:, None]
        full[over, vocabulary.padding] = over
    columns, classes = full.unique(dim=1, return_inverse=True)
    accepts = torch.cat([accepting, torch.tensor([False, True])])
    return Automaton(columns, classes, accepts, length).to(vocabulary.ends.device)
