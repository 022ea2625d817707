"""Positions that a transformer's blocks read from tables, as rotary ones (RoPE): each kept token takes its row along.

Doubled tokens would not do as a check here, since prefix tokens have no row: `attending` makes a graph for a stricter one.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from engine.runtime.token_tail import KEPT_INPUT
from export.errors import ExportError
from export.light_graph import LightGraph, Shapes

POSITION_OPERATORS = ("Add", "Sub", "Mul", "Div", "Where", "Pow", "Min", "Max")
FOLLOWED = ("Add", "Sub", "Mul")
"""Of those, the ones whose tables may follow the tokens."""
HIDDEN_INPUT = "sane_hidden"
"""Input of `attending`: (T,) float32, 0 for tokens that others see, UNSEEN for those that they do not."""
UNSEEN = -1e9
PLACES = "sane_places"
"""The rows of KEPT_INPUT without the prefix, counted from the first patch."""


def follow_kept(tail: LightGraph, shapes: Shapes, prefix: int, count: int) -> bool:
    """Let the tables of `tail` follow KEPT_INPUT, in place; a mask of 0 is left out. Return whether any table follows it.

    count: tokens of the whole picture, of which the first `prefix` have no place
    Raises ExportError if something with an entry for each token cannot follow them.
    """
    tables = _tables(tail, shapes, {count, count - prefix})
    if not tables:
        return False
    values = tail.values(sorted({name for name, _ in tables}))
    gathered: dict[tuple[str, int], str] = {}  # blocks may share a table
    nodes: list[onnx.NodeProto] = []
    for name, node in tables:
        _require_followed(node)
        other = next(given for given in node.input if given != name)
        if node.op_type == "Add" and not values[name].any():
            node.op_type = "Identity"
            node.ClearField("input")
            node.input.append(other)
            continue
        _require_rows(node, values[name], shapes[other], {count, count - prefix})
        rank = len(shapes[other])
        if (name, rank) not in gathered:
            gathered[name, rank] = f"{name}_of_kept_{rank}"
            nodes += _gathering(tail, name, values[name], rank, values[name].shape[-2] == count)
        node.input[list(node.input).index(name)] = gathered[name, rank]
    if nodes:
        _put_first(tail, nodes, prefix)
    return bool(nodes)


def open_splits(tail: LightGraph, shapes: Shapes, prefix: int, count: int) -> None:
    """Let splits of all tokens into prefix and patches, whose sizes are fixed, give the last part the rest, in place."""
    graph = tail.model.graph
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        entering = shapes.get(node.input[0], ()) if node.input else ()
        axis = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), 0)
        if node.op_type != "Split" or entering[axis] != count or shapes[node.output[-1]][axis] != count - prefix:
            written.append(node)
            continue
        begin = 0
        for part in node.output:
            end = begin + (shapes[part][axis] or 0)
            written.append(_slice(graph, node.input[0], part, begin, None if part == node.output[-1] else end, axis))
            begin = end
    del graph.node[:]
    graph.node.extend(written)


def attending(blocks: LightGraph, shapes: Shapes, count: int) -> LightGraph:
    """Return blocks over all tokens (N, T, D) as a graph that takes HIDDEN_INPUT too, added to what each Softmax takes.

    What no token attends to is left out: so these blocks say what others must give for the tokens that are kept.
    Raises ExportError if they have no such Softmax.
    """
    graph = blocks.model.graph
    written: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Softmax" and shapes.get(node.input[0], (0,))[-1] == count:
            seen = f"{node.input[0]}_seen"
            written.append(helper.make_node("Add", [node.input[0], HIDDEN_INPUT], [seen], name=seen))
            node.input[0] = seen
        written.append(node)
    if len(written) == len(graph.node):
        raise ExportError("its blocks know positions, and have no Softmax over tokens that would show whether they follow")
    del graph.node[:]
    graph.node.extend(written)
    graph.input.insert(1, helper.make_tensor_value_info(HIDDEN_INPUT, onnx.TensorProto.FLOAT, [count]))
    return blocks


def _tables(tail: LightGraph, shapes: Shapes, counts: set[int]) -> list[tuple[str, onnx.NodeProto]]:
    """Return what has an entry for each token besides the tokens, with the node that reads it."""
    active, found = tail.active(), []
    for node in tail.model.graph.node:
        if node.op_type in POSITION_OPERATORS and active.intersection(node.output):
            others = [name for name in node.input if name and name not in active]
            found += [(name, node) for name in others if len(shapes.get(name, ())) > 1 and shapes[name][-2] in counts]
    return found


def _require_followed(node: onnx.NodeProto) -> None:
    if node.op_type not in FOLLOWED:
        raise ExportError(f"its blocks know the tokens' positions in a table that {node.op_type} reads")


def _require_rows(node: onnx.NodeProto, table: np.ndarray, other: tuple[int | None, ...], counts: set[int]) -> None:
    """Raise ExportError unless a table can have other rows for each picture. other: the shape of what it is combined with"""
    if node.op_type != "Mul" and table.shape[-1] in counts:
        raise ExportError("its blocks add relative positions to each pair of tokens, as BEiT's do")
    if len(other) < 3 or other[0] is not None or None in other[1:]:
        raise ExportError(f"its blocks read a table of positions for a tensor {other}, in which pictures are not first")


def _gathering(tail: LightGraph, name: str, table: np.ndarray, rank: int, prefixed: bool) -> list[onnx.NodeProto]:
    """Return nodes that give each row of the batch its own table, (N, ..., K, d): for tensors of `rank` dimensions.

    table: (..., T, d); prefixed: whether the prefix has rows in it
    """
    leading = table.shape[:-2][-(rank - 3) :] if rank > 3 else ()
    if table.size != int(np.prod(leading)) * table.shape[-2] * table.shape[-1]:
        raise ExportError("its blocks know the tokens' positions in a table with an entry for each picture")
    padded = table.reshape((1,) * (rank - 3 - len(leading)) + leading + table.shape[-2:])
    by_token = np.ascontiguousarray(np.moveaxis(padded, -2, 0))
    rows, batched, kept = f"{name}_by_token_{rank}", f"{name}_gathered_{rank}", f"{name}_of_kept_{rank}"
    tail.model.graph.initializer.append(numpy_helper.from_array(by_token, rows))
    order = [0, *range(2, rank - 1), 1, rank - 1]
    return [
        helper.make_node("Gather", [rows, KEPT_INPUT if prefixed else PLACES], [batched], name=batched, axis=0),
        helper.make_node("Transpose", [batched], [kept], name=kept, perm=order),
    ]


def _put_first(tail: LightGraph, nodes: list[onnx.NodeProto], prefix: int) -> None:
    graph = tail.model.graph
    places = [_slice(graph, KEPT_INPUT, f"{PLACES}_after_prefix", prefix, None, 1)]
    graph.initializer.append(numpy_helper.from_array(np.array(prefix), f"{PLACES}_prefix"))
    places.append(helper.make_node("Sub", [f"{PLACES}_after_prefix", f"{PLACES}_prefix"], [PLACES], name=PLACES))
    after = list(graph.node)
    del graph.node[:]
    graph.node.extend([*places, *nodes, *after])


def _slice(graph: onnx.GraphProto, given: str, part: str, begin: int, end: int | None, axis: int) -> onnx.NodeProto:
    """Return a node that takes begin..end of an axis, None for all that follow; its constants are added to the graph."""
    limits = (begin, np.iinfo(np.int64).max if end is None else end, axis)
    names = [f"{part}_{word}" for word in ("begin", "end", "axis")]
    graph.initializer.extend(numpy_helper.from_array(np.array([v], np.int64), n) for v, n in zip(limits, names, strict=True))
    return helper.make_node("Slice", [given, *names], [part], name=part)
