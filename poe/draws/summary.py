"""The summary of draws: a table of each component, and plain words below it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from poe import diagnostics
from poe.core.doubt import Doubt
from poe.diagnostics.convergence import rank_r_hat
from poe.draws.export import component_names
from poe.draws.verdict import Judged, Verdict

COLUMNS = {
    "mean": "9.3f",
    "sd": "9.3f",
    "mcse": "9.4f",
    "ess_bulk": "10.0f",
    "ess_tail": "10.0f",
    "r_hat": "7.3f",
}


WEIGHTED_COLUMNS = {name: COLUMNS[name] for name in ("mean", "sd", "mcse")}


MAX_ROWS = 20


NOTHING_SAID = Verdict(())


@dataclass(frozen=True, eq=False)
class Summary:
    """Statistics of each component (tensors of the event shape) that print as a table.

    Args:
        mean: Of the draws.
        sd: Their standard deviation.
        mcse: The standard error of the mean.
        ess_bulk: Effective sample size of the bulk; NaN for weighted draws.
        ess_tail: Effective sample size of the tails; NaN for weighted draws.
        r_hat: Whether chains agree, many short ones by groups; NaN for weighted draws.
        footer: Guarantee, numbers and kernel, in words.
        verdict: Whether the run has arrived; ``doubts`` are what speaks against it, ``warnings``
            their words.
        ess_weights: Kish's ESS of weighted draws, ``()``; None where the draws are unweighted.
    """

    mean: Tensor
    sd: Tensor
    mcse: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    r_hat: Tensor
    footer: str = ""
    verdict: Verdict = NOTHING_SAID
    ess_weights: Tensor | None = None

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """Why the draws are not to be trusted; empty where nothing was seen."""
        return self.verdict.doubts

    @property
    def warnings(self) -> tuple[str, ...]:
        """The doubts, in words."""
        return self.verdict.remarks

    def __str__(self) -> str:
        formats = COLUMNS if self.ess_weights is None else WEIGHTED_COLUMNS
        names = component_names(self.mean.shape)
        width = max(map(len, names[:MAX_ROWS]), default=0)
        header = " " * width + "".join(f"{name:>{_width(f)}}" for name, f in formats.items())
        columns = [getattr(self, name).flatten().tolist() for name in formats]
        rows = [
            f"{name:<{width}}" + "".join(map(format, row, formats.values()))
            for name, *row in itertools.islice(zip(names, *columns, strict=True), MAX_ROWS)
        ]
        more = [f"... and {len(names) - MAX_ROWS} more components"] if len(names) > MAX_ROWS else []
        said = [": ".join(filter(None, [str(self.verdict), self.verdict.figures]))]
        words = [f"! {text}" for text in self.warnings]
        return "\n".join([header, *rows, *more, self.footer, *filter(None, said), *words])

    __repr__ = __str__


def summarize(draws: Judged) -> Summary:
    """The summary of draws, weighted or not; of a batch of densities that of each chain.

    Then the statistics are of shape ``(chains, *event)``, and R-hat is of a chain's halves.
    """
    if draws.log_weights is not None:
        return _of_weighted(draws, draws.log_weights)
    x = draws.samples.transpose(0, 1)[None] if draws.is_batch else draws.samples
    wide = x.detach().double()
    return Summary(
        mean=wide.mean((0, 1)),
        sd=wide.flatten(0, 1).std(0),
        mcse=diagnostics.mcse_mean(x),
        ess_bulk=diagnostics.ess_bulk(x),
        ess_tail=diagnostics.ess_tail(x),
        r_hat=rank_r_hat(x) if draws.is_batch else diagnostics.nested_r_hat(x),
        footer="; ".join(_facts(draws)),
        verdict=draws.verdict,
    )


def _of_weighted(draws: Judged, log_weights: Tensor) -> Summary:
    moments = diagnostics.weighted_moments(draws.samples, log_weights)
    ess = diagnostics.kish_ess(log_weights)
    undefined = torch.full_like(moments.mean, torch.nan)
    worth = (
        f"by their weights the draws are worth {ess.item():.0f} equal ones (Kish); R-hat and the "
        "ESS of chains are not defined for them"
    )
    return Summary(
        mean=moments.mean,
        sd=moments.sd,
        mcse=moments.mcse,
        ess_bulk=undefined,
        ess_tail=undefined,
        r_hat=undefined,
        footer="; ".join([*_facts(draws), worth]),
        verdict=draws.verdict,
        ess_weights=ess,
    )


def _width(column_format: str) -> int:
    return int(column_format.split(".")[0])


def _facts(draws: Judged) -> list[str]:
    chains, length = draws.samples.shape[:2]
    parts = [draws.guarantee, f"{chains} chains x {length} draws"]
    if draws.is_batch:
        parts.append("a density for each chain, the first index of x")
    if draws.kernel is not None:
        parts.append(f"{draws.num_warmup} warm-up steps")
    if draws.acceptance_rate is not None:
        parts.append(f"acceptance {draws.acceptance_rate.mean().item():.2f}")
    if draws.num_divergent is not None and (count := int(draws.num_divergent.sum())):
        parts.append(f"{count} divergent step{'s' * (count != 1)}")
    return parts
