"""Handwritten digits restored by a VAE: its latent prior times the likelihood at its decoder.

x = m(z) + s e for the decoder's mean m, and what was seen is y = A x + noise, so that y given z is
N(A m(z), A diag(s^2) A' + noise): a Gaussian about y, read through the decoder and A, times the
prior of z is the posterior of z. It is sampled by HMC, and each z gives a draw of x in closed form.

The VAE's pixels are ink plus noise of standard deviation 0.05 (without it they would have no
density), and so are those that the 80 % intervals are to cover; PSNR and SSIM are of the ink. The
VAE has one noise for a pixel whatever the digit, so its intervals are too wide on paper: they are
stretched by one factor on paper and one on strokes, found on as many digits kept apart (conformal
intervals). Peers are given the best of their settings by the truth. Needs the extra restoration.

    python -m examples.restore_digits [--output restore_digits.png] [--fast]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from skimage import metrics
from torch import Tensor, nn

import experts
import poe
from examples.common import options
from examples.restoration import conformal, degrade
from examples.restoration.degrade import Spoiled
from examples.restoration.train_vae import held_out_digits, noised
from examples.restore_pictures.run import LEVEL, Restored, interval

CHAINS = 16
INKED = 0.05
"""A pixel of which the posterior mean has more ink than that is one of a stroke."""
TASKS: dict[str, Callable[[Tensor, torch.Generator], Spoiled]] = {
    "noise of 0.5": partial(degrade.gaussian_noise, noise=0.5),
    "salt and pepper": degrade.salt_and_pepper,
    "80 % missing": partial(degrade.missing_pixels, share=0.8),
    "blur": degrade.blur,
    "half size": degrade.half_size,
}


class Length(NamedTuple):
    """Steps of warm-up of each chain, and draws of all together."""

    warmup: int = 150
    draws: int = 800


FAST = Length(60, 160)


class Linear(nn.Module):
    """z to A m(z), as a vector."""

    def __init__(self, net: nn.Module, operator: experts.images.LinearOperator) -> None:
        super().__init__()
        self.net, self.operator = net, operator

    def forward(self, z: Tensor) -> Tensor:
        return (
            self.operator(self.net(z.reshape(-1, z.shape[-1])))
            .flatten(1)
            .reshape(*z.shape[:-1], -1)
        )


class Seen(NamedTuple):
    """y, A, the covariance of y given z, and the noise of y and of x."""

    y: Tensor
    operator: experts.images.LinearOperator
    covariance: Tensor
    noise: Tensor
    scale: Tensor


def seen_by(vae: experts.VAE, spoiled: Spoiled) -> Seen:
    """What was seen, with the VAE's own noise of pixels in it."""
    likelihood, scale = spoiled.likelihood, vae.decoder.log_scale.detach().exp()
    size, shape = scale.numel(), scale.shape
    columns = likelihood.operator(torch.eye(size).reshape(size, *shape)).flatten(1)  # A', by rows
    spread = columns.mT @ (columns * scale.flatten().square()[:, None])
    covariance = spread + likelihood.scale.square() * torch.eye(len(spread))
    return Seen(
        likelihood.observed.flatten(), likelihood.operator, covariance, likelihood.scale, scale
    )


def latent_posterior(vae: experts.VAE, seen: Seen) -> poe.Product:
    """p(z) p(y | z)."""
    variances = seen.covariance.diagonal()
    is_diagonal = torch.equal(seen.covariance, variances.diag())
    spread = {"scale": variances.sqrt()} if is_diagonal else {"covariance": seen.covariance}
    likelihood = experts.Gaussian(seen.y, **spread)
    read = likelihood.at(Linear(vae.decoder.net, seen.operator), vae.prior.space)
    return poe.Product(prior=vae.prior, likelihood=read)


@torch.no_grad()
def pictures_of(vae: experts.VAE, z: Tensor, seen: Seen, generator: torch.Generator) -> Tensor:
    """One x ~ p(x | z, y) of each z, and E[x | z, y]: ``(2, n, rows, cols)``.

    By a draw (x', y') of p(x, y | z), corrected to x' + Cov(x, y) Var(y)⁻¹ (y − y').
    """
    mean = vae.decoder.net(z)
    x = mean + seen.scale * torch.randn(mean.shape, generator=generator)
    y = seen.operator(x).flatten(1)
    y = y + seen.noise * torch.randn(y.shape, generator=generator)

    def corrected(x: Tensor, y: Tensor) -> Tensor:
        pull = torch.linalg.solve(seen.covariance, (seen.y - y).mT).mT
        back = seen.operator.adjoint(pull.reshape(len(y), *seen.operator.out_shape))
        return x + seen.scale.square() * back

    return torch.stack([corrected(x, y), corrected(mean, seen.operator(mean).flatten(1))])


def restore(
    vae: experts.VAE, spoiled: Spoiled, length: Length, generator: torch.Generator
) -> Restored:
    """The mean of p(x | y), and its intervals."""
    seen = seen_by(vae, spoiled)
    draws = poe.sample(
        latent_posterior(vae, seen),
        length.draws,
        kernel=poe.samplers.HMC(num_steps=8),
        num_chains=CHAINS,
        warmup=length.warmup,
        generator=generator,
        progress=False,
    )
    x, means = pictures_of(vae, draws.samples.flatten(0, 1), seen, generator)
    low, high = interval(x)
    return Restored(means.mean(0).numpy(), low.numpy(), high.numpy())


class Row(NamedTuple):
    """A digit of a task: ink, what was seen, which pixels were not, restored, peers by name, and
    the pixels' intervals, by strokes (1) and paper (0).
    """

    truth: np.ndarray
    spoiled: np.ndarray
    unknown: np.ndarray
    restored: Restored
    peers: dict[str, np.ndarray]
    interval: conformal.Interval

    def coverage(self, factors: np.ndarray, group: int | None = None) -> float:
        """The share of unknown pixels, of all or of one group, in the stretched intervals."""
        counts = self.unknown if group is None else self.unknown & (self.interval.group == group)
        low, high = self.interval.stretched(factors)
        inside = (low <= self.interval.truth) & (self.interval.truth <= high)
        return float(inside[counts].mean())


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
    """In dB, of the whole picture."""
    return float(metrics.peak_signal_noise_ratio(truth, found.clip(0, 1), data_range=1))


def ssim(found: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity."""
    return float(metrics.structural_similarity(truth, found.clip(0, 1), data_range=1))


def run(
    vae: experts.VAE, ink: Tensor, spoil: Callable[..., Spoiled], length: Length, seed: int
) -> Row:
    """One digit, spoiled and restored."""
    generator = torch.Generator().manual_seed(seed)
    x = noised(ink, generator)
    is_salted = spoil is degrade.salt_and_pepper
    spoiled = spoil(ink.clamp(1 / 255, 254 / 255) if is_salted else x, generator)
    restored = restore(vae, spoiled, length, generator)
    truth = ink.numpy()
    peers = {
        name: max(found, key=lambda picture: psnr(picture, truth))
        for name, found in spoiled.peers.items()
    }
    group = (restored.mean > INKED).astype(int)
    ends = conformal.Interval(restored.low, restored.high, group, x.numpy())
    return Row(truth, spoiled.picture, spoiled.unknown, restored, peers, ends)


def print_table(rows: dict[str, list[Row]], kept_apart: dict[str, list[Row]]) -> None:
    """Means over the digits; ``kept_apart`` are those that stretch the intervals."""
    columns = ("as seen", "product", "covered", "strokes", "unstretched")
    print("\n{:<18}{:>8}{:>16}{:>9}{:>9}{:>13}   peers".format("", *columns))
    for task, found in rows.items():
        seen = np.mean([psnr(row.spoiled, row.truth) for row in found])
        ours = _shown([row.restored.mean for row in found], found)
        peers = ", ".join(
            f"{name} {_shown([row.peers[name] for row in found], found)}" for name in found[0].peers
        )
        pairs = [(row.interval, row.unknown) for row in kept_apart[task]]
        factors = conformal.stretches(pairs, LEVEL, 2)
        covered = np.mean([row.coverage(factors) for row in found])
        strokes = np.mean([row.coverage(factors, 1) for row in found])
        before = np.mean([row.coverage(np.ones(2)) for row in found])
        print(
            f"{task:<18}{seen:>8.2f}{ours:>16}{covered:>9.3f}{strokes:>9.3f}{before:>13.3f}   "
            f"{peers}"
        )
    print()


def _shown(pictures: Sequence[np.ndarray], rows: Sequence[Row]) -> str:
    pairs = [(picture, row.truth) for picture, row in zip(pictures, rows, strict=True)]
    mean_psnr, mean_ssim = (np.mean([score(*pair) for pair in pairs]) for score in (psnr, ssim))
    return f"{mean_psnr:.2f} ({mean_ssim:.3f})"


def draw(rows: dict[str, list[Row]], output: Path, shown: int = 3) -> None:
    """For each task some digits: ink, seen, restored, width of the intervals, best peer."""
    shown = min(shown, *map(len, rows.values()))
    figure, axes = plt.subplots(len(rows), 5 * shown, figsize=(1.1 * 5 * shown, 1.25 * len(rows)))
    for line, (task, found) in zip(axes, rows.items(), strict=True):
        for k, row in enumerate(found[:shown]):
            name = max(row.peers, key=lambda peer: psnr(row.peers[peer], row.truth))
            width = row.restored.high - row.restored.low
            panels = (row.truth, row.spoiled, row.restored.mean, width, row.peers[name])
            titles = ("ink", "as seen", "product", "80 % width", name)
            for axis, picture, title in zip(line[5 * k :], panels, titles, strict=False):
                axis.imshow(picture, cmap="magma" if picture is width else "gray", vmin=0, vmax=1)
                axis.set_title(title, fontsize=7)
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(task, fontsize=7)
    figure.tight_layout()
    figure.savefig(output, dpi=100)


def main(arguments: Sequence[str] | None = None) -> None:
    """Restore, print the table, and draw."""
    parser = options(__doc__, fast="one digit, fewer draws", output="restore_digits.png")
    given = parser.parse_args(arguments)
    began, (count, length) = time.perf_counter(), (1, FAST) if given.fast else (10, Length())
    vae, digits = experts.load("digits-vae"), held_out_digits(2 * count)
    found = {
        task: [run(vae, ink, spoil, length, seed) for seed, ink in enumerate(digits)]
        for task, spoil in TASKS.items()
    }
    rows = {task: each[:count] for task, each in found.items()}
    print_table(rows, {task: each[count:] for task, each in found.items()})
    draw(rows, given.output)
    print(f"{given.output}; {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
