"""Draws: samples with the guarantee they carry, and what there is to say about them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from poe import diagnostics
from poe.samplers.kernel import Kernel

if TYPE_CHECKING:
    from poe.partition import LogPartition

MAX_R_HAT = 1.01
MIN_ESS = 400.0
"""The thresholds of Vehtari et al. 2021, section 4."""
MIN_DRAWS_TO_BE_STUCK = 20
SHORT_CHAIN = 500
SHORT_CHAIN_WORDS = (
    "They are short, which alone raises R-hat: draw more from each, or use a longer warm-up."
)


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
    - ``num_warmup``: steps before the first draw; ``seconds``: wall-clock time, warm-up included;
    - ``warmup_gradients``, ``num_gradients``: how often a chain evaluated the target, in warm-up and
      while sampling; ``warmup_seconds``, ``sampling_seconds``, ``compile_seconds``: what these took,
      and what compiling took beside it;
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
        return f"Draws({', '.join(parts + [repr(self.kernel)] * (self.kernel is not None))})"

    @property
    def num_nonfinite(self) -> Tensor:
        """How many draws of each chain are not finite (in x or in log-density): ``(chains,)``."""
        is_finite = self.samples.reshape(*self.log_density.shape, -1).isfinite().all(-1)
        return (~(is_finite & self.log_density.isfinite())).sum(1)

    @property
    def stuck_chains(self) -> list[int]:
        """The chains that accepted none of their proposals, of which there were 20 at least."""
        if self.acceptance_rate is None or self.samples.shape[1] < MIN_DRAWS_TO_BE_STUCK:
            return []
        return (self.acceptance_rate == 0).nonzero().flatten().tolist()

    def summary(self) -> Summary:
        """Mean, sd, MCSE, ESS and R-hat of each component, with plain words where they are bad.

        Needs ArviZ (``pip install "product-of-experts[diagnostics]"``).

        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(4, 500, 1, generator=g)
        >>> print(Draws(x, -0.5 * x.square().sum(-1), "exact").summary())
                mean      sd    mcse  ess_bulk  ess_tail  r_hat
        x[0]  ...
        exact; 4 chains x 500 draws
        """
        x = self.samples.double()
        r_hat = diagnostics.r_hat(x)
        bulk, tail = diagnostics.ess_bulk(x), diagnostics.ess_tail(x)
        return Summary(
            mean=x.mean((0, 1)),
            sd=x.flatten(0, 1).std(0),
            mcse=diagnostics.mcse_mean(x),
            ess_bulk=bulk,
            ess_tail=tail,
            r_hat=r_hat,
            footer=_footer(self),
            warnings=(*self.remarks, *_words(self, r_hat, torch.minimum(bulk, tail))),
        )

    def to_arviz(self) -> Any:
        """These draws as an ``arviz.InferenceData`` (ArviZ >= 1 returns an ``xarray.DataTree``)."""
        return diagnostics.to_dataset(self.samples, self.log_density)


COLUMNS = {
    "mean": "9.3f",
    "sd": "9.3f",
    "mcse": "9.4f",
    "ess_bulk": "10.0f",
    "ess_tail": "10.0f",
    "r_hat": "7.3f",
}
MAX_ROWS = 20


@dataclass(frozen=True, eq=False)
class Summary:
    """Statistics of each component (tensors of the event shape) that print as a table.

    ``warnings`` says in words why the draws are not to be trusted; empty where nothing was seen.
    """

    mean: Tensor
    sd: Tensor
    mcse: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    r_hat: Tensor
    footer: str = ""
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = _component_names(self.mean.shape)
        width = max(map(len, names[:MAX_ROWS]))
        header = " " * width + "".join(f"{name:>{_width(f)}}" for name, f in COLUMNS.items())
        columns = [getattr(self, name).flatten().tolist() for name in COLUMNS]
        rows = [
            f"{name:<{width}}" + "".join(map(format, row, COLUMNS.values()))
            for name, *row in itertools.islice(zip(names, *columns, strict=True), MAX_ROWS)
        ]
        more = [f"... and {len(names) - MAX_ROWS} more components"] if len(names) > MAX_ROWS else []
        words = [f"! {text}" for text in self.warnings]
        return "\n".join([header, *rows, *more, self.footer, *words])

    __repr__ = __str__


def _width(column_format: str) -> int:
    return int(column_format.split(".")[0])


def _component_names(event_shape: torch.Size) -> list[str]:
    indices = itertools.product(*(range(n) for n in event_shape))
    return [f"x[{', '.join(map(str, index))}]" if index else "x" for index in indices]


def _footer(draws: Draws) -> str:
    chains, length = draws.samples.shape[:2]
    parts = [draws.guarantee, f"{chains} chains x {length} draws"]
    if draws.kernel is not None:
        parts.append(f"{draws.num_warmup} warm-up steps")
    if draws.acceptance_rate is not None:
        parts.append(f"acceptance {draws.acceptance_rate.mean().item():.2f}")
    return "; ".join(parts)


def _words(draws: Draws, r_hat: Tensor, ess: Tensor) -> list[str]:
    """What is bad about the draws' convergence, in plain words."""
    words = []
    if num_bad := int(draws.num_nonfinite.sum()):
        words.append(f"{num_bad} draws are not finite: the statistics of their components are NaN.")
    if r_hat.isnan().all():
        words.append(
            "R-hat and ESS could not be computed (too few draws a chain, or draws that do not "
            "vary): nothing here shows that the chains have converged."
        )
        return words
    if (worst := _finite_max(r_hat)) > MAX_R_HAT:
        is_short = draws.samples.shape[1] < SHORT_CHAIN
        words.append(
            f"R-hat is {worst:.3f} > {MAX_R_HAT}: the chains disagree with each other, so they are "
            "not shown to have converged. "
            + (SHORT_CHAIN_WORDS if is_short else "Use a longer warm-up or another kernel.")
        )
    if (least := -_finite_max(-ess)) < MIN_ESS:
        words.append(
            f"the smallest ESS is {least:.0f} < {MIN_ESS:.0f}: the draws are worth few independent "
            "ones. Draw more."
        )
    return words


def _finite_max(values: Tensor) -> float:
    return values[~values.isnan()].max().item()
