"""Draws: samples with the guarantee they carry, and what there is to say about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from poe import diagnostics, export
from poe.diagnostics.experts import ExpertReport
from poe.errors import PoeError
from poe.expert import Expert
from poe.samplers.kernel import Kernel
from poe.summary import Summary as Summary
from poe.summary import summarize

if TYPE_CHECKING:
    from poe.partition import LogPartition

MIN_DRAWS_TO_BE_STUCK = 20


@dataclass(frozen=True, eq=False)
class Draws:
    """What a sampler drew, and how.

    - ``samples`` ``(chains, draws, *event)`` in the target's own space, or whatever ``collect``
      kept of each draw; ``log_density`` ``(chains, draws)``, unnormalised, at the draws;
    - ``log_weights``: None where the draws are unweighted, else ``(chains, draws)``;
    - ``guarantee``: "exact", "asymptotically exact" or "biased", computed from what was done;
    - ``kernel``: the kernel used with all its settings; None for exact draws;
    - ``acceptance_rate``, ``num_outside``, ``num_undefined`` ``(chains,)``: the fraction of
      accepted proposals, and the number of those with log-density −inf, and of those with NaN or
      +inf, while sampling; None for exact draws;
    - ``num_divergent`` ``(chains,)``: the steps while sampling whose discretisation broke down (log
      acceptance ratio below −1000, or undefined); None where that was not counted;
    - ``num_warmup``: steps before the first draw; ``seconds``: wall-clock time, warm-up included;
    - ``warmup_gradients``, ``num_gradients``: how often a chain evaluated the target, in warm-up
      and while sampling; ``warmup_seconds``, ``sampling_seconds``, ``compile_seconds``: what these
      took, and what compiling took beside it;
    - ``choice``: why this kernel, in words;
    - ``seed``: the generator's initial seed;
    - ``remarks``: what the run itself noticed, in words;
    - ``log_partition``: log Z, where the run estimated it on its way.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(4, 500, 2, generator=g)
    >>> Draws(x, -0.5 * x.square().sum(-1), "exact")
    Draws(4 chains x 500 draws of shape (2,), exact)
    """

    samples: Tensor
    log_density: Tensor
    guarantee: str
    log_weights: Tensor | None = None
    kernel: Kernel | None = None
    acceptance_rate: Tensor | None = None
    num_outside: Tensor | None = None
    num_undefined: Tensor | None = None
    num_divergent: Tensor | None = None
    num_warmup: int = 0
    seconds: float = 0.0
    seed: int | None = None
    warmup_gradients: int = 0
    num_gradients: int = 0
    warmup_seconds: float = 0.0
    sampling_seconds: float = 0.0
    compile_seconds: float = 0.0
    choice: str = ""
    remarks: tuple[str, ...] = ()
    log_partition: LogPartition | None = None

    def __repr__(self) -> str:
        chains, draws, *event = self.samples.shape
        parts = [f"{chains} chains x {draws} draws of shape {tuple(event)}", self.guarantee]
        parts += ["weighted"] * (self.log_weights is not None)
        return f"Draws({', '.join(parts + [repr(self.kernel)] * (self.kernel is not None))})"

    @property
    def num_nonfinite(self) -> Tensor:
        """How many draws of each chain are not finite (in x or in log-density): ``(chains,)``.

        Weighted draws of weight zero do not count.
        """
        is_finite = self.samples.reshape(*self.log_density.shape, -1).isfinite().all(-1)
        is_bad = ~(is_finite & self.log_density.isfinite())
        if self.log_weights is not None:
            is_bad = is_bad & (self.log_weights != -torch.inf)
        return is_bad.sum(1)

    @property
    def stuck_chains(self) -> list[int]:
        """The chains that accepted none of their proposals, of which there were 20 at least."""
        if self.acceptance_rate is None or self.samples.shape[1] < MIN_DRAWS_TO_BE_STUCK:
            return []
        return (self.acceptance_rate == 0).nonzero().flatten().tolist()

    @property
    def still_chains(self) -> list[int]:
        """The chains that stood still for a quarter of their draws, or hardly accepted a proposal.

        That is for 20 consecutive draws at least, or at less than a tenth of the chains' median
        acceptance rate; those in ``stuck_chains`` are not repeated. Weighted draws have no order;
        chains that accepted every proposal, as those of Gibbs do, stay where the density is.
        """
        is_short = self.samples.shape[1] < MIN_DRAWS_TO_BE_STUCK
        if self.acceptance_rate is None or self.log_weights is not None or is_short:
            return []
        stay = diagnostics.longest_stay(self.samples, self.log_density)
        is_long = stay >= max(MIN_DRAWS_TO_BE_STUCK, self.samples.shape[1] / 4)
        is_rare = self.acceptance_rate < self.acceptance_rate.median() / 10
        has_rejected = self.acceptance_rate < 1
        is_moving = self.acceptance_rate > 0
        return ((is_long | is_rare) & is_moving & has_rejected).nonzero().flatten().tolist()

    @property
    def escaped_chains(self) -> list[int]:
        """The chains whose medians are ten robust sds or more away from those of the others.

        In position, or downward in log-density; see ``poe.diagnostics.distance_from_others``. None
        of fewer than 20 draws a chain, and none of weighted draws.
        """
        if self.log_weights is not None or self.samples.shape[1] < MIN_DRAWS_TO_BE_STUCK:
            return []
        distance = diagnostics.distance_from_others(self.samples, self.log_density)
        return (distance >= diagnostics.MAX_DISTANCE).nonzero().flatten().tolist()

    def summary(self) -> Summary:
        """Mean, sd, MCSE, ESS and R-hat of each component, with plain words where they are bad.

        Of weighted draws the weighted mean and sd, with their standard error; R-hat and the chains'
        ESS are not defined for them (NaN), and Kish's ESS of the weights stands in the footer.

        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(4, 500, 1, generator=g)
        >>> print(Draws(x, -0.5 * x.square().sum(-1), "exact").summary())
                mean      sd    mcse  ess_bulk  ess_tail  r_hat
        x[0]  ...
        exact; 4 chains x 500 draws
        """
        return summarize(self)

    def experts(self, target: Expert) -> ExpertReport:
        """What each expert of the target does along these draws: who vetoes, is saturated, pulls.

        See ``poe.diagnostics.expert_report``. Raises PoeError for weighted draws, which must be
        resampled first.
        """
        if self.log_weights is not None:
            raise PoeError(
                "expected draws of equal weight, got weighted ones: resample them by their weights "
                "and call poe.diagnostics.expert_report(target, samples)"
            )
        return diagnostics.expert_report(target, self.samples)

    def to_arviz(self, target: Expert | None = None) -> Any:
        """These draws as an ``arviz.InferenceData`` (ArviZ >= 1: an ``xarray.DataTree``).

        ``posterior["x"]``, and ``sample_stats`` with ``lp``, log-weights, what each expert of the
        ``target`` says, where it is given, and the kernel's statistics; see ``poe.export``. Needs
        ArviZ (``pip install "product-of-experts[diagnostics]"``).
        """
        return export.to_arviz(self, target)

    def to_xarray(self, target: Expert | None = None) -> Any:
        """These draws as an ``xarray.Dataset`` with named dimensions; see ``poe.export``.

        Needs xarray (``pip install "product-of-experts[diagnostics]"``).

        >>> x = torch.zeros(4, 5, 2)
        >>> dict(Draws(x, x[..., 0], "exact").to_xarray().sizes)
        {'chain': 4, 'draw': 5, 'x_dim_0': 2}
        """
        return export.to_xarray(self, target)

    def to_pandas(self, target: Expert | None = None) -> Any:
        """These draws as a tidy ``pandas.DataFrame``, a row each; see ``poe.export``.

        Needs pandas (``pip install "product-of-experts[diagnostics]"``).

        >>> x = torch.zeros(4, 5, 2)
        >>> list(Draws(x, x[..., 0], "exact").to_pandas())
        ['chain', 'draw', 'x[0]', 'x[1]', 'log_density']
        """
        return export.to_pandas(self, target)
