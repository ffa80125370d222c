"""Shipped pretrained experts: ``available()`` lists them, ``load(name)`` reads one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, TypeVar

import torch
from safetensors.torch import load as load_tensors
from torch import nn

import poe
from experts.autoregressive import PixelMixture
from experts.flow import ImageFlow
from experts.neural import NeuralEnergy, ReconstructionEnergy
from experts.noise import NoisyConditional
from experts.probabilistic_pca import ProbabilisticPCA
from experts.residual import ResidualNetwork

Module = TypeVar("Module", bound=nn.Module)

FAMILIES: dict[str, Callable[..., NoisyConditional]] = {
    "PixelMixture": PixelMixture,
    "ImageFlow": ImageFlow,
    "ReconstructionEnergy": ReconstructionEnergy,
}


def folder() -> Traversable:
    """Where the weights, their descriptions and their cards lie."""
    return files("experts").joinpath("pretrained")


def available() -> tuple[str, ...]:
    """Names of the shipped experts.

    >>> available()
    ('digits-class', 'digits-prior', 'digits-slant', 'digits-thickness', 'fashion-energy')
    """
    names = [entry.name for entry in folder().iterdir()] if folder().is_dir() else []
    return tuple(sorted(name[:-5] for name in names if name.endswith(".json")))


def load(name: str) -> Any:
    """A shipped expert by name: a conditional; "digits-prior" and "fashion-energy" have no label.

    Weights are read with safetensors and checked against their SHA-256; nothing is unpickled.
    Parameters need no gradient. Raises ``poe.PoeError`` for an unknown name and
    ``poe.StorageError`` for weights that were changed.

    >>> load("digits-slant").labels
    ('left', 'upright', 'right', 'between')
    >>> print(load("digits-slant").given("left").space)
    Real((16, 16))
    """
    if name not in available():
        raise poe.PoeError(
            f"expected one of the shipped experts {', '.join(available())}; got {name!r}"
        )
    description = json.loads(folder().joinpath(f"{name}.json").read_text())
    if "prior_of" in description:
        return prior(description)
    return energy(description) if "energy" in description else conditional(description)


def prior(description: dict[str, Any]) -> poe.Expert:
    """The geometric mean of the unconditional densities of several shipped experts."""
    sources: dict[str, str] = description["prior_of"]
    return poe.Product(
        **{name: load(source).marginal() ** (1 / len(sources)) for name, source in sources.items()}
    )


def conditional(description: dict[str, Any]) -> NoisyConditional:
    """The conditional that a description names, with its weights."""
    family = FAMILIES[description["family"]]
    shape = tuple(description["shape"])
    model = family(
        shape, description["labels"], description["noise_level"], **description["settings"]
    )
    return with_weights(model, description)


def energy(description: dict[str, Any]) -> poe.Product:
    """The Gaussian of the data's moments times a residual network, with their weights."""
    parts = description["energy"]
    shape = tuple(parts["shape"])
    moments = ProbabilisticPCA(torch.zeros(shape), torch.zeros(*shape, parts["components"]), 1.0)
    net = ResidualNetwork(shape, parts["channels"])
    product = poe.Product(moments=moments, shape=NeuralEnergy(net, poe.Real(shape)))
    return with_weights(product, description)


def with_weights(model: Module, description: dict[str, Any]) -> Module:
    """The model with the weights that a description names, fixed."""
    weights = folder().joinpath(description["weights"]).read_bytes()
    if hashlib.sha256(weights).hexdigest() != description["sha256"]:
        raise poe.StorageError(
            f"expected weights with SHA-256 {description['sha256']} in {description['weights']}, "
            "got others: install the package again"
        )
    model.load_state_dict(load_tensors(weights))  # shipped in half precision, used in single
    return model.eval().requires_grad_(False)
