"""Classifiers as experts on what they classify: p(class | x) as a function of x."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import poe
from poe.errors import PoeError, ShapeError
from poe.io import register
from poe.space import Binary


class Classifier(poe.Conditional):
    """log p(y | x) = log softmax(net(z))_y as a density of x, not normalised over x.

    ``net`` sees floats: on Binary x itself, ``(n, *event)``, on Categorical and Sequence the
    one-hot vectors z of its elements, ``(n, *event, k)``; it returns logits ``(n, classes)``. So
    gradients exist at x, and in z (``given(y).log_density_of_one_hot(z)``). On Real spaces the net
    sees x.

    Shapes: x ``(*batch, *event)``, label ``()`` or ``(batch,)``. Raises PoeError for a label that
    is no class, and ShapeError where the net returns anything but ``(n, classes)``.

    >>> space = poe.Sequence(vocab_size=5, length=3)
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(15, 2))
    >>> likes = Classifier(net, space).given(1)
    >>> likes(torch.tensor([[0, 4, 2]])).shape
    torch.Size([1])
    """

    def __init__(self, net: nn.Module, space: poe.Space) -> None:
        super().__init__()
        self.net, self.space = net, space

    def given(self, condition: int | float | Tensor) -> poe.Given:
        """The expert log p(y = condition | x)."""
        label = torch.as_tensor(condition)
        if label.is_floating_point() or label.dtype == torch.bool or bool((label < 0).any()):
            raise PoeError(
                f"expected a label that is a class index 0, 1, ... (an integer), got {condition}"
            )
        num_classes = self._num_classes()
        if not label.is_meta and bool((label >= num_classes).any()):
            raise PoeError(f"the net has no class {int(label.max())} of {num_classes}: 0 is first")
        return super().given(condition)

    @torch.no_grad()
    def _num_classes(self) -> int:
        """By asking the net of one event of zeros."""
        device = next((p.device for p in self.net.parameters()), torch.device("cpu"))
        logits = self._logits(self._as_input(torch.zeros(1, *self.space.event_shape).to(device)))
        return logits.shape[1]

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        """log p(y | x): ``(*batch, *event) -> (*batch,)``."""
        batch_shape = self.space.batch_shape(x)
        return self._of(self._as_input(x), len(batch_shape), condition)

    def log_density_of_one_hot(self, z: Tensor, condition: Tensor) -> Tensor:
        """log p(y | z) of one-hot elements: ``(*batch, *event, k) -> (*batch,)``."""
        return self._of(z, z.ndim - len(self.space.event_shape) - 1, condition)

    def _as_input(self, x: Tensor) -> Tensor:
        dtype = next((p.dtype for p in self.net.parameters()), torch.get_default_dtype())
        if isinstance(self.space, Binary) or not self.space.is_discrete:
            return x.to(dtype)
        values = torch.arange(self.space.num_values or 0, device=x.device)
        return (x.unsqueeze(-1) == values).to(dtype)

    def _of(self, z: Tensor, batch_ndim: int, label: Tensor) -> Tensor:
        batch_shape, rows = z.shape[:batch_ndim], z.reshape(-1, *z.shape[batch_ndim:])
        labels = label.to(rows.device).expand(len(rows))[:, None]
        return F.log_softmax(self._logits(rows), -1).gather(1, labels).reshape(batch_shape)

    def _logits(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.net(rows)
        if logits.ndim != 2 or len(logits) != len(rows):
            raise ShapeError(
                f"expected logits (n, classes) from the net for n = {len(rows)} rows, got "
                f"{tuple(logits.shape)}; end it with a Linear layer over flattened features"
            )
        return logits


register(
    Classifier,
    lambda c: {"net": c.net, "space": c.space},
    lambda f: Classifier(f["net"], f["space"]),
)
