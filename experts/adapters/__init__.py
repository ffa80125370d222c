"""Experts from the models of other libraries, one library a file.

An adapter is imported when the first model of its library comes, so that importing `experts` asks
for none of them: ``poe.as_expert(model)`` finds it by the package that the model's class is from.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from torch.distributions import Distribution

import poe
from poe.core.imports import found_when_asked
from poe.density.adapt import refuse
from poe.io import register_on_demand

LIBRARIES: dict[str, str] = {
    "nflows": "nflows",
    "normflows": "normflows",
    "numpyro": "numpyro",
    "pzflow": "pzflow.registration",
    "sbi": "sbi",
    "sklearn": "sklearn",
    "transformers": "huggingface",
    "zuko": "zuko",
}
"""The module here that registers a library's classes with `poe.as_expert`, by top-level package."""

for _module in ("huggingface", "onnx", "pzflow"):  # what they save loads without them
    register_on_demand(f"experts.adapters.{_module}.", f"experts.adapters.{_module}")
for _name in ("experts.noised.ScoreModel", "experts.adapters.diffusion.ScoreModel"):
    register_on_demand(_name, "experts.noised.score_model")


@poe.as_expert.register(object)
def _(source: object) -> Any:
    """Import the adapter of the library that the class is from, which registers it; ask again."""
    import_adapters(type(source))
    if poe.as_expert.dispatch(type(source)) is poe.as_expert.dispatch(object):
        refuse(source)
    return poe.as_expert(source)


@poe.as_expert.register(Distribution)
def _(source: Distribution) -> Any:
    """The same for the distributions of other libraries, which are torch's by descent."""
    import_adapters(type(source))
    if poe.as_expert.dispatch(type(source)) is poe.as_expert.dispatch(Distribution):
        return poe.FromDistribution(source)
    return poe.as_expert(source)


def import_adapters(kind: type) -> None:
    """Import the adapters of the libraries that a class is from or derived from.

    Args:
        kind: The class.
    """
    for module in adapters_of(kind):
        importlib.import_module(f"experts.adapters.{module}")


def adapters_of(kind: type) -> Iterator[str]:
    """The modules here for the packages of the class and of those it is derived from.

    Args:
        kind: The class.

    Yields:
        Names of modules in `experts.adapters`.
    """
    for parent in kind.__mro__:
        package = parent.__module__.partition(".")[0]
        if package in LIBRARIES:
            yield LIBRARIES[package]


__getattr__ = found_when_asked(
    __name__,
    submodules=[
        "diffusion",
        "huggingface",
        "jax",
        "nflows",
        "normflows",
        "numpyro",
        "onnx",
        "pzflow",
        "sbi",
        "sklearn",
        "zuko",
    ],
)
