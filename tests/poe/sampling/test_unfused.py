"""The compiler's pass: b + x W as a product and an addition."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from poe.sampling.unfused import UnfusedBias

ADDMM = torch.ops.aten.addmm.default


def rewritten(f: Callable[[Tensor], Tensor], x: Tensor) -> torch.fx.GraphModule:
    graph_module = make_fx(f, tracing_mode="fake")(x)
    assert graph_module.graph.find_nodes(op="call_function", target=ADDMM)
    UnfusedBias()(graph_module.graph)
    graph_module.recompile()
    return graph_module


def num_fused(graph_module: torch.fx.GraphModule) -> int:
    return len(graph_module.graph.find_nodes(op="call_function", target=ADDMM))


def linear_then_square(x: Tensor) -> Tensor:
    weight, bias = torch.linspace(-1, 1, 15).view(3, 5).to(x), torch.arange(3).to(x)
    return torch.nn.functional.linear(x, weight, bias).square()


def test_a_layer_is_rewritten_and_gives_the_same() -> None:
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph_module = rewritten(linear_then_square, x)
    assert num_fused(graph_module) == 0
    torch.testing.assert_close(graph_module(x), linear_then_square(x))


def test_a_scaled_sum_is_left_as_it_is() -> None:
    x = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    graph_module = rewritten(lambda x: torch.addmm(x, x, x, alpha=2.0), x)
    assert num_fused(graph_module) == 1


def test_other_devices_are_left_to_the_compiler() -> None:
    assert num_fused(rewritten(linear_then_square, torch.zeros(7, 5, device="meta"))) == 1
