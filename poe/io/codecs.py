"""How each node of the algebra, and each common network layer, is written down and built again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from poe.core.distribution_modules import KINDS, Feature, Parts
from poe.core.errors import StorageError
from poe.core.ranges import Floats, Indices, Resize
from poe.density.adapt import (
    FromDistribution,
    FromEnergy,
    FromLogDensity,
    FromOneHot,
)
from poe.density.conditional import Given
from poe.density.expert import At, Mixture, Product, Tempered, named_product
from poe.density.latent import Chain, Marginal, Posterior
from poe.density.link import LINKS, FromNetwork
from poe.density.normalized import LogPartition, Normalized
from poe.density.transformed import Dequantized, Relaxed, Transformed
from poe.density.wrappers import Autocast, Chunked, Together
from poe.io.tree import Fields, register, register_module
from poe.structure.twists import LocalProduct, OnPrefixes, Scaled


def _attributes(*names: str) -> Callable[[nn.Module], Fields]:
    return lambda module: {name: getattr(module, name) for name in names}


def _build_mixture(fields: Fields) -> Mixture:
    mixture = Mixture(fields["experts"], log_partitions=fields["log_partitions"])
    if fields["weights"].shape != mixture.weights.shape:
        raise StorageError(
            f"expected weights of {len(mixture.experts)} components, got shape "
            f"{tuple(fields['weights'].shape)}"
        )
    mixture.weights = fields["weights"]  # bit for bit, in the dtype it had
    return mixture


def _build_transformed(fields: Fields) -> Transformed:
    moved = Transformed(fields["expert"], fields["bijection"].build(), space=fields["space"])
    moved.bijection = fields["bijection"]  # the same parameters, not copies
    return moved


def _build_from_distribution(fields: Fields) -> FromDistribution:
    expert = FromDistribution(fields["parts"].build())
    expert.parts = fields["parts"]
    return expert


register(
    Product,
    lambda p: {"names": p.names, "experts": list(p.experts)},
    lambda f: named_product(f["names"], f["experts"]),
    name="poe.Product",
    formerly=("poe.expert.Product",),
)
register(
    Tempered,
    _attributes("expert", "exponent"),
    lambda f: Tempered(**f),
    name="poe.Tempered",
    formerly=("poe.expert.Tempered",),
)
register(
    Given,
    _attributes("conditional", "condition"),
    lambda f: Given(**f),
    name="poe.Given",
    formerly=("poe.conditional.Given",),
)
register(
    Mixture,
    lambda m: {"experts": list(m.experts), "weights": m.weights, "log_partitions": m.estimates},
    _build_mixture,
    name="poe.Mixture",
    formerly=("poe.algebra.Mixture",),
)
register(
    Transformed,
    _attributes("expert", "bijection", "space"),
    _build_transformed,
    name="poe.Transformed",
    formerly=("poe.algebra.Transformed",),
)
register(
    Chain,
    _attributes("prior", "conditional"),
    lambda f: Chain(**f),
    name="poe.Chain",
    formerly=("poe.chain.Chain",),
)
register(
    Marginal,
    _attributes("prior", "conditional", "draws"),
    lambda f: Marginal(**f),
    name="poe.Marginal",
    formerly=("poe.marginal.Marginal",),
)
register(
    Posterior,
    _attributes("prior", "conditional", "x"),
    lambda f: Posterior(**f),
    name="poe.Posterior",
    formerly=("poe.marginal.Posterior",),
)
register(
    Normalized,
    lambda n: {"expert": n.expert, "log_partition": tuple(n.log_partition)},
    lambda f: Normalized(f["expert"], LogPartition(*f["log_partition"])),
    name="poe.Normalized",
    formerly=("poe.normalize.Normalized",),
)
register(
    At,
    _attributes("expert", "generator", "space"),
    lambda f: At(**f),
    name="poe.At",
    formerly=("poe.algebra.At",),
)
register(
    Dequantized,
    _attributes("expert"),
    lambda f: Dequantized(**f),
    name="poe.Dequantized",
    formerly=("poe.algebra.Dequantized",),
)
register(
    Relaxed,
    _attributes("expert"),
    lambda f: Relaxed(**f),
    name="poe.Relaxed",
    formerly=("poe.algebra.Relaxed",),
)
register(
    Chunked,
    _attributes("expert", "chunk_size"),
    lambda f: Chunked(**f),
    name="poe.Chunked",
    formerly=("poe.evaluation.Chunked",),
)
register(
    Autocast,
    lambda a: {"expert": a.expert, "dtype": str(a.dtype).removeprefix("torch.")},
    lambda f: Autocast(f["expert"], getattr(torch, f["dtype"])),
    name="poe.Autocast",
    formerly=("poe.evaluation.Autocast",),
)
register(
    Together,
    _attributes("product"),
    lambda f: Together(**f),
    name="poe.Together",
    formerly=("poe.together.Together",),
)
register(
    LocalProduct,
    lambda p: {"space": p.space, "twists": list(p.twists)},
    lambda f: LocalProduct(f["space"], f["twists"]),
    name="poe.LocalProduct",
    formerly=("poe.twist.LocalProduct",),
)
register(
    Scaled,
    _attributes("twist", "factor"),
    lambda f: Scaled(**f),
    name="poe.Scaled",
    formerly=("poe.twist.Scaled",),
)
register_module(
    OnPrefixes,
    ("fn", "space", "looks_ahead"),
    name="poe.OnPrefixes",
    formerly=("poe.twist.OnPrefixes",),
)
register(
    FromDistribution,
    _attributes("parts"),
    _build_from_distribution,
    name="poe.FromDistribution",
    formerly=("poe.adapt.FromDistribution",),
)
register(
    FromLogDensity,
    _attributes("fn", "space"),
    lambda f: FromLogDensity(**f),
    name="poe.FromLogDensity",
    formerly=("poe.adapt.FromLogDensity",),
)
register(
    FromOneHot,
    _attributes("fn", "space"),
    lambda f: FromOneHot(**f),
    name="poe.FromOneHot",
    formerly=("poe.one_hot.FromOneHot",),
)
register(
    FromEnergy,
    _attributes("fn", "space"),
    lambda f: FromEnergy(**f),
    name="poe.FromEnergy",
    formerly=("poe.adapt.FromEnergy",),
)
register(
    FromNetwork,
    lambda n: {"net": n.net, "space": n.space, "link": n.log_link.__name__},
    lambda f: FromNetwork(f["net"], f["space"], LINKS[f["link"]]),
    name="poe.link.FromNetwork",
)
register(
    Parts,
    lambda p: {"kind": p.kind.__qualname__, "arguments": p.arguments()},  # zuko sets a __name__
    lambda f: Parts(KINDS[f["kind"]], f["arguments"]),
    name="poe.Parts",
    formerly=("poe.parts.Parts",),
)
register(
    Feature,
    _attributes("bijection"),
    lambda f: Feature(**f),
    name="poe.Feature",
    formerly=("poe.parts.Feature",),
)
register_module(Resize, ("size", "mode"), name="poe.ranges.Resize")
register_module(Indices, name="poe.ranges.Indices")
register_module(Floats, name="poe.ranges.Floats")
register(
    nn.Sequential,
    lambda s: {"layers": dict(s.named_children())},
    lambda f: _sequential(f),
    name="torch.nn.Sequential",
    formerly=("torch.nn.modules.container.Sequential",),
)
register(
    nn.ModuleList,
    lambda m: {"layers": list(m)},
    lambda f: nn.ModuleList(f["layers"]),
    name="torch.nn.ModuleList",
    formerly=("torch.nn.modules.container.ModuleList",),
)


def _sequential(fields: Fields) -> nn.Sequential:
    sequential = nn.Sequential()
    for name, layer in fields["layers"].items():
        sequential.add_module(name, layer)
    return sequential


def _layer(*names: str) -> Callable[[nn.Module], Fields]:
    """The named attributes, and whether there is a bias."""
    return lambda layer: {
        **{name: getattr(layer, name) for name in names},
        "bias": getattr(layer, "bias", None) is not None,
    }


_CONVOLUTION = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
    "padding_mode",
)  # fmt: skip
_LAYERS: dict[str, tuple[type[nn.Module], Sequence[str] | Callable[[Any], Fields]]] = {
    "linear.Linear": (nn.Linear, _layer("in_features", "out_features")),
    "conv.Conv1d": (nn.Conv1d, _layer(*_CONVOLUTION)),
    "conv.Conv2d": (nn.Conv2d, _layer(*_CONVOLUTION)),
    "sparse.Embedding": (nn.Embedding, ("num_embeddings", "embedding_dim", "padding_idx")),
    "normalization.LayerNorm": (nn.LayerNorm, ("normalized_shape", "eps", "elementwise_affine")),
    "normalization.GroupNorm": (nn.GroupNorm, ("num_groups", "num_channels", "eps", "affine")),
    "flatten.Flatten": (nn.Flatten, ("start_dim", "end_dim")),
    "flatten.Unflatten": (nn.Unflatten, ("dim", "unflattened_size")),
    "pooling.AvgPool2d": (nn.AvgPool2d, ("kernel_size", "stride", "padding")),
    "dropout.Dropout": (nn.Dropout, ("p",)),
    "activation.ELU": (nn.ELU, ("alpha",)),
    "activation.GELU": (nn.GELU, ("approximate",)),
    "activation.Softplus": (nn.Softplus, ("beta", "threshold")),
    "activation.LeakyReLU": (nn.LeakyReLU, ("negative_slope",)),
    "linear.Identity": (nn.Identity, ()),
    "activation.ReLU": (nn.ReLU, ()),
    "activation.Sigmoid": (nn.Sigmoid, ()),
    "activation.SiLU": (nn.SiLU, ()),
    "activation.Tanh": (nn.Tanh, ()),
}
for _path, (_kind, _arguments) in _LAYERS.items():
    register_module(
        _kind,
        _arguments,
        name=f"torch.nn.{_path.rpartition('.')[2]}",
        formerly=(f"torch.nn.modules.{_path}",),
    )
