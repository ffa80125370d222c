"""The docstrings of this repository as Markdown, for the documentation site.

They are plain text with doctests, and formulas in the letters of the field or, where these do not
suffice, in LaTeX, which becomes MathML here: no script is needed to show it. Their sections are
those of Google's style: griffe reads the lists of arguments and errors, the rest is prose.
"""

from __future__ import annotations

import html
import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert

CODE = re.compile(r"(:math:`[^`]+`|``.+?``|`[^`\n]+`)", re.DOTALL)
ENTRIES = re.compile(r"(Args|Attributes|Raises):\n")
ENTRY = re.compile(r"^( {4}\*{0,2}[\w.]+:)", re.MULTILINE)
FIELDS = re.compile(r"^Args:$", re.MULTILINE)
PROSE = re.compile(r"(Returns|Yields|References|Example|Examples):\n")
TITLE = '<p><span class="doc-section-title">{}:</span></p>'
PAPER = re.compile(r"\b(arXiv|doi):(\d[^\s,;()]*[^\s,;().])")
SITES = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
WORD = re.compile(r"[A-Za-z]{4,}")
NAMES_OF_FUNCTIONS = {"logsumexp", "softmax", "sqrt", "trace"}


class AsMarkdown(griffe.Extension):
    """Rewrites each docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        text = to_markdown(obj.docstring.value)
        obj.docstring.value = FIELDS.sub("Attributes:", text) if is_record(obj) else text


def is_record(obj: object) -> bool:
    """Whether it is a named tuple: griffe sees its fields, but not that they are arguments."""
    if not isinstance(obj, griffe.Class):
        return False
    siblings = {} if obj.parent is None else obj.parent.members
    return any(
        str(base) == "NamedTuple" or is_record(siblings.get(str(base))) for base in obj.bases
    )


def to_markdown(text: str) -> str:
    """A docstring as Markdown.

    >>> to_markdown("x = 1 < 2\\n\\n>>> 1 + 1\\n2").splitlines()
    ['<p class="formula">x = 1 &lt; 2</p>', '', '```pycon', '>>> 1 + 1', '2', '```']
    """
    return "\n\n".join(map(_section, re.split(r"\n\s*\n(?=\S)", text.strip("\n"))))


def _section(text: str) -> str:
    """Entries for griffe, prose below its title, or paragraphs without one.

    >>> print(_section("Args:\\n    x: A *number*, ``<b>``.\\n    *y: Another <one>."))
    Args:
        x: A \\*number\\*, ``<b>``.
        *y: Another &lt;one&gt;.
    >>> print(_section("Returns:\\n    Draws, 1 < 2:\\n\\n    y = x"))
    <p><span class="doc-section-title">Returns:</span></p>
    <BLANKLINE>
    Draws, 1 &lt; 2:
    <BLANKLINE>
    <p class="formula">y = x</p>
    """
    if ENTRIES.match(text):
        return _entries(text)
    if section := PROSE.match(text):
        title = TITLE.format(section[1])
        return f"{title}\n\n{to_markdown(textwrap.dedent(text[section.end() :]))}"
    return "\n\n".join(map(_paragraph, re.split(r"\n\s*\n", text)))


def _paragraph(text: str) -> str:
    """A doctest, code or a table as it is, a formula, or prose."""
    if text.startswith(">>>"):
        return f"```pycon\n{text}\n```"
    if text.startswith((" ", "|")):
        return text
    if text.startswith(".. math::"):
        return convert(" ".join(text.split()[2:]), display="block")
    if is_formula(text):
        return f'<p class="formula">{html.escape(text, quote=False)}</p>'
    return _prose(text)


def _entries(text: str) -> str:
    """A list of arguments or errors, whose names stay as they are."""
    title, *parts = ENTRY.split(text)
    return title + "".join(_prose(part) if index % 2 else part for index, part in enumerate(parts))


def _prose(text: str) -> str:
    parts = CODE.split(re.sub(r"::$", ":", text))
    return "".join(_code(part) if index % 2 else _plain(part) for index, part in enumerate(parts))


def is_formula(text: str) -> bool:
    """Whether a paragraph is one: it relates things, and says hardly a word.

    >>> is_formula("log p̃(x) = −|x|²/2 + φ(x)"), is_formula("Where x = 1, every step is accepted.")
    (True, False)
    """
    if "`" in text or text.startswith(("- ", "Source:")) or not re.search(r"[=∝←≤]", text):
        return False
    words = [word for word in WORD.findall(text) if word not in NAMES_OF_FUNCTIONS]
    is_sentence = re.match(r"[A-Z][a-z]", text) is not None
    return len(words) <= 2 and not is_sentence


def _code(text: str) -> str:
    latex = text.removeprefix(":math:`")
    return text if latex == text else convert(latex.removesuffix("`"))


def _plain(text: str) -> str:
    """No sign of it is to be taken for HTML or Markdown; papers become links.

    >>> _plain("a * b, arXiv:1903.08689.")
    'a \\\\* b, [arXiv:1903.08689](https://arxiv.org/abs/1903.08689).'
    """
    text = html.escape(text, quote=False).replace("*", r"\*")
    return PAPER.sub(lambda paper: f"[{paper[0]}]({SITES[paper[1]]}{paper[2]})", text)
