"""Networks in ONNX files, run by onnxruntime: they have no gradient, and say so."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import poe
from experts.neural.classifier import Classifier, are_probabilities, few_events
from poe.core.errors import AdaptationError, ShapeError
from poe.core.imports import require
from poe.core.no_gradient import without_gradient
from poe.io import register

DTYPES = {"tensor(float)": torch.float32, "tensor(double)": torch.float64}


class OnnxNetwork(nn.Module):
    """The network of an ONNX file as a module without gradient: ``(n, *event) -> (n, *out)``.

    It takes its place wherever a network does, as in ``NeuralEnergy(OnnxNetwork(path), space)``. x
    is computed in the file's own precision, on the CPU, and the result comes back in x's own.
    Differentiating it raises ``poe.GradientError``. The file's bytes are a buffer, so that
    ``poe.save`` keeps them.

    Args:
        source: The file's path, or its bytes.
        output: The name of the output that is meant, where there are several.
        event_shape: Of one x, where the file leaves it open.

    Raises:
        AdaptationError: For a file that onnxruntime cannot run, and for one that takes anything but
            a single array of floats, batch first, or whose output is no array of floats.

    Example:
        >>> network = OnnxNetwork(example())
        >>> network(torch.ones(4, 2)).shape
        torch.Size([4, 3])
    """

    model: Tensor

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        *,
        output: str | None = None,
        event_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        self.register_buffer("model", torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self._session = _session(content)
        self.port = _port(self._session, output, event_shape)
        one = self._run(torch.zeros(1, *self.port.event_shape))
        self.out_shape = one.shape[1:]

    def forward(self, x: Tensor) -> Tensor:
        """The network's output.

        Args:
            x: ``(n, *event)``.

        Returns:
            ``(n, *out)``, in the dtype of x.

        Raises:
            ShapeError: For another shape than the file states.
        """
        if x.shape[1:] != self.port.event_shape:
            raise ShapeError(
                f"expected x of shape (n, {', '.join(map(str, self.port.event_shape))}) as the "
                f"ONNX file states, got {tuple(x.shape)}"
            )
        if x.is_meta:
            return x.new_empty((len(x), *self.out_shape))
        value = self._run(x.detach()).to(x)
        return without_gradient(value, x, type(self).__name__)

    def _run(self, x: Tensor) -> Tensor:
        rows = x.to("cpu", self.port.dtype)
        parts = [self._run_once(part) for part in _batches(rows, self.port.batch_size)]
        return torch.cat(parts)[: len(x)]

    def _run_once(self, rows: Tensor) -> Tensor:
        array = rows.contiguous().numpy()
        return torch.from_numpy(self._session.run([self.port.output], {self.port.input: array})[0])

    def __getstate__(self) -> dict[str, Any]:
        """Without the session, which cannot be copied."""
        return {**self.__dict__, "_session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._session = _session(_bytes(self.model))

    def extra_repr(self) -> str:
        return f"{self.port.input} {self.port.event_shape} -> {self.port.output}"


class OnnxClassifier(poe.Expert):
    """log p(y | x) of the classifier in an ONNX file, as a density of x; it has no gradient.

    ``poe.sample`` moves a product with one by a random walk. Where the other experts have a score,
    ``poe.samplers.SurrogateMALA(surrogate=them)`` follows that and is exact for the whole product.

    Shapes: x ``(*batch, *event)``. Raises as `OnnxNetwork` and `Classifier`.

    Args:
        source: The file's path, or its bytes.
        label: The class y, an index, or ``(batch,)``, one for each chain; 0 or 1 of a file with one
            output, which speaks of class 1.
        space: Where x lives; by default Real, in the shape that the file states.
        output: The name of the output with the classes, where there are several.
        probabilities: Whether that holds p(y | x), in place of logits.

    Raises:
        AdaptationError: Where ``probabilities`` is not what the file gives.

    Example:
        >>> likes = OnnxClassifier(example(), label=1)
        >>> likes(torch.zeros(1, 2)), likes.space
        (tensor([-1.0986]), Real(shape=(2,)))
        >>> likes.score(torch.zeros(1, 2))
        Traceback (most recent call last):
        poe.GradientError: OnnxNetwork has no gradient: ...
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        *,
        label: int | Tensor,
        space: poe.Space | None = None,
        output: str | None = None,
        probabilities: bool = False,
    ) -> None:
        super().__init__()
        shape = None if space is None else _input_shape(space)
        self.network = OnnxNetwork(source, output=output, event_shape=shape)
        self.probabilities = probabilities
        _require_kind(self.network, probabilities)
        self.space = poe.Real(tuple(self.network.port.event_shape)) if space is None else space
        net = nn.Sequential(self.network, ToLogits()) if probabilities else self.network
        self.likes = Classifier(net, self.space).given(label)

    def forward(self, x: Tensor) -> Tensor:
        """log p(y | x).

        Args:
            x: ``(*batch, *event)``.

        Returns:
            ``(*batch,)``.
        """
        return self.likes(x)


class ToLogits(nn.Module):
    """Logits of the probabilities of classes: log p, and of one class log p − log(1 − p)."""

    def forward(self, x: Tensor) -> Tensor:
        """The logits.

        Args:
            x: Probabilities, ``(n, classes)``, or ``(n, 1)``.

        Returns:
            Of the same shape.
        """
        return x.logit() if x.shape[-1] == 1 else x.log()


class Port(NamedTuple):
    """The input and the output that are used.

    Args:
        input: Its name.
        output: Its name.
        batch_size: None where the file takes batches of any size.
        event_shape: Of one x.
        dtype: Of x.
    """

    input: str
    output: str
    batch_size: int | None
    """None where the file takes batches of any size."""
    event_shape: torch.Size
    dtype: torch.dtype


def _input_shape(space: poe.Space) -> tuple[int, ...]:
    """What a `Classifier` shows its net of one x: one-hot vectors on labels and tokens."""
    is_encoded = space.is_discrete and not isinstance(space, poe.Binary)
    return (*space.event_shape, *([space.num_values or 0] if is_encoded else []))


def _session(content: bytes) -> Any:
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class of their own in common
        raise AdaptationError(
            f"expected an ONNX model, got what onnxruntime refuses: {error}"
        ) from error


def _port(session: Any, output: str | None, event_shape: Sequence[int] | None) -> Port:
    inputs, outputs = session.get_inputs(), {each.name: each for each in session.get_outputs()}
    if len(inputs) != 1 or inputs[0].type not in DTYPES:
        got = ", ".join(f"{each.name}: {each.type}" for each in inputs)
        raise AdaptationError(
            f"expected an ONNX model of one input, an array of floats, got {got}: give the others "
            "their values before you export it"
        )
    if output is None and len(outputs) > 1:
        raise AdaptationError(
            f"expected an ONNX model of one output, got {', '.join(outputs)}: name the one that "
            "holds the values with output="
        )
    name = next(iter(outputs)) if output is None else output
    if name not in outputs or outputs[name].type not in DTYPES:
        got = ", ".join(f"{each.name}: {each.type}" for each in outputs.values())
        raise AdaptationError(
            f"expected an output {name!r} that is an array of floats, got {got}; a classifier of "
            "scikit-learn has one if it is exported with options={'zipmap': False}"
        )
    batch_size, *stated = inputs[0].shape
    shape = stated if event_shape is None else list(event_shape)
    if not all(isinstance(size, int) for size in shape):
        raise AdaptationError(
            f"expected an ONNX model that states the shape of one x, got {tuple(stated)}: give "
            "space=, or event_shape="
        )
    size = batch_size if isinstance(batch_size, int) else None
    return Port(inputs[0].name, name, size, torch.Size(shape), DTYPES[inputs[0].type])


def _batches(rows: Tensor, size: int | None) -> Iterator[Tensor]:
    """Batches of exactly that size, the last filled up with zeros; all rows at once for None."""
    if size is None:
        yield rows
        return
    for part in rows.split(size):
        filler = part.new_zeros((size - len(part), *part.shape[1:]))
        yield torch.cat([part, filler])


def _require_kind(network: OnnxNetwork, probabilities: bool) -> None:
    """Refuse logits that are probabilities, and the other way, by what a few x are told."""
    value = network(few_events(poe.Real(tuple(network.port.event_shape))))
    if value.ndim == 2 and are_probabilities(value) != probabilities:
        told = "lie between 0 and 1" if value.shape[1] == 1 else "are not negative and sum to 1"
        raise AdaptationError(
            f"expected probabilities, which {told}, got other values: use probabilities=False"
            if probabilities
            else f"expected logits, got values that {told}: use probabilities=True"
        )


def _bytes(model: Tensor) -> bytes:
    return model.cpu().numpy().tobytes()


def example() -> bytes:
    """A small ONNX model, 2 numbers to 3 logits, for doctests and a first try.

    Returns:
        The file's bytes.
    """
    onnx = require("onnx", "onnx")
    shape = onnx.helper.make_tensor_value_info
    weight = onnx.helper.make_tensor("W", 1, (2, 3), [1.0, 0.0, -1.0, -1.0, 0.0, 1.0])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "W"], ["logits"])],
        "example",
        [shape("x", 1, ["n", 2])],
        [shape("logits", 1, ["n", 3])],
        [weight],
    )
    opset = onnx.helper.make_opsetid("", 17)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


register(
    OnnxNetwork,
    lambda network: {
        "model": network.model,
        "output": network.port.output,
        "event_shape": tuple(network.port.event_shape),
    },
    lambda fields: OnnxNetwork(
        _bytes(fields["model"]), output=fields["output"], event_shape=fields["event_shape"]
    ),
    name="experts.adapters.onnx.OnnxNetwork",
)
register(
    OnnxClassifier,
    lambda expert: {
        "model": expert.network.model,
        "label": expert.likes.condition,
        "space": expert.space,
        "output": expert.network.port.output,
        "probabilities": expert.probabilities,
    },
    lambda fields: OnnxClassifier(
        _bytes(fields["model"]),
        label=fields["label"],
        space=fields["space"],
        output=fields["output"],
        probabilities=fields["probabilities"],
    ),
    name="experts.adapters.onnx.OnnxClassifier",
)
