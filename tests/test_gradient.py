"""Gradient graphs, operator by operator: every rule against differences in float64, and clear refusals."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from gradient_cases import CASES
from gradient_graphs import SHAPE, checked, doubled, floats, integers, model_of, node, run
from onnx import numpy_helper
from torch.nn import functional as F

from engine.runtime.gradient_session import GRADIENT_OUTPUT, TARGET_INPUT
from export import ExportError
from export.gradient import with_gradient
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


def test_max_pooling_that_numbers_by_columns_is_refused() -> None:
    model = model_of([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], storage_order=1)], {})
    with pytest.raises(ExportError, match="by columns"):
        with_gradient(LightGraph.of(model), "dot")


def test_an_operator_without_a_rule_is_named() -> None:
    model = model_of([node("Sinh", ["x"], ["y"], name="wave")], {})
    with pytest.raises(ExportError, match=r"'wave' is a Sinh, whose derivative is not known.*replace the operator"):
        with_gradient(LightGraph.of(model), "dot")
    model = model_of([node("Einsum", ["x"], ["y"], name="turn", equation="...hw->...wh")], {})
    with pytest.raises(ExportError, match=r"'turn' \(Einsum\).*has dots"):
        with_gradient(LightGraph.of(model), "dot")
    model = model_of([node("Relu", ["x"], [TARGET_INPUT]), node("Neg", [TARGET_INPUT], ["y"])], {})
    with pytest.raises(ExportError, match="already uses"):
        with_gradient(LightGraph.of(model), "dot")


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
