"""The one door for numbers: every constructor of every expert refuses what it cannot use."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from experts import parameters
from experts.parameters import (
    aligned,
    alike,
    filled,
    floats,
    indices,
    keep,
    log_values,
    number,
    positive,
    probabilities,
    probability,
    real,
    sizes,
    whole,
)
from tests.seeds import seeded

Build = Callable[..., object]
BITS, EYE, ROW = [[0.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.0], [1.0]]
PICTURE = {"labels": ["a"], "noise_level": 0.1}


def _decoder(log_scale: Any = 0.0) -> experts.GaussianDecoder:
    return experts.GaussianDecoder(nn.Identity(), log_scale, (2,))


def _laplace(natural: Any) -> poe.Expert:
    return experts.ExponentialFamily(
        None, torch.abs, natural, lambda n: (-2 / n).log().sum(), space=poe.Real(1)
    )


def _table(table: Any) -> poe.Expert:
    return experts.FactorGraph(poe.Binary(2), [((0, 1), table)])


def _tables(scopes: Any, values: Any) -> poe.Expert:
    return experts.FactorGraph.from_tables(poe.Binary(2), [(scopes, values)])


def _seen(observed: Any, scale: Any) -> poe.Expert:
    return experts.GaussianLikelihood(experts.images.Identity((1, 2)), observed, scale)


BUILDS: dict[str, tuple[Build, dict[str, Any]]] = {
    "Bernoulli": (experts.Bernoulli, {"logits": [1.0]}),
    "Beta": (experts.Beta, {"concentration1": [1.0], "concentration0": [1.0]}),
    "BlockMean": (experts.images.BlockMean, {"shape": (2, 2), "size": 2}),
    "Blur": (experts.images.Blur, {"kernel": [[1.0]], "shape": (1, 2)}),
    "Categorical": (experts.Categorical, {"logits": [[1.0, 1.0]]}),
    "CausalTransformer": (
        experts.CausalTransformer,
        {"vocab_size": 2, "length": 2, "width": 4, "num_heads": 1, "num_layers": 1},
    ),
    "Constraint": (lambda allowed: experts.Constraint(1, allowed), {"allowed": [1.0, 0.0]}),
    "Constraint at_least": (experts.graphs.at_least, {"k": 1, "shape": 2}),
    "Constraint at_most": (experts.graphs.at_most, {"k": 1, "shape": 2}),
    "Constraint exactly": (experts.graphs.exactly, {"k": 1, "shape": 2}),
    "DBM": (experts.DBM, {"weights": [[[1.0]]], "biases": [[0.0], [0.0]]}),
    "Dirichlet": (experts.Dirichlet, {"concentration": [1.0, 1.0]}),
    "Exponential": (experts.Exponential, {"rate": [1.0]}),
    "ExponentialFamily": (_laplace, {"natural": [-1.0]}),
    "FactorGraph": (_table, {"table": BITS}),
    "FactorGraph.from_tables": (_tables, {"scopes": [[0, 1]], "values": [BITS]}),
    "FieldOfExperts": (
        experts.FieldOfExperts,
        {"filters": [[[1.0, -1.0]]], "logits": [[0.0]], "scales": [1.0], "shape": (1, 3)},
    ),
    "FilterBank": (experts.images.FilterBank, {"filters": [[[1.0, -1.0]]], "shape": (1, 3)}),
    "Gamma": (experts.Gamma, {"concentration": [1.0], "rate": [1.0]}),
    "Gaussian": (experts.Gaussian, {"loc": [0.0, 1.0], "scale": [1.0, 1.0]}),
    "Gaussian, covariance": (experts.Gaussian, {"loc": [0.0, 1.0], "covariance": EYE}),
    "Gaussian, precision": (experts.Gaussian, {"loc": [0.0, 1.0], "precision": EYE}),
    "GaussianDecoder": (_decoder, {"log_scale": 0.0}),
    "GaussianLikelihood": (_seen, {"observed": [[0.0, 1.0]], "scale": 1.0}),
    "GaussianRBM": (
        experts.GaussianRBM,
        {"W": [[1.0]], "b": [0.0], "c": [0.0], "scale": [1.0]},
    ),
    "Identity": (experts.images.Identity, {"shape": (1, 2)}),
    "ImageFlow": (experts.ImageFlow, {"shape": (2, 2), **PICTURE, "layers": 1, "hidden": 2}),
    "Ising": (experts.Ising, {"J": BITS, "h": [0.0, 0.0]}),
    "Ising.from_edges": (
        experts.Ising.from_edges,
        {"edges": [[0], [1]], "couplings": [1.0], "fields": [0.0, 0.0], "shape": (2,)},
    ),
    "Ising.grid": (experts.Ising.grid, {"shape": (2, 2), "coupling": 1.0, "field": 0.0}),
    "KernelDensity": (
        experts.KernelDensity,
        {"points": ROW, "bandwidth": 1.0, "weights": [0.5, 0.5]},
    ),
    "LinearChain": (experts.LinearChain, {"unary": [[0.0, 1.0]], "pairs": BITS}),
    "LinearGaussian": (
        experts.LinearGaussian,
        {"weight": [[1.0, 2.0]], "bias": [0.0], "scale": [1.0]},
    ),
    "MADE": (experts.MADE, {"shape": 2, "hidden": (4,)}),
    "Mask": (experts.images.Mask, {"mask": [0.0, 1.0]}),
    "MultilayerPerceptron": (
        experts.neural.MultilayerPerceptron,
        {"shape": (2,), "hidden": (4,), "spread": 1.0},
    ),
    "NADE": (experts.NADE, {"shape": 2, "hidden": 4}),
    "Neighbours": (
        experts.Neighbours,
        {"points": ROW, "num_neighbours": 1, "norm": 2.0, "resolution": 0.1},
    ),
    "NoisyEnergy": (
        experts.NoisyEnergy,
        {"shape": (4, 4), **PICTURE, "channels": (2,), "spread": 0.3},
    ),
    "NormalScores": (experts.tables.NormalScores, {"knots": [[0.0, 1.0]], "scores": [[0.0, 1.0]]}),
    "PatchMixture": (
        experts.PatchMixture,
        {
            "filters": [[[1.0, -1.0]]],
            "logits": [0.0],
            "scale_trils": [[[1.0]]],
            "shape": (1, 3),
        },
    ),
    "PixelMixture": (
        experts.PixelMixture,
        {"shape": (2, 2), **PICTURE, "channels": 2, "blocks": 1, "components": 1},
    ),
    "Poisson": (experts.Poisson, {"rate": [1.0]}),
    "Potts": (
        experts.Potts,
        {
            "edges": [[0], [1]],
            "couplings": [1.0],
            "fields": EYE,
            "shape": (2,),
            "num_labels": 2,
        },
    ),
    "Potts.grid": (
        experts.Potts.grid,
        {"shape": (2, 2), "coupling": 1.0, "num_labels": 2, "field": 0.0},
    ),
    "PottsRBM": (experts.PottsRBM, {"W": [ROW], "b": [[0.0, 0.0]], "c": [0.0]}),
    "ProbabilisticPCA": (
        experts.ProbabilisticPCA,
        {"loc": [0.0, 0.0], "loadings": [[1.0], [1.0]], "scale": 1.0},
    ),
    "RBM": (experts.RBM, {"W": [[1.0]], "b": [0.0], "c": [0.0]}),
    "ReconstructionEnergy": (
        experts.ReconstructionEnergy,
        {
            "shape": (4, 4),
            "labels": ["any"],
            "noise_level": 0.1,
            "channels": 2,
            "spread": 0.3,
        },
    ),
    "RelativeNeighbours": (
        experts.RelativeNeighbours,
        {"points": ROW, "num_neighbours": 1, "norm": 2.0, "resolution": 0.1},
    ),
    "ResidualNetwork": (
        experts.neural.ResidualNetwork,
        {"shape": (4, 4), "channels": (2,), "blocks": 1, "spread": 1.0},
    ),
    "SaltAndPepper": (
        experts.SaltAndPepper,
        {"observed": [0.0, 1.0], "probability": 0.5, "scale": 1.0, "step": 1.0},
    ),
    "Standardize": (experts.tables.Standardize, {"loc": [0.0], "scale": [1.0]}),
    "Transitions": (
        experts.Transitions,
        {"start": [0.0, 1.0], "pairs": BITS, "end": [0.0, 0.0]},
    ),
    "VAE": (
        lambda noises: experts.VAE(nn.Identity(), _decoder(), noises),
        {"noises": [[0.0, 1.0]]},
    ),
    "VisibleDBM": (
        lambda num_steps: experts.VisibleDBM(experts.DBM([[[1.0]]], [[0.0], [0.0]]), num_steps),
        {"num_steps": 1},
    ),
    "VonMises": (experts.VonMises, {"loc": [1.0], "concentration": [1.0]}),
    "Window": (experts.images.Window, {"shape": (2, 2), "part": (1, 1), "corner": (0, 0)}),
    "Wishart": (experts.Wishart, {"degrees_of_freedom": 3.0, "scale": EYE}),
    "binary_channel": (
        experts.spins.binary_channel,
        {"noisy": [0.0, 1.0], "flip_probability": 0.1},
    ),
}
"""Of every expert a build that works, with the arguments that are numbers."""
OF_OTHER_THINGS = {
    "Classifier", "DensityRatio", "Discriminator", "JEM", "LinearOperator", "NeuralEnergy",
    "NoisyConditional", "TiledMixture", "Flow", "ContextFlow",
}  # fmt: skip
"""Made of networks, spaces and experts alone; or of no use by themselves."""
SPACES = {"vocab_size", "length", "num_labels"}
"""What a space is made of: asked by the space."""
LOGARITHMS = {"unary", "pairs", "start", "end", "table", "values"}
"""Of which −inf is a value."""


def _is_number(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_number, value))
    return isinstance(value, int | float)


def _with(value: Any, wrong: Any) -> Any:
    """The same lists, with something else as their first number."""
    if not isinstance(value, list | tuple):
        return wrong
    return type(value)([_with(value[0], wrong), *value[1:]])


def _whole(value: Any) -> Any:
    return [_whole(part) for part in value] if isinstance(value, list) else round(value)


CASES = [
    (name, argument)
    for name, (_, arguments) in BUILDS.items()
    for argument, value in arguments.items()
    if _is_number(value)
    and argument not in SPACES
    # The space is the first to ask what its shape is made of.
    and not (argument == "shape" and name in ("MADE", "NADE", "Potts", "Ising.from_edges"))
    and not (argument == "shape" and name.startswith("Constraint"))
    and not (argument == "shape" and name in ("PixelMixture", "ImageFlow"))
]


@seeded()
def test_every_expert_has_a_build_here() -> None:
    public = {
        name
        for name in experts.__all__
        if inspect.isclass(thing := getattr(experts, name))
        and issubclass(thing, nn.Module)
        and name not in OF_OTHER_THINGS
    }
    assert public <= {name.split(".")[0].split(",")[0].split(" ")[0] for name in BUILDS}
    for build, arguments in BUILDS.values():
        build(**arguments)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, "x", None, 1j], ids=str)
@pytest.mark.parametrize(("name", "argument"), CASES)
def test_what_is_no_number_is_refused(name: str, argument: str, wrong: Any) -> None:
    build, arguments = BUILDS[name]
    given = _with(arguments[argument], wrong)
    if wrong == -math.inf and argument in LOGARITHMS:
        build(**{**arguments, argument: given})
        return
    if (
        wrong is None
        and argument == "spread"
        and name in ("MultilayerPerceptron", "ResidualNetwork")
    ):
        return  # no reference at all, as their docstrings say
    with pytest.raises(poe.PoeError):
        build(**{**arguments, argument: given})


@pytest.mark.parametrize(
    ("name", "argument"), [(n, a) for n, a in CASES if isinstance(BUILDS[n][1][a], list | float)]
)
@seeded()
def test_whole_numbers_are_converted_or_refused(name: str, argument: str) -> None:
    """No expert keeps integers where it computes with floats."""
    build, arguments = BUILDS[name]
    try:
        made = build(**{**arguments, argument: torch.tensor(_whole(arguments[argument]))})
    except poe.PoeError:
        return
    assert isinstance(made, nn.Module)
    kept = {**dict(made.named_buffers()), **dict(made.named_parameters())}
    if argument in kept and argument not in ("edges", "scopes", "allowed"):
        assert kept[argument].is_floating_point()


@pytest.mark.parametrize("shape", [(), (0,), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize(
    ("name", "argument"), [(n, a) for n, a in CASES if isinstance(BUILDS[n][1][a], list)]
)
def test_other_shapes_are_refused_in_words_or_taken(
    name: str, argument: str, shape: tuple[int, ...]
) -> None:
    build, arguments = BUILDS[name]
    with contextlib.suppress(poe.PoeError):
        build(**{**arguments, argument: torch.ones(shape)})


TENSORS = [
    name
    for name, (_, arguments) in BUILDS.items()
    if all(isinstance(value, list) and _is_number(value) for value in arguments.values())
]


@pytest.mark.parametrize("name", TENSORS)
def test_experts_are_made_on_the_meta_device(name: str) -> None:
    """Without a look at numbers that are not there."""
    build, arguments = BUILDS[name]
    if name == "DBM":
        given: dict[str, Any] = {
            key: [torch.tensor(part, device="meta") for part in value]
            for key, value in arguments.items()
        }
    else:
        given = {k: torch.tensor(v, device="meta") for k, v in arguments.items()}
    if name == "FactorGraph.from_tables":
        given["scopes"] = torch.tensor(arguments["scopes"])
    made = build(**given)
    assert isinstance(made, nn.Module)
    assert any(t.is_meta for t in (*made.parameters(), *made.buffers()))


@pytest.mark.parametrize("name", TENSORS)
def test_numbers_of_float64_stay_so(name: str) -> None:
    build, arguments = BUILDS[name]
    if name in ("DBM", "FactorGraph.from_tables", "Constraint"):
        pytest.skip("of lists of tensors, or of whole numbers")
    given = {k: torch.tensor(v, dtype=torch.float64) for k, v in arguments.items()}
    made = build(**given)
    assert isinstance(made, nn.Module)
    kept = [t for t in (*made.parameters(), *made.buffers()) if t.is_floating_point() and t.ndim]
    assert {t.dtype for t in kept} == {torch.float64}


CHECKS = [floats, real, positive, probability, probabilities, log_values]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    "value", ["x", None, object(), [[1.0], [1.0, 2.0]], 1j, torch.ones(1) * 1j]
)
def test_what_cannot_be_numbers_is_named(check: Callable[..., Tensor], value: Any) -> None:
    with pytest.raises(poe.DtypeError, match=r"^spin must be (numbers|real), got"):
        check("spin", value)


@pytest.mark.parametrize(
    ("check", "value", "says"),
    [
        (real, [0.0, math.nan], r"spin must be finite, got nan at \(1,\): leave out"),
        (real, math.inf, "spin must be finite, got inf: leave out"),
        (positive, [[1.0, 0.0]], r"spin must be positive, got 0 at \(0, 1\): give what is above 0"),
        (positive, -math.inf, "spin must be finite, got -inf"),
        (probability, 1, "spin must be between 0 and 1, got 1: what is certain"),
        (probabilities, [0.5, -1.0], r"spin must be 0 or above, got -1 at \(1,\)"),
        (probabilities, [0.0, 0.0], r"spin must be above 0 somewhere, got \[0.0, 0.0\]"),
        (probabilities, 1.0, r"spin must be of shape \(n,\), got \(\)"),
        (probabilities, nn.Parameter(torch.ones(2)), "spin must be numbers, got an nn.Parameter"),
        (log_values, [-math.inf, math.inf], r"spin must be numbers or -inf, got inf at \(1,\)"),
        (indices, [0.5], "spin must be whole numbers, got torch.float32"),
        (whole, 0, "spin must be a whole number >= 1, got 0"),
        (whole, 2.5, r"spin must be a whole number >= 1, got 2\.5"),
        (sizes, (2, 0), r"spin\[1\] must be a whole number >= 1, got 0"),
        (sizes, 3, "spin must be whole numbers, got 3"),
    ],
)
def test_errors_say_what_was_expected_what_came_and_the_remedy(
    check: Callable[..., object], value: Any, says: str
) -> None:
    with pytest.raises(poe.PoeError, match=f"^{says}"):
        check("spin", value)


@pytest.mark.parametrize("check", [floats, real, positive, log_values])
def test_what_is_a_floating_tensor_stays_as_it_is(check: Callable[..., Tensor]) -> None:
    parameter = nn.Parameter(torch.ones(2, dtype=torch.float64))
    assert check("spin", parameter) is parameter
    assert check("spin", parameter, like=torch.ones(1)) is parameter
    assert check("spin", torch.ones(2, device="meta")).is_meta
    assert check("spin", torch.ones(2, device="meta"), like=torch.ones(1)).is_meta


@pytest.mark.parametrize("value", [1, True, [1, 2], np.ones(2), np.float64(1), torch.ones(2).int()])
def test_other_numbers_are_converted(value: Any) -> None:
    assert real("spin", value).is_floating_point()
    assert real("spin", value, like=torch.ones(1).double()).dtype == torch.float64


def test_no_digits_are_lost_beside_float64() -> None:
    like = torch.ones(1, dtype=torch.float64)
    assert real("spin", 0.1, like=like).item() == 0.1
    assert aligned(a=like, b=0.1)[1].item() == 0.1
    assert alike(real, a=like, b=[0.1])[1].item() == 0.1
    assert number("spin", 0.1, positive) == 0.1
    assert experts.Gaussian(like, scale=0.1).scale.item() == 0.1  # type: ignore[union-attr]


def test_aligned_are_of_the_widest_dtype_and_parameters_of_another_are_refused() -> None:
    tensors = aligned(a=torch.ones(2), b=torch.ones(1).double(), c=1)
    assert {tensor.dtype for tensor in tensors} == {torch.float64}
    with pytest.raises(poe.DtypeError, match=r"^a must be of torch.float64, as a and b are of one"):
        aligned(a=nn.Parameter(torch.ones(2)), b=torch.ones(1).double())
    with pytest.raises(poe.PoeError, match=r"^b must be finite, got nan"):
        aligned(a=torch.ones(2), b=math.nan)


def test_alike_are_of_one_shape_and_learn_nothing() -> None:
    with pytest.raises(poe.ShapeError, match=r"^a and b must be of one shape, got \(2,\), \(3,\)"):
        alike(real, a=torch.ones(2), b=torch.ones(3))
    with pytest.raises(poe.PoeError, match=r"^a must be numbers, .* requires a gradient"):
        alike(real, a=torch.ones(2, requires_grad=True))


def test_filled_and_kept() -> None:
    with pytest.raises(poe.ShapeError, match=r"^fields must be of shape \(2,\), or a number for"):
        filled("fields", torch.ones(3), torch.Size([2]))
    module = nn.Module()
    keep(module, "learned", nn.Parameter(torch.ones(1)))
    keep(module, "fixed", torch.ones(1))
    keep(module, "absent", None)
    assert [name for name, _ in module.named_parameters()] == ["learned"]
    assert [name for name, _ in module.named_buffers()] == ["fixed"]


def test_the_module_is_the_only_door() -> None:
    """No other module of experts makes tensors of arguments by torch.as_tensor.

    Save an index of a class, and a constant that is computed.
    """
    folder = Path(parameters.__file__).parent
    allowed = {"parameters.py", "classifier.py", "ising.py"}
    offenders = [
        path.name
        for path in folder.glob("*.py")
        if "torch.as_tensor(" in path.read_text() and path.name not in allowed
    ]
    assert not offenders


@pytest.mark.parametrize("check", CHECKS)
def test_sparse_tensors_are_refused_in_words(check: Callable[..., Tensor]) -> None:
    with pytest.raises(poe.DtypeError, match=r"spin must be dense, got torch\.sparse_coo"):
        check("spin", torch.eye(2).to_sparse())


@pytest.mark.filterwarnings("error")
def test_complex_numbers_are_refused_before_they_are_cast() -> None:
    with pytest.raises(poe.DtypeError, match="scale must be real"):
        experts.Gaussian([0.0], scale=torch.ones(1) * 1j)


@pytest.mark.parametrize("wrong", [1, 1.5, None, torch.tensor(1.0)])
def test_layers_of_a_dbm_are_a_sequence(wrong: Any) -> None:
    with pytest.raises(poe.PoeError, match="weights must be a sequence"):
        experts.DBM(wrong, [[0.0], [0.0]])
    with pytest.raises(poe.PoeError, match="biases must be a sequence"):
        experts.DBM([[[1.0]]], wrong)
