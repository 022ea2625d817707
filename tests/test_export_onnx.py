"""ONNX files to bundles: any batch, one output, folded, and refused by the node's name where that cannot be."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from export_models import MapNet, constant, conv_node, conv_weights, write_onnx
from helpers import DATA
from onnx import NodeProto, helper

from engine.attributes.table import AttributeTable
from engine.bundle import load_bundle
from engine.pictures.preprocessing import Preprocessing
from export import ExportError, OnnxSource, check, export_attributes, export_similarity
from export.commands import main

SMALL = Preprocessing(32, 32)
RESHAPE = helper.make_node("Reshape", ["features", "shape"], ["flat"], name="flatten")
LINEAR = helper.make_node("MatMul", ["flat", "v"], ["embedding"], name="linear")
MATRIX = np.random.default_rng(5).normal(size=(64, 6)).astype(np.float32)


def weights() -> list[onnx.TensorProto]:
    return [constant("w", conv_weights()), constant("v", MATRIX)]


def run(path: Path, batch: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.asarray(session.run(None, {name: batch})[0])


def assert_same(original: Path, bundle: Path) -> None:
    """A batch of 3 through the bundle's graph gives what the original gives for each alone."""
    x = np.random.default_rng(3).normal(size=(3, 3, 32, 32)).astype(np.float32)
    expected = np.concatenate([run(original, row[None]) for row in x])
    got = run(bundle / "similarity.fp32.onnx", x)
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("target", [[1, -1], [1, 64], [-1, 64], [0, -1]])
@pytest.mark.parametrize("as_node", [False, True])
def test_a_fixed_batch_is_opened(target: Sequence[int], as_node: bool, tmp_path: Path) -> None:
    nodes = [conv_node(), RESHAPE, LINEAR]
    initializers = weights()
    if as_node:
        nodes.insert(0, helper.make_node("Constant", [], ["shape"], value=constant("", target)))
    else:
        initializers.append(constant("shape", target))
    path = write_onnx(tmp_path / "fixed.onnx", nodes, {"embedding": (1, 6)}, initializers)
    assert_same(path, export_similarity(OnnxSource(path), SMALL, tmp_path / "out"))


def test_a_reshape_at_the_end_of_a_turned_batch(tmp_path: Path) -> None:
    """(1, batch, 4) to (1, -1): a copied 0 would keep the wrong axis; the length known at batch 1 does not."""
    nodes = [
        conv_node(),
        helper.make_node("Transpose", ["features"], ["turned"], perm=[1, 2, 3, 0]),
        helper.make_node("ReduceMean", ["turned"], ["columns"], axes=[1, 2], keepdims=0),
        helper.make_node("Transpose", ["columns"], ["rows"], perm=[1, 0]),
        helper.make_node("Unsqueeze", ["rows", "zero"], ["outer"]),
        helper.make_node("Reshape", ["outer", "shape"], ["embedding"], name="last"),
    ]
    initializers = [constant("w", conv_weights()), constant("zero", [0]), constant("shape", [1, -1])]
    path = write_onnx(tmp_path / "last.onnx", nodes, {"embedding": (1, 4)}, initializers)
    assert_same(path, export_similarity(OnnxSource(path), SMALL, tmp_path / "out"))


def test_a_shape_that_two_nodes_share(tmp_path: Path) -> None:
    """The target (1, 4, -1) serves the features and, with another length, their half."""
    nodes = [
        conv_node(),
        helper.make_node("Reshape", ["features", "shape"], ["a"], name="first"),
        helper.make_node("MaxPool", ["features"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["half", "shape"], ["b"], name="second"),
        helper.make_node("Concat", ["a", "b"], ["both"], axis=2),
        helper.make_node("ReduceMean", ["both"], ["embedding"], axes=[2], keepdims=0),
    ]
    initializers = [constant("w", conv_weights()), constant("shape", [1, 4, -1])]
    path = write_onnx(tmp_path / "shared.onnx", nodes, {"embedding": (1, 4)}, initializers)
    assert_same(path, export_similarity(OnnxSource(path), SMALL, tmp_path / "out"))


TOKEN = np.random.default_rng(7).normal(size=(1, 1, 4, 4)).astype(np.float32)
BAKED = {
    # (1, 4, 4, 4) to (4, 16): the batch goes into the rows, over which a mean is taken
    "rows": [
        conv_node(),
        helper.make_node("Reshape", ["features", "rows"], ["flat"], name="innocent"),
        helper.make_node("ReduceMean", ["flat"], ["embedding"], axes=[0], keepdims=1, name="baked"),
    ],
    # (1, 4, 4, 4) to (4, -1): the same, named in another way
    "columns": [
        conv_node(),
        helper.make_node("Reshape", ["features", "columns"], ["flat4"], name="innocent"),
        helper.make_node("MatMul", ["flat4", "m"], ["four"]),
        helper.make_node("ReduceMean", ["four"], ["embedding"], axes=[0], keepdims=1, name="baked"),
    ],
    # the sum over the batch is invisible while the batch is 1
    "mean": [
        conv_node(),
        helper.make_node("ReduceMean", ["features"], ["one"], axes=[0], keepdims=1, name="baked"),
        helper.make_node("Sub", ["features", "one"], ["rest"], name="innocent"),
        helper.make_node("Add", ["rest", "one"], ["sum"]),
        helper.make_node("Mul", ["sum", "one"], ["product"]),
        helper.make_node("ReduceMean", ["product"], ["embedding"], axes=[2, 3], keepdims=0),
    ],
}


@pytest.mark.parametrize("kind", list(BAKED))
def test_a_batch_that_cannot_be_opened_is_refused_by_node(kind: str, tmp_path: Path) -> None:
    initializers = [
        constant("w", conv_weights()),
        constant("m", MATRIX[:16]),
        constant("rows", [4, 16]),
        constant("columns", [4, -1]),
    ]
    nodes = BAKED[kind]
    sizes = {"rows": 16, "columns": 6, "mean": 4}
    path = write_onnx(tmp_path / "baked.onnx", nodes, {"embedding": (1, sizes[kind])}, initializers)
    with pytest.raises(ExportError, match=r"does not take a batch because of node 'baked'"):
        export_similarity(OnnxSource(path), SMALL, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["baked.onnx"]


def test_what_was_made_for_one_picture_is_made_for_each(tmp_path: Path) -> None:
    """A token joined with the features of all pictures, and the sizes to which they are scaled."""
    nodes = [
        conv_node(),
        helper.make_node("Expand", ["token", "ones"], ["one_token"]),
        helper.make_node("Concat", ["one_token", "features", "token"], ["joined"], axis=1),
        helper.make_node("Resize", ["joined", "", "", "sizes"], ["larger"], mode="linear"),
        helper.make_node("ReduceMax", ["larger"], ["embedding"], axes=[2, 3], keepdims=0),
    ]
    initializers = [constant("w", conv_weights()), constant("token", TOKEN), constant("ones", [1, 1, 4, 4])]
    initializers.append(constant("sizes", [1, 6, 7, 7]))
    path = write_onnx(tmp_path / "token.onnx", nodes, {"embedding": (1, 6)}, initializers)
    assert_same(path, export_similarity(OnnxSource(path), SMALL, tmp_path / "out"))


def test_another_fixed_batch_is_refused(tmp_path: Path) -> None:
    nodes: list[NodeProto] = [conv_node(), helper.make_node("ReduceMean", ["features"], ["e"], axes=[2, 3], keepdims=0)]
    path = write_onnx(tmp_path / "four.onnx", nodes, {"e": (4, 4)}, [constant("w", conv_weights())], (4, 3, 32, 32))
    with pytest.raises(ExportError, match="input 'picture' has a fixed batch of 4"):
        export_similarity(OnnxSource(path), SMALL, tmp_path / "out")


@pytest.fixture
def two_outputs(tmp_path: Path) -> Path:
    nodes = [
        conv_node(),
        helper.make_node("ReduceMean", ["features"], ["embedding"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["embedding", "classes"], ["logits"]),
    ]
    initializers = [constant("w", conv_weights()), constant("classes", MATRIX[:4])]
    return write_onnx(tmp_path / "two.onnx", nodes, {"embedding": (1, 4), "logits": (1, 6)}, initializers)


def test_a_chosen_output_drops_the_others(two_outputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="outputs embedding, logits; choose one with --output"):
        export_similarity(OnnxSource(two_outputs), SMALL, tmp_path / "out")
    with pytest.raises(ExportError, match="no tensor 'none'; its outputs are embedding, logits"):
        export_similarity(OnnxSource(two_outputs, output="none"), SMALL, tmp_path / "out")
    out = export_similarity(OnnxSource(two_outputs, output="embedding"), SMALL, tmp_path / "out")
    assert_same(two_outputs, out)
    model = onnx.load(out / "similarity.fp32.onnx")
    assert [o.name for o in model.graph.output] == ["embedding"]
    assert "classes" not in {t.name for t in model.graph.initializer}
    assert load_bundle(out).manifest.graphs[0].input == "picture"


def test_a_second_input(tmp_path: Path) -> None:
    nodes = [
        conv_node(),
        conv_node("other_conv", "mask", "masked"),
        helper.make_node("Add", ["features", "masked"], ["sum"]),
        helper.make_node("ReduceMean", ["features"], ["alone"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMean", ["sum"], ["both"], axes=[2, 3], keepdims=0),
    ]
    outputs = {"alone": (1, 4), "both": (1, 4)}
    path = write_onnx(tmp_path / "m.onnx", nodes, outputs, [constant("w", conv_weights())], inputs=("picture", "mask"))
    with pytest.raises(ExportError, match="choose one with --input"):
        export_similarity(OnnxSource(path, output="both"), SMALL, tmp_path / "out")
    with pytest.raises(ExportError, match="'both' needs the inputs mask besides 'picture'"):
        export_similarity(OnnxSource(path, "picture", "both"), SMALL, tmp_path / "out")
    with pytest.raises(ExportError, match="does not depend on input 'mask'"):
        export_similarity(OnnxSource(path, "mask", "alone"), SMALL, tmp_path / "out")
    out = export_similarity(OnnxSource(path, output="alone"), SMALL, tmp_path / "out")
    assert [v.name for v in onnx.load(out / "similarity.fp32.onnx").graph.input] == ["picture"]


def test_batch_normalisation_is_folded(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    statistics = {n: rng.uniform(0.5, 2, 4).astype(np.float32) for n in ("scale", "bias", "average", "variance")}
    nodes = [
        conv_node(),
        helper.make_node("BatchNormalization", ["features", *statistics], ["normal"], name="bn"),
        helper.make_node("ReduceMean", ["normal"], ["embedding"], axes=[2, 3], keepdims=0),
    ]
    initializers = [constant("w", conv_weights()), *(constant(n, v) for n, v in statistics.items())]
    path = write_onnx(tmp_path / "bn.onnx", nodes, {"embedding": (1, 4)}, initializers, opset=13)
    out = export_similarity(OnnxSource(path), SMALL, tmp_path / "out")
    assert_same(path, out)
    assert [n.op_type for n in onnx.load(out / "similarity.fp32.onnx").graph.node] == ["Conv", "ReduceMean"]
    assert load_bundle(out).manifest.graphs[0].opset == 13


def test_external_data_is_read_in(two_outputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "external"
    folder.mkdir()
    model = onnx.load(two_outputs)
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    out = export_similarity(OnnxSource(folder / "m.onnx", output="embedding"), SMALL, tmp_path / "out")
    assert_same(two_outputs, out)
    assert {p.name for p in out.iterdir()} == {"similarity.fp32.onnx", "manifest.json", "canonical.npz", "SHA256SUMS"}
    (folder / "m.data").unlink()
    with pytest.raises(ExportError, match="external data is missing"):
        export_similarity(OnnxSource(folder / "m.onnx", output="embedding"), SMALL, tmp_path / "again")


def test_files_that_are_no_graphs(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is no graph")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name, message in (("text", "not an ONNX file"), ("empty", "not an ONNX file"), ("none", "there is no ONNX file")):
        with pytest.raises(ExportError, match=message):
            export_similarity(OnnxSource(tmp_path / f"{name}.onnx"), SMALL, tmp_path / "out")


def test_the_golden_network_by_command(tmp_path: Path, golden: dict[str, np.ndarray]) -> None:
    words = ["--size", "112", "--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225", "--metric", "cosine"]
    out = tmp_path / "tiny"
    assert main(["similarity", "--onnx", str(DATA / "tiny_general.onnx"), *words, "--out", str(out)]) == 0
    loaded = load_bundle(out)
    assert (loaded.manifest.embedding, loaded.manifest.metric) == (16, "cosine")
    x = loaded.manifest.preprocessing.normalised(np.stack([golden["query"], golden["reference"]]))
    expected = np.stack([golden["embedding_query"], golden["embedding_reference"]]).reshape(2, 16)
    np.testing.assert_allclose(run(out / "similarity.fp32.onnx", x), expected, atol=1e-5)


def test_the_size_comes_from_the_graph(two_outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["similarity", "--onnx", str(two_outputs), "--output", "embedding", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "32 x 32" in check(tmp_path / "out")
    capsys.readouterr()
    assert main([*words, "--size", "64"]) == 2
    assert "input 'picture' is [1, 3, 32, 32], but the preprocessing gives ['batch', 3, 64, 64]" in capsys.readouterr().err
    assert main([*words, "--size", "32", "--layout", "nhwc"]) == 2
    assert "32 x 32" in check(tmp_path / "out")


def test_attributes_from_onnx(two_outputs: Path, tmp_path: Path) -> None:
    out = export_similarity(OnnxSource(two_outputs, output="embedding"), SMALL, tmp_path / "out")
    nodes = [conv_node()]
    path = write_onnx(tmp_path / "maps.onnx", nodes, {"features": (1, 4, 4, 4)}, [constant("w", conv_weights(seed=2))])
    table = AttributeTable(("a", "b", "c", "d"), "softmax", np.zeros(4, np.float32))
    export_attributes(OnnxSource(path), table, out)
    graph = load_bundle(out).manifest.graph("attributes", "fp32", "cpu")
    assert graph is not None
    assert (graph.input, graph.output) == ("picture", "features")
    assert run(out / graph.file, np.zeros((3, 3, 32, 32), np.float32)).shape == (3, 4, 4, 4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_pytorch_exported_with_a_batch_of_one(tmp_path: Path) -> None:
    """The usual file in the wild, from PyTorch's exporter without dynamic shapes."""
    module = torch.nn.Sequential(MapNet(), torch.nn.Flatten(), torch.nn.Linear(64, 5)).eval()
    torch.onnx.export(module, (torch.zeros(1, 3, 32, 32),), tmp_path / "one.onnx", dynamo=True, verbose=False)
    out = export_similarity(OnnxSource(tmp_path / "one.onnx"), SMALL, tmp_path / "out")
    assert_same(tmp_path / "one.onnx", out)
