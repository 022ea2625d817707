"""Gradient graphs, operator by operator: every rule against differences in float64, and clear refusals."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from gradient_cases import CASES
from gradient_graphs import SHAPE, checked, doubled, floats, integers, model_of, node, run
from onnx import numpy_helper
from torch.nn import functional as F

from engine.runtime.gradient_session import GRADIENT_OUTPUT, TARGET_INPUT
from export import ExportError, onnx_files
from export.float64_graph import Float64Graph
from export.gradient import with_gradient
from export.gradient_check import runner_gradient, verify
from export.light_graph import LightGraph
from export.rules import RULES


def agree(model: onnx.ModelProto, low: float | None, step: float, tolerance: float) -> None:
    """The gradient of <y, v> by every entry of x, against differences of onnx's own evaluator in float64."""
    shape, batch, random = SHAPE, 3, np.random.default_rng(1)  # not the seed of the constants
    x = floats(random, batch, *shape, low=low)
    v = floats(random, batch, model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    got = run(with_gradient(LightGraph.of(model), "dot"), x, v)[1]
    count = int(np.prod(shape))
    moves = step * np.eye(count).reshape(count, *shape)
    for i in range(batch):
        around = doubled(model, np.concatenate([x[i] + moves, x[i] - moves]))
        expected = ((around[:count] - around[count:]) @ v[i] / (2 * step)).reshape(shape)
        np.testing.assert_allclose(got[i], expected, atol=tolerance * max(np.abs(expected).max(), 1), rtol=0)


@pytest.mark.parametrize(("kind", "build", "low"), CASES, ids=[f"{k}-{i}" for i, (k, _, _) in enumerate(CASES)])
def test_a_rule(kind: str, build: Callable[[], onnx.ModelProto], low: float | None) -> None:
    model = build()
    assert kind in {n.op_type for n in model.graph.node}
    agree(model, low, 1e-6, 2e-5)


@pytest.mark.parametrize(("kind", "build", "low"), CASES, ids=[f"{k}-{i}" for i, (k, _, _) in enumerate(CASES)])
def test_a_right_gradient_passes_the_check_of_the_export(
    kind: str, build: Callable[[], onnx.ModelProto], low: float | None
) -> None:
    model = build()
    x = floats(np.random.default_rng(3), 3, *SHAPE, low=low)
    assert "float64" in checked(with_gradient(LightGraph.of(model), "dot"), model, "dot", x)


def test_every_rule_has_a_case() -> None:
    assert set(RULES) == {kind for kind, _, _ in CASES}


def test_of_equal_pixels_max_pooling_takes_the_first_as_torch_does() -> None:
    random = np.random.default_rng(1)
    x = np.round(random.normal(size=(2, *SHAPE))).astype(np.float32)  # many are equal
    model = model_of([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {})
    v = floats(random, 2, model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    leaf = torch.from_numpy(x).requires_grad_(True)
    (F.max_pool2d(leaf, 3, 2, 1).flatten(1) * torch.from_numpy(v)).sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(run(with_gradient(LightGraph.of(model), "dot"), x, v)[1], leaf.grad.numpy(), atol=1e-6)


def test_a_mean_over_a_window_far_larger_than_the_map_is_that_of_the_map() -> None:
    """As the last pool of transformers' EfficientNet: its windows' weights alone would take gigabytes."""
    random = np.random.default_rng(1)
    x = floats(random, 2, *SHAPE)
    wide = {"kernel_shape": [2000, 2000], "strides": [2000, 2000], "ceil_mode": 1}
    model = model_of([node("AveragePool", ["x"], ["y"], **wide)], {})
    v = floats(random, 2, SHAPE[0])
    leaf = torch.from_numpy(x).requires_grad_(True)
    (F.avg_pool2d(leaf, 2000, 2000, ceil_mode=True).flatten(1) * torch.from_numpy(v)).sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(run(with_gradient(LightGraph.of(model), "dot"), x, v)[1], leaf.grad.numpy(), atol=1e-6)
    assert "float64" in checked(with_gradient(LightGraph.of(model), "dot"), model, "dot", x)


REFUSED = {
    "'n' is a Sinh, whose derivative is not known.*replace the operator": ([node("Sinh", ["x"], ["y"], name="n")], 20),
    "by columns": ([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], storage_order=1)], 20),
    r"'n' \(Einsum\).*has dots": ([node("Einsum", ["x"], ["y"], equation="...hw->...wh", name="n")], 20),
    "already uses": ([node("Relu", ["x"], [TARGET_INPUT]), node("Neg", [TARGET_INPUT], ["y"])], 20),
    "keeps the aspect ratio": (
        [node("Resize", ["x", "", "", "sizes"], ["y"], axes=[2, 3], keep_aspect_ratio_policy="not_larger", mode="linear")],
        20,
    ),
    "cuts out a region": (
        [node("Resize", ["x", "roi", "scales"], ["y"], coordinate_transformation_mode="tf_crop_and_resize", mode="linear")],
        20,
    ),
    "has batch_dims": (
        [
            *(node("Shape", ["x"], ["batch"], end=1), node("Concat", ["batch", "two"], ["shape"], axis=0)),
            *(node("Expand", ["zero", "shape"], ["places"]), node("GatherND", ["x", "places"], ["y"], batch_dims=1)),
        ],
        20,
    ),
    "input 1 is computed from the picture": (
        [node("ReduceMean", ["x", "axes"], ["m"], keepdims=0), node("LayerNormalization", ["x", "m"], ["y"], axis=1)],
        20,
    ),
    "its second output or a later one is used": (
        [node("Attention", ["x", "x", "x"], ["a", "k"]), node("Add", ["a", "k"], ["y"])],
        23,
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_derivative_is_named(message: str) -> None:
    nodes, opset = REFUSED[message]
    used = {name for n in nodes for name in n.input}
    every = {"sizes": integers(7, 7), "axes": integers(0), "two": integers(2, 1), "zero": integers(0)}
    every |= {"roi": np.tile(np.float32([0, 1]), (4, 1)).T.ravel(), "scales": np.float32([1, 1, 2, 2])}
    constants = {name: value for name, value in every.items() if name in used}
    with pytest.raises(ExportError, match=message):
        with_gradient(LightGraph.of(model_of(nodes, constants, opset=opset)), "dot")


def test_group_normalisation_of_an_old_opset_is_refused() -> None:
    scales = {"s": np.ones(4, np.float32), "b": np.zeros(4, np.float32)}
    model = model_of([node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)], scales, opset=21)
    model.opset_import[0].version = 20
    for tensor in model.graph.initializer[:2]:
        tensor.CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), tensor.name))
    with pytest.raises(ExportError, match="scales groups"):
        with_gradient(LightGraph.of(model), "dot")


def test_a_rule_that_fails_costs_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "Relu", lambda n: [n.x.op("Relu") / n.tape.shapes["nothing"]])
    with pytest.raises(ExportError, match=r"\(Relu\) is not known, because its rule does not fit it \(KeyError"):
        with_gradient(LightGraph.of(model_of([node("Relu", ["x"], ["y"])], {})), "dot")


def test_a_graph_that_does_not_run_is_told_in_one_line() -> None:
    model = model_of([node("Relu", ["x"], ["y"])], {})
    model.graph.node[0].input[0] = "lost"
    with pytest.raises(ExportError, match="lost"):
        with_gradient(LightGraph.of(model), "dot")
    model.opset_import[0].version = 12
    with pytest.raises(ExportError, match="cannot be prepared for its gradient: it cannot be brought to opset 18"):
        with_gradient(LightGraph.of(model), "dot")


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (lambda g: g * np.float32(np.nan), "not finite"),
        (lambda g: g.swapaxes(1, 2), "has the shape"),
        (lambda g: g * np.float32(len(g)), "a batch of pictures gives another gradient"),
        (lambda g: g * np.float32(1.1), r"off by (9|10)% .*: report it"),
        (lambda g: g * 0, "off by 100%"),
    ],
)
def test_a_spoiled_gradient_does_not_pass(spoiled: Callable[[np.ndarray], np.ndarray], message: str) -> None:
    model = model_of([node("Sigmoid", ["x"], ["y"])], {})
    right = runner_gradient(with_gradient(LightGraph.of(model), "euclidean"))

    def gradient(*given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        similarity, found = right(*given)
        return similarity, spoiled(found)

    pictures = floats(np.random.default_rng(0), 1, *SHAPE)
    assert "float64" in verify(right, LightGraph.of(model), "euclidean", pictures)
    with pytest.raises(ExportError, match=message):
        verify(gradient, LightGraph.of(model), "euclidean", pictures)


def test_an_evaluator_that_differs_from_the_runtime_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of([node("Sigmoid", ["x"], ["y"])], {})
    monkeypatch.setattr(Float64Graph, "run", lambda self, x: np.full((len(x), 120), 0.5))
    assert "float32" in checked(
        with_gradient(LightGraph.of(model), "dot"), model, "dot", floats(np.random.default_rng(0), 3, *SHAPE)
    )


def test_a_gradient_that_mixes_pictures_does_not_pass() -> None:
    model = model_of([node("Sigmoid", ["x"], ["y"])], {})
    graph = with_gradient(LightGraph.of(model), "dot")
    x = floats(np.random.default_rng(0), 3, *SHAPE)
    checked(graph, model, "dot", x)
    nodes = graph.model.graph.node
    last = nodes[-1]
    mean = node("ReduceMean", [last.input[0], "gradient/first"], ["mixed"], keepdims=1)
    spread = node("Add", [last.input[0], "mixed"], ["spread"])
    graph.model.graph.initializer.append(numpy_helper.from_array(integers(0), "gradient/first"))
    last.input[0] = "spread"
    del nodes[-1]
    nodes.extend([mean, spread, node("Identity", ["spread"], [GRADIENT_OUTPUT])])
    with pytest.raises(ExportError, match="batch"):
        checked(graph, model, "dot", x)


def test_large_weights_are_written_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = floats(np.random.default_rng(0), SHAPE[0], 2**13)  # large enough to be an input of the light graph
    model = model_of(
        [node("ReduceMean", ["x"], ["m"], keepdims=0, axes=[2, 3]), node("MatMul", ["m", "w"], ["y"])], {"w": wide}, opset=17
    )
    light = LightGraph.of(model)
    assert set(light.weights) == {"w"}
    monkeypatch.setattr(onnx_files, "LARGEST_WEIGHTS", 1000)
    light.write(tmp_path / "graph.onnx")
    assert (tmp_path / "graph.onnx").stat().st_size < 2000 < wide.nbytes == (tmp_path / "graph.onnx.data").stat().st_size
    x = floats(np.random.default_rng(1), 2, *SHAPE)
    whole = ort.InferenceSession(light.whole().SerializeToString(), providers=["CPUExecutionProvider"])
    read = ort.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(read.run(None, {"x": x})[0], whole.run(None, {"x": x})[0])
