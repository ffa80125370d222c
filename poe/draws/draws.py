"""Draws: samples with the guarantee they carry, and what there is to say about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from poe import diagnostics
from poe.core.errors import PoeError
from poe.density.expert import Expert
from poe.diagnostics.experts import ExpertReport
from poe.draws.export import to_arviz, to_pandas, to_xarray
from poe.draws.record import Record
from poe.draws.summary import Summary, summarize


@dataclass(frozen=True, eq=False, repr=False)
class Draws(Record):
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
    - ``doubts``: what the run itself noticed that speaks against the draws, each a ``poe.Doubt`` of
      a kind, a text and the chains it is about; ``remarks`` are the texts;
    - ``log_partition``: log Z, where the run estimated it on its way.

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(4, 500, 2, generator=g)
    >>> Draws(x, -0.5 * x.square().sum(-1), "exact")
    Draws(4 chains x 500 draws of shape (2,), exact)
    """

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
        ``target`` says, where it is given, and the kernel's statistics; see ``poe.draws.export``.
        Needs ArviZ (``pip install "product-of-experts[diagnostics]"``).
        """
        return to_arviz(self, target)

    def to_xarray(self, target: Expert | None = None) -> Any:
        """These draws as an ``xarray.Dataset`` with named dimensions; see ``poe.draws.export``.

        Needs xarray (``pip install "product-of-experts[diagnostics]"``).

        >>> x = torch.zeros(4, 5, 2)
        >>> dict(Draws(x, x[..., 0], "exact").to_xarray().sizes)
        {'chain': 4, 'draw': 5, 'x_dim_0': 2}
        """
        return to_xarray(self, target)

    def to_pandas(self, target: Expert | None = None) -> Any:
        """These draws as a tidy ``pandas.DataFrame``, a row each; see ``poe.draws.export``.

        Needs pandas (``pip install "product-of-experts[diagnostics]"``).

        >>> x = torch.zeros(4, 5, 2)
        >>> list(Draws(x, x[..., 0], "exact").to_pandas())
        ['chain', 'draw', 'x[0]', 'x[1]', 'log_density']
        """
        return to_pandas(self, target)
