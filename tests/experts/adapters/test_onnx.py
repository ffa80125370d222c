"""Networks in ONNX files: gradient-free experts, what is refused, and chains that need no score."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import experts
import poe
from experts.adapters.onnx import OnnxClassifier, OnnxNetwork, example
from poe.samplers import MALA, DelayedAcceptance, MetropolisHastings, SurrogateMALA

PRIOR = experts.Gaussian([0.0, 0.0], scale=[1.0, 0.5])


def model(
    *nodes: onnx.NodeProto,
    inputs: list[tuple[str, int, list[int | str]]] | None = None,
    outputs: list[tuple[str, int, list[int | str]]] | None = None,
    opsets: tuple[tuple[str, int], ...] = (("", 17),),
) -> bytes:
    """A file of those nodes: by default x (n, 2) to y (n, 3), with the weight W (2, 3)."""
    weight = helper.make_tensor("W", TensorProto.FLOAT, (2, 3), [1.0, 0.0, -1.0, -1.0, 0.5, 1.0])
    graph = helper.make_graph(
        nodes or (helper.make_node("MatMul", ["x", "W"], ["y"]),),
        "test",
        [helper.make_tensor_value_info(*i) for i in inputs or [("x", 1, ["n", 2])]],
        [helper.make_tensor_value_info(*o) for o in outputs or [("y", 1, ["n", 3])]],
        [weight],
    )
    ids = [helper.make_opsetid(*opset) for opset in opsets]
    return helper.make_model(graph, opset_imports=ids, ir_version=9).SerializeToString()


MATMUL = helper.make_node("MatMul", ["x", "W"], ["logits"])
SOFTMAX = helper.make_node("Softmax", ["logits"], ["y"], axis=-1)


def log_likelihood(x: Tensor) -> Tensor:
    weight = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.5, 1.0]], dtype=x.dtype)
    return (x @ weight).log_softmax(-1)[..., 0]


def exact_draws(num: int, seed: int) -> Tensor:
    """By rejection: the likelihood is at most 1."""
    g = torch.Generator().manual_seed(seed)
    x = PRIOR.sample(6 * num, generator=g)
    kept = x[torch.rand(len(x), generator=g) < log_likelihood(x).exp()]
    assert len(kept) >= num
    return kept[:num]


def test_logits_and_probabilities_say_the_same_as_torch(tmp_path: Path) -> None:
    path, x = tmp_path / "model.onnx", torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    path.write_bytes(model())
    by_logits = OnnxClassifier(path, label=0)
    file = model(MATMUL, SOFTMAX)
    by_probabilities = OnnxClassifier(file, label=0, probabilities=True)
    torch.testing.assert_close(by_logits(x), log_likelihood(x))
    torch.testing.assert_close(by_probabilities(x), log_likelihood(x))
    batch = x.reshape(5, 1, 2)
    torch.testing.assert_close(by_logits(batch), log_likelihood(batch))


@pytest.mark.parametrize("as_probability", [False, True], ids=["logit", "sigmoid"])
def test_one_output_tells_two_classes_apart(as_probability: bool) -> None:
    first_less_last = helper.make_tensor("v", TensorProto.FLOAT, (3, 1), [1.0, 0.0, -1.0])
    nodes = [
        helper.make_node("Constant", [], ["v"], value=first_less_last),
        helper.make_node("MatMul", ["logits", "v"], ["s"]),
        helper.make_node("Sigmoid" if as_probability else "Identity", ["s"], ["y"]),
    ]
    file = model(MATMUL, *nodes, outputs=[("y", 1, ["n", 1])])
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    logit = 2 * (x[:, 0] - x[:, 1])
    for label, sign in ((0, -1.0), (1, 1.0)):
        found = OnnxClassifier(file, label=label, probabilities=as_probability)(x)
        torch.testing.assert_close(found, nn.functional.logsigmoid(sign * logit))
    with pytest.raises(poe.AdaptationError, match=f"use probabilities={as_probability}"):
        OnnxClassifier(file, label=0, probabilities=not as_probability)


def test_a_fixed_batch_size_takes_any_batch() -> None:
    file = model(inputs=[("x", 1, [2, 2])], outputs=[("y", 1, [2, 3])])
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(OnnxNetwork(file)(x), OnnxNetwork(model())(x))


def test_one_label_a_chain() -> None:
    likes = OnnxClassifier(model(), label=torch.tensor([0, 2]))
    x = torch.ones(2, 2)
    both = torch.stack([OnnxClassifier(model(), label=label)(x[:1])[0] for label in (0, 2)])
    torch.testing.assert_close(likes(x), both)
    draws = poe.sample(
        PRIOR * likes, 200, warmup=50, generator=torch.Generator().manual_seed(0), progress=False
    )
    assert isinstance(draws.kernel, MetropolisHastings)


def test_bits_and_labels() -> None:
    bits = OnnxClassifier(model(), label=1, space=poe.Binary(2))
    draws = poe.sample(bits, 400, generator=torch.Generator().manual_seed(0), progress=False)
    assert bool(poe.Binary(2).contains(draws.samples).all())
    flat = helper.make_node("Flatten", ["x"], ["f"])
    file = model(
        flat, helper.make_node("MatMul", ["f", "W"], ["y"]), inputs=[("x", 1, ["n", 1, 2])]
    )
    label = OnnxClassifier(file, label=1, space=poe.Categorical(1, 2))
    assert label(torch.tensor([[0], [1]])).shape == (2,)


def test_as_an_energy() -> None:
    square = helper.make_node("ReduceSumSquare", ["x"], ["y"], axes=[1], keepdims=0)
    energy = poe.FromEnergy(
        OnnxNetwork(model(square, outputs=[("y", 1, ["n"])])), space=poe.Real(2)
    )
    assert energy(torch.ones(1, 2)).item() == -2.0


def test_saved_and_loaded(tmp_path: Path) -> None:
    expert, x = OnnxClassifier(example(), label=2), torch.ones(3, 2)
    poe.save(PRIOR * expert, tmp_path / "joint")
    loaded = poe.load(tmp_path / "joint")
    torch.testing.assert_close(loaded(x), (PRIOR * expert)(x))
    torch.testing.assert_close(copy.deepcopy(expert)(x), expert(x))


def test_the_score_is_refused_wherever_it_is_asked_for() -> None:
    target = PRIOR * OnnxClassifier(model(), label=0)
    x = torch.zeros(2, 2)
    for expert in (
        target,
        target**2,
        poe.Mixture([PRIOR, PRIOR]) * target,
        target.at(nn.Tanh(), poe.Real(2)),
    ):
        with pytest.raises(poe.GradientError, match=r"OnnxNetwork has no gradient.*SurrogateMALA"):
            expert.score(x)
    with pytest.raises(poe.GradientError, match="OnnxNetwork has no gradient"):
        poe.sample(target, 10, kernel=MALA(0.1), progress=False)


def test_sample_chooses_a_kernel_without_gradient_and_says_so() -> None:
    target = PRIOR * OnnxClassifier(model(), label=0)
    draws = poe.sample(
        target, 40_000, generator=torch.Generator().manual_seed(1), progress=False, num_chains=64
    )
    why = "no score: a random walk shaped by the covariance of all chains"
    assert draws.choice.startswith("by importance weights 512 draws of expert 'Gaussian' are worth")
    assert draws.choice.endswith(f"; without them {why}; OnnxNetwork has no gradient")
    assert draws.guarantee == "asymptotically exact"
    summary, exact = draws.summary(), exact_draws(200_000, 2)
    error = torch.hypot(summary.mcse, exact.std(0) / len(exact) ** 0.5)
    z = (summary.mean - exact.mean(0)) / error
    assert bool((z.abs() < 4).all()), z


@pytest.mark.law
def test_two_modes_are_tempered_without_gradient() -> None:
    """The absolute value of x: classes whose likelihood has two ends, far apart."""
    far = [
        helper.make_node("Mul", ["x", "x"], ["s"]),
        helper.make_node("MatMul", ["s", "W"], ["y"]),
    ]
    ring = OnnxClassifier(model(*far), label=0)
    narrow = poe.FromLogDensity(
        lambda x: -50 * (x[..., 0].abs() - 3).square() - 2 * x[..., 1].square(), space=poe.Real(2)
    )
    draws = poe.sample(
        narrow * ring,
        1600,
        num_chains=16,
        warmup=200,
        generator=torch.Generator().manual_seed(1),
        progress=False,
    )
    right = (draws.samples[..., 0] > 0).double().mean(1)
    error = right.std() / len(right) ** 0.5
    assert "replicas" in draws.choice
    assert abs(right.mean() - 0.5) < 4 * error


@pytest.mark.parametrize(
    "kernel",
    [
        MetropolisHastings(0.8),
        SurrogateMALA(PRIOR, 0.3),
        DelayedAcceptance(MALA(0.3), PRIOR, num_steps=2),
    ],
    ids=lambda kernel: type(kernel).__name__,
)
def test_kernels_without_gradient_leave_the_product_as_it_is(kernel: poe.samplers.Kernel) -> None:
    target = PRIOR * OnnxClassifier(model(), label=0)
    x = exact_draws(40_000, 3)
    g = torch.Generator().manual_seed(4)
    state = kernel.init(target, x)
    for _ in range(8):
        state, _ = kernel.step(target, state, generator=g)
    fresh, moved = exact_draws(200_000, 5), state.position
    assert float((moved != x).any(1).double().mean()) > 0.5
    for f in (lambda x: x, torch.square):
        a, b = f(moved), f(fresh)
        error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
        z = (a.mean(0) - b.mean(0)) / error
        assert bool((z.abs() < 4).all()), z


def test_smc_and_log_partition_without_gradient() -> None:
    target = PRIOR * OnnxClassifier(model(), label=0)
    x = PRIOR.sample(400_000, generator=torch.Generator().manual_seed(0))
    p = log_likelihood(x).exp()
    log_z, error = p.mean().log(), p.std() / len(p) ** 0.5 / p.mean()
    draws = poe.smc(target, 4000, generator=torch.Generator().manual_seed(1), progress=False)
    found = [draws.log_partition]
    found.append(poe.log_partition(target, generator=torch.Generator().manual_seed(2)))
    for one in found:
        assert one is not None
        assert abs(one.value - log_z) < 4 * torch.hypot(one.std_error, error.double()), one


TWO = [("x", 1, ["n", 2]), ("mask", 1, ["n", 2])]
MASKED = [
    helper.make_node("Mul", ["x", "mask"], ["m"]),
    helper.make_node("MatMul", ["m", "W"], ["y"]),
]
INDEX = helper.make_node("ArgMax", ["logits"], ["y"], axis=1, keepdims=0)
BOTH = [("logits", 1, ["n", 3]), ("y", 1, ["n", 3])]
ABS = helper.make_node("Abs", ["x"], ["y"])

REFUSED = {
    "no ONNX file": (b"abc", {}, "expected an ONNX model, got what onnxruntime refuses"),
    "two inputs": (
        model(*MASKED, inputs=TWO),
        {},
        r"one input, an array of floats, got x: tensor\(float\), mask",
    ),
    "integer tokens": (
        model(ABS, inputs=[("x", TensorProto.INT64, ["n", 2])], outputs=[("y", 7, ["n", 2])]),
        {},
        r"one input, an array of floats, got x: tensor\(int64\)",
    ),
    "two outputs": (model(MATMUL, SOFTMAX, outputs=BOTH), {}, "one output, got logits, y: name"),
    "no such output": (model(), {"output": "z"}, "an output 'z' that is an array of floats, got y"),
    "an index": (
        model(MATMUL, INDEX, outputs=[("y", TensorProto.INT64, ["n"])]),
        {},
        "an output 'y' that is an array of floats.*zipmap",
    ),
    "open shape": (
        model(ABS, inputs=[("x", 1, ["n", "d"])], outputs=[("y", 1, ["n", "d"])]),
        {},
        r"states the shape of one x, got \('d',\): give space=",
    ),
    "probabilities as logits": (
        model(MATMUL, SOFTMAX),
        {},
        "expected logits, got values that are not negative and sum to 1: use probabilities=True",
    ),
    "logits as probabilities": (
        model(),
        {"probabilities": True},
        "expected probabilities, which are not negative and sum to 1, got other values: use prob",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    content, settings, message = REFUSED[name]
    with pytest.raises(poe.AdaptationError, match=message):
        OnnxClassifier(content, label=0, **settings)


def test_no_such_class() -> None:
    with pytest.raises(poe.PoeError, match="the net has no class 3 of 3"):
        OnnxClassifier(model(), label=3)


def test_x_of_another_shape() -> None:
    with pytest.raises(poe.ShapeError, match=r"expected x of shape \(n, 2\) as the ONNX file"):
        OnnxNetwork(model())(torch.zeros(4, 3))


def test_missing_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'pip install "product-of-experts\[onnx\]"'):
        OnnxNetwork(model())
