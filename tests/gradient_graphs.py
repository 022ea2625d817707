"""Small graphs and networks for the tests of gradient graphs, and what their gradients are compared with."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn import functional as F

from engine.runtime.gradient_session import GRADIENT_OUTPUT, SIMILARITY_OUTPUT, TARGET_INPUT, WEIGHTS_INPUT
from export.float64_graph import Float64Graph
from export.gradient_check import runner_gradient, verify
from export.light_graph import LightGraph

SHAPE = (4, 5, 6)
"""Of one picture in the tests of single rules."""
node = helper.make_node


def floats(random: np.random.Generator, *shape: int, low: float | None = None) -> np.ndarray:
    """Draw float32 values: normal ones, or uniform ones from `low` to `low + 1`."""
    values = random.normal(size=shape) if low is None else random.uniform(low, low + 1, shape)
    return values.astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def model_of(
    nodes: Sequence[NodeProto], constants: dict[str, np.ndarray], shape: tuple[int, ...] = SHAPE, opset: int = 20
) -> onnx.ModelProto:
    """x (batch, *shape) -> nodes -> y, flattened to (batch, D)."""
    flat = node("Reshape", ["y", "any_batch"], ["flat"])
    initializers = [numpy_helper.from_array(v, k) for k, v in {**constants, "any_batch": np.array([0, -1])}.items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])
    result = helper.make_tensor_value_info("flat", TensorProto.FLOAT, None)
    graph = helper.make_graph([*nodes, flat], "test", [given], [result], initializers)
    probe = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    width = doubled(probe, np.zeros((1, *shape)) + 0.5).shape[1]
    graph.output[0].CopyFrom(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch", width]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    return model


INEXACT = {"Cast", "Erf", "Gelu", "GroupNormalization", "LpNormalization"}
"""Operators that onnx's own evaluator computes in float32, or otherwise than ONNX Runtime."""


def doubled(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Return what onnx's own evaluator gives in float64, or ours for the operators that it does not compute so."""
    if INEXACT & {n.op_type for n in model.graph.node}:
        return Float64Graph(LightGraph.of(model)).run(x.astype(np.float64))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float64), tensor.name))
    del copy.graph.output[:]
    copy.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.DOUBLE, None))
    (result,) = ReferenceEvaluator(copy).run(None, {"x": x.astype(np.float64)})
    return np.asarray(result)


def run(added: LightGraph, x: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> list[np.ndarray]:
    """Return similarity and gradient, as ONNX Runtime computes them."""
    session = ort.InferenceSession(added.whole().SerializeToString(), providers=["CPUExecutionProvider"])
    ones = np.ones_like(target) if weights is None else weights
    feeds = {session.get_inputs()[0].name: x, TARGET_INPUT: target, WEIGHTS_INPUT: ones}
    return [np.asarray(a) for a in session.run([SIMILARITY_OUTPUT, GRADIENT_OUTPUT], feeds)]


def checked(added: LightGraph, model: onnx.ModelProto, metric: str, x: np.ndarray) -> str:
    """Return what the export's own check says of the gradient that was added to a model."""
    return verify(runner_gradient(added), LightGraph.of(model), metric, x)


class Vit(nn.Module):
    """A small vision transformer with a class token: (N, 3, 32, 32) -> (N, 24)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 32, 8, 8), nn.Parameter(torch.randn(1, 1, 32))
        self.place, self.norm = nn.Parameter(torch.randn(1, 17, 32)), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.tokens(x)[:, 0])

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, 32, 32) -> (N, 17, 32), after the block"""
        n = x.shape[0]
        t = torch.cat([self.token.expand(n, -1, -1), self.patches(x).flatten(2).transpose(1, 2)], 1) + self.place
        q, k, v = self.qkv(self.norm(t)).view(n, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
        t = t + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, 17, 32))
        return t + self.down(F.gelu(self.up(self.norm(t))))


def compared(got: np.ndarray, exact: np.ndarray) -> None:
    """Compare a float32 gradient with float64's. A few pictures may differ: a ReLU's input rounds to either side of 0."""
    off = np.abs(got - exact).max((1, 2, 3)) / np.abs(exact).max((1, 2, 3))
    assert np.median(off) <= 1e-5
    assert (off <= 1e-5).mean() >= 0.8, off
    assert off.max() <= 5e-2, off
