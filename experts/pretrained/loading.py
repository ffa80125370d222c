"""Shipped pretrained experts: ``available()`` lists them, ``load(name)`` reads one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

import poe
from experts.families.probabilistic_pca import ProbabilisticPCA
from experts.flow import ImageFlow
from experts.images.patch_mixture import PatchMixture
from experts.neural.neural_energy import NeuralEnergy
from experts.neural.residual_network import ResidualNetwork
from experts.neural.vae import VAE, dense_vae
from experts.noised.conditional import NoisyConditional
from experts.noised.pixel_mixture import PixelMixture
from experts.noised.reconstruction_energy import ReconstructionEnergy
from poe.core.randomness import Lent
from poe.core.tensor_file import sha256

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

    Returns:
        The names, sorted.

    Example:
        >>> available()
        ('digits-class', 'digits-prior', 'digits-slant', 'digits-thickness', 'digits-vae',
         'fashion-energy', 'pictures-patches')
    """
    names = [entry.name for entry in folder().iterdir()] if folder().is_dir() else []
    return tuple(sorted(name[:-5] for name in names if name.endswith(".json")))


def load(name: str) -> Any:
    """A shipped expert by name: a conditional, or where there are no labels an expert.

    Weights are read with safetensors and checked against their SHA-256; nothing is unpickled.
    Parameters need no gradient.

    Args:
        name: One of ``available()``.

    Returns:
        A ``NoisyConditional`` of labels, or an ``Expert``.

    Raises:
        PoeError: For an unknown name.
        StorageError: For weights that were changed.

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
    description = json.loads(folder().joinpath(f"{name}.json").read_text())
    with Lent(torch.Generator().manual_seed(0)):  # to build networks, whose weights are replaced
        return described(description)


def described(description: dict[str, Any]) -> Any:
    """What a description is of."""
    if "prior_of" in description:
        return prior(description)
    build = expert if description["family"] in EXPERTS else conditional
    with torch.random.fork_rng(devices=[]):  # constructors draw weights, soon replaced
        return build(description)


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
    model.load_state_dict(tensors(description))  # shipped in half precision, used in single
    return model.eval().requires_grad_(False)


def expert(description: dict[str, Any]) -> poe.Expert:
    """The expert without labels that a description names, with its weights."""
    build = EXPERTS[description["family"]]
    found = {name: tensor.float() for name, tensor in tensors(description).items()}
    return build(found, tuple(description["shape"])).eval().requires_grad_(False)


def tensors(description: dict[str, Any]) -> dict[str, Tensor]:
    """The weights, once their hash is found to be right."""
    weights = folder().joinpath(description["weights"]).read_bytes()
    if sha256(weights) != description["sha256"]:
        raise poe.StorageError(
            f"expected weights with SHA-256 {description['sha256']} in {description['weights']}, "
            "got others: install the package again"
        )
    return load_tensors(weights)


def _tiles(tensors: dict[str, Tensor], shape: tuple[int, int]) -> PatchMixture:
    """Mixtures on tiles side by side."""
    sides = tensors["filters"].shape[1:]
    return PatchMixture(**tensors, shape=shape, stride=(sides[0], sides[1]))


def _vae(tensors: dict[str, Tensor], shape: tuple[int, int]) -> VAE:
    """Of the sizes that its weights have."""
    hidden = len(tensors["decoder.net.0.weight"])
    model = dense_vae(shape, hidden, tensors["noises"])
    model.load_state_dict(tensors)
    return model


def _residual_energy(tensors: dict[str, Tensor], shape: tuple[int, int]) -> poe.Product:
    """A Gaussian of the data's moments times a residual network, of the sizes of its weights."""
    loadings, net = tensors["experts.0.loadings"], "experts.1.net.stages"
    stages = sorted(name for name in tensors if re.fullmatch(rf"{net}\.\d\.weight", name))
    channels = [len(tensors[name]) for name in stages]
    moments = ProbabilisticPCA(torch.zeros(shape), torch.zeros_like(loadings), 1.0)
    energy = NeuralEnergy(ResidualNetwork(shape, channels), poe.Real(shape))
    product = poe.Product(moments=moments, shape=energy)
    product.load_state_dict(tensors)
    return product


EXPERTS: dict[str, Callable[..., poe.Expert]] = {
    "PatchMixture": _tiles,
    "ResidualEnergy": _residual_energy,
    "VAE": _vae,
}
