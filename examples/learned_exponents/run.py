"""Exponents learned from real data: how loudly each of three overlapping experts should speak.

Of 569 breast tumours one expert has seen radius and concave points, another concave points and
concavity, and a third concave points alone; each is a mixture of Gaussians fitted to a third of the
rows. Multiplied as they are, they count the concave points three times. If radius and concavity
have nothing to do with each other once the concave points are known, the joint density is
p(a, b) p(b, c) / p(b): exponents 1, 1 and -1. The fit, from other rows, is not told.

The table shows exponents with standard errors, and the log score on rows that nothing has seen.

    python -m examples.learned_exponents [--output learned_exponents.png] [--fast]
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.mixture import GaussianMixture
from torch import Tensor

import poe
from examples.common import options

COLUMNS = ("radius", "concave points", "concavity")
EXPERTS = {"shape": [0, 1], "outline": [1, 2], "both see": [1]}
"""The columns that each expert has seen."""


def tumours(generator: torch.Generator) -> Tensor:
    """log radius and the roots of the others, standardised, in random order: (569, 3)."""
    data = load_breast_cancer()
    table = torch.from_numpy(data.data)
    places = [list(data.feature_names).index(f"mean {name}") for name in COLUMNS]
    a, b, c = table[:, places].unbind(1)
    x = torch.stack([a.log(), b.sqrt(), c.sqrt()], 1)
    x = (x - x.mean(0)) / x.std(0)
    return x[torch.randperm(len(x), generator=generator)]


def expert_on(columns: list[int], x: Tensor) -> poe.Expert:
    """A mixture of Gaussians of some columns of the rows x (n, 3), flat in the others."""
    mixture = GaussianMixture(2, random_state=0, reg_covar=1e-2).fit(x[:, columns].numpy())
    weights, means, covariances = (
        torch.from_numpy(part) for part in (mixture.weights_, mixture.means_, mixture.covariances_)
    )
    whitening = torch.linalg.cholesky(covariances).inverse()
    log_scales = whitening.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constants = weights.log() + log_scales - len(columns) / 2 * math.log(2 * math.pi)

    def log_density(y: Tensor) -> Tensor:
        white = torch.einsum("kij,...kj->...ki", whitening, y[..., None, columns] - means)
        return torch.logsumexp(constants - white.square().sum(-1) / 2, -1)

    return poe.FromLogDensity(log_density, space=poe.Real(3))


def weighted(product: poe.Product, exponents: tuple[float, ...]) -> poe.Product:
    """The product with these exponents."""
    pairs = zip(product.names, product.experts, exponents, strict=True)
    return poe.Product(**{name: expert**w for name, expert, w in pairs})


def print_table(
    targets: dict[str, tuple[poe.Expert, list[str]]],
    test: Tensor,
    method: poe.normalizers.Method | None,
    generator: torch.Generator,
) -> None:
    """A row for each product: its exponents, and its log score on the rows (n, 3), with errors."""
    print(f"{'':<18}" + "".join(f"{name:>16}" for name in EXPERTS) + f"{'log score, nats':>20}")
    for name, (target, exponents) in targets.items():
        log_z = poe.log_partition(target, method=method, generator=generator, progress=False)
        with torch.no_grad():
            score = poe.normalize(target, log_z).log_prob(test)
        error = float(score.std() / len(score) ** 0.5)
        cells = "".join(f"{cell:>16}" for cell in exponents)
        print(f"{name:<18}{cells}{f'{score.mean():.2f} +- {error:.2f}':>20}")


def draw_figure(panels: dict[str, Tensor], path: Path) -> None:
    """Points (n, 3) of each panel, in two planes."""
    planes = ((0, 2), (1, 2))
    figure, axes = plt.subplots(
        len(planes), len(panels), figsize=(9, 6), sharex="row", sharey="row", layout="constrained"
    )
    for column, (title, x) in zip(axes.T, panels.items(), strict=True):
        column[0].set_title(title, fontsize=11)
        for axis, (i, j) in zip(column, planes, strict=True):
            axis.scatter(x[:, i], x[:, j], s=5, color="#1f4680", alpha=0.5, linewidths=0)
            axis.set(xticks=[], yticks=[], xlim=(-3.6, 3.6), ylim=(-3.6, 3.6), aspect="equal")
            axis.set_facecolor("#fbfaf7")
            axis.set_xlabel(COLUMNS[i], fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel(COLUMNS[2], fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = options(
        __doc__, fast="fewer rows, and log Z by particles", output="learned_exponents.png"
    )
    arguments = parser.parse_args()
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    x = tumours(generator)
    seen, learned_from, test = x[:190], x[190 : 290 if arguments.fast else 440], x[440:]
    product = poe.Product(
        **{name.replace(" ", "_"): expert_on(columns, seen) for name, columns in EXPERTS.items()}
    )
    fit = poe.fit_exponents_by_likelihood(product, learned_from, generator=generator)
    learned = zip(fit.weights.tolist(), fit.std_error.tolist(), strict=True)
    print_table(
        {
            "as they are": (product, ["1", "1", "1"]),
            "p(a,b)p(b,c)/p(b)": (weighted(product, (1, 1, -1)), ["1", "1", "-1"]),
            "learned": (fit.product, [f"{w:.2f} +- {error:.2f}" for w, error in learned]),
        },
        test,
        poe.normalizers.MBAR() if arguments.fast else None,  # by quadrature it takes a while
        generator,
    )

    def draws(target: poe.Expert) -> Tensor:
        found = poe.sample(target, 1000, generator=generator, progress=False)
        return found.samples.flatten(0, 1)[:: found.log_density.numel() // 1000][:1000]

    panels = {
        "rows of the table": x,
        "the product as it is": draws(product),
        "with learned exponents": draws(fit.product),
    }
    draw_figure(panels, arguments.output)
    print(f"wrote {arguments.output} after {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
