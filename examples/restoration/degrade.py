"""Five ways to spoil a picture, each with the likelihood that knows it, and the peers that mend it.

Peers are given the best of their settings by the truth, which the product never sees.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from skimage import metrics, restoration, transform
from torch import Tensor

import experts

NOISE = 0.1
REPLACED = 0.2
MISSING = 0.5
SLIGHT = 0.01
"""Standard deviation of the noise where something else is the trouble."""
BLUR = 1.5

Peer = Callable[[np.ndarray], list[np.ndarray]]


class Spoiled(NamedTuple):
    """What was seen, as a picture of the truth's shape for peers and plots; what it says of x.

    ``peers``: by name, the pictures at all of their settings; ``unknown``: the pixels that were not
    seen as they are, on which intervals are judged.
    """

    picture: np.ndarray
    likelihood: experts.GaussianLikelihood
    peers: dict[str, list[np.ndarray]]
    unknown: np.ndarray


def gaussian_noise(x: Tensor, generator: torch.Generator, noise: float = NOISE) -> Spoiled:
    """Noise of standard deviation 0.1."""
    y = x + noise * torch.randn(x.shape, generator=generator)
    seen = experts.GaussianLikelihood(experts.images.Identity(tuple(x.shape)), y, noise)
    return Spoiled(y.numpy(), seen, denoisers(y.numpy(), noise), everywhere(x))


def salt_and_pepper(x: Tensor, generator: torch.Generator) -> Spoiled:
    """A fifth of the pixels black or white: what is neither was kept, and what is was not."""
    where, what = (torch.rand(x.shape, generator=generator) for _ in range(2))
    y = torch.where(where < REPLACED, (what < 0.5).to(x.dtype), x)
    kept = ((y > 0) & (y < 1)).to(x.dtype)
    seen = experts.GaussianLikelihood(experts.images.Mask(kept), y * kept, 1 / 255)
    noisy = y.numpy()
    peers = {"median": [ndimage.median_filter(noisy, size) for size in (3, 5)]}
    peers |= denoisers(noisy, 0.25)
    peers["biharmonic"] = [restoration.inpaint_biharmonic(noisy, kept.numpy() == 0)]
    return Spoiled(noisy, seen, peers, kept.numpy() == 0)


def missing_pixels(x: Tensor, generator: torch.Generator, share: float = MISSING) -> Spoiled:
    """Half of the pixels missing, and slight noise on the others."""
    mask = (torch.rand(x.shape, generator=generator) >= share).to(x.dtype)
    y = mask * (x + SLIGHT * torch.randn(x.shape, generator=generator))
    seen = experts.GaussianLikelihood(experts.images.Mask(mask), y, SLIGHT)
    filled = restoration.inpaint_biharmonic(y.numpy(), mask.numpy() == 0)
    peers = {"biharmonic": [filled], "biharmonic, TV": total_variation(filled)}
    return Spoiled(y.numpy(), seen, peers, everywhere(x))


def blur(x: Tensor, generator: torch.Generator) -> Spoiled:
    """A Gaussian blur of 1.5 pixels, no boundary assumed, and slight noise."""
    kernel = gaussian_kernel(BLUR, 4)
    operator = experts.images.Blur(kernel, (x.shape[0], x.shape[1]), "cut")
    y = operator(x[None])[0]
    y = y + SLIGHT * torch.randn(y.shape, generator=generator)
    padded, wide = np.pad(y.numpy(), 4, mode="edge"), np.pad(y.numpy(), 20, mode="edge")
    point = kernel.numpy()
    deblurred = {
        "Wiener": [restoration.unsupervised_wiener(wide, point, rng=0)[0]]
        + [restoration.wiener(wide, point, balance) for balance in (0.003, 0.01, 0.03, 0.1)],
        "Richardson-Lucy": [
            restoration.richardson_lucy(wide.clip(0, 1), point, count)
            for count in (5, 10, 20, 30, 50)
        ],
    }
    # Padded wider than is shown, so that what the peers make of the border stays outside.
    peers = {name: [one[16:-16, 16:-16] for one in found] for name, found in deblurred.items()}
    seen = experts.GaussianLikelihood(operator, y, SLIGHT)
    return Spoiled(padded, seen, peers, everywhere(x))


def half_size(x: Tensor, generator: torch.Generator) -> Spoiled:
    """The means of blocks of 2 x 2, and slight noise."""
    operator = experts.images.BlockMean((x.shape[0], x.shape[1]), 2)
    y = operator(x[None])[0]
    y = y + SLIGHT * torch.randn(y.shape, generator=generator)
    enlarged = {
        name: [transform.resize(y.numpy(), tuple(x.shape), order=order, mode="edge")]
        for name, order in (("bicubic", 3), ("bilinear", 1))
    }
    shown = np.kron(y.numpy(), np.ones((2, 2)))
    seen = experts.GaussianLikelihood(operator, y, SLIGHT)
    return Spoiled(shown, seen, enlarged, everywhere(x))


def everywhere(x: Tensor) -> np.ndarray:
    """All pixels."""
    return np.ones(tuple(x.shape), dtype=bool)


def gaussian_kernel(width: float, reach: int) -> Tensor:
    """A Gaussian of that standard deviation that sums to one: ``(2 reach + 1, 2 reach + 1)``."""
    line = (-0.5 * (torch.arange(-reach, reach + 1) / width).square()).exp()
    return torch.outer(line, line) / line.sum() ** 2


def denoisers(y: np.ndarray, noise: float) -> dict[str, list[np.ndarray]]:
    """scikit-image's three, over their settings."""
    return {
        "non-local means": [
            restoration.denoise_nl_means(
                y, patch_size=size, patch_distance=9, h=h * noise, sigma=noise, fast_mode=is_fast
            )
            for size, h, is_fast in itertools.product((5, 7), (0.4, 0.6, 0.8, 1.0), (True, False))
        ],
        "total variation": total_variation(y),
        "wavelets": [
            restoration.denoise_wavelet(
                y, sigma=noise, method=method, mode=mode, wavelet=wavelet, rescale_sigma=True
            )
            for method, mode, wavelet in itertools.product(
                ("BayesShrink", "VisuShrink"), ("soft", "hard"), ("db1", "db2", "sym4")
            )
        ],
    }


def total_variation(y: np.ndarray) -> list[np.ndarray]:
    """At seven weights."""
    weights = (0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.4)
    return [restoration.denoise_tv_chambolle(y, weight) for weight in weights]


TASKS: dict[str, Callable[[Tensor, torch.Generator], Spoiled]] = {
    "Gaussian noise": gaussian_noise,
    "salt and pepper": salt_and_pepper,
    "missing pixels": missing_pixels,
    "blur": blur,
    "half size": half_size,
}


class Quality(NamedTuple):
    """Peak signal-to-noise ratio in dB, and structural similarity."""

    psnr: float
    ssim: float


def quality(found: np.ndarray, truth: np.ndarray) -> Quality:
    """Of a restored picture, away from the border, where a blur hides what was there."""
    a, b = (picture[4:-4, 4:-4].clip(0, 1) for picture in (found, truth))
    return Quality(
        metrics.peak_signal_noise_ratio(b, a, data_range=1),
        metrics.structural_similarity(b, a, data_range=1),
    )


def best(pictures: list[np.ndarray], truth: np.ndarray) -> np.ndarray:
    """The one nearest to the truth."""
    return max(pictures, key=lambda picture: quality(picture, truth).psnr)
