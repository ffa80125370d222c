"""Products of matrices by the faster of the libraries that PyTorch has on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b, as ``torch.nn.functional.linear``: ``(*batch, m), (n, m), (n,) -> (*batch, n)``.

    Where no gradient is recorded, float32 on the CPU goes to oneDNN: that is as exact as MKL, which
    PyTorch takes, and on AMD's processors twice as fast (measured by ``benchmarks/rbm_sweeps.py``).

    >>> linear(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), torch.ones(1))
    tensor([[4.]])
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _fits(x, weight, bias):
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN is there, and these are what it is asked for."""
    tensors = (x, weight) if bias is None else (x, weight, bias)
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and x.numel() > 0
    )
