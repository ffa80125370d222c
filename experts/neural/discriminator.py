"""A discriminator's logit as an expert: the log-ratio of data to generator."""

from __future__ import annotations

from torch import Tensor, nn

from experts.neural.classifier import require_logits
from poe import Expert, ShapeError, Space
from poe.core.arguments import checked
from poe.io import register


class Discriminator(Expert):
    """log p(x) − log q(x), as the logit of a network that tells draws of p from draws of q.

    The best discriminator, of as many draws of each, is D(x) = p(x) / (p(x) + q(x)), so that its
    logit log D − log(1 − D) is the log-ratio. It is a factor, not a density of its own:
    ``q * Discriminator(net, space)`` is p where D is best, and a generator's samples corrected
    where it is good. For a generator G from latents z that is
    ``prior * Discriminator(net, space).at(G)``: no density of G(z) is needed. ``** w`` tempers what
    it says.

    Args:
        net: From x ``(*batch, *event)`` to logits, ``(*batch,)`` or ``(*batch, 1)``: before the
            sigmoid, not after.
        space: Where x lives.

    Raises:
        AdaptationError: For a net that ends in a sigmoid.
        ShapeError: When called, where the net makes another shape.

    References:
        Goodfellow et al. (2014), Generative adversarial nets, proposition 1, arXiv:1406.2661.

        Che et al. (2020), Your GAN is secretly an energy-based model and you should use
        discriminator driven latent sampling, eq. 5 (as an energy of latents), arXiv:2003.06060.

    Example:
        >>> p, q = experts.Gaussian([1.0], scale=[1.0]), experts.Gaussian([0.0], scale=[1.0])
        >>> best = nn.Linear(1, 1)  # log p(x) - log q(x) = x - 1/2
        >>> _ = best.weight.data.fill_(1.0), best.bias.data.fill_(-0.5)
        >>> x = torch.tensor([[2.0]])
        >>> (q * Discriminator(best, q.space))(x).detach(), p(x)
        (tensor([-1.4189]), tensor([-1.4189]))
    """

    @checked
    def __init__(self, net: nn.Module, space: Space) -> None:
        super().__init__()
        require_logits(net)
        self.net = net
        self.space = space

    def forward(self, x: Tensor) -> Tensor:
        """The logit.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            log p(x) − log q(x), ``(*batch,)``.

        Raises:
            ShapeError: Where the net makes another shape.
        """
        batch = self.space.batch_shape(x)
        logits: Tensor = self.net(x)
        if logits.shape not in (batch, (*batch, 1)):
            raise ShapeError(
                f"expected logits of shape {tuple(batch)} or {(*batch, 1)} from the discriminator "
                f"for x of shape {tuple(x.shape)}, got {tuple(logits.shape)}: end it with a Linear "
                "layer of one output, over flattened features"
            )
        return logits.reshape(batch)


register(
    Discriminator,
    lambda expert: {"net": expert.net, "space": expert.space},
    lambda fields: Discriminator(**fields),
    name="experts.Discriminator",
    formerly=("experts.discriminator.Discriminator",),
)
