"""ONNX files as people have them: any tensor, tokens, types, sizes, nodes in any order, weights beside the graph."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from export_models import SIZE, constant, conv_node, conv_weights
from helpers import error_line, exit_status
from onnx import TensorProto, helper, numpy_helper

from engine import Explainer
from engine.attributes.table import AttributeTable
from engine.bundle import load_bundle
from engine.pictures.preprocessing import Preprocessing
from export import ExportError, OnnxSource, export_attributes, export_similarity, onnx_files
from export.commands import main

SMALL = Preprocessing(SIZE, SIZE)
HEAD = np.random.default_rng(5).normal(size=(4, 6)).astype(np.float32)
POOL = helper.make_node("ReduceMean", ["features"], ["pooled"], axes=[2, 3], keepdims=0)
DENSE = helper.make_node("MatMul", ["pooled", "v"], ["logits"])


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    output: str,
    sizes: Sequence[int | str] | None,
    kinds: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    shape: Sequence[int | str] = (1, 3, SIZE, SIZE),
    initializers: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
) -> Path:
    """Write a graph with one input, "picture"; unlike `export_models.write_onnx`, it need not be valid.

    kinds: element types of input and output
    """
    made = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("picture", kinds[0], shape)],
        [helper.make_tensor_value_info(output, kinds[1], sizes)],
        initializers or [constant("w", conv_weights()), constant("v", HEAD)],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def run(path: Path, batch: np.ndarray, output: str | None = None) -> np.ndarray:
    """Run a file; output: a tensor inside it, None for its first output."""
    model = onnx.load(path)
    if output is not None:
        del model.graph.output[:]
        model.graph.output.add(name=output)
    content = model.SerializeToString() if output is not None else str(path)
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: batch})[0])


def pictures(shape: Sequence[int] = (3, SIZE, SIZE)) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(3, *shape)).astype(np.float32)


def same(out: Path, expected: np.ndarray, batch: np.ndarray, tolerance: float = 1e-4) -> None:
    got = run(out / "similarity.fp32.onnx", batch)
    np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    nodes = [conv_node(), POOL, DENSE, helper.make_node("Softmax", ["logits"], ["classes"], axis=1)]
    return write(tmp_path / "classifier.onnx", nodes, "classes", (1, 6))


def test_a_tensor_inside_the_graph(classifier: Path, tmp_path: Path) -> None:
    out = export_similarity(OnnxSource(classifier, output="pooled"), SMALL, tmp_path / "out")
    x = pictures()
    same(out, np.concatenate([run(classifier, row[None], "pooled") for row in x]), x)
    graph = load_bundle(out).manifest.base
    assert (graph.input, graph.output) == ("picture", "pooled")
    assert "v" not in {t.name for t in onnx.load(out / graph.file).graph.initializer}


def test_a_wrong_name_is_answered_with_the_last_candidates(classifier: Path, tmp_path: Path) -> None:
    message = (
        r"has no tensor 'embedding'; its outputs are classes; the last tensors inside that could be embeddings: "
        r"pooled \(batch, 4\), logits \(batch, 6\), classes \(batch, 6\)"
    )
    with pytest.raises(ExportError, match=message):
        export_similarity(OnnxSource(classifier, output="embedding"), SMALL, tmp_path / "out")


def test_probabilities_are_questioned(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["similarity", "--onnx", str(classifier), "--out", str(tmp_path / "out")]
    assert exit_status(main, words) == 2
    line = error_line(capsys)
    assert "probabilities of classes" in line
    assert "--output: pooled (batch, 4), logits (batch, 6)" in line
    assert "--yes-embedding" in line
    assert main([*words, "--yes-embedding"]) == 0
    assert load_bundle(tmp_path / "out").manifest.base.output == "classes"
    assert main([*words, "--output", "classes"]) == 0


def test_log_probabilities_and_two_classes_are_questioned(tmp_path: Path) -> None:
    log = [conv_node(), POOL, helper.make_node("LogSoftmax", ["pooled"], ["e"], axis=1)]
    path = write(tmp_path / "log.onnx", log, "e", (1, 4))
    with pytest.raises(ExportError, match="probabilities of classes"):
        export_similarity(OnnxSource(path), SMALL, tmp_path / "out")
    two = [conv_node(), POOL, helper.make_node("MatMul", ["pooled", "v"], ["e"])]
    weights = [constant("w", conv_weights()), constant("v", HEAD[:, :2])]
    path = write(tmp_path / "two.onnx", two, "e", (1, 2), initializers=weights)
    with pytest.raises(ExportError, match="two numbers per picture, as a classifier of two classes does"):
        export_similarity(OnnxSource(path), SMALL, tmp_path / "out")
    export_similarity(OnnxSource(path, sure=True), SMALL, tmp_path / "out")


TOKENS = [
    conv_node(),
    helper.make_node("Reshape", ["features", "shape"], ["rows"]),
    helper.make_node("Transpose", ["rows"], ["tokens"], perm=[0, 2, 1]),
]


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_tokens_are_pooled(pool: str, opset: int, tmp_path: Path) -> None:
    initializers = [constant("w", conv_weights()), constant("shape", [0, 4, -1])]
    path = write(tmp_path / "m.onnx", TOKENS, "tokens", ("n", 16, 4), (1, 1), ("n", 3, SIZE, SIZE), initializers, opset)
    with pytest.raises(ExportError, match=r"gives \(batch, 16, 4\): --pool cls or --pool mean makes one vector"):
        export_similarity(OnnxSource(path), SMALL, tmp_path / "out")
    out = export_similarity(OnnxSource(path, pool=pool), SMALL, tmp_path / "out")
    x = pictures()
    tokens = run(path, x)
    same(out, tokens[:, 0] if pool == "cls" else tokens.mean(1), x)


def test_maps_are_pooled_and_nothing_else(classifier: Path, tmp_path: Path) -> None:
    out = export_similarity(OnnxSource(classifier, output="features", pool="mean"), SMALL, tmp_path / "out")
    x = pictures()
    same(out, np.concatenate([run(classifier, row[None], "features") for row in x]).mean((2, 3)), x)
    with pytest.raises(ExportError, match=r"--pool cls is for tokens \(batch, T, D\), but the output has 4 dimensions"):
        export_similarity(OnnxSource(classifier, output="features", pool="cls"), SMALL, tmp_path / "again")
    with pytest.raises(ExportError, match="--pool mean makes one vector of maps"):
        export_similarity(OnnxSource(classifier, output="features"), SMALL, tmp_path / "again")


@pytest.mark.parametrize("batch", [-1, 0, 1, "n"])
def test_every_way_to_say_the_batch(batch: int | str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [conv_node(), POOL], "pooled", (batch, 4), shape=(batch, 3, SIZE, SIZE))
    out = export_similarity(OnnxSource(path), SMALL, tmp_path / "out")
    assert run(out / "similarity.fp32.onnx", pictures()).shape == (3, 4)


def test_any_height_and_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "m.onnx", [conv_node(), POOL], "pooled", ("n", 4), shape=("n", 3, "h", -1))
    words = ["similarity", "--onnx", str(path), "--out", str(tmp_path / "out")]
    assert exit_status(main, words) == 2
    assert "--size is needed for this ONNX graph, which takes pictures of any size" in error_line(capsys)
    assert main([*words, "--size", "40", "48"]) == 0
    x = pictures((3, 40, 48))
    same(tmp_path / "out", run(path, x), x)


def halved(array: np.ndarray, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(array.astype(np.float16), name)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    half = TensorProto.FLOAT16
    nodes = [conv_node(), POOL, helper.make_node("Cast", ["pooled"], ["e"], to=half)]
    path = write(tmp_path / "m.onnx", nodes, "e", (1, 4), (half, half), initializers=[halved(conv_weights(), "w")])
    out = export_similarity(OnnxSource(path), SMALL, tmp_path / "out")
    x = pictures()
    same(out, np.concatenate([run(path, row[None].astype(np.float16)) for row in x]).astype(np.float32), x, 5e-3)
    model = onnx.load(out / "similarity.fp32.onnx")
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT}
    assert all(a.i != half for node in model.graph.node if node.op_type == "Cast" for a in node.attribute)


def test_a_double_input_and_output(tmp_path: Path) -> None:
    double = TensorProto.DOUBLE
    first = helper.make_node("Cast", ["picture"], ["x"], to=TensorProto.FLOAT)
    nodes = [first, conv_node(source="x"), POOL, helper.make_node("Cast", ["pooled"], ["e"], to=double)]
    path = write(tmp_path / "m.onnx", nodes, "e", (1, 4), (double, double))
    out = export_similarity(OnnxSource(path), SMALL, tmp_path / "out")
    x = pictures()
    same(out, np.concatenate([run(path, row[None].astype(np.float64)) for row in x]), x)


@pytest.mark.parametrize("cast_first", [True, False])
def test_pixels_as_they_are(cast_first: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """uint8 pictures, channels last, as detectors and Keras exports take them."""
    cast = helper.make_node("Cast", ["picture" if cast_first else "turned"], ["x"], to=TensorProto.FLOAT)
    turn = helper.make_node("Transpose", ["x" if cast_first else "picture"], ["turned"], perm=[0, 3, 1, 2])
    nodes = [*((cast, turn) if cast_first else (turn, cast)), conv_node(source="turned" if cast_first else "x"), POOL]
    path = write(tmp_path / "m.onnx", nodes, "pooled", (1, 4), (TensorProto.UINT8, 1), (1, SIZE, SIZE, 3))
    words = ["similarity", "--onnx", str(path), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    preprocessing = load_bundle(tmp_path / "out").manifest.preprocessing
    assert (preprocessing.layout, preprocessing.scale) == ("nhwc", 1.0)
    x = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    same(tmp_path / "out", np.concatenate([run(path, row[None]) for row in x]), x.astype(np.float32))
    if not cast_first:  # between pixels, and outside them
        same(tmp_path / "out", run(path, np.full_like(x[:1], 255)), np.full((1, SIZE, SIZE, 3), 255.4, np.float32))
    capsys.readouterr()
    assert exit_status(main, [*words, "--mean", "0.5", "0.5", "0.5"]) == 2
    assert "takes pixels 0..255 as they are (uint8)" in error_line(capsys)


def test_one_channel(tmp_path: Path) -> None:
    weights = [constant("w", conv_weights(inputs=1))]
    path = write(tmp_path / "m.onnx", [conv_node(), POOL], "pooled", (1, 4), shape=(1, 1, SIZE, SIZE), initializers=weights)
    assert main(["similarity", "--onnx", str(path), "--out", str(tmp_path / "out")]) == 0
    assert load_bundle(tmp_path / "out").manifest.preprocessing.channels == 1
    grey = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), np.uint8)
    (got,) = Explainer(tmp_path / "out").embed([np.stack([grey] * 3, -1)])
    np.testing.assert_allclose(got, run(path, grey[None, None].astype(np.float32) / 255)[0], rtol=1e-4, atol=1e-6)


def test_weights_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above 64 MB, with a lower threshold."""
    path = write(tmp_path / "m.onnx", [conv_node(), POOL, DENSE], "logits", (1, 6))
    plain = export_similarity(OnnxSource(path), SMALL, tmp_path / "plain")
    monkeypatch.setattr(onnx_files, "LARGEST_WEIGHTS", 1000)
    out = export_similarity(OnnxSource(path), SMALL, tmp_path / "out")
    names = {p.name for p in out.iterdir()}
    assert "similarity.fp32.onnx.data" in names
    assert (out / "similarity.fp32.onnx").stat().st_size < 2000 < (plain / "similarity.fp32.onnx").stat().st_size
    assert "similarity.fp32.onnx.data" in (out / "SHA256SUMS").read_text()
    x = pictures()
    np.testing.assert_array_equal(*(run(b / "similarity.fp32.onnx", x) for b in (plain, out)))
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    np.testing.assert_array_equal(Explainer(out).embed([picture]), Explainer(plain).embed([picture]))
    weights = [constant("w", conv_weights(seed=2))]
    maps = write(tmp_path / "maps.onnx", [conv_node()], "features", (1, 4, 4, 4), initializers=weights)
    export_attributes(OnnxSource(maps), AttributeTable(tuple("abcd"), "softmax", np.zeros(4, np.float32)), out)
    assert {"similarity.fp32.onnx.data", "attributes.fp32.onnx.data"} < {p.name for p in out.iterdir()}


def test_nodes_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [DENSE, POOL, conv_node()], "logits", (1, 6))
    ordered = write(tmp_path / "ordered.onnx", [conv_node(), POOL, DENSE], "logits", (1, 6))
    out = export_similarity(OnnxSource(path), SMALL, tmp_path / "out")
    x = pictures()
    same(out, np.concatenate([run(ordered, row[None]) for row in x]), x)


def test_a_circle_of_nodes_is_named(tmp_path: Path) -> None:
    circle = helper.make_node("Add", ["features", "pooled"], ["sum"], name="adds")
    back = helper.make_node("Identity", ["sum"], ["pooled"], name="turns")
    path = write(tmp_path / "m.onnx", [conv_node(), circle, back], "pooled", None)
    with pytest.raises(ExportError, match="is not a valid graph: node 'adds' depends on itself"):
        export_similarity(OnnxSource(path), SMALL, tmp_path / "out")


def test_other_types_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["picture"], ["x"], to=1), conv_node(source="x"), POOL]
    path = write(tmp_path / "m.onnx", nodes, "pooled", (1, 4), (TensorProto.INT64, 1))
    with pytest.raises(ExportError, match="'picture' is int64, but must be one of float, float16, double, uint8"):
        export_similarity(OnnxSource(path), SMALL, tmp_path / "out")


class Windows(torch.nn.Module):
    """As in Swin transformers: windows go into the batch and come back out of it. (N, 3, 32, 32) -> (N, 8)"""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = torch.nn.Conv2d(3, 8, 4, 4)
        self.inside = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)  # (N, 8, 8, 8)
        count = x.shape[0]
        windows = x.reshape(count, 2, 4, 2, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 8)
        mixed = torch.softmax(windows @ windows.transpose(1, 2), -1) @ self.inside(windows)
        return mixed.reshape(count, 2, 2, 4, 4, 8).amax((1, 2, 3, 4))


class Tokens(torch.nn.Module):
    """As in vision transformers: a class token and positions. (N, 3, 32, 32) -> (N, 8)"""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = torch.nn.Conv2d(3, 8, 8, 8)
        self.cls, self.place = (torch.nn.Parameter(torch.randn(1, n, 8)) for n in (1, 17))
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.patch(x).flatten(2).transpose(1, 2)], 1) + self.place
        return self.attention(x, x, x, need_weights=False)[0][:, 0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("network", [Windows, Tokens])
def test_what_the_older_exporter_wrote_for_one_picture(network: Any, tmp_path: Path) -> None:
    torch.onnx.export(network().eval(), (torch.zeros(1, 3, 32, 32),), tmp_path / "m.onnx", dynamo=False, opset_version=14)
    out = export_similarity(OnnxSource(tmp_path / "m.onnx"), SMALL, tmp_path / "out")
    x = pictures()
    same(out, np.concatenate([run(tmp_path / "m.onnx", row[None]) for row in x]), x)
