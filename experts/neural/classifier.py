"""Classifiers as experts on what they classify: p(class | x) as a function of x."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import poe
from poe.core.arguments import checked, told
from poe.core.errors import AdaptationError, PoeError, ShapeError
from poe.core.space import Binary
from poe.io import register

SUM_TOLERANCE = 1e-3
"""How far from 1 the sum of probabilities in single or half precision may be."""
FAR_OFF, NUM_FAR_OFF = 100.0, 6
"""Where a logit leaves the range of probabilities, and how often to look there."""


class Classifier(poe.Conditional):
    """log p(y | x) = log softmax(net(z))_y as a density of x, not normalised over x.

    ``net`` sees floats: on Binary x itself, ``(n, *event)``, on Categorical and Sequence the
    one-hot vectors z of its elements, ``(n, *event, k)``. So gradients exist at x, and in z
    (``given(y).log_density_of_one_hot(z)``). On Real spaces the net sees x. A net of one output s
    tells two classes apart: their logits are 0 and s, so that p(1 | x) = 1 / (1 + exp(−s)).

    Shapes: x ``(*batch, *event)``, label ``()`` or ``(batch,)``.

    Args:
        net: What maps these floats to logits ``(n, classes)``, or ``(n, 1)``: before a softmax or
            sigmoid, not after.
        space: Where x lives.

    Raises:
        AdaptationError: For a net that ends in a softmax or sigmoid; when a label is given, for one
            whose outputs are probabilities.
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
        require_logits(net)
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
        try:
            label = torch.as_tensor(condition)
        except (TypeError, ValueError, RuntimeError) as error:
            got = told(condition)
            raise PoeError(f"expected a label that is a class index, got {got}") from error
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
        """By asking the net of a few events."""
        device = next((p.device for p in self.net.parameters()), torch.device("cpu"))
        rows = self._as_input(few_events(self.space).to(device))
        values: Tensor = self.net(rows)
        if values.ndim == 2 and not values.is_meta and are_probabilities(values):
            raise AdaptationError(
                f"expected logits from {type(self.net).__name__}, got probabilities, which are not "
                "negative and sum to 1, or lie between 0 and 1 where there is one: leave out its "
                "softmax or sigmoid"
            )
        return self._logits(rows).shape[1]

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
        """What the net says of every class, 0 of the first of two where it has one output.

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
        return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits


def require_logits(net: nn.Module) -> None:
    """Refuse a network that ends in a softmax or sigmoid where its logits are meant.

    Args:
        net: What should return logits; a log-softmax, which changes no class's share, passes.

    Raises:
        AdaptationError: For a ``Sequential`` whose last layer is one of these.

    Example:
        >>> require_logits(nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()))
        Traceback (most recent call last):
        poe.AdaptationError: expected a network that returns logits, got one that ends in Sigmoid...
    """
    last = net
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-1]
    if isinstance(last, nn.Softmax | nn.Softmax2d | nn.Sigmoid | nn.LogSigmoid):
        raise AdaptationError(
            f"expected a network that returns logits, got one that ends in {type(last).__name__}, "
            f"so that they would be transformed twice: leave its {type(last).__name__} out"
        )


def few_events(space: poe.Space) -> Tensor:
    """Events to try a network at: of zeros, of ones, and on Real far-off ones.

    Args:
        space: Where they live.

    Returns:
        ``(n, *event)``, the same at each call.

    Example:
        >>> few_events(poe.Binary(2))
        tensor([[0., 0.],
                [1., 1.]])
    """
    shape = space.event_shape
    near = torch.stack([torch.full(shape, value) for value in (0.0, 1.0)])
    if not isinstance(space, poe.Real):
        return near
    generator = torch.Generator().manual_seed(0)
    return torch.cat([near, FAR_OFF * torch.randn((NUM_FAR_OFF, *shape), generator=generator)])


def are_probabilities(values: Tensor) -> bool:
    """Whether what a network says of a few events are probabilities of classes.

    Args:
        values: ``(n, classes)``, of ``few_events``.

    Returns:
        True where in each row none is negative and their sum is 1 up to rounding; of one class,
        where each lies between 0 and 1, and not all are 0.

    Example:
        >>> are_probabilities(torch.tensor([[0.5, 0.5], [0.1, 0.9]]))
        True
        >>> are_probabilities(torch.tensor([[0.5], [1.7]]))
        False
    """
    if values.shape[1] == 1:
        return bool(((values >= 0) & (values <= 1)).all() and (values != 0).any())
    is_one = (values.sum(-1) - 1).abs() < SUM_TOLERANCE
    return bool(is_one.all() and (values >= 0).all())


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
