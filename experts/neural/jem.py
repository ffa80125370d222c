"""The energy of a classifier: its logits as the joint density of an event and its class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import poe
from experts.neural.classifier import Classifier, of_class
from poe.core.arguments import checked, require_dimensions
from poe.core.errors import NonFiniteError
from poe.io import register
from poe.losses import Loss, contrastive_divergence


class JEM(poe.Expert):
    r"""p̃(x) of a classifier, the sum over classes of its joint density with x; unnormalised.

    .. math:: \log \tilde p(x, y) = f(x)_y, \qquad
       \log \tilde p(x) = \operatorname{logsumexp}_y f(x)_y, \qquad
       \log p(y \mid x) = f(x)_y - \log \tilde p(x)

    with the logits f(x) ``(n, classes)`` of the net. The three are ``jem.given(y)``, ``jem`` and
    ``jem.classifier.given(y)``, and they share the net. A classifier leaves log p̃(x) free: it says
    something of x once it was trained to, as by `jem_loss`.

    Shapes: x ``(*batch, *event)``. Raises as `Classifier`.

    Args:
        net: From what `Classifier`'s net sees to logits ``(n, classes)``.
        space: Where x lives.

    References:
        Grathwohl et al. (2020), Your classifier is secretly an energy based model and you should
        treat it like one, eq. 4 and 5, arXiv:1912.03263.

    Example:
        >>> jem = JEM(nn.Linear(2, 3), poe.Real(2))
        >>> x = torch.ones(4, 2)
        >>> joint, posterior = jem.given(2)(x), jem.classifier.given(2)(x)
        >>> torch.allclose(joint, jem(x) + posterior, atol=1e-6)
        True
    """

    @checked
    def __init__(self, net: nn.Module, space: poe.Space) -> None:
        super().__init__()
        self.space = space
        self.classifier = Classifier(net, space)

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, unnormalised.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            log p̃(x), ``(*batch,)``.
        """
        return self.classifier.logits(x).logsumexp(-1)

    def log_density_of_one_hot(self, z: Tensor) -> Tensor:
        """log p̃ of one-hot elements, differentiable.

        Args:
            z: ``(*batch, *event, k)``.

        Returns:
            ``(*batch,)``.
        """
        return self.classifier.logits_of_one_hot(z).logsumexp(-1)

    def given(self, condition: int | float | Tensor) -> poe.Given:
        """f(x)_y as an expert on x: p(x | y) up to a constant.

        Args:
            condition: The class y, an integer from 0, or one for each x, ``(batch,)``.

        Returns:
            An expert on x.

        Raises:
            PoeError: Where the net has no such class.
        """
        return JointLogit(self.classifier).given(condition)


class JointLogit(poe.Conditional):
    """f(x)_y, a classifier's logit, as a density of x given the class y; unnormalised.

    Args:
        classifier: Whose logits they are.

    Example:
        >>> classifier = Classifier(nn.Linear(2, 3), poe.Real(2))
        >>> x = torch.ones(4, 2)
        >>> torch.equal(JointLogit(classifier).given(2)(x), classifier.logits(x)[:, 2])
        True
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier, self.space = classifier, classifier.space

    def given(self, condition: int | float | Tensor) -> poe.Given:
        """The expert f(x)_y.

        Args:
            condition: The class y, an integer from 0, or one for each x, ``(batch,)``.

        Returns:
            An expert on x.

        Raises:
            PoeError: Where the net has no such class.
        """
        return poe.Given(self, self.classifier.require_label(condition))

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        """f(x)_y.

        Args:
            x: ``(*batch, *event)``.
            condition: The class y, ``()`` or ``(batch,)``.

        Returns:
            ``(*batch,)``.
        """
        return of_class(self.classifier.logits(x), condition)

    def log_density_of_one_hot(self, z: Tensor, condition: Tensor) -> Tensor:
        """f(z)_y of one-hot elements.

        Args:
            z: ``(*batch, *event, k)``.
            condition: The class y, ``()`` or ``(batch,)``.

        Returns:
            ``(*batch,)``.
        """
        return of_class(self.classifier.logits_of_one_hot(z), condition)


@checked
def jem_loss(
    jem: JEM,
    data: Tensor,
    labels: Tensor,
    model: Tensor,
    *,
    regularization: float = 0.0,
) -> Loss:
    r"""Contrastive divergence for p̃(x) and cross-entropy for p(y | x), added.

    .. math:: \text{CD}(\tilde p) - E_\text{data} \log p(y \mid x)

    which is −log p(x, y) = −log p(x) − log p(y | x), the first term by its gradient.

    Args:
        jem: What is trained.
        data: Events, ``(n, *event)``.
        labels: Their classes, ``(n,)``.
        model: Draws of ``jem``, ``(m, *event)``, as for `poe.losses.contrastive_divergence`.
        regularization: Weight of that loss's regularizer; none by default.

    Returns:
        The loss, with the parts of `poe.losses.contrastive_divergence`, ``cross_entropy`` and
        ``accuracy``.

    Raises:
        NonFiniteError: Where the cross-entropy is not finite, and as
            `poe.losses.contrastive_divergence`.

    References:
        Grathwohl et al. (2020), Your classifier is secretly an energy based model and you should
        treat it like one, eq. 6, arXiv:1912.03263.

    Example:
        >>> jem = JEM(nn.Linear(2, 3), poe.Real(2))
        >>> loss = jem_loss(jem, torch.ones(4, 2), torch.tensor([0, 1, 2, 0]), torch.zeros(4, 2))
        >>> sorted(loss.parts)
        ['accuracy', 'cross_entropy', 'on_data', 'on_model', 'regularizer']
    """
    require_dimensions("data", data, "(n, *event)")
    if labels.shape != data.shape[:1] or labels.dtype != torch.long:
        raise poe.ShapeError(
            f"expected an int64 label for each of {len(data)} rows, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    found = contrastive_divergence(jem, data, model, regularization=regularization)
    logits = jem.classifier.logits(data)
    _require_classes(labels, logits)
    cross_entropy = F.cross_entropy(logits, labels)
    if not cross_entropy.is_meta and not bool(cross_entropy.isfinite()):
        raise NonFiniteError(
            f"expected a finite cross-entropy, got {cross_entropy.item()} under JEM: a logit is "
            "infinite. Go back to the last good checkpoint with a smaller learning rate"
        )
    accuracy = (logits.detach().argmax(-1) == labels).to(logits.dtype).mean()
    parts = found.parts | {"cross_entropy": cross_entropy.detach(), "accuracy": accuracy}
    return Loss(found.value + cross_entropy, parts)


def _require_classes(labels: Tensor, logits: Tensor) -> None:
    if labels.device != logits.device:
        raise poe.DtypeError(
            f"expected labels on {logits.device}, where data lie, got {labels.device}: use "
            f"labels.to('{logits.device}')"
        )
    if labels.is_meta:
        return
    if bool(((labels < 0) | (labels >= logits.shape[-1])).any()):
        raise poe.PoeError(
            f"expected labels from 0 to {logits.shape[-1] - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}"
        )


register(
    JEM,
    lambda jem: {"net": jem.classifier.net, "space": jem.space},
    lambda fields: JEM(**fields),
    name="experts.JEM",
    formerly=("experts.jem.JEM",),
)
register(
    JointLogit,
    lambda joint: {"classifier": joint.classifier},
    lambda fields: JointLogit(**fields),
    name="experts.neural.JointLogit",
    formerly=("experts.jem.JointLogit",),
)
