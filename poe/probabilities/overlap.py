"""log ∫ of a product of experts: by what finds log Z, else by the exact draws of one of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from poe.core.doubt import Doubt, Kind
from poe.core.errors import ImproperError, NonFiniteError, NormalizationError
from poe.density.closed_forms import exact_sample, is_source, require_source
from poe.density.expert import Expert, Product
from poe.density.normalized import LogPartition, exact
from poe.diagnostics import kish_ess
from poe.diagnostics.independent_groups import CONFIDENCE, log_mean, standard_error_of_log_mean
from poe.normalizers.charts import can_integrate
from poe.normalizers.enumeration import MAX_STATES, log_sum, num_states
from poe.probabilities.normalize import Estimator

DRAWS = 2**14
FEW_DRAWS = 100.0
"""An effective sample size below this says too little."""
Key = tuple[int, ...]
"""Which experts are multiplied, each as often as its number stands there, in order."""


class Integrals(NamedTuple):
    """log ∫ ∏ p̃_i by key, in words which could not be had, and which are not to be trusted."""

    found: dict[Key, LogPartition]
    missing: tuple[str, ...]
    doubts: tuple[Doubt, ...]

    def sum(self, *terms: tuple[Key, float]) -> tuple[Tensor, Tensor]:
        """Σ c log ∫ and its standard error, `()` each in float64; NaN where one is missing."""
        coefficients: dict[Key, float] = {}
        for key, coefficient in terms:
            key = tuple(sorted(key))
            coefficients[key] = coefficients.get(key, 0.0) + coefficient
        values, errors = zip(*(self._times(*item) for item in coefficients.items()), strict=True)
        return torch.stack(values).sum(), torch.stack(errors).square().sum().sqrt()

    def _times(self, key: Key, coefficient: float) -> tuple[Tensor, Tensor]:
        if key not in self.found:
            nan = torch.tensor(math.nan, dtype=torch.float64)
            return nan, nan
        found = self.found[key]
        return (
            coefficient * found.value.double().cpu(),
            coefficient * found.std_error.double().cpu(),
        )


def find_integrals(
    names: Sequence[str],
    experts: Sequence[Expert],
    keys: Iterable[Key],
    find: Estimator,
    generator: torch.Generator | None = None,
) -> Integrals:
    """log ∫ of the experts of each key; what fails for lack of an integral is said in words."""
    found: dict[Key, LogPartition] = {}
    missing: list[str] = []
    doubts: list[Doubt] = []
    wanted = sorted({tuple(sorted(key)) for key in keys}, key=lambda key: (len(key), key))
    for key in tqdm(wanted, delay=2, leave=False, unit="integral", file=sys.stderr):
        what = f"∫ {' · '.join(names[i] for i in key)}"
        try:
            found[key] = log_integral([experts[i] for i in key], find, generator)
        except (ImproperError, NonFiniteError, NormalizationError) as error:
            missing.append(f"{what} could not be had: {error}")
        else:
            doubts += [doubt.about(what) for doubt in found[key].doubts]
    return Integrals(found, tuple(missing), tuple(doubts))


def log_integral(
    experts: Sequence[Expert], find: Estimator, generator: torch.Generator | None = None
) -> LogPartition:
    """log ∫ ∏ p̃_i of experts on one space; −inf where a finite space shows that it is zero.

    Where ``find`` has no method, ∫ p̃ r = Z_p E_p[r] is estimated by draws of an expert p that can
    be sampled exactly and has a known Z_p, r being the others; but not in few dimensions, where it
    is the integral that fails. Raises what ``find`` raises.
    """
    product = Product(*experts)
    try:
        return find(product)
    except NonFiniteError:
        if num_states(product.space) <= MAX_STATES and log_sum(product) == -torch.inf:
            return exact(log_sum(product), "enumeration")
        raise
    except NormalizationError:
        source = next((i for i, expert in enumerate(experts) if is_source(expert)), None)
        is_low = can_integrate(product.space)
        if source is None or is_low:
            raise
        others = [expert for i, expert in enumerate(experts) if i != source]
        return by_draws(experts[source], others, generator)


def by_draws(
    source: Expert, others: Sequence[Expert], generator: torch.Generator | None = None
) -> LogPartition:
    """log ∫ p̃ r = log Z_p + log E_p[r], r the product of the others, by 2^14 exact draws of p.

    The standard error is sd(r) / mean(r) / √n, of the logarithm. Few draws where r is large show in
    Kish's effective sample size: below 100 a remark says so. Regions that no draw came to do not
    show. Raises NonFiniteError where r is zero at every draw, or NaN or +inf at one.
    """
    log_z = require_source(source)
    with torch.no_grad():
        x = exact_sample(source, DRAWS, generator)
        log_weights = Product(*others)(x).double() if others else x.new_zeros(DRAWS).double()
    if bool((log_weights.isnan() | log_weights.isposinf()).any()):
        raise NonFiniteError(f"a log-density is NaN or +inf at draws of {type(source).__name__}")
    if not bool(log_weights.isfinite().any()):
        raise NonFiniteError(
            f"none of {DRAWS} draws of {type(source).__name__} lies where the others have a "
            "density: their overlap is zero, or too small to be seen by draws"
        )
    return _by_weights(log_z.double(), log_weights, type(source).__name__)


def _by_weights(log_z: Tensor, log_weights: Tensor, name: str) -> LogPartition:
    count = len(log_weights)
    value, error = log_mean(log_weights), standard_error_of_log_mean(log_weights)
    ess = float(kish_ess(log_weights))
    few = f"{count} draws of {name} are worth {ess:.0f} by their weights: too few to be trusted"
    return LogPartition(
        log_z + value,
        error,
        log_z + value - 2 * error,
        log_z + value + 2 * error,
        f"importance sampling by draws of {name}",
        ess=ess,
        num_evaluations=count,
        confidence=CONFIDENCE,
        rests_on="both bounds rest on the draws' having come to where the product is large",
        doubts=() if ess >= FEW_DRAWS else (Doubt(Kind.FEW, few),),
    )
