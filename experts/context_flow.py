"""nflows' flows with a context, as conditionals; and which flow becomes what."""

from __future__ import annotations

import torch
from nflows.distributions import ConditionalDiagonalNormal, DiagonalNormal, StandardNormal
from nflows.flows import Flow as NFlow
from torch import Tensor

import poe
from experts.flow import Flow, base_sample, base_shape, has_context, own_tensor, require_usable
from poe.core.randomness import borrowed, resolve
from poe.density.conditional import one_for_each


class ContextFlow(poe.Conditional):
    r"""An ``nflows.flows.Flow`` with a context y, as a normalised conditional.

    .. math:: \log p(x \mid y) = \log p_0(T(x; y) \mid y) + \log |\det \partial T / \partial x|

    ``given(y)`` binds one context, ``(c,)``, or one for each chain, ``(n, c)``; where contexts are
    arrays for an embedding net, ``condition_ndim`` says of how many dimensions.
    ``poe.as_expert(flow)`` gives the same. ``sample`` is exact, and draws from its generator alone.
    Raises ``poe.AdaptationError`` as ``Flow`` does, ``poe.DtypeError`` for contexts of integers.

    >>> from nflows.distributions import StandardNormal
    >>> from nflows.transforms import MaskedAffineAutoregressiveTransform
    >>> made = MaskedAffineAutoregressiveTransform(2, 8, context_features=3)
    >>> expert = ContextFlow(NFlow(made, StandardNormal([2]))).given(torch.ones(3))
    >>> expert.log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    is_normalized = True

    def __init__(self, nflows_flow: NFlow, *, condition_ndim: int = 1) -> None:
        super().__init__()
        require_usable(nflows_flow)
        self.flow = nflows_flow
        self.condition_ndim = condition_ndim
        self.space = poe.Real(base_shape(nflows_flow))

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        batch = self.space.batch_shape(x)
        rows = x.reshape(-1, *self.space.event_shape)
        value: Tensor = self.flow.log_prob(rows, context=self._contexts(condition, len(rows)))
        return value.reshape(batch)

    @torch.no_grad()
    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Exact draws, ``(num_samples, *event)``: the base's, through the inverse of T."""
        like = own_tensor(self.flow)
        generator = resolve(generator, like.device)
        context = self.flow._embedding_net(self._contexts(condition, num_samples))
        noise = _base_sample(self.flow, context, num_samples, like, generator)
        return self.flow._transform.inverse(noise, context=context)[0]

    def _contexts(self, condition: Tensor, count: int) -> Tensor:
        return one_for_each(require_floats(condition), count, self.condition_ndim)


def require_floats(context: Tensor) -> Tensor:
    """The context of a flow, of any library. Raises ``poe.DtypeError`` for integers.

    >>> require_floats(torch.ones(2))
    tensor([1., 1.])
    """
    if context.is_floating_point():
        return context
    raise poe.DtypeError(
        f"expected a context of floats, got {context.dtype}; use context.float(), or one-hot "
        "vectors of labels"
    )


def _base_sample(
    flow: NFlow, context: Tensor, count: int, like: Tensor, generator: torch.Generator
) -> Tensor:
    """Draws of the base, one for each context ``(n, *)``, with the dtype and device of ``like``."""
    base = flow._distribution
    if isinstance(base, StandardNormal | DiagonalNormal):
        return base_sample(base, count, like, generator)
    if isinstance(base, ConditionalDiagonalNormal):
        mean, log_std = base._compute_params(context)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + log_std.exp() * noise
    with borrowed(generator):  # any other base knows only the global generator
        draws: Tensor = base.sample(1, context=context)
    return draws[:, 0].to(like)


@poe.as_expert.register
def _(flow: NFlow) -> Flow | ContextFlow:
    return ContextFlow(flow) if has_context(flow) else Flow(flow)
