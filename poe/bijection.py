"""A `torch.distributions` transform as a module, so that its tensors move, learn and are saved."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributions import transforms
from torch.distributions.transforms import Transform

from poe.errors import PoeError
from poe.space import LogCholesky

# The constructor arguments that define each transform, by the name of its attribute.
ARGUMENTS: dict[type[Transform], dict[str, str]] = {
    transforms.AffineTransform: {"loc": "loc", "scale": "scale", "event_dim": "_event_dim"},
    transforms.ComposeTransform: {"parts": "parts"},
    transforms.ExpTransform: {},
    transforms.IndependentTransform: {
        "base_transform": "base_transform",
        "reinterpreted_batch_ndims": "reinterpreted_batch_ndims",
    },
    transforms.PowerTransform: {"exponent": "exponent"},
    transforms.ReshapeTransform: {"in_shape": "in_shape", "out_shape": "out_shape"},
    transforms.SigmoidTransform: {},
    transforms.SoftplusTransform: {},
    transforms.StickBreakingTransform: {},
    transforms.TanhTransform: {},
    transforms._InverseTransform: {"transform": "_inv"},
    LogCholesky: {"k": "k"},
}


class Bijection(nn.Module):
    """Holds a transform's tensors as buffers (or parameters) and builds the transform from them.

    >>> affine = Bijection(transforms.AffineTransform(torch.zeros(2), torch.ones(2)))
    >>> affine.to(torch.float64).transform()(torch.zeros(2)).dtype
    torch.float64
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        if not isinstance(transform, Transform):
            raise PoeError(
                "expected a torch.distributions.transforms.Transform, got "
                f"{type(transform).__name__}; a map without a Jacobian goes in expert.at(map)"
            )
        if not transform.bijective:
            raise PoeError(f"expected a bijection, got {type(transform).__name__}")
        self.original = transform
        self.arguments: dict[str, Any] = {}
        for name, attribute in ARGUMENTS.get(type(transform), {}).items():
            self._keep(name, getattr(transform, attribute))

    def transform(self) -> Transform:
        """The transform with this module's present tensors."""
        kind = type(self.original)
        if kind not in ARGUMENTS:
            return self.original
        return kind(**{name: self._value(name) for name in ARGUMENTS[kind]})

    def extra_repr(self) -> str:
        return type(self.original).__name__

    def _keep(self, name: str, value: Any) -> None:
        if isinstance(value, Transform):
            self.add_module(name, Bijection(value))
        elif isinstance(value, list):
            self.add_module(name, nn.ModuleList([Bijection(part) for part in value]))
        elif isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Tensor):
            self.register_buffer(name, value)
        else:
            self.arguments[name] = value

    def _value(self, name: str) -> Any:
        value = self.arguments[name] if name in self.arguments else getattr(self, name)
        if isinstance(value, Bijection):
            return value.transform()
        if isinstance(value, nn.ModuleList):
            return [part.transform() for part in value]
        return value
