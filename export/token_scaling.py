"""Give the inputs of matrix products a dynamic range per token: each row is divided by its largest entry before rounding.

A whole-batch range, as onnxruntime's quantize_dynamic takes it, would let the other pictures of a batch change an embedding.
Here a picture's embedding depends on that picture alone, and the graph has standard operators only.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export import onnx_files

AXIS_IS_INPUT = 18
"""From this opset on, ReduceMax takes its axes as an input."""
LEAST_SCALE = 1e-12
"""Rows whose entries are all below this become zero."""


def scaled_per_token(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with each product x @ W of a constant W written as (x / s) @ W * s, s = max |x| over the last axis.

    It computes the same as before; x / s lies in [-1, 1] for every token, so one fixed range suits all tokens. The products
    keep their names. Needs opset 13 or later.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = {tensor.name for tensor in graph.initializer}
    nodes = list(graph.node)
    axis, least = f"{graph.name}_token_axis", f"{graph.name}_token_least"
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), axis))
    graph.initializer.append(numpy_helper.from_array(np.array(LEAST_SCALE, np.float32), least))
    scaled: dict[str, str] = {}
    written: list[onnx.NodeProto] = []
    for node in nodes:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            written.append(node)
            continue
        x, y = node.input[0], node.output[0]
        if x not in scaled:
            scaled[x] = f"{x}_token_scale"
            written += _scale(x, scaled[x], axis, least, onnx_files.opset(model))
        product = onnx.NodeProto()
        product.CopyFrom(node)
        product.input[0], product.output[0] = f"{x}_scaled", f"{y}_scaled"
        rescale = helper.make_node("Mul", [f"{y}_scaled", scaled[x]], [y], name=f"{y}_rescale")
        written += [product, rescale]
    del graph.node[:]
    graph.node.extend(written)
    return result


def _scale(x: str, scale: str, axis: str, least: str, opset: int) -> list[onnx.NodeProto]:
    """Return nodes that compute `scale`, the largest absolute entry of each token of `x`, and `x` divided by it."""
    sizes, largest = f"{x}_token_sizes", f"{x}_token_largest"
    if opset >= AXIS_IS_INPUT:
        reduced = helper.make_node("ReduceMax", [sizes, axis], [largest], name=largest, keepdims=1)
    else:
        reduced = helper.make_node("ReduceMax", [sizes], [largest], name=largest, keepdims=1, axes=[-1])
    return [
        helper.make_node("Abs", [x], [sizes], name=sizes),
        reduced,
        helper.make_node("Max", [largest, least], [scale], name=scale),
        helper.make_node("Div", [x, scale], [f"{x}_scaled"], name=f"{x}_scaled"),
    ]
