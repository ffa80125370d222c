"""Language models and constraints on texts, as experts on sequences of tokens."""

from __future__ import annotations

from experts.language.automaton import Ahead, Automaton, foreseen, reachable
from experts.language.byte_model import OverBytes
from experts.language.next_token import NextToken, log_after, token_frequencies
from experts.language.text_constraints import (
    at_most_tokens,
    avoids,
    contains,
    matches,
)
from experts.language.vocabulary import Vocabulary

__all__ = [
    "Ahead",
    "Automaton",
    "NextToken",
    "OverBytes",
    "Vocabulary",
    "at_most_tokens",
    "avoids",
    "contains",
    "foreseen",
    "log_after",
    "matches",
    "reachable",
    "token_frequencies",
]
