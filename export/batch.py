"""Make a graph of batch 1 take any batch, or name the node that prevents it.

The result is not trusted: `graphs.make` compares a whole batch with the original graph, picture by picture.
"""

import numpy as np
import onnx

from export.errors import ExportError
from export.runtime import ModelRunner

INNER_TOLERANCE = 1e-3
"""Largest difference between two equal tensors inside a graph, relative to their largest entry."""


def with_open_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose Reshape nodes take any batch, not only 1.

    model: its constants are initializers; its input is declared with batch 1
    """
    shapes = _fixed_shapes(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {t.name: t for t in model.graph.initializer}
    for index, node in enumerate(result.graph.node):
        if node.op_type == "Reshape" and node.input[1] in constants:
            fixed = onnx.numpy_helper.to_array(constants[node.input[1]])
            target = _open_target(fixed, shapes.get(node.output[0]))
            if target is not None:
                name = f"{node.input[1]}_any_batch_{index}"  # other nodes may share the old one
                result.graph.initializer.append(onnx.numpy_helper.from_array(target, name))
                node.input[1] = name
    return result


def first_wrong_node(original: onnx.ModelProto, changed: onnx.ModelProto, pictures: np.ndarray) -> str:
    """Name the first node of `changed` that does not give a batch what it gives the pictures one by one, and say how.

    original, changed: graphs of the same nodes and names
    pictures: (B, ...) float32, B > 1 different pictures as the graph takes them
    """
    nodes = changed.graph.node
    runs, fails = 0, len(nodes) + 1
    while fails - runs > 1:  # the largest number of leading nodes that take the batch
        middle = (runs + fails) // 2
        try:
            _outputs_of_first(changed, middle, pictures)
            runs = middle
        except ExportError:
            fails = middle
    whole = _outputs_of_first(changed, runs, pictures) if runs else {}
    singles = [_outputs_of_first(original, runs, p[None]) for p in pictures] if runs else []
    for node in nodes[:runs]:
        for name in node.output:
            if name in whole and not _same([s[name] for s in singles], whole[name]):
                batch, single = _shape_text(whole[name]), _shape_text(singles[0][name])
                return f"{_node_text(node)}, which gives {batch} for a batch of {len(pictures)}, {single} for one picture"
    return f"{_node_text(nodes[runs])}, which fails" if runs < len(nodes) else "a difference that no single node shows"


def _fixed_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors whose sizes are all fixed at batch 1."""
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {}
    for value in [*inferred.graph.value_info, *inferred.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    return shapes


def _open_target(target: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray | None:
    """Return the target of a Reshape with its leading 1 left open, or None if it has no leading 1.

    -1 works if the other sizes are known; if one of them is -1, 0 copies the batch from the input.
    """
    if not target.size or target[0] != 1:
        return None
    rest = shape[1:] if shape is not None and shape[0] == 1 and len(shape) == target.size else tuple(target[1:].tolist())
    return np.array([0 if -1 in rest else -1, *rest], np.int64)


def _outputs_of_first(model: onnx.ModelProto, count: int, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Return the floating-point outputs of the first `count` nodes, by name."""
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
    """Say whether the batch holds the single results side by side along some axis, or is the same for every picture."""
    candidates = [singles[0]]
    if len({s.shape for s in singles}) == 1:
        candidates += [np.concatenate(singles, axis) for axis in range(singles[0].ndim)]
    return any(c.shape == whole.shape and _close(c, whole) for c in candidates)


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return not a.size or bool(np.abs(a - b).max() <= INNER_TOLERANCE * np.abs(a).max())


def _node_text(node: onnx.NodeProto) -> str:
    return f"node {node.name!r} ({node.op_type})"


def _shape_text(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) or "a number"
