"""How each node of the algebra, and each common network layer, is written down and built again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from poe.adapt import FromDistribution, FromEnergy, FromLogDensity, FromOneHot
from poe.chain import Chain
from poe.conditional import Given
from poe.density.expert import At, Mixture, Product, Tempered, named_product
from poe.density.transformed import Dequantized, Relaxed, Transformed
from poe.evaluation import Autocast, Chunked
from poe.io import Fields, register, register_module
from poe.link import LINKS, FromNetwork
from poe.marginal import Marginal, Posterior
from poe.normalize import Normalized
from poe.partition import LogPartition
from poe.parts import KINDS, Feature, Parts
from poe.ranges import Floats, Indices, Resize
from poe.together import Together
from poe.twist import LocalProduct, OnPrefixes, Scaled


def _attributes(*names: str) -> Callable[[nn.Module], Fields]:
    return lambda module: {name: getattr(module, name) for name in names}


def _build_mixture(fields: Fields) -> Mixture:
    mixture = Mixture(fields["experts"], fields["weights"], log_partitions=fields["log_partitions"])
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
)
register(Tempered, _attributes("expert", "exponent"), lambda f: Tempered(**f))
register(Given, _attributes("conditional", "condition"), lambda f: Given(**f))
register(
    Mixture,
    lambda m: {"experts": list(m.experts), "weights": m.weights, "log_partitions": m.estimates},
    _build_mixture,
)
register(Transformed, _attributes("expert", "bijection", "space"), _build_transformed)
register(Chain, _attributes("prior", "conditional"), lambda f: Chain(**f))
register(Marginal, _attributes("prior", "conditional", "draws"), lambda f: Marginal(**f))
register(Posterior, _attributes("prior", "conditional", "x"), lambda f: Posterior(**f))
register(
    Normalized,
    lambda n: {"expert": n.expert, "log_partition": tuple(n.log_partition)},
    lambda f: Normalized(f["expert"], LogPartition(*f["log_partition"])),
)
register(At, _attributes("expert", "generator", "space"), lambda f: At(**f))
register(Dequantized, _attributes("expert"), lambda f: Dequantized(**f))
register(Relaxed, _attributes("expert"), lambda f: Relaxed(**f))
register(Chunked, _attributes("expert", "chunk_size"), lambda f: Chunked(**f))
register(
    Autocast,
    lambda a: {"expert": a.expert, "dtype": str(a.dtype).removeprefix("torch.")},
    lambda f: Autocast(f["expert"], getattr(torch, f["dtype"])),
)
register(Together, _attributes("product"), lambda f: Together(**f))
register(
    LocalProduct,
    lambda p: {"space": p.space, "twists": list(p.twists)},
    lambda f: LocalProduct(f["space"], f["twists"]),
)
register(Scaled, _attributes("twist", "factor"), lambda f: Scaled(**f))
register_module(OnPrefixes, ("fn", "space", "looks_ahead"))
register(FromDistribution, _attributes("parts"), _build_from_distribution)
register(FromLogDensity, _attributes("fn", "space"), lambda f: FromLogDensity(**f))
register(FromOneHot, _attributes("fn", "space"), lambda f: FromOneHot(**f))
register(FromEnergy, _attributes("fn", "space"), lambda f: FromEnergy(**f))
register(
    FromNetwork,
    lambda n: {"net": n.net, "space": n.space, "link": n.log_link.__name__},
    lambda f: FromNetwork(f["net"], f["space"], LINKS[f["link"]]),
)
register(
    Parts,
    lambda p: {"kind": p.kind.__qualname__, "arguments": p.arguments()},  # zuko sets a __name__
    lambda f: Parts(KINDS[f["kind"]], f["arguments"]),
)
register(Feature, _attributes("bijection"), lambda f: Feature(**f))
for _map, _settings in ((Resize, ("size", "mode")), (Indices, ()), (Floats, ())):
    register_module(_map, _settings)
register(nn.Sequential, lambda s: {"layers": dict(s.named_children())}, lambda f: _sequential(f))
register(nn.ModuleList, lambda m: {"layers": list(m)}, lambda f: nn.ModuleList(f["layers"]))


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
_LAYERS: dict[type[nn.Module], Sequence[str] | Callable[[Any], Fields]] = {
    nn.Linear: _layer("in_features", "out_features"),
    nn.Conv1d: _layer(*_CONVOLUTION),
    nn.Conv2d: _layer(*_CONVOLUTION),
    nn.Embedding: ("num_embeddings", "embedding_dim", "padding_idx"),
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine"),
    nn.GroupNorm: ("num_groups", "num_channels", "eps", "affine"),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Unflatten: ("dim", "unflattened_size"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding"),
    nn.Dropout: ("p",),
    nn.ELU: ("alpha",),
    nn.GELU: ("approximate",),
    nn.Softplus: ("beta", "threshold"),
    nn.LeakyReLU: ("negative_slope",),
    nn.Identity: (),
    nn.ReLU: (),
    nn.Sigmoid: (),
    nn.SiLU: (),
    nn.Tanh: (),
}
for _kind, _arguments in _LAYERS.items():
    register_module(_kind, _arguments)
