"""The syntax of patterns: from text to a regular expression over bytes."""

from __future__ import annotations

from experts.language.regular_sets import (
    EMPTY,
    NOTHING,
    OneOf,
    Term,
    byte_range,
    concatenated,
    either,
    literal,
    repeated,
)
from poe import PoeError

ASCII = byte_range(0, 127)
_TAIL = byte_range(0x80, 0xBF)
BEYOND_ASCII = either(
    [
        byte_range(0xC2, 0xDF) + _TAIL,
        byte_range(0xE0, 0xE0) + byte_range(0xA0, 0xBF) + _TAIL,
        (byte_range(0xE1, 0xEC) | byte_range(0xEE, 0xEF)) + _TAIL + _TAIL,
        byte_range(0xED, 0xED) + byte_range(0x80, 0x9F) + _TAIL,
        byte_range(0xF0, 0xF0) + byte_range(0x90, 0xBF) + _TAIL + _TAIL,
        byte_range(0xF1, 0xF3) + _TAIL + _TAIL + _TAIL,
        byte_range(0xF4, 0xF4) + byte_range(0x80, 0x8F) + _TAIL + _TAIL,
    ]
)
"""Any character of two to four bytes in UTF-8."""
_DIGITS = byte_range(48, 57)
_WORD = either([_DIGITS, byte_range(65, 90), byte_range(97, 122), literal("_")])
_BLANK = either(map(literal, " \t\n\r\f\v"))
CLASSES = {"d": _DIGITS, "w": _WORD, "s": _BLANK}
CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
MOST = 1_000


def parsed(pattern: str) -> Term:
    r"""A pattern as a set of byte strings, which it matches as a whole.

    Understood are literals, ``.`` (any character but a line's end), classes ``[a-z]`` and
    ``[^...]``, ``\d \w \s \D \W \S`` (of ASCII), groups, ``|``, ``* + ? {m} {m,} {m,n}``:
    as Python's ``re.fullmatch`` with ``re.ASCII``.

    Args:
        pattern: What is read.

    Returns:
        The set.

    Raises:
        PoeError: For anything else, such as references back and looks ahead, which no finite
            automaton knows.

    Example:
        >>> parsed("a(b|c)") == parsed("a[bc]")
        True
    """
    parser = _Parser(pattern)
    found = parser.alternatives()
    if parser.rest():
        raise parser.error("an opening bracket before ')'")
    return found


class _Parser:
    """Recursive descent: alternatives, sequences, repetitions, atoms."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.place = pattern, 0

    def rest(self) -> str:
        return self.pattern[self.place :]

    def error(self, expected: str) -> PoeError:
        return PoeError(
            f"expected {expected} at place {self.place} of the pattern {self.pattern!r}, got "
            f"{self.rest()[:8]!r}; a sign itself is written with a backslash before it"
        )

    def took(self, text: str) -> bool:
        is_next = self.pattern.startswith(text, self.place)
        self.place += len(text) if is_next else 0
        return is_next

    def character(self, expected: str) -> str:
        if not self.rest():
            raise self.error(expected)
        self.place += 1
        return self.pattern[self.place - 1]

    def alternatives(self) -> Term:
        found = self.sequence()
        while self.took("|"):
            found = found | self.sequence()
        return found

    def sequence(self) -> Term:
        found = []
        while self.rest() and self.rest()[0] not in "|)":
            found.append(self.repetition())
        return concatenated(found)

    def repetition(self) -> Term:
        found = self.atom()
        if self.took("*"):
            found = repeated(found, 0, None)
        elif self.took("+"):
            found = repeated(found, 1, None)
        elif self.took("?"):
            found = found | EMPTY
        elif self.took("{"):
            found = repeated(found, *self.bounds())
        if self.rest()[:1] in ("*", "+", "?", "{"):
            raise self.error("one repetition (greedy or not is the same here)")
        return found

    def bounds(self) -> tuple[int, int | None]:
        inside, closed, _ = self.rest().partition("}")
        least, comma, most = inside.partition(",")
        if not closed or not least.isdecimal() or (most and not most.isdecimal()):
            raise self.error("{m}, {m,} or {m,n}")
        low, high = int(least), int(most) if most else None if comma else int(least)
        if not low <= (low if high is None else high) <= MOST:
            raise self.error(f"m <= n <= {MOST} in a repetition")
        self.place += len(inside) + 1
        return low, high

    def atom(self) -> Term:
        if self.rest()[0] in "*+?{":
            raise self.error("something to repeat")
        if self.rest()[:2] == "(?" and self.rest()[:3] != "(?:":
            raise self.error("a plain group, ( or (?:")
        if self.took("(?:") or self.took("("):
            return self.group()
        if self.took("["):
            return self.characters()
        if self.took("."):
            return (OneOf(ASCII.mask & ~literal_mask("\n"))) | BEYOND_ASCII
        if self.rest()[0] in "^$":
            raise self.error("no anchor (a pattern matches the whole text)")
        if self.took("\\"):
            return self.escaped()
        return literal(self.character("a character"))

    def group(self) -> Term:
        found = self.alternatives()
        if not self.took(")"):
            raise self.error("')'")
        return found

    def escaped(self) -> Term:
        sign = self.character("a character after the backslash")
        if sign in CLASSES:
            return CLASSES[sign]
        if sign.lower() in CLASSES:
            return _but(CLASSES[sign.lower()])
        if sign in CONTROLS:
            return literal(CONTROLS[sign])
        if sign.isalnum():
            self.place -= 1
            raise self.error("a class or a sign after the backslash")
        return literal(sign)

    def characters(self) -> Term:
        is_negated, is_first = self.took("^"), True
        found: Term = NOTHING
        while is_first or not self.took("]"):
            found, is_first = found | self.member(), False
        return _but(found) if is_negated else found

    def member(self) -> Term:
        if self.took("\\"):
            first = self.escaped()
            if self.rest()[:1] != "-" or self.rest()[:2] == "-]":
                return first
            raise self.error("a character, no escape, at either end of a range")
        low = self.character("a character of the class")
        if self.rest()[:1] != "-" or self.rest()[:2] == "-]":
            return literal(low)
        self.place += 1
        high = self.character("the end of a range")
        if not ord(low) <= ord(high) <= ord(low) + MOST or high == "\\":
            raise self.error(f"a range of at most {MOST} characters, from low to high")
        return either(literal(chr(code)) for code in range(ord(low), ord(high) + 1))


def literal_mask(character: str) -> int:
    """The bit of one ASCII character."""
    return 1 << ord(character)


def _but(excluded: Term) -> Term:
    """One character that is none of those."""
    return (ASCII | BEYOND_ASCII) & ~excluded
