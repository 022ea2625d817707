"""Reduce an ONNX graph to the nodes between one input and one tensor, whichever is wanted, or say which could be."""

import heapq
from pathlib import Path
from typing import Any

import onnx

from export.errors import ExportError
from export.onnx_files import sizes_of, without_weights

SUGGESTIONS = 5
"""Most tensors that a message names."""
RESULT_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
PICTURE_TYPES = (*RESULT_TYPES, onnx.TensorProto.UINT8)
"""Types of outputs and of inputs that a cast brings to float32."""
Sizes = tuple[int | None, ...]


def reduce_to(model: onnx.ModelProto, path: Path, input_name: str | None, output_name: str | None) -> None:
    """Reduce a model, in place, to the nodes that lead from this input to this tensor, in topological order.

    path: for messages; input_name: None if the graph has only one; output_name: any tensor, None for the only output
    Raises ExportError.
    """
    graph = model.graph
    constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    inputs = [v for v in graph.input if v.name not in constants]  # old files list weights among the inputs
    source = _chosen_output(path, model, output_name)
    needed, read = _needed_nodes(graph, source.name)
    used = [v for v in inputs if v.name in read]
    target = _chosen_input(path, inputs if input_name else used or inputs, input_name)
    if target.name not in read:
        raise ExportError(
            f"{path}: output {source.name!r} does not depend on input {target.name!r}; choose another --input or --output"
        )
    others = [v.name for v in used if v.name != target.name]
    if others:
        raise ExportError(
            f"{path}: output {source.name!r} needs the inputs {', '.join(others)} besides {target.name!r}; "
            "export a graph whose only input is the picture, or choose an earlier --output"
        )
    for value, allowed in ((target, PICTURE_TYPES), (source, (*RESULT_TYPES, 0))):  # 0: not known yet
        if value.type.tensor_type.elem_type not in allowed:
            names = ", ".join(_type_name(t) for t in allowed if t)
            raise ExportError(
                f"{path}: {value.name!r} is {_type_name(value.type.tensor_type.elem_type)}, but must be one of {names}; "
                "choose another --input or --output, or convert the graph"
            )
    _keep(graph.node, needed)
    sort_nodes(graph, path)
    _keep(graph.input, [target])
    _keep(graph.output, [source])
    if len(read & constants) < len(constants):
        _keep(graph.initializer, [t for t in graph.initializer if t.name in read])
    model.ir_version = max(model.ir_version, 4)  # before 4, weights had to be inputs too


def sort_nodes(graph: onnx.GraphProto, path: Path) -> None:
    """Bring the nodes of a graph, and of the graphs inside them, into topological order, in place.

    ONNX Runtime's own converter to fp16 leaves them in another one. path: for messages. Raises ExportError.
    """
    ordered = _in_order(path, list(graph.node))
    if any(a is not b for a, b in zip(ordered, graph.node, strict=True)):
        _keep(graph.node, ordered)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                sort_nodes(inner, path)


def suggestions(model: onnx.ModelProto, rank: int = 2) -> str:
    """Name the last tensors of a graph that could be embeddings, with their sizes; empty if there is none.

    rank: of the tensors, 2 for (batch, D); 3 and 4 for tokens and maps
    """
    tensors = known_tensors(model)
    found = []
    for node in reversed(model.graph.node):
        for name in node.output:
            kind, sizes = tensors.get(name, (0, None))
            if kind in RESULT_TYPES and sizes is not None and _could_be_embedding(sizes, rank):
                found.append(f"{name} ({', '.join(['batch', *(str(s or 'any') for s in sizes[1:])])})")
    return ", ".join(found[:SUGGESTIONS][::-1])


def known_tensors(model: onnx.ModelProto) -> dict[str, tuple[int, Sizes | None]]:
    """Return element type and sizes, as far as they can be inferred, of the tensors of a graph."""
    try:
        inferred = onnx.shape_inference.infer_shapes(without_weights(model), data_prop=True)
    except Exception:  # onnx's own classes; a faulty graph shows when it runs
        inferred = model
    values = [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
    return {v.name: (v.type.tensor_type.elem_type, sizes_of(v)) for v in values}


def _could_be_embedding(sizes: Sizes, rank: int) -> bool:
    return len(sizes) == rank and sizes[0] in (None, 1) and all(size is None or size > 1 for size in sizes[1:2])


def _chosen_output(path: Path, model: onnx.ModelProto, name: str | None) -> onnx.ValueInfoProto:
    outputs = {v.name: v for v in model.graph.output}
    if name is None and len(outputs) == 1:
        return next(iter(outputs.values()))
    if name in outputs:
        return outputs[name]
    inside = {output for node in model.graph.node for output in node.output if output}
    if name in inside:
        kind, _ = known_tensors(model).get(name or "", (0, None))
        value = onnx.ValueInfoProto(name=name)
        value.type.tensor_type.elem_type = kind
        return value
    found = suggestions(model)
    more = f"; the last tensors inside that could be embeddings: {found}" if found else ""
    names = ", ".join(outputs)
    if name is None:
        raise ExportError(f"{path} has the outputs {names}; choose one with --output{more}")
    raise ExportError(f"{path} has no tensor {name!r}; its outputs are {names}{more}")


def _chosen_input(path: Path, values: list[onnx.ValueInfoProto], name: str | None) -> onnx.ValueInfoProto:
    names = [v.name for v in values]
    if name is None and len(values) == 1:
        return values[0]
    if name is None:
        raise ExportError(f"{path} has the inputs {', '.join(names) or 'none'}; choose one with --input")
    if name not in names:
        raise ExportError(f"{path} has no input {name!r}; it has {', '.join(names) or 'none'}")
    return values[names.index(name)]


def _needed_nodes(graph: onnx.GraphProto, output: str) -> tuple[list[onnx.NodeProto], set[str]]:
    """Return the nodes that `output` depends on, and the names of `output` and of every tensor that they read."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    wanted, needed, left = {output}, set(), [output]
    while left:
        index = makers.get(left.pop())
        if index is None or index in needed:
            continue
        needed.add(index)
        names = read_by(graph.node[index]) - wanted
        wanted |= names
        left += names
    return [graph.node[index] for index in sorted(needed)], wanted


def _in_order(path: Path, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return nodes so that each comes after those that it reads from; nodes already in order stay where they are."""
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waits = [{makers[name] for name in read_by(node) if name in makers} for node in nodes]
    readers: dict[int, list[int]] = {}
    for index, others in enumerate(waits):
        for other in others:
            readers.setdefault(other, []).append(index)
    ready = [index for index, others in enumerate(waits) if not others]
    heapq.heapify(ready)
    ordered = []
    while ready:
        index = heapq.heappop(ready)
        ordered.append(nodes[index])
        for reader in readers.get(index, []):
            waits[reader].discard(index)
            if not waits[reader]:
                heapq.heappush(ready, reader)
    if len(ordered) < len(nodes):
        name = next(node.name or node.op_type for node, others in zip(nodes, waits, strict=True) if others)
        raise ExportError(f"{path} is not a valid graph: node {name!r} depends on itself; export it again")
    return ordered


def read_by(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node reads, also from inside its subgraphs; names local to those do no harm."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            names.update(v.name for v in graph.output)
            for inner in graph.node:
                names |= read_by(inner)
    return names - {""}


def _keep(field: Any, values: list[Any]) -> None:
    """Reduce a repeated field to `values`, which are some of its own, in another order perhaps."""
    copies = []
    for value in values:
        copied = type(value)()
        copied.CopyFrom(value)
        copies.append(copied)
    del field[:]
    field.extend(copies)


def _type_name(number: int) -> str:
    known = onnx.TensorProto.DataType
    return known.Name(number).lower() if number in known.values() else f"of unknown type {number}"
