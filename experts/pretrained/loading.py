"""Shipped pretrained experts: ``available()`` lists them, ``load(name)`` reads one."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import poe
from experts.noised.conditional import NoisyConditional
from experts.noised.image_flow import ImageFlow
from experts.noised.pixel_mixture import PixelMixture
from experts.noised.reconstruction_energy import ReconstructionEnergy
from poe.core.arguments import checked
from poe.files.atomic import content_of
from poe.files.tensor_file import loads
from poe.io import read

FAMILIES: dict[str, Callable[..., NoisyConditional]] = {
    "PixelMixture": PixelMixture,
    "ImageFlow": ImageFlow,
    "ReconstructionEnergy": ReconstructionEnergy,
}
"""Families of noised data that descriptions name by their class; all else `poe.load` knows."""


def folder() -> Traversable:
    """Where the weights, their descriptions and their cards lie."""
    return files("experts").joinpath("pretrained")


def available() -> tuple[str, ...]:
    """Names of the shipped experts.

    Returns:
        The names, sorted.

    Example:
        >>> available()
        ('digits-class', 'digits-prior', 'digits-slant', 'digits-thickness', 'digits-vae',
         'fashion-energy', 'pictures-patches')
    """
    names = [entry.name for entry in folder().iterdir()] if folder().is_dir() else []
    return tuple(sorted(name[:-5] for name in names if name.endswith(".json")))


@checked
def load(name: str) -> Any:
    """A shipped expert by name: a conditional, or where there are no labels an expert.

    It is read as by ``poe.load``: weights and description are checked against their SHA-256, and
    nothing is unpickled. Parameters need no gradient.

    Args:
        name: One of ``available()``.

    Returns:
        A ``NoisyConditional`` of labels, or an ``Expert``, in evaluation mode.

    Raises:
        PoeError: For an unknown name.
        StorageError: For files that were changed.

    Example:
        >>> load("digits-slant").labels
        ('left', 'upright', 'right', 'between')
        >>> print(load("digits-slant").given("left").space)
        Real((16, 16))
    """
    if name not in available():
        raise poe.PoeError(
            f"expected one of the shipped experts {', '.join(available())}; got {name!r}"
        )
    file = Path(str(folder())) / f"{name}.json"
    try:
        description = loads(content_of(file))
    except (OSError, ValueError, RecursionError) as error:
        raise poe.StorageError(
            f"{file} was altered ({error}): install the package again"
        ) from error
    if not isinstance(description, dict):
        raise poe.StorageError(f"{file} was altered (it is no object): install the package again")
    return prior(description) if "prior_of" in description else read(file)


def prior(description: dict[str, Any]) -> poe.Expert:
    """The geometric mean of the unconditional densities of several shipped experts."""
    sources: dict[str, str] = description["prior_of"]
    return poe.Product(
        **{name: load(source).marginal() ** (1 / len(sources)) for name, source in sources.items()}
    )
