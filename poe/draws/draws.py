"""Draws: samples with the guarantee of their method, and whether this run has arrived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from poe import diagnostics
from poe.core.arguments import checked
from poe.core.errors import PoeError, ShapeError
from poe.density.expert import Expert
from poe.diagnostics.experts import ExpertReport
from poe.draws.export import to_arviz, to_pandas, to_xarray
from poe.draws.summary import Summary, summarize
from poe.draws.verdict import Judged


@dataclass(frozen=True, eq=False, repr=False)
class Draws(Judged):
    """What a sampler drew, and how.

    Two things are said apart: ``guarantee``, what the method promises of ever longer runs, and
    ``verdict``, whether this run has arrived: from R-hat, ESS, divergences, chains that are stuck,
    still or lost, dead draws, weights. ``is_trusted`` where nothing speaks against it.

    Args:
        samples: In the target's own space, ``(chains, draws, *event)``, or whatever ``collect``
            kept of each draw.
        log_density: Unnormalised, at the draws, ``(chains, draws)``.
        guarantee: "exact", "asymptotically exact" or "biased", computed from what was done.
        log_weights: ``(chains, draws)``; None where the draws are unweighted.
        kernel: The kernel used, with all its settings; None for exact draws.
        acceptance_rate: The fraction of accepted proposals while sampling, ``(chains,)``; None for
            exact draws.
        num_outside: The number of proposals while sampling with log-density −inf, ``(chains,)``;
            None for exact draws.
        num_undefined: The number of proposals while sampling with log-density NaN or +inf,
            ``(chains,)``; None for exact draws.
        num_divergent: The steps while sampling whose discretisation broke down (log acceptance
            ratio below −1000, or undefined), ``(chains,)``; None where that was not counted.
        num_warmup: Steps before the first draw.
        seconds: Wall-clock time, warm-up included.
        seed: The generator's initial seed.
        warmup_gradients: How often a chain evaluated the target in warm-up.
        num_gradients: How often a chain evaluated the target while sampling.
        warmup_seconds: What warm-up took.
        sampling_seconds: What sampling took.
        compile_seconds: What compiling took beside these.
        choice: Why this kernel, in words.
        doubts: What the run itself noticed on its way that speaks against the draws, each a
            ``poe.Doubt`` of a kind, a text and the chains it is about. What the draws themselves
            show comes to that in ``verdict``; ``remarks`` are the words of all.
        log_partition: log Z, where the run estimated it on its way.
        tuned: Which settings of the kernel the caller left to the run, in words: "step size", ...
        is_batch: Whether each chain has a density of its own, and is compared with itself alone.

    Raises:
        ShapeError: For log-densities that are not one for each draw.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(4, 500, 2, generator=g)
        >>> Draws(x, -0.5 * x.square().sum(-1), "exact")
        Draws(4 chains x 500 draws of shape (2,), exact)
    """

    def __post_init__(self) -> None:
        chains = tuple(self.samples.shape[:2]) if isinstance(self.samples, Tensor) else None
        if chains is not None and tuple(self.log_density.shape) != chains:
            raise ShapeError(
                f"expected a log-density for each draw, (chains, draws) = {chains}, got "
                f"{tuple(self.log_density.shape)}: reshape samples to (chains, draws, *event)"
            )

    def summary(self) -> Summary:
        """Mean, sd, MCSE, ESS and R-hat of each component, with plain words where they are bad.

        Of weighted draws the weighted mean and sd, with their standard error; R-hat and the chains'
        ESS are not defined for them (NaN), and Kish's ESS of the weights stands in the footer.

        Returns:
            The statistics, which print as a table.

        Example:
            >>> g = torch.Generator().manual_seed(0)
            >>> x = torch.randn(4, 500, 1, generator=g)
            >>> print(Draws(x, -0.5 * x.square().sum(-1), "exact").summary())
                    mean      sd    mcse  ess_bulk  ess_tail  r_hat
            x[0]  ...
            exact; 4 chains x 500 draws
        """
        return summarize(self)

    @checked
    def experts(self, target: Expert) -> ExpertReport:
        """What each expert of the target does along these draws: who vetoes, is saturated, pulls.

        See ``poe.diagnostics.expert_report``.

        Args:
            target: The product that was drawn from.

        Returns:
            The report.

        Raises:
            PoeError: For weighted draws, which must be resampled first.
        """
        if self.log_weights is not None:
            raise PoeError(
                "expected draws of equal weight, got weighted ones: resample them by their weights "
                "and call poe.diagnostics.expert_report(target, samples)"
            )
        return diagnostics.expert_report(target, self.samples)

    @checked
    def to_arviz(self, target: Expert | None = None) -> Any:
        """These draws as an ``arviz.InferenceData`` (ArviZ >= 1: an ``xarray.DataTree``).

        ``posterior["x"]``, and ``sample_stats`` with ``lp``, log-weights, what each expert of the
        ``target`` says, where it is given, and the kernel's statistics; see ``poe.draws.export``.
        Needs ArviZ (``pip install "product-of-experts[diagnostics]"``). Warns (TrustWarning) of
        weighted draws, which ArviZ takes alike.

        Args:
            target: The product that was drawn from; by default nothing is told of its experts.

        Returns:
            The draws, their floats in float64.

        Raises:
            ImportError: Where ArviZ is missing.
            PoeError: For a target where ``collect=`` kept something else than positions.
        """
        return to_arviz(self, target)

    @checked
    def to_xarray(self, target: Expert | None = None) -> Any:
        """These draws as an ``xarray.Dataset`` with named dimensions; see ``poe.draws.export``.

        Needs xarray (``pip install "product-of-experts[diagnostics]"``).

        Args:
            target: The product that was drawn from; by default nothing is told of its experts.

        Returns:
            The draws, their floats in float64.

        Raises:
            ImportError: Where xarray is missing.
            PoeError: For a target where ``collect=`` kept something else than positions.

        Example:
            >>> x = torch.zeros(4, 5, 2)
            >>> dict(Draws(x, x[..., 0], "exact").to_xarray().sizes)
            {'chain': 4, 'draw': 5, 'x_dim_0': 2}
        """
        return to_xarray(self, target)

    @checked
    def to_pandas(self, target: Expert | None = None) -> Any:
        """These draws as a tidy ``pandas.DataFrame``, a row each; see ``poe.draws.export``.

        Needs pandas (``pip install "product-of-experts[diagnostics]"``).

        Args:
            target: The product that was drawn from; by default nothing is told of its experts.

        Returns:
            The draws, their floats in float64.

        Raises:
            ImportError: Where pandas is missing.
            PoeError: For a target where ``collect=`` kept something else than positions.

        Example:
            >>> x = torch.zeros(4, 5, 2)
            >>> list(Draws(x, x[..., 0], "exact").to_pandas())
            ['chain', 'draw', 'x[0]', 'x[1]', 'log_density']
        """
        return to_pandas(self, target)
