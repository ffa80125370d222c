"""Classifiers as experts on what they classify: p(class | x) as a function of x."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import poe
from poe.core.arguments import checked
from poe.core.errors import PoeError, ShapeError
from poe.core.space import Binary
from poe.io import register


class Classifier(poe.Conditional):
    """log p(y | x) = log softmax(net(z))_y as a density of x, not normalised over x.

    ``net`` sees floats: on Binary x itself, ``(n, *event)``, on Categorical and Sequence the
    one-hot vectors z of its elements, ``(n, *event, k)``. So gradients exist at x, and in z
    (``given(y).log_density_of_one_hot(z)``). On Real spaces the net sees x.

    Shapes: x ``(*batch, *event)``, label ``()`` or ``(batch,)``.

    Args:
        net: What maps these floats to logits ``(n, classes)``.
        space: Where x lives.

    Raises:
        PoeError: For a label that is no class, when it is given.
        ShapeError: Where the net returns anything but ``(n, classes)``, when it is called.

    Example:
        >>> space = poe.Sequence(vocab_size=5, length=3)
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(15, 2))
        >>> likes = Classifier(net, space).given(1)
        >>> likes(torch.tensor([[0, 4, 2]])).shape
        torch.Size([1])
    """

    @checked
    def __init__(self, net: nn.Module, space: poe.Space) -> None:
        super().__init__()
        self.net, self.space = net, space

    def given(self, condition: int | float | Tensor) -> poe.Given:
        """The expert log p(y = condition | x).

        Args:
            condition: The class, an integer from 0, or one for each x, ``(batch,)``.

        Returns:
            An expert on x.

        Raises:
            PoeError: Where the net has no such class.
        """
        return super().given(self.require_label(condition))

    def require_label(self, condition: int | float | Tensor) -> Tensor:
        """The class as an index.

        Args:
            condition: A class, ``()``, or several, ``(batch,)``, as integers.

        Returns:
            The same as a tensor.

        Raises:
            PoeError: For what is no integer, and where the net has no such class.
        """
        label = torch.as_tensor(condition)
        if label.is_floating_point() or label.dtype == torch.bool or bool((label < 0).any()):
            raise PoeError(
                f"expected a label that is a class index 0, 1, ... (an integer), got {condition}"
            )
        num_classes = self._num_classes()
        if not label.is_meta and bool((label >= num_classes).any()):
            raise PoeError(f"the net has no class {int(label.max())} of {num_classes}: 0 is first")
        return label

    @torch.no_grad()
    def _num_classes(self) -> int:
        """By asking the net of one event of zeros."""
        device = next((p.device for p in self.net.parameters()), torch.device("cpu"))
        return self.logits(torch.zeros(1, *self.space.event_shape).to(device)).shape[1]

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        """log p(y | x).

        Args:
            x: ``(*batch, *event)``.
            condition: The class y, ``()`` or ``(batch,)``.

        Returns:
            ``(*batch,)``.
        """
        return of_class(F.log_softmax(self.logits(x), -1), condition)

    def log_density_of_one_hot(self, z: Tensor, condition: Tensor) -> Tensor:
        """log p(y | z) of one-hot elements.

        Args:
            z: ``(*batch, *event, k)``.
            condition: The class y, ``()`` or ``(batch,)``.

        Returns:
            ``(*batch,)``.
        """
        return of_class(F.log_softmax(self.logits_of_one_hot(z), -1), condition)

    def logits(self, x: Tensor) -> Tensor:
        """What the net says of every class.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            ``(*batch, classes)``.

        Raises:
            ShapeError: Where the net returns anything but ``(n, classes)``.
        """
        batch_shape = self.space.batch_shape(x)
        return self._in_rows(self._as_input(x), len(batch_shape))

    def logits_of_one_hot(self, z: Tensor) -> Tensor:
        """What the net says of every class, of one-hot elements.

        Args:
            z: ``(*batch, *event, k)``.

        Returns:
            ``(*batch, classes)``.

        Raises:
            ShapeError: Where the net returns anything but ``(n, classes)``.
        """
        return self._in_rows(z, z.ndim - len(self.space.event_shape) - 1)

    def _as_input(self, x: Tensor) -> Tensor:
        own = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        dtype = next((p.dtype for p in self.net.parameters()), own)
        if isinstance(self.space, Binary) or not self.space.is_discrete:
            return x.to(dtype)
        values = torch.arange(self.space.num_values or 0, device=x.device)
        return (x.unsqueeze(-1) == values).to(dtype)

    def _in_rows(self, z: Tensor, batch_ndim: int) -> Tensor:
        rows = z.reshape(-1, *z.shape[batch_ndim:])
        return self._logits(rows).reshape(*z.shape[:batch_ndim], -1)

    def _logits(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.net(rows)
        if logits.ndim != 2 or len(logits) != len(rows):
            raise ShapeError(
                f"expected logits (n, classes) from the net for n = {len(rows)} rows, got "
                f"{tuple(logits.shape)}; end it with a Linear layer over flattened features"
            )
        return logits


def of_class(values: Tensor, label: Tensor) -> Tensor:
    """Those of one class.

    Args:
        values: One for each class, ``(*batch, classes)``.
        label: The class, ``()`` or ``(batch,)``.

    Returns:
        ``(*batch,)``.

    Example:
        >>> of_class(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0]))
        tensor([2., 3.])
    """
    label = label.to(values.device).expand(values.shape[:-1])
    return values.gather(-1, label.unsqueeze(-1)).squeeze(-1)


register(
    Classifier,
    lambda c: {"net": c.net, "space": c.space},
    lambda f: Classifier(f["net"], f["space"]),
    name="experts.Classifier",
    formerly=("experts.classifier.Classifier",),
)
