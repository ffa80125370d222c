"""The visible layer of a deep Boltzmann machine by itself: a density that is only bounded."""

from __future__ import annotations

import torch
from torch import Tensor

from experts.boltzmann.dbm import DBM
from experts.boltzmann.variational import mean_field, variational_bound
from experts.families.discrete import Bernoulli
from experts.parameters import whole
from poe import Expert, LogDensityBounds, PoeError
from poe.density.questions import speaks_as
from poe.io import register
from poe.probabilities.density_bounds import Find, bounds, has_exact_log_density


class VisibleDBM(Expert):
    """The density of x in a deep Boltzmann machine, as an expert by its mean-field bound.

    log p̂(x) = L(x) ≤ log p̃(x) = log Σ_{h₁, h₂, ...} p̃(x, h₁, h₂, ...)

    As an expert it **is** p̂: what kernels see, and what a log Z of it is the log Z of. It can be
    differentiated in x and in the weights, through the ``num_steps`` of mean field. Of log p̃ itself
    there are ``poe.log_density_bounds``: exact where a side of the hidden layers has at most 25
    units, else from below the better one of L and an estimate, from above an estimate of log Z of
    the posterior by a ``method`` that begins at the mean field. log Z of p̃ is that of the DBM.

    Args:
        dbm: The machine, whose weights are shared.
        num_steps: Steps of mean field, at least one.

    Raises:
        PoeError: Where ``dbm`` is no DBM, and for fewer than one step.

    References:
        Salakhutdinov & Hinton (2009), Deep Boltzmann machines, AISTATS, section 2.2.

        Grosse, Ghahramani & Adams (2015), Sandwiching the marginal likelihood using bidirectional
        Monte Carlo, arXiv:1511.02543 (the bounds).

    Example:
        >>> dbm = experts.DBM([[[2.0], [-1.0]], [[0.5]]], [[0.0, 0.5], [1.0], [-0.5]])
        >>> visible = VisibleDBM(dbm)
        >>> x = torch.tensor([[1.0, 0.0]])
        >>> visible(x)
        tensor([3.7312])
        >>> poe.log_density_bounds(visible, x).upper
        tensor([3.7324])
    """

    def __init__(self, dbm: DBM, num_steps: int = 30) -> None:
        super().__init__()
        if not speaks_as(dbm, DBM):
            raise PoeError(f"expected an experts.DBM, got {type(dbm).__name__}")
        self.dbm = dbm
        self.num_steps = whole("num_steps", num_steps)
        self.space = dbm.visible_space

    def forward(self, x: Tensor) -> Tensor:
        """The unnormalised log-density.

        Args:
            x: Rows of 0 and 1, ``(*batch, n_0)``.

        Returns:
            L(x) = log p̂(x), ``(*batch,)``.
        """
        return variational_bound(self.dbm, mean_field(self.dbm, x, self.num_steps))

    def extra_repr(self) -> str:
        return f"{self.num_steps} steps of mean field, bounds by poe.log_density_bounds"


@has_exact_log_density.register
def _(module: VisibleDBM) -> bool:
    return module.dbm.depth == 1  # given x one hidden layer is independent


@bounds.register
def _(expert: VisibleDBM, x: Tensor, find: Find) -> LogDensityBounds:
    batch, dbm, value = expert.space.batch_shape(x), expert.dbm, expert(x).detach()
    if has_exact_log_density(expert):
        return LogDensityBounds(value, value)
    rows = x.reshape(-1, *expert.space.event_shape).to(dbm.W0.dtype)
    means = torch.cat(mean_field(dbm, rows, expert.num_steps)[1::2], 1)
    eps = torch.finfo(means.dtype).eps
    starts = [Bernoulli(mean.clamp(eps, 1 - eps).logit().detach()) for mean in means]
    found = [find(dbm.posterior(row), start) for row, start in zip(rows, starts, strict=True)]
    linear = (rows @ dbm.biases[0]).detach()
    lower, upper = (
        (torch.stack([*side]) + linear).reshape(batch) if found else value
        for side in ([one.lower for one in found], [one.upper for one in found])
    )
    return LogDensityBounds(
        torch.maximum(lower, value),
        upper,
        min((one.confidence for one in found), default=1.0),
        "; ".join(dict.fromkeys(one.rests_on for one in found if one.rests_on)),
        tuple(doubt.about(f"x {k}") for k, one in enumerate(found) for doubt in one.doubts),
    )


register(
    VisibleDBM,
    lambda v: {"dbm": v.dbm, "num_steps": v.num_steps},
    lambda f: VisibleDBM(f["dbm"], f["num_steps"]),
    name="experts.VisibleDBM",
    formerly=("experts.visible_dbm.VisibleDBM",),
)
