"""ONNX files whose nodes stand in any order, as ONNX Runtime's own converter to fp16 leaves them, or whose batch is -1."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from export_models import SIZE, constant, conv_node, conv_weights
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from engine import Explainer
from engine.bundle import load_bundle
from engine.pictures.preprocessing import Preprocessing
from export import ExportError, OnnxSource, export_similarity
from export.demo_pictures import demo_pictures
from export.low_precision import to_fp16
from export.onnx_selection import sort_nodes
from export.pairs import export_pair

SMALL = Preprocessing(SIZE, SIZE)
HEAD = np.random.default_rng(5).normal(size=(4, 6)).astype(np.float32)
CONV = conv_node()
POOL = helper.make_node("ReduceMean", ["features"], ["pooled"], axes=[2, 3], keepdims=0)
DENSE = helper.make_node("MatMul", ["pooled", "v"], ["logits"])


def write(path: Path, nodes: list[onnx.NodeProto], *more: onnx.TensorProto, batch: str | int = "batch") -> Path:
    """Write a graph from `picture` to `logits` (N, 6)."""
    ends = {"picture": [batch, 3, SIZE, SIZE], "logits": [batch, 6]}
    picture, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends.items())
    weights = [constant("w", conv_weights()), constant("v", HEAD), *more]
    made = helper.make_graph(nodes, "test", [picture], [logits], weights)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def exported(path: Path, out: Path) -> np.ndarray:
    """What a bundle of the file gives for the demo's pictures (8, 6); its nodes are sorted."""
    bundle = export_similarity(OnnxSource(path), SMALL, out)
    assert is_sorted(onnx.load(bundle / load_bundle(bundle).manifest.base.file).graph)
    return Explainer(bundle).embed(list(demo_pictures(SMALL)))


def is_sorted(graph: onnx.GraphProto, known: frozenset[str] = frozenset({""})) -> bool:
    known |= {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        inner = [a.g for a in node.attribute if a.HasField("g")]
        if not known >= set(node.input) or not all(is_sorted(g, known) for g in inner):
            return False
        known |= set(node.output)
    return True


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    folder = tmp_path_factory.mktemp("ordered")
    return exported(write(folder / "m.onnx", [CONV, POOL, DENSE]), folder / "out")


def test_nodes_of_a_branch_in_any_order(expected: np.ndarray, tmp_path: Path) -> None:
    late = [helper.make_node("Mul", ["double", "half"], ["out"]), helper.make_node("Add", ["features"] * 2, ["double"])]
    branch = helper.make_graph(late, "late", [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)])
    chosen = helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch)
    pool = helper.make_node("ReduceMean", ["chosen"], ["pooled"], axes=[2, 3], keepdims=0)
    known = numpy_helper.from_array(np.array(True), "yes"), constant("half", np.float32([0.5]))
    path = write(tmp_path / "m.onnx", [pool, chosen, DENSE, CONV], *known)
    np.testing.assert_allclose(exported(path, tmp_path / "out"), expected, rtol=1e-4, atol=1e-5)


def test_what_the_converter_to_fp16_leaves(expected: np.ndarray, tmp_path: Path) -> None:
    plain = write(tmp_path / "m.onnx", [CONV, POOL, DENSE])
    raw = convert_float_to_float16(onnx.load(plain), keep_io_types=True)
    assert not is_sorted(raw.graph)
    onnx.save(raw, tmp_path / "half.onnx")
    np.testing.assert_allclose(exported(tmp_path / "half.onnx", tmp_path / "out"), expected, rtol=0.02, atol=0.02)
    assert is_sorted(to_fp16(plain).graph)


def test_a_pair_in_any_order_with_a_batch_of_minus_one(tmp_path: Path) -> None:
    both = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [-1, 3, SIZE, SIZE]) for name in ("a", "b")]
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, [-1])
    late = [
        helper.make_node("ReduceMean", ["product"], ["score"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["a", "b"], ["product"]),
    ]
    made = helper.make_model(helper.make_graph(late, "pair", both, [score]), opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    onnx.save(made, tmp_path / "pair.onnx")
    export_pair(tmp_path / "pair.onnx", SMALL, tmp_path / "out")
    assert is_sorted(onnx.load(tmp_path / "out" / "pair.fp32.onnx").graph)


def test_a_batch_of_minus_one_is_open(expected: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [CONV, POOL, DENSE], batch=-1)
    np.testing.assert_array_equal(exported(path, tmp_path / "out"), expected)


def test_a_circle_in_a_branch_is_named(tmp_path: Path) -> None:
    circle = [helper.make_node("Neg", ["q"], ["p"], name="there"), helper.make_node("Neg", ["p"], ["q"], name="back")]
    branch = helper.make_graph(circle, "circle", [], [helper.make_tensor_value_info("q", TensorProto.FLOAT, None)])
    node = helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch)
    with pytest.raises(ExportError, match="node 'there' depends on itself"):
        sort_nodes(helper.make_graph([node], "g", [], []), tmp_path / "m.onnx")
