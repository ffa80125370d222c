"""Flows in pzflow's files, and the galaxy flow that it ships, read without its code."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributions as D, nn

import poe
from experts.adapters.pzflow.pickled_arrays import read_arrays
from experts.adapters.pzflow.splines import Splines, splines_of
from poe.core.arguments import checked
from poe.core.errors import AdaptationError
from poe.core.randomness import Lent, resolve
from poe.files.atomic import content_of
from poe.io import register, register_module

ERROR_MODEL = "pzflow.utils.gaussian_error_model"
EXAMPLE = "example_files/example-flow.pzflow.pkl"


class TableFlow(poe.Expert):
    r"""A flow of the rows of a table, as pzflow makes them; normalised, sampled exactly.

    .. math:: \log p(x) = \log p_0(T(x)) + \log |\det \partial T / \partial x|

    Where p₀ is uniform on a box, so is the support of p hard-edged: x outside has log-density −inf,
    though the space is Real, since each column has bounds of its own.

    Shapes: x ``(*batch, len(columns))``.

    Args:
        columns: Names of the elements of x.
        base: p₀.
        layers: T, one after the other: each takes x ``(n, d)`` to u and log |det du/dx|, and has an
            ``inverse``.

    References:
        Crenshaw et al. (2024), Probabilistic forward modeling of galaxy catalogs with normalizing
        flows, The Astronomical Journal, arXiv:2405.04740.
    """

    may_be_infinite = ()

    def __init__(self, columns: Sequence[str], base: poe.Expert, layers: Sequence[nn.Module]):
        super().__init__()
        self.columns = tuple(columns)
        self.space = poe.Real(len(self.columns))
        self.base = base
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """The log-density, normalised.

        Args:
            x: ``(*batch, columns)``.

        Returns:
            log p(x), ``(*batch,)``.
        """
        batch = self.space.batch_shape(x)
        u, log_slope = x.reshape(-1, len(self.columns)), x.new_zeros(())
        for layer in self.layers:
            u, more = layer(u)
            log_slope = log_slope + more
        value = self.base.log_prob(u) + log_slope
        # Far outside the data a bin's width may round to 0: no density, as pzflow has it too.
        value = value.reshape(batch)
        return value.masked_fill(value.isnan() & ~x.isnan().any(-1), -torch.inf)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), the log-density itself.

        Args:
            x: ``(*batch, columns)``.

        Returns:
            ``(*batch,)``.
        """
        return self(x)

    @checked
    @torch.no_grad()
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws.

        Args:
            num_samples: How many.
            generator: Of the draws; a fresh one if left out.

        Returns:
            ``(num_samples, columns)``.
        """
        device = next((tensor.device for tensor in self.buffers()), torch.device("cpu"))
        x: Tensor = self.base.sample(num_samples, generator=resolve(generator, device))
        for layer in reversed(self.layers):
            x = layer.inverse(x)  # type: ignore[operator]
        return x


class Affine(nn.Module):
    """u = (x − shift) / scale, element by element.

    Args:
        shift: ``(d,)``.
        scale: ``(d,)``, not 0.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u and log |det du/dx|.

        Args:
            x: ``(n, d)``.

        Returns:
            ``(n, d)`` and ``(n,)``.
        """
        return (x - self.shift) / self.scale, -self.scale.abs().log().expand_as(x).sum(-1)

    def inverse(self, u: Tensor) -> Tensor:
        """x.

        Args:
            u: ``(n, d)``.

        Returns:
            ``(n, d)``.
        """
        return u * self.scale + self.shift


class Permutation(nn.Module):
    """The elements in another order: u_i = x_order(i).

    Args:
        order: ``(d,)``.
    """

    order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u and log |det du/dx|.

        Args:
            x: ``(n, d)``.

        Returns:
            ``(n, d)``, and 0, ``()``.
        """
        return x[:, self.order], x.new_zeros(())

    def inverse(self, u: Tensor) -> Tensor:
        """x.

        Args:
            u: ``(n, d)``.

        Returns:
            ``(n, d)``.
        """
        return u[:, self.order.argsort()]


class SplineCoupling(nn.Module):
    """The last elements by splines that a network makes of the first ones, which stay.

    Args:
        sizes: Of the network's layers, from d − moved to moved · (3 · num_bins − 1).
        moved: How many elements the splines move.
        num_bins: K of each spline.
        bound: B: outside of [−B, B] each spline is the identity.
    """

    def __init__(self, sizes: Sequence[int], moved: int, num_bins: int, bound: float) -> None:
        super().__init__()
        self.sizes, self.moved, self.num_bins, self.bound = tuple(sizes), moved, num_bins, bound
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.LeakyReLU()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u and log |det du/dx|.

        Args:
            x: ``(n, d)``.

        Returns:
            ``(n, d)`` and ``(n,)``.
        """
        kept, moved = x[:, : -self.moved], x[:, -self.moved :]
        after, log_slope = self._splines(kept).forward(moved)
        return torch.cat([kept, after], -1), log_slope.sum(-1)

    def inverse(self, u: Tensor) -> Tensor:
        """x.

        Args:
            u: ``(n, d)``.

        Returns:
            ``(n, d)``.
        """
        kept, moved = u[:, : -self.moved], u[:, -self.moved :]
        return torch.cat([kept, self._splines(kept).inverse(moved)], -1)

    def _splines(self, kept: Tensor) -> Splines:
        parameters = self.net(kept).unflatten(-1, (self.moved, -1))
        return splines_of(parameters, self.num_bins, self.bound)


def read(path: str | os.PathLike[str]) -> TableFlow:
    """The flow in a file that ``pzflow.Flow.save`` wrote, as an expert; none of its code is run.

    Args:
        path: The file.

    Returns:
        The expert.

    Raises:
        AdaptationError: Where there is no such file, for a pickle that holds anything but arrays,
            for a flow with conditional columns, and for a bijector or a base density that is not
            among `BIJECTORS` and `BASES`.
    """
    try:
        return of_state(read_arrays(content_of(path), known_names=(ERROR_MODEL,)))
    except (OSError, AdaptationError) as error:
        raise AdaptationError(f"{path}: {error}") from error


def example() -> TableFlow:
    """The flow that pzflow ships: redshift and six magnitudes of 100,000 simulated galaxies.

    Returns:
        The expert; pzflow is not imported.

    Raises:
        ImportError: Where pzflow is not installed.
    """
    found = importlib.util.find_spec("pzflow")
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            "expected pzflow to be installed, for the flow that it ships, got none: pip install "
            '"product-of-experts[pzflow]"'
        )
    return read(Path(found.submodule_search_locations[0]) / EXAMPLE)


def of_state(state: Any) -> TableFlow:
    """The flow of a state, as pzflow pickles it.

    Args:
        state: Names, settings and arrays.

    Returns:
        The expert.

    Raises:
        AdaptationError: As of `read`.
    """
    if not isinstance(state, dict) or state.get("class") != "Flow":
        kind = state.get("class") if isinstance(state, dict) else type(state).__name__
        raise AdaptationError(f"expected the state of one pzflow Flow, got {kind}")
    try:
        return _flow_of(state)
    except AdaptationError:
        raise
    except Exception as error:  # a state can be wrong in any way
        raise AdaptationError(
            f"expected the state of a pzflow Flow, got one that says something else "
            f"({type(error).__name__}: {error})"
        ) from error


def _flow_of(state: dict[str, Any]) -> TableFlow:
    if state["conditional_columns"]:
        raise AdaptationError(
            f"expected a flow without conditions, got one given {state['conditional_columns']}: it "
            "is no density of its data columns alone"
        )
    name, settings = state["latent_info"]
    columns, params = state["data_columns"], state["params"][1]
    if name not in BASES:
        _refuse("a base density", name, BASES)
    if settings[0] != len(columns):
        raise ValueError(f"{len(columns)} columns, and a base density of {settings[0]}")
    base = BASES[name](*settings)
    with Lent(torch.Generator().manual_seed(0)):  # to build networks, whose weights are replaced
        layers = layers_of(state["bijector_info"], params, len(columns))
    return TableFlow(columns, base, layers)


def layers_of(info: Any, params: Any, size: int) -> list[nn.Module]:
    """The layers of a bijector, those of a chain one after the other.

    Args:
        info: Its name and settings.
        params: Its arrays.
        size: d, how many elements x has.

    Returns:
        The layers.

    Raises:
        AdaptationError: For a bijector that is not among `BIJECTORS`.
    """
    name, settings = info
    if name == "Chain":
        pairs = zip(settings, params, strict=True)
        return [layer for one, own in pairs for layer in layers_of(one, own, size)]
    if name not in BIJECTORS:
        _refuse("a bijector", name, ["Chain", *BIJECTORS])
    return [BIJECTORS[name](settings, params, size)]


def _refuse(what: str, name: str, known: Any) -> None:
    raise AdaptationError(f"expected {what} among {', '.join(known)}, got {name}")


def _shift_bounds(settings: Any, params: Any, size: int) -> Affine:
    low, high = (_tensor(bound) for bound in settings[:2])
    return Affine((low + high) / 2, (high - low) / 2 / settings[2])


def _standard_scaler(settings: Any, params: Any, size: int) -> Affine:
    means, scales = (_tensor(each) for each in settings)
    return Affine(means, scales)


def _scale(settings: Any, params: Any, size: int) -> Affine:
    scale = _tensor(settings[0]).expand(size).clone()
    return Affine(torch.zeros_like(scale), 1 / scale)


def _roll(settings: Any, params: Any, size: int) -> Permutation:
    return Permutation(torch.arange(size).roll(settings[0]))


def _reverse(settings: Any, params: Any, size: int) -> Permutation:
    return Permutation(torch.arange(size).flip(0))


def _coupling(settings: Any, params: Any, size: int) -> SplineCoupling:
    num_bins, bound, _, _, moved, num_conditions, is_periodic = settings
    if num_conditions or is_periodic:
        raise AdaptationError(
            "expected splines without conditions that are not periodic, got "
            f"n_conditions={num_conditions}, periodic={is_periodic}"
        )
    weights = [(_tensor(w), _tensor(b)) for w, b in filter(len, params)]
    sizes = [len(weights[0][0]), *(len(b) for _, b in weights)]
    if [tuple(w.shape) for w, _ in weights] != list(itertools.pairwise(sizes)):
        raise ValueError(f"a network of {sizes} with weights of other shapes")
    moved = size - size // 2 if moved is None else moved
    coupling = SplineCoupling(sizes, moved, num_bins, float(bound))
    linear = [layer for layer in coupling.net if isinstance(layer, nn.Linear)]
    for layer, (weight, bias) in zip(linear, weights, strict=True):
        layer.weight = nn.Parameter(weight.T.contiguous(), requires_grad=False)
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return coupling


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _uniform(size: int, bound: float = 5.0) -> poe.Expert:
    high = torch.full((size,), float(bound))
    return poe.as_expert(D.Independent(D.Uniform(-high, high), 1))


def _normal(size: int) -> poe.Expert:
    zeros = torch.zeros(size)
    return poe.as_expert(D.Independent(D.Normal(zeros, zeros + 1), 1))


def _beta(size: int, bound: float = 5.0) -> poe.Expert:
    """Beta(13, 13), stretched from [0, 1] to [−bound, bound]."""
    shape = torch.full((size,), 13.0)
    unit = poe.as_expert(D.Independent(D.Beta(shape, shape), 1))
    stretch = D.AffineTransform(-float(bound), 2 * float(bound), event_dim=1)
    return poe.Transformed(unit, stretch, space=poe.Interval(size, -bound, bound))


BIJECTORS: dict[str, Callable[[Any, Any, int], nn.Module]] = {
    "NeuralSplineCoupling": _coupling,
    "Reverse": _reverse,
    "Roll": _roll,
    "Scale": _scale,
    "ShiftBounds": _shift_bounds,
    "StandardScaler": _standard_scaler,
}
"""Those that are taken: Shuffle depends on JAX's random bits, and dequantizers add noise."""

BASES: dict[str, Callable[..., poe.Expert]] = {
    "CentBeta13": _beta,
    "Normal": _normal,
    "Uniform": _uniform,
}

register_module(
    Affine,
    ("shift", "scale"),
    name="experts.adapters.pzflow.Affine",
)
register_module(
    Permutation,
    ("order",),
    name="experts.adapters.pzflow.Permutation",
)
register_module(
    SplineCoupling,
    ("sizes", "moved", "num_bins", "bound"),
    name="experts.adapters.pzflow.SplineCoupling",
)
register(
    TableFlow,
    lambda flow: {"columns": flow.columns, "base": flow.base, "layers": list(flow.layers)},
    lambda fields: TableFlow(**fields),
    name="experts.adapters.pzflow.TableFlow",
)
