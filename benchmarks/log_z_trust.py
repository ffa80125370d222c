"""How often an estimate of log Z from a deliberately bad start is wrong without a word.

    python benchmarks/log_z_trust.py            # 100 cases x 6 methods: ten minutes
    python benchmarks/log_z_trust.py --fast     # every seventh case
    python benchmarks/log_z_trust.py --seed 1000

Ten targets whose log Z is known times ten starts that are shifted, too narrow, too broad, or cover
one mode of two. An estimate is silent where it is more than four of its standard errors from the
truth, and neither an error nor a remark says that it should not be believed.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from targets import TARGETS, as_expert
from torch import Tensor

import experts
import poe
from poe import normalizers

METHODS = (
    normalizers.ImportanceSampling(),
    normalizers.SMC(),
    normalizers.AIS(),
    normalizers.Bridge(),
    normalizers.MBAR(),
    normalizers.ThermodynamicIntegration(),
)
ROUNDING = 1e-3


class Hard(NamedTuple):
    """A target with its log Z."""

    name: str
    target: poe.Expert
    truth: float


def black_box(expert: poe.Expert) -> poe.Expert:
    """The same density, known as a function only."""
    return poe.FromLogDensity(expert.forward, space=expert.space)


def two_modes(d: int, distance: float, weight: float) -> poe.Expert:
    """Unit Gaussians at ± distance along the first axis."""
    loc = torch.zeros(d)
    loc[0] = distance
    modes = [experts.Gaussian(sign * loc, scale=1.0) for sign in (-1.0, 1.0)]
    return black_box(poe.Mixture(modes, [weight, 1 - weight]))


def student(x: Tensor) -> Tensor:
    """Student's t of 3 degrees of freedom in each dimension, its constant left out."""
    return -2.0 * torch.log1p(x.square() / 3.0).sum(-1)


def half(x: Tensor) -> Tensor:
    """A unit Gaussian where the first component is positive."""
    return (-0.5 * x.square().sum(-1)).masked_fill(x[..., 0] <= 0, -torch.inf)


def hard_targets() -> list[Hard]:
    """Ten of them."""
    correlated = 0.01 * torch.eye(4) + 0.99 * torch.ones(4, 4)
    t_constant = math.lgamma(2.0) - math.lgamma(1.5) - 0.5 * math.log(3 * math.pi)
    scales = torch.logspace(-2, 1, 5)
    wide, narrow = (experts.Gaussian([0.0, 0.0], scale=[s, s]) for s in (3.0, 0.1))
    return [
        Hard("Gaussian, 2-d", black_box(experts.Gaussian([0.0] * 2, scale=[1.0] * 2)), 0.0),
        Hard("Gaussian, 10-d", black_box(experts.Gaussian([0.0] * 10, scale=[1.0] * 10)), 0.0),
        Hard("modes 16 sd apart, 2-d", two_modes(2, 8.0, 0.5), 0.0),
        Hard("modes 10 sd apart, 6-d", two_modes(6, 5.0, 0.3), 0.0),
        Hard("ring", as_expert(TARGETS["b"]), 0.0),
        Hard("correlated", black_box(experts.Gaussian([0.0] * 4, covariance=correlated)), 0.0),
        Hard("heavy tails", poe.FromLogDensity(student, space=poe.Real(4)), -4 * t_constant),
        Hard("narrow in broad", black_box(poe.Mixture([wide, narrow], [0.5, 0.5])), 0.0),
        Hard(
            "half", poe.FromLogDensity(half, space=poe.Real(3)),
            1.5 * math.log(2 * math.pi) - math.log(2),
        ),
        Hard("scales 0.01 to 10", black_box(experts.Gaussian([0.0] * 5, scale=scales)), 0.0),
    ]  # fmt: skip


def bad_starts(d: int) -> dict[str, poe.Expert]:
    """Ten of them in d dimensions."""

    def gaussian(shift: float, scale: float) -> poe.Expert:
        loc = torch.zeros(d)
        loc[0] = shift
        return experts.Gaussian(loc, scale=scale)

    flat = torch.ones(d)
    flat[0] = 0.05
    return {
        "much too narrow": gaussian(0.0, 0.1),
        "too narrow": gaussian(0.0, 0.3),
        "a little too narrow": gaussian(0.0, 0.8),
        "too broad": gaussian(0.0, 30.0),
        "beside": gaussian(5.0, 1.0),
        "beside, narrow": gaussian(8.0, 0.5),
        "far": gaussian(20.0, 1.0),
        "at one mode": gaussian(-8.0, 1.0),
        "flat": experts.Gaussian(torch.zeros(d), scale=flat),
        "very far": experts.Gaussian(torch.full((d,), 100.0), scale=1.0),
    }


def verdict(hard: Hard, start: poe.Expert, method: normalizers.Method, seed: int) -> str:
    """Whether it was right, said that it was not to be trusted, or was silent."""
    generator = torch.Generator().manual_seed(seed)
    try:
        found = poe.log_partition(
            hard.target, method=method, start=start, generator=generator, progress=False
        )
    except poe.PoeError:
        return "refused"
    is_right = abs(found.value.item() - hard.truth) <= 4 * found.std_error.item() + ROUNDING
    if found.is_trusted:
        return "right" if is_right else "SILENT"
    return "right, doubted" if is_right else "said"


def cases() -> Iterator[tuple[Hard, str, poe.Expert]]:
    """All 100."""
    for hard in hard_targets():
        for name, start in bad_starts(hard.target.space.event_shape.numel()).items():
            yield hard, name, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", poe.TrustWarning)
    counts: dict[str, Counter[str]] = {type(method).__name__: Counter() for method in METHODS}
    stride = 7 if arguments.fast else 1
    for number, (hard, name, start) in enumerate(list(cases())[::stride]):
        for method in METHODS:
            said = verdict(hard, start, method, arguments.seed + number)
            counts[type(method).__name__][said] += 1
            if said == "SILENT":
                print(f"silent: {type(method).__name__}, {hard.name}, start {name}", flush=True)
    kinds = ("right", "right, doubted", "said", "refused", "SILENT")
    print(f"{'':<26}" + "".join(f"{kind:>16}" for kind in kinds))
    for method_name, found in counts.items():
        print(f"{method_name:<26}" + "".join(f"{found[kind]:>16}" for kind in kinds))


if __name__ == "__main__":
    main()
