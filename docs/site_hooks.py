"""The index of all names, put in when the site is built: see `hooks` in mkdocs.yml."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
PLACE = "<!-- all names -->"


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """The page, with a list of links in the place of the index."""
    return markdown.replace(PLACE, index(Path(config.docs_dir))) if PLACE in markdown else markdown


def index(docs: Path) -> str:
    """Links to all names that some page explains, by module and in alphabetical order."""
    pages = [page.read_text(encoding="utf-8") for page in sorted(docs.rglob("*.md"))]
    names = [name for page in pages for name in DIRECTIVE.findall(page)]
    by_module = sorted((*name.rpartition(".")[::2], name) for name in names)
    return "\n\n".join(
        f"## {module}\n\n"
        + " · ".join(f"[`{short}`][{name}]" for _, short, name in sorted(group, key=_casefold))
        for module, group in groupby(by_module, key=lambda entry: entry[0])
    )


def _casefold(entry: tuple[str, str, str]) -> str:
    return entry[1].casefold()
