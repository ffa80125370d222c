"""Entries of a composition: experts written down, and pretrained ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.distributions import Distribution, Independent

import experts
import poe
from experts.noised.conditional import ANY, NoisyConditional
from poe.cli.toml_table import Table
from poe.density.conditional import Conditional
from poe.density.expert import Expert, sampler_of

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
PLUMBING = "validate_args"
"""Torch's own switch, which is no parameter of a density."""
KEYS = ("given", "noise_level", "density_ratio")
"""What may be said of either, beside its name."""


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
        found: Expert = poe.as_expert(Independent(distribution, len(distribution.batch_shape)))
        # Torch notices some shapes only now that do not fit.
        if (draw := sampler_of(found)) is not None:
            found(draw(1, generator=torch.Generator().manual_seed(0)))
        return found

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


def _tensor(value: object) -> object:
    """Lists as tensors; whole numbers alone stay so, since some parameters are counts."""
    return torch.tensor(value, dtype=torch.get_default_dtype()) if is_array(value) else value


def is_array(value: object) -> bool:
    """Whether it is a list, or a number with a point."""
    return isinstance(value, list | float)


def shipped(entry: Table) -> Expert:
    """The shipped expert of that name, its label bound where it is a conditional."""
    name = entry.text("shipped")
    if name not in experts.available():
        known = ", ".join(experts.available())
        raise entry.error("shipped", f"expected one of the shipped experts {known}; got {name!r}")
    return bound(entry, experts.load(name))


def saved(entry: Table) -> Expert:
    """What ``poe.save`` wrote into a folder, whose path is relative to the composition's file."""
    with entry.blame("saved"):
        found = poe.load(entry.file.parent / entry.text("saved"))
    return bound(entry, found)


def bound(entry: Table, found: Any) -> Expert:
    """p(x | given), or over p(x), of what was found, at the noise level that the entry asks for."""
    if isinstance(found, Expert):
        return _as_it_is(entry, found)
    if not isinstance(found, Conditional):
        raise entry.error("", f"expected an expert or a conditional, got {type(found).__name__}")
    if "noise_level" in entry.values:
        found = _at_noise_level(entry, found)
    if entry.flag("density_ratio"):
        found = _density_ratio(entry, found)
    return _given(entry, found)


def _as_it_is(entry: Table, expert: Expert) -> Expert:
    for key in ("given", "density_ratio"):
        if key in entry.values:
            raise entry.error(key, "this expert is no conditional: leave the key out")
    if "noise_level" not in entry.values:
        return expert
    with entry.blame("noise_level"):
        return experts.noised.at_noise_level(expert, entry.number("noise_level", 1.0))


def _at_noise_level(entry: Table, conditional: Conditional) -> Conditional:
    if not isinstance(conditional, NoisyConditional):
        kind = type(conditional).__name__
        raise entry.error("noise_level", f"{kind} has no noise levels: leave the key out")
    with entry.blame("noise_level"):
        return conditional.at_noise_level(entry.number("noise_level", 1.0))


def _density_ratio(entry: Table, conditional: Conditional) -> Conditional:
    if not isinstance(conditional, NoisyConditional):
        kind = type(conditional).__name__
        raise entry.error("density_ratio", f"{kind} does not know p(x): leave the key out")
    return experts.DensityRatio(conditional)


def _given(entry: Table, conditional: Conditional) -> Expert:
    labels: tuple[str, ...] = ()
    if isinstance(conditional, NoisyConditional | experts.DensityRatio):
        labels = conditional.labels
    wanted = f"one of the labels {', '.join(labels)}" if labels else "a number"
    if "given" not in entry.values:
        raise entry.error("given", f"this expert is conditional: expected {wanted}, got nothing")
    value = entry.values["given"]
    if value == ANY and isinstance(conditional, NoisyConditional):
        with entry.blame("given"):
            return conditional.marginal()
    kind: Any = str if labels else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or (labels and value not in labels):
        raise entry.error("given", f"expected {wanted}; got {value!r}")
    with entry.blame("given"):
        return conditional.given(value)
