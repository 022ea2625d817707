"""Name the node because of which a graph does not take a batch."""

import numpy as np
import onnx

from export.errors import ExportError
from export.runtime import ModelRunner

INNER_TOLERANCE = 1e-3
"""Largest difference between two equal tensors inside a graph, relative to their largest entry."""


def first_wrong_node(original: onnx.ModelProto, changed: onnx.ModelProto, pictures: np.ndarray) -> str:
    """Name the first node of `changed` that does not give a batch what it gives the pictures one by one, and say how.

    original, changed: graphs of the same nodes and names, but for nodes of `changed` that follow the batch
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
    shared = {name for node in nodes[:runs] for name in node.output}
    count = sum(bool(shared & set(node.output)) for node in original.graph.node)
    singles = [_outputs_of_first(original, count, p[None]) for p in pictures] if count else [{}]
    for node in nodes[:runs]:
        for name in node.output:
            if name in whole and name in singles[0] and not _same([s[name] for s in singles], whole[name]):
                batch, single = _shape_text(whole[name]), _shape_text(singles[0][name])
                return f"{_node_text(node)}, which gives {batch} for a batch of {len(pictures)}, {single} for one picture"
    return f"{_node_text(nodes[runs])}, which fails" if runs < len(nodes) else "a difference that no single node shows"


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
    candidates = []
    if len({s.shape for s in singles}) == 1:
        candidates = [singles[0]] if all(close(singles[0], s) for s in singles) else []
        candidates += [np.concatenate(singles, axis) for axis in range(singles[0].ndim)]
    return any(c.shape == whole.shape and close(c, whole) for c in candidates)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Say whether two arrays of one shape are equal but for rounding."""
    return not a.size or bool(np.abs(a - b).max() <= INNER_TOLERANCE * np.abs(a).max())


def _node_text(node: onnx.NodeProto) -> str:
    return f"node {node.name!r} ({node.op_type})"


def _shape_text(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) or "a number"
