"""Fit a mixture of Gaussians to the patches of pictures, by expectation-maximisation.

python -m examples.restoration.train_patches [--components 150] [--output patches.pt]
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from examples.common import options
from examples.restoration.pictures import random_patches, training_pictures

SIDE = 8
NUM_PATCHES = 150_000
NUM_ITERATIONS = 20
FAST = (10, 2000, 2)
"""Components, patches and iterations of a run that only shows that it runs."""
ROWS = 20_000
"""So many patches at once."""
FLOOR = 0.4 / 255
"""Standard deviation that no direction of a component falls below: grey values are rounded."""
PRIOR_COUNT = 20.0
"""So many patches of the floor's spread are added to each component."""


class Mixture(NamedTuple):
    """Logits ``(k,)`` and covariances ``(k, d, d)``, about zero."""

    logits: Tensor
    covariances: Tensor

    @property
    def scale_trils(self) -> Tensor:
        return torch.linalg.cholesky(self.covariances)


def cosines(size: int) -> Tensor:
    """All products of cosines but the constant one, of norm 1: ``(size² - 1, size, size)``."""
    place, frequency = torch.arange(size) + 0.5, torch.arange(size)[:, None]
    rows = (math.pi * frequency * place / size).cos() * (2 / size) ** 0.5
    rows[0] /= 2**0.5
    return torch.einsum("ai,bj->abij", rows, rows).reshape(size**2, size, size)[1:]


def initial(responses: Tensor, components: int, generator: torch.Generator) -> Mixture:
    """The spreads of groups of patches of like contrast, four different ones at each contrast."""
    order, size = responses.square().sum(1).argsort(), responses.shape[1]
    covariances = []
    for k in range(components):
        low, high = (len(order) * end // components for end in (k // 4 * 4, k // 4 * 4 + 4))
        group = order[low : min(high, len(order))]
        few = responses[group[torch.randperm(len(group), generator=generator)[:size]]]
        whole = responses[group]
        covariances.append((few.mT @ few / len(few) + whole.mT @ whole / len(whole)) / 2)
    return Mixture(torch.zeros(components), torch.stack(covariances) + FLOOR**2 * torch.eye(size))


def log_terms(mixture: Mixture, rows: Tensor) -> Tensor:
    """log a_k N(r; 0, S_k) up to a constant: ``(n, d) -> (n, k)``."""
    eye = torch.eye(rows.shape[1])
    inverses = torch.linalg.solve_triangular(mixture.scale_trils, eye, upper=False)
    squares = torch.stack([(rows @ inverse.mT).square().sum(1) for inverse in inverses], 1)
    log_det = inverses.diagonal(dim1=1, dim2=2).log().sum(1)
    return mixture.logits.log_softmax(0) + log_det - 0.5 * squares


def improved(mixture: Mixture, responses: Tensor) -> tuple[Mixture, float]:
    """One step of expectation-maximisation, and the mean log-likelihood before it."""
    size = responses.shape[1]
    counts, total = torch.zeros(len(mixture.logits)), 0.0
    sums = torch.zeros_like(mixture.covariances)
    for rows in responses.split(ROWS):
        terms = log_terms(mixture, rows)
        total += terms.logsumexp(1).sum().item()
        shares = terms.softmax(1)
        counts += shares.sum(0)
        for k, share in enumerate(shares.mT):
            sums[k] += rows.mT @ (rows * share[:, None])
    floor = FLOOR**2 * torch.eye(size)
    spread = (sums + PRIOR_COUNT * floor) / (counts + PRIOR_COUNT)[:, None, None]
    constant = -0.5 * size * math.log(2 * math.pi)
    return Mixture((counts + 1).log(), spread + floor), total / len(responses) + constant


def train(components: int, num_patches: int, iterations: int, seed: int = 0) -> Mixture:
    """The fitted mixture; prints the mean log-likelihood of a patch's contrasts as it rises."""
    generator, began = torch.Generator().manual_seed(seed), time.perf_counter()
    patches = random_patches(training_pictures(), num_patches, SIDE, generator)
    patches = patches + (torch.rand(patches.shape, generator=generator) - 0.5) / 255  # unrounded
    responses = patches.flatten(1) @ cosines(SIDE).flatten(1).mT
    mixture = initial(responses, components, generator)
    for iteration in range(iterations):
        mixture, value = improved(mixture, responses)
        seconds = time.perf_counter() - began
        print(f"{iteration:3d}  {value:.3f} nats a patch  {seconds:.0f} s", flush=True)
    return mixture


def main() -> None:
    """Train, and write the weights."""
    parser = options(__doc__, fast="a tiny fit, to see that it runs", output="patches.pt")
    parser.add_argument("--components", type=int, default=150)
    parser.add_argument("--patches", type=int, default=NUM_PATCHES)
    parser.add_argument("--iterations", type=int, default=NUM_ITERATIONS)
    arguments = parser.parse_args()
    sizes = arguments.components, arguments.patches, arguments.iterations
    mixture = train(*(FAST if arguments.fast else sizes))
    torch.save(mixture._asdict(), arguments.output)


if __name__ == "__main__":
    main()
