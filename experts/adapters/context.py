"""What the flows of all libraries ask of a context."""

from __future__ import annotations

from torch import Tensor

import poe


def require_floats(context: Tensor) -> Tensor:
    """The context of a flow, of any library.

    Args:
        context: y, of any shape.

    Returns:
        The same tensor.

    Raises:
        DtypeError: For integers.

    Example:
        >>> require_floats(torch.ones(2))
        tensor([1., 1.])
    """
    if context.is_floating_point():
        return context
    raise poe.DtypeError(
        f"expected a context of floats, got {context.dtype}; use context.float(), or one-hot "
        "vectors of labels"
    )
