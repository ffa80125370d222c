"""Real binary pictures denoised by a product of two experts, both learned from the noisy picture.

The prior is an Ising model, which likes neighbours to agree; the other expert is the noise channel,
which says what the noisy picture does of the clean one. Coupling, field and flip probability come
from the noisy picture alone, by pseudo-likelihood. From the product come the most probable picture
(an exact graph cut), the posterior mean by sampling, and for each pixel how probable it is that it
was flipped.

The table shows wrong pixels in per cent. Median filter, morphological opening and total variation
are given the best of their settings by the truth, which the product never sees. Needs the extras
demo, anomaly and graphcut.

    python -m examples.denoise_ising [--output denoise_ising.png] [--fast]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from scipy import ndimage
from skimage import data, filters, morphology, restoration, transform
from sklearn.datasets import load_digits
from torch import Tensor

import experts
import poe
from examples.common import options

NOISE = 0.1
SETTLED = 1e-3
"""The largest change of a log-message in the last step of belief propagation."""
SHOWN = (128, 192)
"""The corner of each picture that is drawn; errors are of the whole."""
WEIGHTS = (0.2, 0.4, 0.7, 1.0, 1.5, 2.0)


def page() -> np.ndarray:
    """A scanned page, ink 1: 190 x 384."""
    grey = data.page()[:190]
    return grey < filters.threshold_local(grey, 51, offset=10)


def silhouette() -> np.ndarray:
    """A horse, 328 x 400."""
    return ~data.horse()


def digits() -> np.ndarray:
    """Handwritten digits, 8 x 8 grey values drawn four times as large: 256 x 384."""
    sheet = load_digits().images[:96].reshape(8, 12, 8, 8).transpose(0, 2, 1, 3).reshape(64, 96)
    return transform.resize(sheet, (256, 384), order=3) > 8.0


PICTURES: dict[str, Callable[[], np.ndarray]] = {
    "page": page,
    "digits": digits,
    "silhouette": silhouette,
}


class Denoised(NamedTuple):
    """What the posterior says: pictures (rows, cols), and the messages' last change."""

    most_probable: np.ndarray
    mean: np.ndarray
    by_messages: np.ndarray
    last_change: float
    flipped: np.ndarray


def peers(noisy: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Each peer's picture, at the setting that has the fewest wrong pixels."""
    footprints = [morphology.disk(1), np.ones((2, 2)), morphology.disk(2)]
    candidates = {
        "median filter": [ndimage.median_filter(noisy, size) for size in (3, 5, 7)],
        "opening": [morphology.opening(noisy, shape) for shape in footprints],
        "total variation": [
            restoration.denoise_tv_chambolle(noisy.astype(float), weight) > 0.5
            for weight in WEIGHTS
        ],
    }
    return {
        name: min(found, key=lambda picture: wrong(picture, truth))
        for name, found in candidates.items()
    }


def denoise(
    noisy: Tensor,
    learned: experts.spins.LearnedDenoiser,
    num_draws: int,
    generator: torch.Generator,
) -> Denoised:
    """The posterior's summit, its mean, and how probable each flip is."""
    target = learned.posterior(noisy)
    draws = poe.sample(
        target,
        num_draws,
        num_chains=8,
        warmup=50,
        initial=noisy.repeat(8, 1, 1),
        generator=generator,
        progress=False,
    )
    mean = draws.samples.flatten(0, 1).mean(0)
    messages = experts.spins.belief_propagation(target, max_steps=200, tolerance=SETTLED)
    return Denoised(
        most_probable=experts.spins.graph_cut(target).numpy() > 0.5,
        mean=mean.numpy(),
        by_messages=messages.marginals[..., 1].numpy(),
        last_change=messages.change,
        flipped=(mean - noisy).abs().numpy(),
    )


def wrong(picture: np.ndarray, truth: np.ndarray) -> float:
    """Wrong pixels in per cent."""
    return 100 * float(np.mean((picture > 0.5) != truth))


def main() -> None:
    """Denoise the pictures, print the table, and draw them."""
    parser = options(__doc__, fast="a corner of each, and fewer draws", output="denoise_ising.png")
    arguments = parser.parse_args()
    began, g = time.perf_counter(), torch.Generator().manual_seed(0)
    num_draws, rows = 400 if arguments.fast else 800, {}
    for name, load in PICTURES.items():
        truth = load()[:128, :128] if arguments.fast else load()
        flips = torch.rand(truth.shape, generator=g) < NOISE
        noisy = torch.from_numpy(truth ^ flips.numpy()).float()
        learned = experts.spins.learn_denoiser(noisy, generator=g)
        found = denoise(noisy, learned, num_draws, g)
        others = peers(noisy.numpy(), truth)
        rows[name] = (truth, noisy.numpy(), found, others)
        print(
            f"{name}: {truth.shape[0]} x {truth.shape[1]}, {flips.double().mean():.4f} flipped; "
            f"learned: flip probability {learned.flip_probability:.4f}, coupling "
            f"{learned.coupling:.3f}, field {learned.field:.3f}; messages "
            + ("settled" if found.last_change < SETTLED else "have not settled")
        )
    print_table(rows)
    draw(rows, arguments.output)
    print(f"{arguments.output}; {time.perf_counter() - began:.0f} s")


Rows = dict[str, tuple[np.ndarray, np.ndarray, Denoised, dict[str, np.ndarray]]]


def print_table(rows: Rows) -> None:
    """Wrong pixels in per cent, a column for each picture."""
    print(f"\n{'wrong pixels, %':<28}" + "".join(f"{name:>12}" for name in rows))
    columns = [
        {
            "noisy": wrong(noisy, truth),
            "most probable (graph cut)": wrong(found.most_probable, truth),
            "posterior mean (sampling)": wrong(found.mean, truth),
            "belief propagation": wrong(found.by_messages, truth),
            **{name: wrong(picture, truth) for name, picture in others.items()},
        }
        for truth, noisy, found, others in rows.values()
    ]
    for label in columns[0]:
        print(f"{label:<28}" + "".join(f"{column[label]:>12.2f}" for column in columns))
    print()


def draw(rows: Rows, output: Path) -> None:
    """A row for each picture."""
    titles = ("noisy", "most probable", "posterior mean", "probability of a flip", "best peer")
    figure, axes = plt.subplots(len(rows), 5, figsize=(15, 2.3 * len(rows)), squeeze=False)
    for line, (name, (truth, noisy, found, others)) in zip(axes, rows.items(), strict=True):
        best = min(others, key=lambda peer: wrong(others[peer], truth))
        pictures = (noisy, found.most_probable, found.mean, found.flipped, others[best])
        for axis, picture, title in zip(line, pictures, titles, strict=True):
            is_flip = title == "probability of a flip"
            shown = picture[: SHOWN[0], -SHOWN[1] :]
            axis.imshow(shown, cmap="magma" if is_flip else "gray_r", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            error = "" if is_flip else f", {wrong(picture, truth):.2f} %"
            axis.set_title((best if title == "best peer" else title) + error, fontsize=9)
        line[0].set_ylabel(name)
    figure.tight_layout()
    figure.savefig(output, dpi=80)


if __name__ == "__main__":
    main()
