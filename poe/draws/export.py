"""Draws in the containers of other tools: xarray, ArviZ, pandas, each imported when asked for."""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from poe.core.doubt import Doubt, Kind, warn
from poe.core.errors import PoeError
from poe.density.expert import Expert, Product
from poe.diagnostics import contributions_along, import_arviz
from poe.draws.verdict import Judged

DISTRIBUTION = "product-of-experts"


CHAIN_STATISTICS = ("acceptance_rate", "num_outside", "num_undefined", "num_divergent")


def to_xarray(draws: Judged, target: Expert | None = None) -> Any:
    """Draws as an ``xarray.Dataset``: what each draw is and says, and what befell each chain.

    - ``x`` ``(chain, draw, *event)``, ``log_density`` ``(chain, draw)``, unnormalised;
    - ``log_weight`` ``(chain, draw)``, of weighted draws only;
    - ``contribution`` ``(chain, draw, expert)``, where the ``target`` is given: what each of its
      experts says there, under the names of the product; they sum to ``log_density``;
    - ``acceptance_rate``, ``num_outside``, ``num_undefined``, ``num_divergent`` ``(chain,)``, where
      a kernel was run;
    - attributes: guarantee, verdict, kernel and choice in words, seed, remarks (a line each), steps
      and gradients in numbers, seconds, log partition where there is one.

    Floating-point numbers become float64, which loses nothing; others stay as they are. Raises
    PoeError where ``collect=`` kept something else than positions and a target is given,
    ImportError with the remedy where xarray is missing.
    """
    xarray = _required("xarray")
    per_draw = ("chain", "draw")
    event = tuple(f"x_dim_{k}" for k in range(draws.samples.ndim - 2))
    variables: dict[str, Any] = {
        "x": ((*per_draw, *event), to_numpy(draws.samples)),
        "log_density": (per_draw, to_numpy(draws.log_density)),
    }
    if draws.log_weights is not None:
        variables["log_weight"] = (per_draw, to_numpy(draws.log_weights))
    chains, length = draws.log_density.shape
    coordinates: dict[str, Any] = {"chain": range(chains), "draw": range(length)}
    if target is not None:
        names, said = _contributions(draws, target)
        variables["contribution"] = ((*per_draw, "expert"), to_numpy(said))
        coordinates["expert"] = list(names)
    for name in CHAIN_STATISTICS:
        if (value := getattr(draws, name)) is not None:
            variables[name] = (("chain",), to_numpy(value))
    return xarray.Dataset(variables, coordinates, attributes(draws))


def to_arviz(draws: Judged, target: Expert | None = None) -> Any:
    """Draws as an ``arviz.InferenceData`` (from ArviZ 1 on an ``xarray.DataTree``).

    Group ``posterior`` holds ``x``; ``sample_stats`` all else that ``to_xarray`` gives, with the
    log-density under ArviZ's name ``lp``. ArviZ averages all draws alike: weighted ones come with a
    TrustWarning, and their weights as ``sample_stats["log_weight"]``.
    """
    arviz = import_arviz()
    data = to_xarray(draws, target)
    if draws.log_weights is not None:
        text = (
            "these draws are weighted, and ArviZ's averages take all alike: resample them by "
            'sample_stats["log_weight"] first, or use draws.summary()'
        )
        warn([Doubt(Kind.UNEQUAL_WEIGHTS, text)])
    groups = {
        "posterior": data[["x"]],
        "sample_stats": data.drop_vars("x").rename(log_density="lp"),
    }
    if hasattr(arviz, "InferenceData"):
        return arviz.InferenceData(**groups)
    return _required("xarray").DataTree.from_dict(groups)


def to_pandas(draws: Judged, target: Expert | None = None) -> Any:
    """Draws as a tidy ``pandas.DataFrame``: a row each draw, a column each element of x.

    Columns: ``chain``, ``draw``, ``x[0]``, … (``x[0, 1]`` of a matrix, ``x`` of a number),
    ``log_density``, ``log_weight`` of weighted draws and, where the ``target`` is given, what each
    of its experts says as ``contribution[name]``. ``frame.attrs`` has the attributes of
    ``to_xarray``. Raises as that does, with pandas in place of xarray.
    """
    pandas = _required("pandas")
    chains, length = draws.log_density.shape
    index = torch.cartesian_prod(torch.arange(chains), torch.arange(length)).reshape(-1, 2)
    columns = dict(zip(("chain", "draw"), index.T.numpy(), strict=True))
    elements = draws.samples.reshape(chains * length, -1).T
    names = component_names(draws.samples.shape[2:])
    columns |= {name: to_numpy(element) for name, element in zip(names, elements, strict=True)}
    columns["log_density"] = to_numpy(draws.log_density.flatten())
    if draws.log_weights is not None:
        columns["log_weight"] = to_numpy(draws.log_weights.flatten())
    if target is not None:
        experts, said = _contributions(draws, target)
        for name, values in zip(experts, said.flatten(0, 1).T, strict=True):
            columns[f"contribution[{name}]"] = to_numpy(values)
    frame = pandas.DataFrame(columns)
    frame.attrs = attributes(draws)
    return frame


def attributes(draws: Judged) -> dict[str, str | int | float]:
    """What is known of all draws together: numbers and strings, as any file format can hold them.

    >>> x = torch.zeros(4, 5, 2)
    >>> attributes(poe.Draws(x, x[..., 0], "exact", seed=3))["seed"]
    3
    """
    known: dict[str, Any] = {
        "inference_library": DISTRIBUTION,
        "inference_library_version": _version(),
        "guarantee": draws.guarantee,
        "kernel": None if draws.kernel is None else repr(draws.kernel),
        "choice": draws.choice,
        "seed": draws.seed,
        "verdict": str(draws.verdict),
        "remarks": "\n".join(draws.remarks),
        "num_warmup": draws.num_warmup,
        "warmup_gradients": draws.warmup_gradients,
        "num_gradients": draws.num_gradients,
        "seconds": draws.seconds,
        "warmup_seconds": draws.warmup_seconds,
        "sampling_time": draws.sampling_seconds,
        "compile_seconds": draws.compile_seconds,
    }
    if (found := draws.log_partition) is not None:
        known |= {
            "log_partition": found.value.item(),
            "log_partition_std_error": found.std_error.item(),
            "log_partition_method": found.method,
            "log_partition_remarks": "\n".join(found.remarks),
        }
    return {name: value for name, value in known.items() if value is not None}


def to_numpy(tensor: Tensor) -> Any:
    """On the CPU and without a gradient; floating-point numbers in float64."""
    held = tensor.detach().cpu()
    return (held.double() if held.is_floating_point() else held).numpy()


def component_names(event_shape: torch.Size) -> list[str]:
    """A name for each element of an event.

    >>> component_names(torch.Size([2, 1]))
    ['x[0, 0]', 'x[1, 0]']
    """
    indices = itertools.product(*(range(n) for n in event_shape))
    return [f"x[{', '.join(map(str, index))}]" if index else "x" for index in indices]


def _contributions(draws: Judged, target: Expert) -> tuple[tuple[str, ...], Tensor]:
    event, expected = draws.samples.shape[2:], target.space.event_shape
    if event != expected:
        raise PoeError(
            f"expected draws of events {tuple(expected)} in {target.space}, got {tuple(event)}: "
            "the target is another one, or collect= kept something else of each draw; leave the "
            "target out"
        )
    names = target.names if isinstance(target, Product) else (type(target).__name__,)
    return names, contributions_along(target, draws.samples)


def _required(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'this container needs {name}: pip install "{DISTRIBUTION}[diagnostics]"'
        ) from error


def _version() -> str | None:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return None
