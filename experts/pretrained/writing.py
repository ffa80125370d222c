"""Ship an expert: its weights in half precision, what it is of, and its card.

    write(expert, "digits-class", Card(licence="MIT", datasets=("mnist",), text=...))

Three files: ``digits-class.safetensors``, ``digits-class.json``, which is what `poe.save` writes
(the tree, with a hash of everything) and says the licence and the card beside, and
``digits-class.md``, the card.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from experts.noised.conditional import NoisyConditional
from experts.pretrained.loading import folder
from poe.core.arguments import checked
from poe.core.errors import StorageError
from poe.files.atomic import write_bytes
from poe.io import packed, write as write_described

LIBRARY = "product-of-experts"


@dataclass(frozen=True)
class Card:
    """What people read of a shipped expert, under a head that programs read.

    Args:
        licence: Of the weights, by its SPDX name.
        datasets: What it was trained on.
        text: What it is a density of, the data, the training command, figures, limits: Markdown
            without a title.
        tags: For who searches.
        noise_level: The standard deviation of the noise on the data that it is a density of; None
            where there is none, or where the expert itself knows its level.

    >>> card = Card("MIT", ("mnist",), "A density of digits.")
    >>> print(card.markdown("digits", {"num_parameters": 3}))
    ---
    library_name: product-of-experts
    license: MIT
    datasets: ["mnist"]
    tags: ["energy-based-model"]
    num_parameters: 3
    ---
    # digits
    <BLANKLINE>
    A density of digits.
    <BLANKLINE>
    """

    licence: str
    datasets: tuple[str, ...]
    text: str
    tags: tuple[str, ...] = ("energy-based-model",)
    noise_level: float | None = None

    def noise(self) -> dict[str, float]:
        """The level, where there is one to tell."""
        return {} if self.noise_level is None else {"noise_level": self.noise_level}

    @classmethod
    def of_file(cls, file: Path) -> Self:
        """The card that a file has: its text is written by people, its head by `write`.

        Args:
            file: As `markdown` has it.

        Returns:
            The card, without what is a fact of the weights.

        Raises:
            StorageError: Where it has no head.
        """
        _, *found = file.read_text(encoding="utf-8").split("---\n", 2)
        if len(found) != 2:
            raise StorageError(
                f"expected a card with a head between lines of --- at {file}, got none: write it "
                "as Card(...).markdown(name, {})"
            )
        head = dict(line.split(": ", 1) for line in found[0].splitlines())
        datasets, tags = (tuple(json.loads(head[key])) for key in ("datasets", "tags"))
        level = json.loads(head.get("noise_level", "null"))
        return cls(head["license"], datasets, found[1].split("\n", 2)[2], tags, level)

    def markdown(self, name: str, facts: dict[str, Any]) -> str:
        """The card as a file.

        Args:
            name: The expert's.
            facts: More lines of the head, as JSON can hold them, which YAML holds too.

        Returns:
            The head, a title and the text.
        """
        head = {
            "library_name": LIBRARY,
            "license": self.licence,  # as model hubs spell it
            "datasets": list(self.datasets),
            "tags": list(self.tags),
            **self.noise(),
            **facts,
        }
        lines = [f"{key}: {_in_yaml(value)}" for key, value in head.items()]
        return "\n".join(["---", *lines, "---", f"# {name}", "", self.text.strip(), ""])


@checked
def write(expert: nn.Module, name: str, card: Card, *, into: Path | None = None) -> Path:
    """Write an expert so that ``experts.load(name)`` gives it, in evaluation mode and frozen.

    One rule for what is halved: parameters are stored in half precision, buffers as they are,
    since these are what a closed form leans on (principal axes, a noise level). Both are used in
    the precision that they have here.

    Args:
        expert: Any that `poe.save` takes. It is put in evaluation mode, and needs no gradient
            from then on.
        name: What it will be loaded by, and what its files are called.
        card: Its card.
        into: A folder; by default that of the shipped experts.

    Returns:
        The file of the description.

    Raises:
        StorageError: As `poe.save`, for a parameter that half precision does not hold, and where
            another file has the name of the card.
    """
    into = Path(str(folder())) if into is None else into
    description, weights = packed(expert.eval().requires_grad_(False), halved)
    told = card.noise() | about(expert) | {"licence": card.licence, "card": f"{name}.md"}
    description |= told | {"weights": f"{name}.safetensors"}
    into.mkdir(parents=True, exist_ok=True)
    _require_own_card(into / f"{name}.md")
    write_described(into / f"{name}.json", description, weights)
    facts = {
        "num_parameters": sum(parameter.numel() for parameter in expert.parameters()),
        "weights_sha256": description["weights_sha256"],
        "versions": f"torch {torch.__version__}, Python {platform.python_version()}",
    }
    write_bytes(into / f"{name}.md", card.markdown(name, facts).encode())
    return into / f"{name}.json"


def _require_own_card(file: Path) -> None:
    """Nobody's notes of that name are written over."""
    if file.exists() and f"library_name: {LIBRARY}\n" not in file.read_text(errors="replace"):
        raise StorageError(
            f"expected nothing at {file} or the card of an expert to write over, got another file: "
            "give another name, or another folder"
        )


def halved(tensor: Tensor) -> Tensor:
    """A parameter in half precision, anything else as it is.

    Args:
        tensor: Of any shape.

    Returns:
        What is stored of it.

    Raises:
        StorageError: Where a parameter is finite, and is not in half precision.

    >>> halved(nn.Parameter(torch.ones(1))).dtype, halved(torch.ones(1)).dtype
    (torch.float16, torch.float32)
    """
    if not isinstance(tensor, nn.Parameter) or not tensor.is_floating_point():
        return tensor
    half = tensor.detach().half()
    if bool((half.isinf() & tensor.isfinite()).any()):
        raise StorageError(
            f"expected parameters up to 65,504, which half precision holds, got "
            f"{tensor.abs().max().item():g}: keep it as a buffer, which is stored as it is"
        )
    return half


def about(expert: Any) -> dict[str, Any]:
    """What the list of shipped experts says of one, as JSON.

    Args:
        expert: An expert, or a conditional.

    Returns:
        The shape of an event, and of a conditional of noised data its labels and noise level.
    """
    told: dict[str, Any] = {"shape": list(expert.space.event_shape)}
    if isinstance(expert, NoisyConditional):
        # Shortest: 0.1 in single precision, not 0.10000000149.
        level = float(str(expert.noise_level.numpy()))
        told |= {"labels": list(expert.labels), "noise_level": level}
    return told


def _in_yaml(value: Any) -> str:
    """Plain where it is one word or more, else as JSON, which YAML reads."""
    return value if isinstance(value, str) else json.dumps(value)
