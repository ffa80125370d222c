"""The field of experts: one small expert on every filter response of a picture."""

from __future__ import annotations

import math

from torch import Tensor

from experts.images.operators import FilterBank
from experts.parameters import ArrayLike, keep, positive, real
from poe import Expert, Real, ShapeError
from poe.io import register
from poe.structure.gaussian_factors import GaussianFactor, Independent, gaussian_factors


class FieldOfExperts(Expert):
    """A product of Gaussian scale mixtures of filter responses, wherever a filter fits in.

    log p̃(x) = Σ_k Σ_p log Σ_s a_ks N((J_k ∗ x)_p; 0, σ_s²),  a_k = softmax(logits_k)

    Heavy-tailed experts on filters that sum to zero like pictures that are smooth almost
    everywhere, and forgive edges. Unnormalised, and flat along constant pictures: multiply it by a
    broad Gaussian for a proper prior. With likelihoods (``poe.gaussian_factors``) it has an exact
    block Gibbs sampler, ``poe.samplers.GaussianGibbs``.

    Args:
        filters: J, ``(k, a, b)``. What is an ``nn.Parameter`` stays one, here and below.
        logits: Of the weights a, ``(k, s)``.
        scales: Standard deviations σ, ``(s,)``, positive.
        shape: Of the picture, ``(rows, cols)``.

    Raises:
        ShapeError: Where they do not fit.
        PoeError: Where a scale is not positive.

    References:
        Roth & Black (2009), Fields of experts, International Journal of Computer Vision,
        doi:10.1007/s11263-008-0197-6.

        Schmidt, Gao & Roth (2010), A generative perspective on MRFs in low-level vision, CVPR, eq.
        2 and 3 (of scale mixtures).

    Example:
        >>> steps = torch.tensor([[[1.0, -1.0]]])
        >>> field = FieldOfExperts(steps, torch.zeros(1, 2), [0.1, 1.0], shape=(1, 3))
        >>> field(torch.tensor([[[0.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]]))
        tensor([ 1.5716, -1.3263])
    """

    logits: Tensor
    scales: Tensor
    may_be_infinite = ()

    def __init__(
        self, filters: Tensor, logits: ArrayLike, scales: ArrayLike, shape: tuple[int, int]
    ) -> None:
        super().__init__()
        self.bank = FilterBank(filters, shape)
        self.space = Real(tuple(shape))
        keep(self, "logits", real("logits", logits))
        keep(self, "scales", positive("scales", scales))
        if self.scales.ndim != 1:
            raise ShapeError(f"expected scales of shape (s,), got {tuple(self.scales.shape)}")
        expected = (len(self.bank.filters), len(self.scales))
        if self.logits.shape != expected:
            raise ShapeError(
                f"expected logits of shape {expected}, one for each filter and scale, got "
                f"{tuple(self.logits.shape)}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, unnormalised.

        Args:
            x: Pictures, ``(*batch, rows, cols)``.

        Returns:
            log p̃(x), ``(*batch,)``.
        """
        batch = self.space.batch_shape(x)
        responses = self.bank(x.reshape(-1, *self.space.event_shape))
        return self.log_terms(responses).logsumexp(0).sum((1, 2, 3)).reshape(batch)

    def log_terms(self, responses: Tensor) -> Tensor:
        """log a_ks N(r; 0, σ_s²), of every scale.

        Args:
            responses: r, ``(n, k, rows, cols)``.

        Returns:
            ``(s, n, k, rows, cols)``.
        """
        constants = self.logits.log_softmax(-1) - self.scales.log() - 0.5 * math.log(2 * math.pi)
        precisions = self.scales.square().reciprocal()
        squares = -0.5 * responses.square()
        return precisions.view(-1, 1, 1, 1, 1) * squares + constants.T[:, None, :, None, None]

    def on(self, shape: tuple[int, int]) -> FieldOfExperts:
        """The same experts, shared, on pictures of another shape.

        Args:
            shape: ``(rows, cols)``.

        Returns:
            The field of experts there.
        """
        return FieldOfExperts(self.bank.filters, self.logits, self.scales, shape)

    def draw_precisions(self, responses: Tensor, uniforms: Tensor) -> Tensor:
        """1 / σ_s² of a scale drawn for each response.

        Args:
            responses: ``(n, k, rows, cols)``.
            uniforms: Of [0, 1), as many.

        Returns:
            As many.
        """
        cumulative = self.log_terms(responses).softmax(0).cumsum(0)
        chosen = (cumulative < uniforms * cumulative[-1]).sum(0)
        return self.scales.square().reciprocal()[chosen]

    def extra_repr(self) -> str:
        return f"{len(self.logits)} filters, {len(self.scales)} scales"


@gaussian_factors.register
def _(expert: FieldOfExperts) -> tuple[GaussianFactor, ...]:

    def draw(responses: Tensor, uniforms: Tensor) -> Independent:
        return Independent(expert.bank, expert.draw_precisions(responses, uniforms))

    return (GaussianFactor(expert.bank, expert.scales.new_zeros(()), draw),)


register(
    FieldOfExperts,
    lambda e: {
        "filters": e.bank.filters,
        "logits": e.logits,
        "scales": e.scales,
        "shape": tuple(e.space.event_shape),
    },
    lambda f: FieldOfExperts(**f),
    name="experts.FieldOfExperts",
    formerly=("experts.field_of_experts.FieldOfExperts",),
)
