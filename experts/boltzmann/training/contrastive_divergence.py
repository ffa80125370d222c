"""Contrastive gradients of an RBM's log-likelihood: CD-k, persistent chains, tempered chains.

∇ log p(data) = E over the data − E under the model; they differ in the particles that stand for
the model. Each kind is frozen settings with ``init`` and ``step``, as the kernels are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.boltzmann.block_gibbs import draw_bits, sweep
from experts.boltzmann.fast_linear import linear
from experts.boltzmann.rbm import RBM
from experts.boltzmann.training.loop import require_counts
from poe.core.errors import PoeError


class Gradient(NamedTuple):
    """Of the mean log-likelihood: ``W (v, h)``, ``b (v,)``, ``c (h,)``."""

    W: Tensor
    b: Tensor
    c: Tensor


class Centre(NamedTuple):
    """What is taken from the units before their products are formed: ``(v,)`` and ``(h,)``."""

    visible: Tensor
    hidden: Tensor


class Particles(Protocol):
    """Where the model's half of the gradient comes from."""

    def init(self, rbm: RBM, data: Tensor, *, generator: torch.Generator) -> Tensor:
        """The first particles, from some rows of data.

        Args:
            rbm: The model.
            data: Rows of 0 and 1, ``(n, v)``.
            generator: Of all that is drawn.

        Returns:
            Particles, one row each or ``(levels, n, v)``.
        """

    def step(
        self, rbm: RBM, data: Tensor, particles: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        """The particles after an update, of which ``at_model`` are those of the model.

        Args:
            rbm: The model.
            data: The batch, ``(n, v)``, in the dtype of W.
            particles: Those before.
            generator: Of all that is drawn.

        Returns:
            Particles of the same shape; those of ``CD`` of the shape of the batch.
        """

    def at_model(self, particles: Tensor) -> Tensor:
        """Those that stand for the model itself.

        Args:
            particles: All of them.

        Returns:
            Rows of 0 and 1, ``(n, v)``.
        """


@dataclass(frozen=True)
class CD:
    """Contrastive divergence: particles begin at the data, and take some sweeps. Biased.

    Args:
        num_steps: Sweeps of block Gibbs an update, at least one.

    Raises:
        PoeError: For fewer than one step.

    References:
        Hinton (2002), Training products of experts by minimizing contrastive divergence,
        doi:10.1162/089976602760128018.
    """

    num_steps: int = 1

    def __post_init__(self) -> None:
        require_counts(num_steps=self.num_steps)

    def init(self, rbm: RBM, data: Tensor, *, generator: torch.Generator) -> Tensor:
        """The data themselves.

        Args:
            rbm: The model.
            data: Rows of 0 and 1, ``(n, v)``.
            generator: Of all that is drawn.

        Returns:
            ``data``.
        """
        return data

    def step(
        self, rbm: RBM, data: Tensor, particles: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        """Sweeps from the data anew.

        Args:
            rbm: The model.
            data: The batch, ``(n, v)``, in the dtype of W.
            particles: Those before; not read.
            generator: Of all that is drawn.

        Returns:
            Rows of 0 and 1, ``(n, v)``.
        """
        return sweep(rbm, data, num_steps=self.num_steps, generator=generator)

    def at_model(self, particles: Tensor) -> Tensor:
        """All of them.

        Args:
            particles: All of them.

        Returns:
            ``particles``.
        """
        return particles


@dataclass(frozen=True)
class PCD:
    """Persistent contrastive divergence: chains go on from update to update.

    Args:
        num_chains: Chains, at least one.
        num_steps: Sweeps of block Gibbs an update, at least one.

    Raises:
        PoeError: For a count below one.

    References:
        Younes (1989), Parametric inference for imperfectly observed Gibbsian fields,
        doi:10.1007/BF00341287.

        Tieleman (2008), Training restricted Boltzmann machines using approximations to the
        likelihood gradient, doi:10.1145/1390156.1390290.
    """

    num_chains: int = 100
    num_steps: int = 1

    def __post_init__(self) -> None:
        require_counts(num_chains=self.num_chains, num_steps=self.num_steps)

    def init(self, rbm: RBM, data: Tensor, *, generator: torch.Generator) -> Tensor:
        """Rows of data, each drawn by itself.

        Args:
            rbm: The model.
            data: Rows of 0 and 1, ``(n, v)``.
            generator: Of all that is drawn.

        Returns:
            Rows, ``(num_chains, v)``.
        """
        return _rows(data, (self.num_chains,), generator)

    def step(
        self, rbm: RBM, data: Tensor, particles: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        """Sweeps from where the chains were.

        Args:
            rbm: The model.
            data: The batch, ``(n, v)``, in the dtype of W.
            particles: Those before.
            generator: Of all that is drawn.

        Returns:
            Rows of 0 and 1, ``(num_chains, v)``.
        """
        return sweep(rbm, particles, num_steps=self.num_steps, generator=generator)

    def at_model(self, particles: Tensor) -> Tensor:
        """All of them.

        Args:
            particles: All of them.

        Returns:
            ``particles``.
        """
        return particles


@dataclass(frozen=True)
class TemperedPCD:
    """Persistent chains at several exponents from 1 to 0, which swap with their neighbours.

    Level l samples p(x, z)^β summed over z, β = 1 − l / (num_levels − 1); the swap of levels with
    exponents β, β′ at x, x′ is accepted with probability min(1, p̃_β(x′) p̃_β′(x) / p̃_β(x) p̃_β′(x′)).

    Args:
        num_chains: Chains at each level, at least one.
        num_levels: Exponents, at least two.
        num_steps: Sweeps of block Gibbs an update, at least one; swaps come after them.

    Raises:
        PoeError: For a count that is too small.

    References:
        Desjardins, Courville, Bengio, Vincent & Delalleau (2010), Tempered Markov chain Monte Carlo
        for training of restricted Boltzmann machines, AISTATS.

        Cho, Raiko & Ilin (2010), Parallel tempering is efficient for learning restricted Boltzmann
        machines, IJCNN, doi:10.1109/IJCNN.2010.5596837.
    """

    num_chains: int = 100
    num_levels: int = 10
    num_steps: int = 1

    def __post_init__(self) -> None:
        require_counts(num_chains=self.num_chains, num_steps=self.num_steps)
        if self.num_levels < 2:
            raise PoeError(
                f"expected num_levels of at least 2, got {self.num_levels}; for one level use PCD"
            )

    @property
    def exponents(self) -> tuple[float, ...]:
        """β of the levels, from 1 to 0."""
        return tuple(1.0 - level / (self.num_levels - 1) for level in range(self.num_levels))

    def init(self, rbm: RBM, data: Tensor, *, generator: torch.Generator) -> Tensor:
        """Rows of data at every level, each drawn by itself.

        Args:
            rbm: The model.
            data: Rows of 0 and 1, ``(n, v)``.
            generator: Of all that is drawn.

        Returns:
            Rows, ``(num_levels, num_chains, v)``.
        """
        return _rows(data, (self.num_levels, self.num_chains), generator)

    @torch.no_grad()
    def step(
        self, rbm: RBM, data: Tensor, particles: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        """Sweeps at every level, then swaps of even pairs of levels and of odd ones.

        Args:
            rbm: The model.
            data: The batch, ``(n, v)``, in the dtype of W.
            particles: Those before.
            generator: Of all that is drawn.

        Returns:
            Rows of 0 and 1, ``(num_levels, num_chains, v)``.
        """
        exponents = particles.new_tensor(self.exponents)[:, None, None]
        x = particles
        for _ in range(self.num_steps):
            z = draw_bits(exponents * linear(x, rbm.W.mT, rbm.c), generator=generator)
            x = draw_bits(exponents * linear(z, rbm.W, rbm.b), generator=generator)
        for first in (0, 1):
            x = _swapped(rbm, x, exponents, first, generator)
        return x

    def at_model(self, particles: Tensor) -> Tensor:
        """Those of exponent 1.

        Args:
            particles: All of them.

        Returns:
            Rows, ``(num_chains, v)``.
        """
        return particles[0]


@torch.no_grad()
def contrast(rbm: RBM, data: Tensor, particles: Tensor, centre: Centre | None = None) -> Gradient:
    """The gradient of the log-likelihood: E over the data less E over the particles.

    That is E of x E[z | x]', of x and of E[z | x]. With a centre (μ, λ) it is the gradient in the
    parameters of (x − μ)'W(z − λ), taken back to those of x'Wz: the direction then depends on
    neither which state of a unit is called 1, nor on how often it is on.

    Args:
        rbm: The model.
        data: Rows of 0 and 1, ``(n, v)``, in the dtype of W.
        particles: Those of the model, ``(m, v)``.
        centre: μ ``(v,)`` and λ ``(h,)``; 0 by default.

    Returns:
        The gradient in W ``(v, h)``, b ``(v,)`` and c ``(h,)``, uphill.

    References:
        Cho, Raiko & Ilin (2011), Enhanced gradient and adaptive learning rate for training
        restricted Boltzmann machines, ICML.

        Melchior, Fischer & Wiskott (2016), How to center deep Boltzmann machines, arXiv:1311.1354,
        equations 9 to 15.

    Example:
        >>> rbm = RBM([[0.0], [0.0]], [0.0, 0.0], [0.0])
        >>> contrast(rbm, torch.ones(1, 2), torch.zeros(2, 2))
        Gradient(W=tensor([[0.5000],
                [0.5000]]), b=tensor([1., 1.]), c=tensor([0.]))
    """
    x = torch.cat([data, particles])
    z = linear(x, rbm.W.mT, rbm.c).sigmoid_()
    found = difference(x, z, len(data), centre)
    return Gradient(linear(found.x.mT, found.z.mT), found.b, found.c)


class Factored(NamedTuple):
    """A gradient whose part in W is left as a product: x'z, of ``x (m, v)`` and ``z (m, h)``."""

    x: Tensor
    z: Tensor
    b: Tensor
    c: Tensor


def difference(x: Tensor, z: Tensor, num_data: int, centre: Centre | None = None) -> Factored:
    """The same, of units whose states or probabilities are known: the first rows are the data's.

    Args:
        x: Visible units of the data, then of the particles, ``(n + m, v)``.
        z: Hidden units of the same, ``(n + m, h)``.
        num_data: n.
        centre: As of ``contrast``.

    Returns:
        The gradient, that in W as a product.
    """
    weights = x.new_full((len(x), 1), 1 / num_data)
    weights[num_data:] = -1 / (len(x) - num_data)
    if centre is None:
        weighted = z * weights
        return Factored(x, weighted, (x * weights).sum(0), weighted.sum(0))
    x, weighted = x - centre.visible, (z - centre.hidden) * weights
    b = (x * weights).sum(0) - (weighted @ centre.hidden) @ x
    return Factored(x, weighted, b, weighted.sum(0) - (x @ centre.visible) @ weighted)


def _swapped(
    rbm: RBM, x: Tensor, exponents: Tensor, first: int, generator: torch.Generator
) -> Tensor:
    """After swaps of the levels (first, first + 1), (first + 2, first + 3) and so on."""
    num_pairs = (len(x) - first) // 2
    if num_pairs == 0:
        return x
    pairs = x[first : first + 2 * num_pairs].unflatten(0, (num_pairs, 2))
    own = exponents[first : first + 2 * num_pairs].unflatten(0, (num_pairs, 2))
    visible, hidden = (pairs @ rbm.b)[..., None], linear(pairs, rbm.W.mT, rbm.c)
    stay, leave = (
        (w[..., 0] * visible[..., 0] + F.softplus(w * hidden).sum(-1)).sum(1)
        for w in (own, own.flip(1))
    )
    uniform = torch.empty_like(stay).uniform_(generator=generator)
    is_swapped = (uniform.log() < leave - stay)[:, None, :, None]
    swapped = torch.where(is_swapped, pairs.flip(1), pairs).flatten(0, 1)
    return torch.cat([x[:first], swapped, x[first + 2 * num_pairs :]])


def _rows(data: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    chosen = torch.randint(len(data), shape, generator=generator, device=data.device)
    return data[chosen]
