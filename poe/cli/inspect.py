"""``python -m poe inspect``: what a composition is, and what sampling it would do."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NamedTuple

from poe.cli.terminal import (
    ExitCode,
    add_composition,
    add_json,
    add_seed,
    new_command,
    print_json,
    table,
)

if TYPE_CHECKING:
    from poe.cli.composition import Composition
    from poe.density.expert import Expert, Product

DESCRIPTION = """\
The composition as a tree; its space; each expert with its exponent, its number of parameters,
whether it is normalised, and whether its log Z and its draws are exact; the same of the product;
and the sampler that `sample` would choose, with the reason. Nothing is sampled, save where chains
would start.

  python -m poe inspect examples/compositions/gaussians.toml
  python -m poe inspect examples/compositions/not.toml --json
"""
TRIED_CHAINS = 4
"""So many starts show whether there is a score."""


class Known(NamedTuple):
    """What is known of one expert."""

    kind: str
    parameters: int
    is_normalized: bool
    has_exact_log_partition: bool
    is_sampled_exactly: bool


class Sampler(NamedTuple):
    """What ``poe.sample`` would do, and why; ``guarantee`` None where it refuses."""

    name: str
    why: str
    guarantee: str | None


def add(commands: Any) -> None:
    """Add the command's parser."""
    line = "the tree, the space, what is in closed form, the sampler"
    command = new_command(commands, "inspect", line, DESCRIPTION)
    add_composition(command)
    add_seed(command)
    add_json(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace, top: argparse.ArgumentParser) -> ExitCode:
    """Look, and print."""
    from poe.cli.composition import read

    composition = read(options.composition)
    product = composition.product()
    sampler = sampler_of(product, options.seed)
    if options.json:
        print_json(as_facts(composition, product, sampler))
    else:
        print(as_text(composition, product, sampler))
    return ExitCode.OK


def known(expert: Expert) -> Known:
    """Look at one expert; an improper one has no normaliser and no draws."""
    from poe.core.errors import PoeError
    from poe.density.capabilities import (
        can_sample_exactly,
        check_proper,
        exact_log_partition,
        is_normalized,
    )

    sizes = [tensor.numel() for tensor in (*expert.parameters(), *expert.buffers())]
    about = (kind_of(expert), sum(sizes))
    try:
        check_proper(expert)
        has_log_z = exact_log_partition(expert) is not None
    except PoeError:
        return Known(*about, False, False, False)
    return Known(*about, is_normalized(expert), has_log_z, can_sample_exactly(expert))


def kind_of(expert: Expert) -> str:
    """Its class, and that of the conditional where a label is bound."""
    from poe.density.conditional import Given

    if isinstance(expert, Given):
        return f"{type(expert.conditional).__name__} given {expert.condition.tolist()}"
    return type(expert).__name__


def sampler_of(product: Product, seed: int) -> Sampler:
    """The way that ``poe.sample`` takes, up to its first step."""
    import torch

    from poe.core.errors import PoeError
    from poe.density.capabilities import can_sample_exactly, check_proper, simplify
    from poe.density.coordinates import number_of_chains
    from poe.samplers.questions import guarantee
    from poe.tuning.prepared import LED, chosen, is_led
    from poe.tuning.truncation import tabulated

    try:
        check_proper(product)
        simple = simplify(product).expert
        if can_sample_exactly(simple):
            why = f"{type(simple).__name__} can be sampled exactly"
            return Sampler("independent draws", why, "exact")
        if table := tabulated(product):
            return Sampler("independent draws", table.why, "exact")
        generator = torch.Generator().manual_seed(seed)
        chains = number_of_chains(product, TRIED_CHAINS, None, None)
        begin = chosen(product, chains, generator=generator)
    except PoeError as error:
        return Sampler("none", str(error), None)
    kernel, why = begin.choice
    inner = getattr(kernel, "kernel", None)
    name = type(kernel).__name__ + (f"({type(inner).__name__})" if inner else "")
    started_at = f"{begin.started_at}, {LED}" if is_led(begin) else begin.started_at
    return Sampler(name, f"{why}; started at {started_at}", guarantee(kernel))


def as_facts(composition: Composition, product: Product, sampler: Sampler) -> dict[str, Any]:
    """For a program."""
    experts = {
        name: {"exponent": composition.exponents[name], **known(expert)._asdict()}
        for name, expert in composition.experts.items()
    }
    return {
        "space": str(product.space),
        "experts": experts,
        "product": known(product)._asdict(),
        "sampler": sampler._asdict(),
        "tree": repr(product),
    }


def as_text(composition: Composition, product: Product, sampler: Sampler) -> str:
    """For a reader."""
    header = [
        "expert",
        "exponent",
        "kind",
        "parameters",
        "normalised",
        "log Z known",
        "exact draws",
    ]
    rows = [
        _row(name, f"{composition.exponents[name]:g}", known(expert))
        for name, expert in composition.experts.items()
    ]
    rows.append(_row("(product)", "", known(product)))
    guarantee = f" ({sampler.guarantee})" if sampler.guarantee else ""
    return "\n".join(
        [
            f"space: {product.space}",
            "",
            table(header, rows),
            "",
            f"sampler: {sampler.name}{guarantee}: {sampler.why}",
            "",
            repr(product),
        ]
    )


def _row(name: str, exponent: str, about: Known) -> list[str]:
    kind, parameters, *answers = about
    return [name, exponent, kind, f"{parameters:,}", *("yes" if each else "no" for each in answers)]
