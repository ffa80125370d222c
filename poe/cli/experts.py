"""``python -m poe experts``: the shipped experts, and their cards."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from poe.cli.terminal import BadInput, ExitCode, add_json, new_command, print_json

DESCRIPTION = """\
The shipped experts, each with the labels that `given` may name and the first sentence of its card;
with a name, the whole card: data, licence, training command, figures.

  python -m poe experts
  python -m poe experts digits-slant
  python -m poe experts --json
"""


def add(commands: Any) -> None:
    """Add the command's parser."""
    command = new_command(commands, "experts", "the shipped experts, and their cards", DESCRIPTION)
    command.add_argument("name", nargs="?", help="of a shipped expert")
    add_json(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace, top: argparse.ArgumentParser) -> ExitCode:
    """List them, or print a card."""
    from experts.pretrained import loading as library

    names = library.available()
    if options.name is not None and options.name not in names:
        raise BadInput(
            f"expected one of the shipped experts {', '.join(names)}; got {options.name!r}"
        )
    found = {name: about(name) for name in ((options.name,) if options.name else names)}
    if options.json:
        print_json(found)
    elif options.name:
        print(found[options.name]["card"], end="")
    else:
        print("\n\n".join(as_text(name, facts) for name, facts in found.items()))
    return ExitCode.OK


def about(name: str) -> dict[str, Any]:
    """What its description and its card say."""
    from experts.pretrained import loading as library

    folder = library.folder()
    description = json.loads(folder.joinpath(f"{name}.json").read_text(encoding="utf-8"))
    card = folder.joinpath(f"{name}.md").read_text(encoding="utf-8")
    return {
        "summary": first_sentence(card),
        "labels": description.get("labels", []),
        "shape": description.get("shape"),
        "noise_level": description.get("noise_level"),
        "card": card,
    }


def first_sentence(card: str) -> str:
    r"""Of the first paragraph under the title.

    >>> first_sentence("# name\n\nA model\nof digits. And more.\n")
    'A model of digits.'
    """
    paragraph = " ".join(card.split("\n\n")[1].split())
    return paragraph.split(". ")[0].rstrip(".,") + "."


def as_text(name: str, facts: dict[str, Any]) -> str:
    """A few lines."""
    lines = textwrap.wrap(facts["summary"], 96)
    if facts["labels"]:
        lines.append(f"given: {', '.join(facts['labels'])}")
    return "\n    ".join([name, *lines])
