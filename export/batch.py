"""Makes a graph of batch 1 take any batch, and names the node that stands in the way where it cannot.

Nothing here is trusted: `graphs.make` compares a whole batch with the original graph, picture by picture.
"""

import numpy as np
import onnx

from export.errors import ExportError
from export.runtime import ModelRunner

CLOSE = 1e-3
"""Difference, in parts of the largest entry, up to which two tensors inside a graph count as equal."""


def freed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose Reshape nodes no longer say that the batch is 1.

    model: constants among its initializers; its input is declared with batch 1
    """
    shapes = _known_shapes(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {t.name: t for t in model.graph.initializer}
    for index, node in enumerate(result.graph.node):
        if node.op_type == "Reshape" and node.input[1] in constants:
            fixed = onnx.numpy_helper.to_array(constants[node.input[1]])
            target = _without_batch(fixed, shapes.get(node.output[0]))
            if target is not None:
                name = f"{node.input[1]}_any_batch_{index}"  # other nodes may share the old one
                result.graph.initializer.append(onnx.numpy_helper.from_array(target, name))
                node.input[1] = name
    return result


def blame(original: onnx.ModelProto, changed: onnx.ModelProto, pictures: np.ndarray) -> str:
    """Which node of `changed` first treats a batch otherwise than the same pictures one by one, and how.

    original, changed: the same nodes and names
    pictures: (B, ...) float32, B > 1 different pictures as the graph takes them
    """
    nodes = changed.graph.node
    runs, fails = 0, len(nodes) + 1
    while fails - runs > 1:  # the largest number of leading nodes that take the batch
        middle = (runs + fails) // 2
        try:
            _tensors(changed, middle, pictures)
            runs = middle
        except ExportError:
            fails = middle
    whole = _tensors(changed, runs, pictures) if runs else {}
    singles = [_tensors(original, runs, p[None]) for p in pictures] if runs else []
    for node in nodes[:runs]:
        for name in node.output:
            if name in whole and not _same([s[name] for s in singles], whole[name]):
                got = f"{_shape(whole[name])} for a batch of {len(pictures)}, {_shape(singles[0][name])} for one picture"
                return f"{_described(node)}, which gives {got}"
    return f"{_described(nodes[runs])}, which fails" if runs < len(nodes) else "a difference that no node alone shows"


def _known_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that are fixed at batch 1."""
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {}
    for value in [*inferred.graph.value_info, *inferred.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    return shapes


def _without_batch(target: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray | None:
    """The target of a Reshape with its leading 1 left open, or None where it has none.

    -1 works wherever the other sizes are known; where one of them is -1, 0 copies the batch from the input.
    """
    if not target.size or target[0] != 1:
        return None
    rest = shape[1:] if shape is not None and shape[0] == 1 and len(shape) == target.size else tuple(target[1:].tolist())
    return np.array([0 if -1 in rest else -1, *rest], np.int64)


def _tensors(model: onnx.ModelProto, count: int, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """What the first `count` nodes give."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[count:]
    del part.graph.output[:]
    del part.graph.value_info[:]
    names = [name for node in part.graph.node for name in node.output if name]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    part.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    values = ModelRunner(part.SerializeToString()).run(pictures)
    return {n: v for n, v in zip(names, values, strict=True) if isinstance(v, np.ndarray) and v.dtype.kind == "f"}


def _same(singles: list[np.ndarray], whole: np.ndarray) -> bool:
    """The batch holds the single results side by side along some axis, or does not depend on the pictures."""
    candidates = [singles[0]]
    if len({s.shape for s in singles}) == 1:
        candidates += [np.concatenate(singles, axis) for axis in range(singles[0].ndim)]
    return any(c.shape == whole.shape and _close(c, whole) for c in candidates)


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return not a.size or bool(np.abs(a - b).max() <= CLOSE * np.abs(a).max())


def _described(node: onnx.NodeProto) -> str:
    return f"node {node.name!r} ({node.op_type})"


def _shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) or "a number"
