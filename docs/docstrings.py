"""The docstrings of this repository as Markdown, for the documentation site.

They are plain text with doctests, and formulas in the letters of the field or, where these do not
suffice, in LaTeX, which becomes MathML here: no script is needed to show it.
"""

from __future__ import annotations

import html
import re
from typing import Any

import griffe
from latex2mathml.converter import convert

CODE = re.compile(r"(:math:`[^`]+`|``.+?``|`[^`\n]+`)", re.DOTALL)
WORD = re.compile(r"[A-Za-z]{4,}")
NAMES_OF_FUNCTIONS = {"logsumexp", "softmax", "sqrt", "trace"}


class AsMarkdown(griffe.Extension):
    """Rewrites each docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """A docstring as Markdown.

    >>> to_markdown("x = 1 < 2\\n\\n>>> 1 + 1\\n2").splitlines()
    ['<p class="formula">x = 1 &lt; 2</p>', '', '```pycon', '>>> 1 + 1', '2', '```']
    """
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(map(_block, blocks))


def _block(text: str) -> str:
    """A paragraph: a doctest, code or a table as it is, a formula, or prose."""
    if text.startswith(">>>"):
        return f"```pycon\n{text}\n```"
    if text.startswith((" ", "|")):
        return text
    if text.startswith(".. math::"):
        return convert(" ".join(text.split()[2:]), display="block")
    if is_formula(text):
        return f'<p class="formula">{html.escape(text, quote=False)}</p>'
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
    """No sign of it is to be taken for HTML or Markdown."""
    return html.escape(text, quote=False).replace("*", r"\*")
