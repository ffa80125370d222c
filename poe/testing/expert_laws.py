"""The laws of an expert: shapes, dtypes, devices, scores, normalisation, sampling."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from poe.core.arguments import checked
from poe.core.errors import GradientError, PoeError
from poe.density.capabilities import (
    can_sample_exactly,
    exact_log_partition,
    log_density_of_one_hot,
    log_prob_of,
)
from poe.density.checks import floats_of, own_method
from poe.density.expert import Expert
from poe.density.normalized import Normalized
from poe.density.one_hot import one_hot
from poe.normalizers import log_partition
from poe.normalizers.charts import has_chart
from poe.normalizers.enumeration import MAX_TABLE, num_states
from poe.testing.law_error import LawError

Law = Callable[[Expert, Tensor], None]


@checked
def check_expert(expert: Expert, x: Tensor) -> None:
    """Check every law in ``EXPERT_LAWS`` at some events.

    Copies of the expert are moved to float64, where rounding is out of the way, and to the meta
    device; the expert itself stays as it is.

    Args:
        expert: The one that is to keep the laws.
        x: Events, ``(n, *event)`` with n >= 2, where the log-density is finite, away from kinks.

    Raises:
        LawError: Naming the law, with what was expected and what came.
        PoeError: Where x is of another shape.

    Example:
        >>> check_expert(experts.Gaussian([0.0, 1.0], scale=2.0), torch.randn(3, 2))
    """
    if len(expert.space.batch_shape(x)) != 1 or len(x) < 2:
        raise PoeError(f"expected x of shape (n, *event) with n >= 2, got {tuple(x.shape)}")
    for law in EXPERT_LAWS:
        law(expert, x)


def finite_log_density(expert: Expert, x: Tensor) -> None:
    """log p̃ is a number at x, and the same number when asked again."""
    first, second = expert(x), expert(x)
    _require(bool(first.isfinite().all()), f"a finite log-density at x, got {first.tolist()}")
    _require(
        torch.equal(first, second),
        f"the same log-density twice, got {first.tolist()} and {second.tolist()}; "
        "call expert.eval() if it has dropout or batch normalisation",
    )


def batch_shape(expert: Expert, x: Tensor) -> None:
    """`(*batch, *event) -> (*batch,)` for no batch, one, and two batch dimensions."""
    _require(expert(x).shape == x.shape[:1], f"shape {tuple(x.shape[:1])} for a batch")
    if _is_batch_of_densities(expert):
        return
    for events in (x[0], x[None], x[:, None]):
        expected = expert.space.batch_shape(events)
        got = _call(expert, events, f"x of batch shape {tuple(expected)} to be accepted").shape
        _require(got == expected, f"shape {tuple(expected)}, got {tuple(got)}")


def one_by_one(expert: Expert, x: Tensor) -> None:
    """An event's log-density does not depend on its company in the batch."""
    if _is_batch_of_densities(expert):
        return
    expert, x = _in_float64(expert, x)
    batch = expert(x)
    single = torch.cat([expert(event[None]) for event in x])
    _require_close(single, batch, 1e-9, "the batch's log-density for each event by itself")


def dtype(expert: Expert, x: Tensor) -> None:
    """After `.to(float64)` the result is float64, and the float32 one agrees with it."""
    single, x_single = copy.deepcopy(expert).to(torch.float32), _floats_to(x, torch.float32)
    double, x_double = _in_float64(expert, x)
    low, high = (
        _call(e, events, f"{name} to be accepted after .to({name})")
        for e, events, name in ((single, x_single, "float32"), (double, x_double, "float64"))
    )
    _require(low.dtype == torch.float32, f"float32 after .to(float32), got {low.dtype}")
    _require(high.dtype == torch.float64, f"float64 after .to(float64), got {high.dtype}")
    # Rounding of a large sum is relative to its terms, which may be larger than the sum.
    _require_close(low.double(), high, 1e-3, "the float64 log-density also in float32")


def device(expert: Expert, x: Tensor) -> None:
    """After `.to("meta")` nothing is left behind on a hard-coded device."""
    moved = copy.deepcopy(expert).to("meta")
    value = _call(moved, x.to("meta"), 'x on "meta" to be accepted after .to("meta")')
    _require(value.device.type == "meta", f'a result on "meta", got one on {value.device}')


def score(expert: Expert, x: Tensor) -> None:
    """The score is the derivative of log p̃, along curves that stay in the space.

    With u the unconstrained coordinates of x and v a direction, d/dt log p̃(x(u + tv)) is both
    the central difference of log p̃ and the score times that of x. On a finite space: a function of
    the one-hot encoding, where it is offered, says at x what the expert says. An expert that says
    it has no gradient (`GradientError`) keeps the law.
    """
    if expert.space.is_discrete:
        return _one_hot(expert, x)
    expert, x = _in_float64(expert, x)
    try:
        gradient = expert.score(x)
    except GradientError:
        return
    _require(gradient.shape == x.shape, f"a score of shape {tuple(x.shape)}")
    to_unconstrained = expert.space.to_unconstrained
    u = to_unconstrained(x)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        v = torch.randn(u.shape, generator=generator, dtype=u.dtype).to(u.device)
        step = 1e-6 * (1 + u.abs().amax()) * v
        after, before = to_unconstrained.inv(u + step), to_unconstrained.inv(u - step)
        slope = expert(after) - expert(before)
        claimed = expert.space.as_vector(gradient * (after - before)).sum(-1)
        # In units of the step, so that the tolerance is one on the derivative itself.
        scale = 2e-6 * (1 + u.abs().amax())
        tolerance = 1e-4 + 1e-8 * expert(x).abs().max().item()
        _require_close(claimed / scale, slope / scale, tolerance, "the finite difference as score")


def _one_hot(expert: Expert, x: Tensor) -> None:
    values, found = expert.space.num_values, log_density_of_one_hot(expert)
    if found is None or values is None:
        return
    encoded = found(one_hot(x, values, floats_of(expert)))
    _require_close(encoded, expert(x), 1e-3, "the log-density of the one-hot encoding of x")


def normalization(expert: Expert, x: Tensor) -> None:
    """`log_prob`, where it exists, integrates to one and is log p̃ minus the log partition."""
    if log_prob_of(expert) is None:
        return
    expert, x = _in_float64(expert, x)
    log_z = exact_log_partition(expert)
    if log_z is not None:
        _require_close(
            expert(x) - log_z.double(), expert.log_prob(x), 1e-5, "log_prob = log-density - log Z"
        )
    if not _can_be_integrated(expert):
        return
    total = log_partition(_LogProb(expert))
    own_error = expert.log_prob_error if isinstance(expert, Normalized) else torch.zeros(())
    bound = 1e-5 + 4 * torch.hypot(total.std_error.double(), own_error.double()).item()
    _require(
        abs(total.value.item()) <= bound,
        f"log_prob to integrate to 1 (log within {bound:.2g} of 0, by {total.method}), "
        f"got log {total.value.item():.6g}",
    )


def sampling(expert: Expert, x: Tensor) -> None:
    """`sample`, where it exists, stays in the space and draws from its own generator only.

    Draws carry no gradient: `rsample` is for those that do, where it exists, and draws the same.
    """
    if not can_sample_exactly(expert):
        return
    count = len(x)
    before = torch.get_rng_state()
    first, second = (
        expert.sample(count, generator=torch.Generator(x.device).manual_seed(1)) for _ in range(2)
    )
    _require(torch.equal(before, torch.get_rng_state()), "the global generator left as it was")
    _require(torch.equal(first, second), "the same draws from the same seed")
    _require(first.shape == x.shape, f"draws of shape {tuple(x.shape)}, got {tuple(first.shape)}")
    _require(bool(expert.space.contains(first).all()), f"draws in {expert.space}")
    _require(not first.requires_grad, "draws without a gradient, which are for rsample")
    if (differentiable := own_method(expert, "rsample")) is not None:
        again = differentiable(count, generator=torch.Generator(x.device).manual_seed(1))
        _require(torch.equal(first, again.detach()), "the same draws from rsample")
    value = expert(first)
    _require(bool(value.isfinite().all()), f"draws of finite log-density, got {value.tolist()}")


EXPERT_LAWS: tuple[Law, ...] = (
    finite_log_density,
    dtype,
    device,
    batch_shape,
    one_by_one,
    score,
    normalization,
    sampling,
)
"""The laws that `check_expert` tries, in this order."""


class _LogProb(Expert):
    """The claim itself as a density, with no closed form to hide behind."""

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        self.space = expert.space
        self.expert = expert

    def forward(self, x: Tensor) -> Tensor:
        return self.expert.log_prob(x)


def _can_be_integrated(expert: Expert) -> bool:
    if _is_batch_of_densities(expert):
        return False
    space = expert.space
    is_low = has_chart(space) and 1 <= space.event_shape.numel() <= 2
    return is_low or num_states(space) <= MAX_TABLE


def _is_batch_of_densities(expert: Expert) -> bool:
    return expert.num_densities is not None


def _in_float64(expert: Expert, x: Tensor) -> tuple[Expert, Tensor]:
    return copy.deepcopy(expert).to(torch.float64), _floats_to(x, torch.float64)


def _floats_to(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


def _call(expert: Expert, x: Tensor, expectation: str) -> Tensor:
    try:
        return expert(x)
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise LawError(f"expected {expectation}; got {type(error).__name__}: {error}") from error


def _require(holds: bool, expectation: str) -> None:
    if not holds:
        raise LawError(f"expected {expectation}")


def _require_close(got: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    gap = (got - expected).abs() / (1 + expected.abs())
    if not bool((gap <= tolerance).all()):  # NaN is not close to anything
        worst = int(gap.nan_to_num(torch.inf).argmax())
        raise LawError(
            f"expected {what}: {expected[worst].item():.8g} at event {worst}, got "
            f"{got[worst].item():.8g} (relative gap {gap[worst].item():.2g} > {tolerance:.2g})"
        )
