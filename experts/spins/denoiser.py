"""Denoising of binary pictures: the channel, and a denoiser learned from one noisy picture."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from experts.families.discrete import Bernoulli
from experts.parameters import floats, number, probability, whole
from experts.spins.ising import Ising
from poe import Expert, PoeError, Product, ShapeError
from poe.core.arguments import checked, require_values
from poe.core.randomness import resolve
from poe.density.capabilities import simplify
from poe.structure.discrete import structure_of
from poe.tuning.choice import in_blocks, on_checkerboard

NEWTON_STEPS = 20
SWEEPS = 5
"""Of the chains, between two steps of the learning."""
MAX_COUPLING = 2.0


def binary_channel(noisy: Tensor, flip_probability: float) -> Bernoulli:
    """p(y | x) as an expert on the clean x, for a noisy y whose bits were flipped independently.

    log p(y | x) = Σᵢ log(1 − p) [xᵢ = yᵢ] + log p [xᵢ ≠ yᵢ], which is a Bernoulli with logits of
    ±log((1 − p) / p). A prior times it is a posterior: the lecture's ψᵢ(xᵢ, yᵢ).

    Args:
        noisy: y, ``(*event)``, of 0 and 1.
        flip_probability: p, the share of bits that were flipped, between 0 and 1.

    Returns:
        The channel, an expert on ``Binary(event)``.

    Raises:
        PoeError: For values of y other than 0 and 1, and a p that is not between 0 and 1.

    Example:
        >>> prior = experts.Ising.grid((1, 2), 0.5)
        >>> posterior = prior * binary_channel(torch.tensor([[1, 0]]), 0.1)
        >>> posterior(torch.tensor([[[1, 0]], [[1, 1]]]))
        tensor([-0.7107, -1.9079])
    """
    flip_probability = number("flip_probability", flip_probability, probability)
    y = floats("noisy", noisy)
    require_values("noisy", y)
    if not y.is_meta and not bool(((y == 0) | (y == 1)).all()):
        raise PoeError(
            f"expected a picture of 0 and 1, got values from {y.min().item():g} to "
            f"{y.max().item():g}: compare a grey one with a threshold first"
        )
    return Bernoulli((2 * y - 1) * math.log((1 - flip_probability) / flip_probability))


class LearnedDenoiser(NamedTuple):
    """The prior's coupling and field, and the channel's flip probability, as they were learned.

    Args:
        coupling: J, of neighbours in the grid.
        field: h, on every spin.
        flip_probability: p, of the channel.
        history: Coupling, field and flip probability at each step, ``(steps, 3)``, float64.
    """

    coupling: float
    field: float
    flip_probability: float
    history: Tensor

    def posterior(self, noisy: Tensor) -> Product:
        """The density of the clean picture: ``prior`` x ``channel``, a product of two experts.

        Args:
            noisy: The picture y to be cleaned, ``(rows, cols)``, of 0 and 1.

        Returns:
            ``Product(prior=Ising.grid(...), channel=...)``.

        Raises:
            ShapeError: Where it is no picture.
            PoeError: For values other than 0 and 1.
        """
        return posterior(noisy, self.coupling, self.field, self.flip_probability)


def posterior(noisy: Tensor, coupling: float, field: float, flip_probability: float) -> Product:
    """p(x | y) ∝ p(x) p(y | x): ``Product(prior=Ising.grid(...), channel=...)``.

    Args:
        noisy: y, ``(rows, cols)``, of 0 and 1.
        coupling: J, of neighbours in the grid.
        field: h, on every spin.
        flip_probability: p, between 0 and 1.

    Returns:
        The product, on ``Binary((rows, cols))``.

    Raises:
        ShapeError: Where it is no picture.
        PoeError: As of ``binary_channel``.

    Example:
        >>> posterior(torch.ones(4, 4), 0.5, 0.0, 0.1).names
        ('prior', 'channel')
    """
    _require_picture(noisy)
    rows, cols = noisy.shape
    prior = Ising.grid((rows, cols), coupling, field).to(noisy.device)
    return Product(prior=prior, channel=binary_channel(noisy, flip_probability))


def _require_picture(noisy: Tensor) -> None:
    if noisy.ndim != 2 or not noisy.numel():
        raise ShapeError(f"expected a picture (rows, cols), got {tuple(noisy.shape)}")


@checked
def learn_denoiser(
    noisy: Tensor,
    *,
    num_steps: int = 60,
    num_chains: int = 4,
    generator: torch.Generator | None = None,
) -> LearnedDenoiser:
    """Coupling J, field h and flip probability p from one noisy picture.

    Stochastic expectation-maximisation: chains of Gibbs sweeps follow p(x | y) as it is learned,
    and given their pictures (J, h) maximise the pseudo-likelihood

        Σᵢ log p(xᵢ | neighbours) = Σᵢ log σ(2 sᵢ (J Σ_{j ~ i} sⱼ + h)),

    a logistic regression, while p is the share of bits that differ from y. Of the steps the second
    half is averaged. The fit of p(x | y) to one picture is as good as the prior is: where pictures
    are not like draws of an Ising model, p takes up what the prior cannot explain.

    Args:
        noisy: y, ``(rows, cols)``, of 0 and 1.
        num_steps: How often chains move and parameters follow, at least once.
        num_chains: Chains, each a picture, at least one.
        generator: Of all that is drawn; a fresh one, seeded by the system, by default.

    Returns:
        The three numbers, and their history.

    Raises:
        ShapeError: Where ``noisy`` is no picture.
        PoeError: For values other than 0 and 1, and fewer than one step or chain.

    References:
        Celeux & Diebolt (1985), The SEM algorithm, Computational Statistics Quarterly 2.

        Besag (1975), Statistical analysis of non-lattice data, doi:10.2307/2987782.

        Chalmond (1989), An iterative Gibbsian technique for reconstruction of m-ary images, Pattern
        Recognition 22 (the two together).

    Example:
        >>> picture = torch.zeros(32, 32)
        >>> picture[8:24, 8:24] = 1.0
        >>> g = torch.Generator().manual_seed(0)
        >>> noisy = (picture - (torch.rand(32, 32, generator=g) < 0.1).float()).abs()
        >>> 0.05 < learn_denoiser(noisy, generator=g).flip_probability < 0.15
        True
    """
    num_steps, num_chains = whole("num_steps", num_steps), whole("num_chains", num_chains)
    y = floats("noisy", noisy)
    _require_picture(y)
    generator = resolve(generator, y.device)
    coupling, field, flip_probability = 0.5, 0.0, 0.2
    x = y.repeat(num_chains, 1, 1)
    history = []
    for _ in range(num_steps):
        x = _swept(posterior(y, coupling, field, flip_probability), x, generator)
        coupling, field = pseudo_likelihood(x)
        flip_probability = ((x != y).sum() + 1).item() / (x.numel() + 2)
        history.append((coupling, field, flip_probability))
    steps = torch.tensor(history, dtype=torch.float64)
    coupling, field, flip_probability = steps[num_steps // 2 :].mean(0).tolist()
    return LearnedDenoiser(coupling, field, flip_probability, steps)


def pseudo_likelihood(x: Tensor) -> tuple[float, float]:
    """J and h of ``Ising.grid`` that maximise the pseudo-likelihood of pictures x.

    By Newton's method, J held below 2: of a picture of one colour it has no maximum.

    Args:
        x: Pictures, ``(n, rows, cols)``.

    Returns:
        J and h.

    References:
        Besag (1975), Statistical analysis of non-lattice data, doi:10.2307/2987782.

    Example:
        >>> model = experts.Ising.grid((16, 8), 0.3, 0.1)
        >>> x = model.sample(2000, generator=torch.Generator().manual_seed(0))
        >>> [round(number, 2) for number in pseudo_likelihood(x)]
        [0.3, 0.1]
    """
    s = 2 * x.double() - 1
    ones = torch.ones_like(s)
    features = torch.stack([_neighbour_sums(s), ones]).flatten(1)
    theta = torch.zeros(2, dtype=s.dtype, device=s.device)
    for _ in range(NEWTON_STEPS):
        surprise = torch.sigmoid(-2 * s.flatten() * (theta @ features))
        gradient = features @ (2 * s.flatten() * surprise)
        weight = 4 * surprise * (1 - surprise)
        information = (features * weight) @ features.mT
        ridge = 1e-6 * len(weight) * torch.eye(2).to(information)
        step = torch.linalg.solve(information + ridge, gradient)
        theta = (theta + step.clamp(-1.0, 1.0)).clamp(-MAX_COUPLING, MAX_COUPLING)
    coupling, field = theta.tolist()
    return coupling, field


def _neighbour_sums(s: Tensor) -> Tensor:
    total = torch.zeros_like(s)
    total[:, 1:] += s[:, :-1]
    total[:, :-1] += s[:, 1:]
    total[:, :, 1:] += s[:, :, :-1]
    total[:, :, :-1] += s[:, :, 1:]
    return total


def _swept(target: Expert, x: Tensor, generator: torch.Generator) -> Tensor:
    simple = simplify(target).expert
    known = structure_of(simple)
    choice = on_checkerboard(known) or in_blocks(known)
    assert choice is not None
    state = choice.kernel.init(simple, x)
    for _ in range(SWEEPS):
        state, _ = choice.kernel.step(simple, state, generator=generator)
    return state.position
