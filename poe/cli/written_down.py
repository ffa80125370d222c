"""An entry of a composition whose parameters stand in the file: of a family here, or of torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.distributions import Distribution, Independent

import experts
import poe
from poe.cli.table import Table
from poe.density.expert import Expert

FAMILIES: tuple[type[Expert], ...] = (
    experts.Bernoulli,
    experts.Beta,
    experts.Categorical,
    experts.Dirichlet,
    experts.Exponential,
    experts.Gamma,
    experts.Gaussian,
    experts.Ising,
    experts.Poisson,
    experts.ProbabilisticPCA,
    experts.RBM,
    experts.VonMises,
    experts.Wishart,
)
"""What is made of numbers alone. Their products have closed forms, so they go before torch's."""
OF_OTHERS = ("Independent", "MixtureSameFamily", "TransformedDistribution", "ExponentialFamily")
"""Distributions that are made of distributions, or are no class of their own."""


def kinds() -> dict[str, Callable[..., Expert]]:
    """Every ``kind`` that a file may name.

    >>> kinds()["Gaussian"] is experts.Gaussian, "Laplace" in kinds()
    (True, True)
    """
    return {**distributions(), **{family.__name__: family for family in FAMILIES}}


def distributions() -> dict[str, Callable[..., Expert]]:
    """The distributions of torch that are made of numbers, as experts on arrays of their shape."""
    classes = {name: getattr(torch.distributions, name) for name in torch.distributions.__all__}
    return {
        name: adapted(kind)
        for name, kind in classes.items()
        if isinstance(kind, type) and issubclass(kind, Distribution)
        if kind is not Distribution and name not in OF_OTHERS
    }


def adapted(kind: Callable[..., Distribution]) -> Callable[..., Expert]:
    """The distribution as an expert: its elements independent, as its batch shape has them.

    >>> str(adapted(torch.distributions.Laplace)(loc=[0.0, 1.0], scale=1.0).space)
    'Real(2)'
    """

    def build(**parameters: Any) -> Expert:
        given = {name: _tensor(value) for name, value in parameters.items()}
        distribution = kind(**given, validate_args=True)
        return poe.as_expert(Independent(distribution, len(distribution.batch_shape)))

    build.__signature__ = inspect.signature(kind)  # type: ignore[attr-defined]
    return build


def written_down(entry: Table, parameters: Mapping[str, Any]) -> Expert:
    """The expert of that kind with these parameters."""
    name = entry.text("kind")
    if name not in kinds():
        known = ", ".join(sorted(kinds()))
        raise entry.error("kind", f"expected one of {known}; got {name!r}")
    build = kinds()[name]
    known_parameters = [each for each in inspect.signature(build).parameters if each != PLUMBING]
    for key in parameters:
        if key not in known_parameters:
            known = ", ".join(known_parameters)
            raise entry.error(key, f"{name} has no such parameter; expected some of {known}")
    with entry.blame():
        return build(**parameters)


PLUMBING = "validate_args"
"""Torch's own switch, which is no parameter of a density."""


def _tensor(value: object) -> object:
    """Lists as tensors; whole numbers alone stay so, since some parameters are counts."""
    return torch.tensor(value, dtype=torch.get_default_dtype()) if is_array(value) else value


def is_array(value: object) -> bool:
    """Whether it is a list, or a number with a point."""
    return isinstance(value, list | float)
