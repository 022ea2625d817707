"""Let a graph of other number types take and give float32."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError
from export.onnx_files import rename

NUMPY_TYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.UINT8: np.dtype(np.uint8),
}
"""Types of inputs as which pictures can be given to a graph; its output may be of the first three."""


def input_type(model: onnx.ModelProto) -> int:
    """Return the element type of the only input."""
    return int(model.graph.input[0].type.tensor_type.elem_type)


def as_input(pictures: np.ndarray, kind: int, path: object) -> np.ndarray:
    """Return pictures (n, ...) float32 in the type of a graph's input; raises ExportError if that changes uint8 pixels."""
    cast = pictures.astype(NUMPY_TYPES[kind])
    if kind == TensorProto.UINT8 and not np.array_equal(cast, pictures):
        raise ExportError(
            f"{path} takes pixels 0..255 as they are (uint8), but the preprocessing gives numbers from {pictures.min():.3g} "
            f"to {pictures.max():.3g}: give --scale 1, and leave --mean and --std out"
        )
    return cast


def has_halves(model: onnx.ModelProto) -> bool:
    """Say whether a graph computes in half precision: weights, casts or its input are of it."""
    casts = (a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to")
    return TensorProto.FLOAT16 in (*(t.data_type for t in model.graph.initializer), *casts, input_type(model))


def widen(message: Any) -> None:
    """Make half precision float32 in a model, in place, at every depth.

    Processors run such graphs no faster than float32, and neither gradients nor int8 can be made from them.
    """
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in [value] if hasattr(value, "ListFields") else value:
            if isinstance(inner, onnx.TensorProto) and inner.data_type == TensorProto.FLOAT16:
                inner.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(inner).astype(np.float32), inner.name))
            elif isinstance(inner, onnx.TypeProto.Tensor) and inner.elem_type == TensorProto.FLOAT16:
                inner.elem_type = TensorProto.FLOAT
            elif isinstance(inner, onnx.AttributeProto) and inner.name in ("to", "dtype") and inner.i == TensorProto.FLOAT16:
                inner.i = TensorProto.FLOAT
            else:
                widen(inner)


def take_float32(model: onnx.ModelProto) -> None:
    """Let the only input of a graph be float32, in place, by a cast to the type that it was of.

    An input of uint8 that the graph itself casts first is not cast: masked pictures then keep their fractions.
    """
    graph = model.graph
    name, kind = graph.input[0].name, input_type(model)
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    readers = [node for node in graph.node if name in node.input]
    if kind == TensorProto.FLOAT or (kind == TensorProto.UINT8 and all(_casts_to_float(node) for node in readers)):
        return
    inner = f"{name}_cast"
    rename(graph, {name: inner})
    graph.input[0].name = name
    nodes, read = [], name
    if kind == TensorProto.UINT8:  # a cast would cut fractions off
        for op, value in (("Add", 0.5), ("Floor", None), ("Max", 0), ("Min", 255)):
            made = f"{name}_{op}"
            operands = [read] if value is None else [read, f"{made}_constant"]
            graph.initializer.extend(
                numpy_helper.from_array(np.array(value, np.float32), operand) for operand in operands[1:]
            )
            nodes.append(helper.make_node(op, operands, [made], name=made))
            read = made
    nodes.append(helper.make_node("Cast", [read], [inner], name=inner, to=kind))
    for index, node in enumerate(nodes):
        graph.node.insert(index, node)


def give_float32(model: onnx.ModelProto) -> None:
    """Let the only output of a graph be float32, in place, by a cast unless its type is known to be float32."""
    graph = model.graph
    if graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT:
        return
    name = graph.output[0].name
    rename(graph, {name: f"{name}_before_cast"})
    graph.output[0].CopyFrom(onnx.ValueInfoProto(name=name))
    graph.node.append(helper.make_node("Cast", [f"{name}_before_cast"], [name], name=f"{name}_cast", to=TensorProto.FLOAT))


def _casts_to_float(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and any(
        a.name == "to" and a.i in (TensorProto.FLOAT, TensorProto.DOUBLE) for a in node.attribute
    )
