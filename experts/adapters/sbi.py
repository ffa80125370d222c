"""sbi's trained flows of p(θ | x) or p(x | θ), whole: with the standardisation they learned."""

from __future__ import annotations

import torch
from torch import Tensor

import poe
from experts.adapters.context import require_floats
from poe.core.imports import missing
from poe.core.randomness import borrowed, resolve
from poe.density.conditional import one_for_each
from poe.density.trials import require_settled

try:
    from sbi.inference.posteriors.base_posterior import NeuralPosterior
    from sbi.neural_nets.estimators import NFlowsFlow, ZukoFlow
    from sbi.neural_nets.estimators.base import ConditionalEstimator
except ImportError as error:
    raise missing("sbi", "sbi") from error


class SbiEstimator(poe.Conditional):
    r"""A density estimator of sbi, as a normalised conditional.

    .. math:: \log p(\theta \mid y) = \log q(\theta \mid e(s(y)))

    with the embedding e, the standardisation s and the estimator's own q. Its ``net`` alone is
    another density: of sbi's zuko flows it takes what is standardised and embedded already.

    ``given(y)`` binds one condition, of the estimator's ``condition_shape``, or one for each chain.
    ``poe.as_expert(estimator)`` gives the same. ``sample`` is exact; the global generator is put
    back after. The space is that of the flow: a prior is a factor of its own.

    Args:
        estimator: An ``NFlowsFlow`` or ``ZukoFlow`` in evaluation mode, as ``inference.train()``
            returns it.

    Raises:
        AdaptationError: For another estimator, one in training mode with dropout or batch
            normalisation, and for a flow that `poe.as_expert` refuses.
        DtypeError: When called, for conditions of integers.
    """

    is_normalized = True

    def __init__(self, estimator: NFlowsFlow | ZukoFlow) -> None:
        super().__init__()
        require_settled(estimator)
        self.estimator = estimator
        self.condition_ndim = len(estimator.condition_shape)
        self.space = poe.as_expert(estimator.net).space

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        """log p(θ | y).

        Args:
            x: θ, ``(*batch, *event)``.
            condition: y, ``(*condition_shape)`` or ``(batch, *condition_shape)``.

        Returns:
            ``(*batch,)``.

        Raises:
            DtypeError: For conditions of integers.
        """
        rows = x.reshape(-1, *self.space.event_shape)
        given = one_for_each(require_floats(condition), len(rows), self.condition_ndim)
        value: Tensor = self.estimator.log_prob(rows[None], given)[0]
        return value.reshape(self.space.batch_shape(x))

    @torch.no_grad()
    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Exact draws, one for each condition where these are a batch.

        Args:
            condition: y, ``(*condition_shape)`` or ``(num_samples, *condition_shape)``.
            num_samples: How many.
            generator: Of the draws; a fresh one if left out.

        Returns:
            ``(num_samples, *event)``.

        Raises:
            DtypeError: For conditions of integers.
        """
        given = one_for_each(require_floats(condition), num_samples, self.condition_ndim)
        with borrowed(resolve(generator, condition.device)):
            return self.estimator.sample(torch.Size((1,)), given)[0]


@poe.as_expert.register
def _(estimator: NFlowsFlow | ZukoFlow) -> SbiEstimator:
    return SbiEstimator(estimator)


@poe.as_expert.register
def _(estimator: ConditionalEstimator) -> poe.Conditional:
    """Its mixtures too: their log-density in sbi 0.27 integrates to 1 - 1e-4."""
    raise poe.AdaptationError(
        "expected a flow of sbi, which has a normalised log-density of its own, an NFlowsFlow or a "
        f"ZukoFlow, got {type(estimator).__name__}: train one by NPE or NLE (density_estimator="
        "'nsf'), or use poe.FromLogDensity(fn, space=...) for a function of θ"
    )


@poe.as_expert.register
def _(posterior: NeuralPosterior) -> poe.Expert:
    raise poe.AdaptationError(
        f"expected sbi's density estimator, got the {type(posterior).__name__} built on it, whose "
        "draws are cut off by a prior: use poe.as_expert(estimator).given(observation), with the "
        "estimator that train() returned (posterior.posterior_estimator)"
    )
