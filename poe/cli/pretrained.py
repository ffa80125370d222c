"""An entry of a composition that names a shipped expert or a saved folder."""

from __future__ import annotations

from typing import Any

import experts
import poe
from experts.noise import ANY, NoisyConditional
from poe.cli.table import Table
from poe.density.conditional import Conditional
from poe.density.expert import Expert

KEYS = ("given", "noise_level", "density_ratio")
"""What may be said of either, beside its name."""


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
        return experts.at_noise_level(expert, entry.number("noise_level", 1.0))


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
    labels = getattr(conditional, "labels", ())
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
