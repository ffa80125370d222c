"""Experts from the models of other libraries, one library a file.

An adapter is imported when the first model of its library comes, so that importing `experts` asks
for none of them: ``poe.as_expert(model)`` finds it by the package that the model's class is from.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import poe
from poe.adapt import refuse

LIBRARIES: dict[str, str] = {
    "transformers": "huggingface",
}
"""The module here that registers a library's classes with `poe.as_expert`, by top-level package."""


@poe.as_expert.register(object)
def _(source: object) -> poe.Expert:
    """Import the adapter of the library that the class is from, which registers it; ask again."""
    for module in adapters_of(type(source)):
        importlib.import_module(f"experts.adapters.{module}")
    if poe.as_expert.dispatch(type(source)) is poe.as_expert.dispatch(object):
        refuse(source)
    return poe.as_expert(source)


def adapters_of(kind: type) -> Iterator[str]:
    """The modules here for the packages of the class and of those it is derived from."""
    for parent in kind.__mro__:
        package = parent.__module__.partition(".")[0]
        if package in LIBRARIES:
            yield LIBRARIES[package]
