"""Gradient graphs, operator by operator: every rule against differences in float64, and clear refusals."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from gradient_graphs import SHAPE, doubled, floats, integers, model_of, node, run
from onnx import NodeProto, TensorProto, numpy_helper
from torch.nn import functional as F

from engine.runtime.gradient_session import GRADIENT_OUTPUT, TARGET_INPUT
from export import ExportError
from export.gradient import verify, with_gradient
from export.rules import RULES


def agree(model: onnx.ModelProto, low: float | None, step: float, tolerance: float) -> None:
    """The gradient of <y, v> by every entry of x, against differences of onnx's own evaluator in float64."""
    shape, batch, random = SHAPE, 3, np.random.default_rng(1)  # not the seed of the constants
    x = floats(random, batch, *shape, low=low)
    v = floats(random, batch, model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    got = run(with_gradient(model, "dot"), x, v)[1]
    count = int(np.prod(shape))
    moves = step * np.eye(count).reshape(count, *shape)
    for i in range(batch):
        around = doubled(model, np.concatenate([x[i] + moves, x[i] - moves]))
        expected = ((around[:count] - around[count:]) @ v[i] / (2 * step)).reshape(shape)
        np.testing.assert_allclose(got[i], expected, atol=tolerance * max(np.abs(expected).max(), 1), rtol=0)


def entrywise(
    kind: str, low: float | None = None, **attributes: Any
) -> tuple[str, Callable[[], onnx.ModelProto], float | None]:
    return kind, lambda: model_of([node(kind, ["x"], ["y"], **attributes)], {}), low


def with_constants(
    kind: str, *values: np.ndarray | None, low: float | None = None, outputs: int = 1, first: bool = False, **attributes: Any
) -> tuple[str, Callable[[], onnx.ModelProto], float | None]:
    """x and constants; first: x comes after the first constant. None: an input left out."""
    names = ["" if v is None else f"c{i}" for i, v in enumerate(values)]
    inputs = [*names[:1], "x", *names[1:]] if first else ["x", *names]
    constants = {n: v for n, v in zip(names, values, strict=True) if v is not None}
    return kind, lambda: model_of([node(kind, inputs, ["y"], **attributes)], constants), low


def several(
    kind: str, nodes: Sequence[NodeProto], low: float | None = None, **constants: np.ndarray
) -> tuple[str, Callable[[], onnx.ModelProto], float | None]:
    return kind, lambda: model_of(nodes, constants), low


drawn = functools.partial(floats, np.random.default_rng(0))
"""Constants of the cases, drawn one after another."""
HALVES = node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2)
CASES = [
    *(entrywise(k) for k in ("Identity", "Neg", "Abs", "Exp", "Erf", "Tanh", "Sigmoid", "Softplus", "Relu", "HardSwish")),
    *(entrywise(k, low=0.5) for k in ("Log", "Sqrt", "Reciprocal")),
    entrywise("Dropout"),
    entrywise("LeakyRelu", alpha=0.3),
    entrywise("LeakyRelu"),
    entrywise("Elu", alpha=0.7),
    entrywise("HardSigmoid", alpha=0.5, beta=0.4),
    entrywise("Gelu"),
    entrywise("Gelu", approximate="tanh"),
    with_constants("PRelu", drawn(4, 1, 1)),
    with_constants("Clip", np.float32(-0.4), np.float32(0.6)),
    with_constants("Clip", None, np.float32(0.6)),
    with_constants("Clip", np.float32(0.1)),
    with_constants("Pow", np.float32(2)),
    with_constants("Pow", np.float32(0.4), low=0.5),
    with_constants("Add", drawn(4, 1, 6)),
    with_constants("Sub", drawn(5, 1)),
    with_constants("Sub", drawn(5, 1), first=True),
    with_constants("Mul", drawn(6)),
    with_constants("Div", drawn(4, 1, 1, low=1)),
    with_constants("Div", drawn(2, 4, 5, 6)[0], first=True, low=1),
    several("Mul", [HALVES, node("Mul", ["a", "b"], ["y"])]),
    several("Mul", [node("ReduceMean", ["x", "axes"], ["m"]), node("Mul", ["x", "m"], ["y"])], axes=integers(2, 3)),
    several("Div", [HALVES, node("Div", ["a", "b"], ["y"])], low=1),
    several("Sum", [HALVES, node("Sum", ["a", "b", "c"], ["y"])], c=drawn(2, 5, 6)),
    several("Max", [HALVES, node("Max", ["a", "b"], ["y"])]),
    several("Min", [HALVES, node("Min", ["a", "b", "c"], ["y"])], c=drawn(1, 6)),
    several("Where", [HALVES, node("Greater", ["a", "b"], ["c"]), node("Where", ["c", "a", "b"], ["y"])]),
    with_constants("Reshape", integers(0, 2, -1)),
    entrywise("Flatten"),
    several("Squeeze", [node("Unsqueeze", ["x", "axes"], ["u"]), node("Squeeze", ["u", "axes"], ["y"])], axes=integers(2)),
    several("Unsqueeze", [node("Unsqueeze", ["x", "axes"], ["y"])], axes=integers(1, 4)),
    several(
        "Expand",
        [node("ReduceSum", ["x", "axes"], ["s"]), node("Expand", ["s", "shape"], ["y"])],
        axes=integers(1),
        shape=integers(1, 3, 5, 6),
    ),
    entrywise("Transpose", perm=[0, 2, 3, 1]),
    several("Concat", [HALVES, node("Concat", ["b", "x", "a"], ["y"], axis=-3)]),
    several("Split", [node("Split", ["x", "sizes"], ["a", "y", "b"], axis=3)], sizes=integers(1, 3, 2)),
    with_constants("Slice", integers(1, -4), integers(3, 100), integers(1, 3)),
    with_constants("Slice", integers(0, 5), integers(5, -100), integers(2, 3), integers(2, -2)),
    with_constants("Gather", integers(2, 0, 0, -1), axis=2),
    with_constants("Gather", np.array(-1), axis=1),
    with_constants("Pad", integers(0, 0, 1, 0, 0, 2, 0, 3)),
    with_constants("Pad", integers(1, 2, 2, 1), None, integers(2, 3), mode="reflect"),
    with_constants("Pad", integers(0, 2, 1, 0), None, integers(2, 3), mode="edge"),
    with_constants("ReduceSum", integers(1, 2), keepdims=0),
    with_constants("ReduceMean", integers(-1), keepdims=1),
    with_constants("ReduceL2", integers(1), keepdims=0),
    with_constants("ReduceMax", integers(2, 3)),
    with_constants("ReduceSumSquare", integers(2), keepdims=0),
    several("Cast", [node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE), node("Cast", ["d"], ["y"], to=TensorProto.FLOAT)]),
    several(
        "Slice", [node("Slice", ["x", "s", "e", "a"], ["y"])], s=integers(0, 1), e=integers(2**31 - 1, 3), a=integers(0, 1)
    ),
    entrywise("GlobalAveragePool"),
    entrywise("Softmax", axis=1),
    entrywise("Softmax"),
    with_constants("LayerNormalization", drawn(5, 6), drawn(5, 6), axis=2),
    with_constants("LayerNormalization", drawn(6), epsilon=0.1),
    with_constants("BatchNormalization", drawn(4), drawn(4), drawn(4), drawn(4, low=0.5), epsilon=0.01),
    with_constants("MatMul", drawn(6, 3)),
    with_constants("MatMul", drawn(1, 4, 3, 5), first=True),
    several("MatMul", [node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]), node("MatMul", ["x", "t"], ["y"])]),
    several(
        "MatMul",
        [node("ReduceMean", ["x", "axes"], ["m"]), node("MatMul", ["m", "c"], ["y"])],
        axes=integers(1),
        c=drawn(1, 3, 6, 2),
    ),
    several(
        "Gemm",
        [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "c", "d"], ["y"], alpha=0.5)],
        c=drawn(120, 3),
        d=drawn(3),
    ),
    several("Gemm", [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "c"], ["y"], transB=1)], c=drawn(3, 120)),
    with_constants("Conv", drawn(6, 4, 3, 3), drawn(6), pads=[1, 1, 1, 1]),
    with_constants("Conv", drawn(6, 4, 3, 3), strides=[2, 2]),
    with_constants("Conv", drawn(6, 4, 2, 3), strides=[3, 1], pads=[0, 2, 1, 0]),
    with_constants("Conv", drawn(8, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    with_constants("Conv", drawn(4, 1, 3, 3), group=4, dilations=[2, 2], pads=[2, 2, 2, 2]),
    with_constants("Conv", drawn(4, 1, 3, 3), group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
    with_constants("Conv", drawn(3, 4, 1, 1), strides=[2, 2]),
    with_constants("Conv", drawn(3, 4, 3, 3), pads=[4, 3, 4, 3]),
    with_constants("Conv", drawn(3, 4, 2, 2), strides=[2, 2], auto_pad="SAME_UPPER"),
    with_constants("Conv", drawn(3, 4, 3, 3), auto_pad="SAME_LOWER"),
    with_constants("ConvTranspose", drawn(4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 0]),
    with_constants("ConvTranspose", drawn(4, 2, 2, 2), dilations=[2, 1]),
    entrywise("AveragePool", kernel_shape=[2, 3], strides=[2, 1], pads=[1, 0, 0, 1]),
    entrywise("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    entrywise("AveragePool", kernel_shape=[5, 6]),
    entrywise("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    entrywise("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
]


@pytest.mark.parametrize(("kind", "build", "low"), CASES, ids=[f"{k}-{i}" for i, (k, _, _) in enumerate(CASES)])
def test_a_rule(kind: str, build: Callable[[], onnx.ModelProto], low: float | None) -> None:
    model = build()
    assert kind in {n.op_type for n in model.graph.node}
    # onnx's evaluator computes these in float32
    agree(model, low, *((1e-2, 3e-4) if kind in ("Cast", "Erf", "Gelu") else (1e-6, 2e-5)))


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
    np.testing.assert_allclose(run(with_gradient(model, "dot"), x, v)[1], leaf.grad.numpy(), atol=1e-6)


def test_max_pooling_that_numbers_by_columns_is_refused() -> None:
    model = model_of([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], storage_order=1)], {})
    with pytest.raises(ExportError, match="by columns"):
        with_gradient(model, "dot")


def test_an_operator_without_a_rule_is_named() -> None:
    model = model_of([node("Sin", ["x"], ["y"], name="wave")], {})
    with pytest.raises(ExportError, match=r"'wave' is a Sin, whose derivative is not known.*--gradient"):
        with_gradient(model, "dot")
    model = model_of([node("Gather", ["x", "rows"], ["y"], name="pick", axis=1)], {"rows": np.zeros((2, 2), np.int64)})
    with pytest.raises(ExportError, match=r"'pick' \(Gather\).*more than one dimension"):
        with_gradient(model, "dot")
    model = model_of([node("Relu", ["x"], [TARGET_INPUT]), node("Neg", [TARGET_INPUT], ["y"])], {})
    with pytest.raises(ExportError, match="already uses"):
        with_gradient(model, "dot")


def test_a_gradient_that_mixes_pictures_does_not_pass() -> None:
    graph = with_gradient(model_of([node("Sigmoid", ["x"], ["y"])], {}), "dot")
    x = floats(np.random.default_rng(0), 3, *SHAPE)
    verify(graph, x)
    last = graph.graph.node[-1]
    mean = node("ReduceMean", [last.input[0], "gradient/first"], ["mixed"], keepdims=1)
    spread = node("Add", [last.input[0], "mixed"], ["spread"])
    graph.graph.initializer.append(numpy_helper.from_array(integers(0), "gradient/first"))
    last.input[0] = "spread"
    del graph.graph.node[-1]
    graph.graph.node.extend([mean, spread, node("Identity", ["spread"], [GRADIENT_OUTPUT])])
    with pytest.raises(ExportError, match="batch"):
        verify(graph, x)
