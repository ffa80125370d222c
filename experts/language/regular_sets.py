"""Regular expressions over bytes as terms, and their derivatives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

ALL_BYTES = (1 << 256) - 1


@dataclass(frozen=True)
class Term:
    """A set of byte strings: r s is ``r + s``, r | s, r & s and ~r are themselves."""

    def __add__(self, other: Term) -> Term:
        if NOTHING in (self, other):
            return NOTHING
        if self == EMPTY:
            return other
        if other == EMPTY:
            return self
        if isinstance(self, Then):  # to the right, so that equal strings are equal terms
            return self.first + (self.second + other)
        return Then(self, other)

    def __or__(self, other: Term) -> Term:
        members = _members(Either, self) | _members(Either, other)
        single = 0
        for member in members:
            single |= member.mask if isinstance(member, OneOf) else 0
        members = {m for m in members if not isinstance(m, OneOf)}
        if single:
            members.add(OneOf(single))
        if ANYTHING in members:
            return ANYTHING
        return _joined(Either, members, NOTHING)

    def __and__(self, other: Term) -> Term:
        members = (_members(Both, self) | _members(Both, other)) - {ANYTHING}
        return NOTHING if NOTHING in members else _joined(Both, members, ANYTHING)

    def __invert__(self) -> Term:
        return self.inner if isinstance(self, Not) else Not(self)

    def star(self) -> Term:
        """r*: any number of them, one after the other."""
        return self if isinstance(self, Star) else Star(self)


@dataclass(frozen=True)
class OneOf(Term):
    """One byte of a set, the bits of ``mask``."""

    mask: int


@dataclass(frozen=True)
class Then(Term):
    """r s: one after the other."""

    first: Term
    second: Term


@dataclass(frozen=True)
class Star(Term):
    """r*: any number of them, one after the other."""

    inner: Term


@dataclass(frozen=True)
class Either(Term):
    """r | s | …: any of them."""

    members: frozenset[Term]


@dataclass(frozen=True)
class Both(Term):
    """r & s & …: all of them."""

    members: frozenset[Term]


@dataclass(frozen=True)
class Not(Term):
    """All strings but those of r."""

    inner: Term


NOTHING = OneOf(0)
EMPTY = Star(NOTHING)
"""The set of the empty string alone."""
ANYTHING = Not(NOTHING)
"""The set of all strings."""


def byte_range(first: int, last: int) -> OneOf:
    """One byte from first to last."""
    return OneOf(sum(1 << byte for byte in range(first, last + 1)))


def literal(text: str | bytes) -> Term:
    """The bytes of a text, in order."""
    data = text.encode() if isinstance(text, str) else text
    return concatenated(byte_range(byte, byte) for byte in data)


def concatenated(terms: Iterable[Term]) -> Term:
    """One after the other."""
    found: Term = EMPTY
    for term in reversed(list(terms)):
        found = term + found
    return found


def either(terms: Iterable[Term]) -> Term:
    """Any of them."""
    found: Term = NOTHING
    for term in terms:
        found = found | term
    return found


def _all_of(terms: Iterable[Term]) -> Term:
    found: Term = ANYTHING
    for term in terms:
        found = found & term
    return found


def repeated(term: Term, least: int, most: int | None) -> Term:
    """From so many to so many times; without a bound if None."""
    if most is None:
        return concatenated([term] * least) + term.star()
    found: Term = EMPTY
    for _ in range(most - least):
        found = EMPTY | (term + found)
    return concatenated([term] * least) + found


@lru_cache(maxsize=100_000)
def is_nullable(term: Term) -> bool:
    """Whether the empty string is in the set."""
    match term:
        case Then(first, second):
            return is_nullable(first) and is_nullable(second)
        case Star():
            return True
        case Either(members):
            return any(map(is_nullable, members))
        case Both(members):
            return all(map(is_nullable, members))
        case Not(inner):
            return not is_nullable(inner)
    return False


@lru_cache(maxsize=100_000)
def derivative(term: Term, byte: int) -> Term:
    """What may follow that byte: {s : byte s in the set}.

    Args:
        term: The set.
        byte: 0 … 255.

    Returns:
        The set of what may follow.

    References:
        Brzozowski (1964), Derivatives of regular expressions, Journal of the ACM,
        doi:10.1145/321239.321249.

        Owens, Reppy & Turon (2009), Regular-expression derivatives re-examined, Journal of
        Functional Programming, doi:10.1017/S0956796808007090.

    Example:
        >>> derivative(literal("ab") | literal("b"), ord("a")) == literal("b")
        True
    """
    match term:
        case OneOf(mask):
            return EMPTY if mask >> byte & 1 else NOTHING
        case Then(first, second):
            found = derivative(first, byte) + second
            return found | derivative(second, byte) if is_nullable(first) else found
        case Star(inner):
            return derivative(inner, byte) + term
        case Either(members):
            return either(derivative(member, byte) for member in members)
        case Both(members):
            return _all_of(derivative(member, byte) for member in members)
        case Not(inner):
            return ~derivative(inner, byte)
    raise TypeError(f"expected a term, got {type(term).__name__}")


@lru_cache(maxsize=100_000)
def byte_classes(term: Term) -> frozenset[int]:
    """Sets of bytes, as masks, after each of which the same may follow; all bytes are in one."""
    match term:
        case OneOf(mask):
            return frozenset({mask, ALL_BYTES ^ mask} - {0})
        case Then(first, second) if is_nullable(first):
            return _refined([first, second])
        case Then(inner, _) | Star(inner) | Not(inner):
            return byte_classes(inner)
        case Either(members) | Both(members):
            return _refined(members)
    raise TypeError(f"expected a term, got {type(term).__name__}")


def _refined(terms: Iterable[Term]) -> frozenset[int]:
    found = frozenset({ALL_BYTES})
    for term in terms:
        found = frozenset({a & b for a in found for b in byte_classes(term)} - {0})
    return found


def _members(kind: type[Either] | type[Both], term: Term) -> set[Term]:
    return set(term.members) if isinstance(term, kind) else {term}


def _joined(kind: type[Either] | type[Both], members: set[Term], none: Term) -> Term:
    if len(members) > 1:
        return kind(frozenset(members))
    return next(iter(members), none)
