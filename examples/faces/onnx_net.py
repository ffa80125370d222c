"""An ONNX graph as a torch module, so that it has gradients: the few operators that faces need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

Attributes = dict[str, Any]


class OnnxNet(nn.Module):
    """The output ``output`` of a graph with one input: ``(n, *event) -> (n, *features)``.

    Weights are buffers: there is nothing to train. Raises ValueError for operators it has not got.

    >>> from onnx import TensorProto, helper, numpy_helper
    >>> weight = numpy_helper.from_array(torch.tensor([[1.0], [2.0]]).numpy(), "weight")
    >>> x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    >>> y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    >>> node = helper.make_node("Gemm", ["x", "weight"], ["y"])
    >>> graph = helper.make_graph([node], "sum", [x], [y], [weight])
    >>> net = OnnxNet(helper.make_model(graph).SerializeToString(), output="y")
    >>> net(torch.tensor([[1.0, 1.0]]))
    tensor([[3.]])
    """

    def __init__(self, content: bytes, output: str) -> None:
        super().__init__()
        graph = onnx.load_from_string(content).graph
        unknown = {node.op_type for node in graph.node} - set(OPERATORS)
        if unknown:
            raise ValueError(f"expected operators of {sorted(OPERATORS)}, got {sorted(unknown)}")
        for weight in graph.initializer:
            self.register_buffer(weight.name, torch.tensor(numpy_helper.to_array(weight)))
        self.input, self.output = graph.input[0].name, output
        self.nodes = [(node, _attributes(node)) for node in graph.node]

    def forward(self, x: Tensor) -> Tensor:
        values = {**dict(self.named_buffers()), self.input: x}
        for node, attributes in self.nodes:
            inputs = [values[name] for name in node.input]
            values[node.output[0]] = OPERATORS[node.op_type](attributes, *inputs)
            if self.output in node.output:
                break
        return values[self.output]


def _attributes(node: onnx.NodeProto) -> Attributes:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _padding(a: Attributes) -> list[int]:
    """ONNX's (tops, lefts, bottoms, rights) as torch's (left, right, top, bottom)."""
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    return [left, right, top, bottom]


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, _padding(a)), weight, bias, tuple(a["strides"]))


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    padded = F.pad(x, _padding(a), value=-torch.inf)
    return F.max_pool2d(padded, a["kernel_shape"], a["strides"])


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    if any(_padding(a)):
        raise ValueError(f"expected an AveragePool without padding, got pads {a['pads']}")
    return F.avg_pool2d(x, a["kernel_shape"], a["strides"])


def _pad(a: Attributes, x: Tensor, pads: Tensor) -> Tensor:
    starts, ends = pads.reshape(2, -1).flip(1).tolist()  # torch begins with the last dimension
    return F.pad(x, [side for pair in zip(starts, ends, strict=True) for side in pair])


def _gemm(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    weight = weight.T if a.get("transB") else weight
    return a.get("alpha", 1.0) * (x @ weight) + a.get("beta", 1.0) * bias


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda a, x, y: x + y,
    "AveragePool": _average_pool,
    "Conv": _conv,
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean((-2, -1), keepdim=True),
    "MaxPool": _max_pool,
    "Mul": lambda a, x, y: x * y,
    "Pad": _pad,
    "Relu": lambda a, x: x.relu(),
    "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
}
