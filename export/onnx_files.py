"""Read an ONNX file, keep the one input and one output that a bundle needs, and simplify what is left."""

from pathlib import Path
from typing import Any

import onnx
import onnx_ir
from onnx_ir.passes import common as passes
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules import common as rules

from export.errors import ExportError, root_cause

LARGEST_FILE = 2**31 - 1
"""Most bytes of a protobuf message, and so of a graph in one file."""
FOLDING = (
    rules.fuse_batchnorm_into_conv_rule,
    rules.fuse_batchnorm_into_conv_transpose_rule,
    rules.fuse_batchnorm_into_gemm_rule,
)


def read_onnx(path: Path, input_name: str | None, output_name: str | None) -> onnx.ModelProto:
    """Return the model with its external data, reduced to the nodes that lead from this input to this output.

    input_name, output_name: None if the graph has only one. Raises ExportError.
    """
    model = _loaded(path)
    graph = model.graph
    constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    inputs = [v for v in graph.input if v.name not in constants]  # old files list weights among the inputs
    source = _chosen(path, "output", list(graph.output), output_name)
    needed, outside = _needed_nodes(graph, source.name)
    used = [v for v in inputs if v.name in outside]
    target = _chosen(path, "input", inputs if input_name else used or inputs, input_name)
    if target.name not in outside:
        raise ExportError(
            f"{path}: output {source.name!r} does not depend on input {target.name!r}; choose another --input or --output"
        )
    others = [v.name for v in used if v.name != target.name]
    if others:
        raise ExportError(
            f"{path}: output {source.name!r} needs the inputs {', '.join(others)} besides {target.name!r}; "
            "export a graph whose only input is the picture"
        )
    for value in (target, source):
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise ExportError(f"{path}: {value.name!r} is {_type_name(value)}, but must be float32; convert the graph")
    _keep(graph.node, needed)
    _keep(graph.input, [target])
    _keep(graph.output, [source])
    _keep(graph.initializer, [t for t in graph.initializer if t.name in outside])
    model.ir_version = max(model.ir_version, 4)  # before 4, weights had to be inputs too
    return model


def fixed_shape(model: onnx.ModelProto) -> tuple[int | None, ...] | None:
    """Return the declared shape of the input, with None for each open size; or None if the graph declares no shape."""
    tensor = model.graph.input[0].type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with BatchNormalization folded into a convolution directly before it, and with every node named."""
    graph = onnx_ir.from_proto(model)
    # these rules, and `export.batch`, find constants among the initializers only
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    passes.IdentityEliminationPass()(graph)
    simpler = onnx_ir.to_proto(rewrite(graph, FOLDING))
    taken = {n.name for n in simpler.graph.node}
    for index, node in enumerate(simpler.graph.node):
        if not node.name:
            name = f"{node.op_type}_{index}"
            node.name = name if name not in taken else f"{name}_{node.output[0]}"
    return simpler


def declare(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    """Declare the shape ('batch', *shape), float32, for an input or output."""
    value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, ["batch", *shape]))


def strip(message: Any) -> None:
    """Remove texts for people and tools, in place, at every depth: they contain local paths and can outgrow the graph."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                strip(inner)


def serialised(model: onnx.ModelProto) -> bytes:
    """Return the model as the bytes of one file; raises ExportError if it is too large."""
    try:
        return model.SerializeToString()
    except Exception as error:  # protobuf's own classes are not typed
        raise ExportError(
            f"the graph does not fit in one file of {LARGEST_FILE:,} bytes ({root_cause(error)}); use a smaller model"
        ) from error


def opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that the graph uses."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def _loaded(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise ExportError(f"there is no ONNX file {path}")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's and onnx's own classes share no base
        raise ExportError(f"{path} is not an ONNX file, or its external data is missing ({root_cause(error)})") from error
    if not model.graph.node or not model.graph.output:
        raise ExportError(f"{path} is not an ONNX file: it contains no graph")
    return model


def _chosen(path: Path, kind: str, values: list[onnx.ValueInfoProto], name: str | None) -> onnx.ValueInfoProto:
    names = [v.name for v in values]
    if name is None and len(values) == 1:
        return values[0]
    if name is None:
        raise ExportError(f"{path} has the {kind}s {', '.join(names) or 'none'}; choose one with --{kind}")
    if name not in names:
        raise ExportError(f"{path} has no {kind} {name!r}; it has {', '.join(names) or 'none'}")
    return values[names.index(name)]


def _needed_nodes(graph: onnx.GraphProto, output: str) -> tuple[list[onnx.NodeProto], set[str]]:
    """Return the nodes that `output` depends on, in order, and the names of `output` and of every tensor that they read."""
    wanted, needed = {output}, []
    for node in reversed(graph.node):  # a valid graph is in topological order
        if wanted.intersection(node.output):
            needed.append(node)
            wanted |= _read_by(node)
    return needed[::-1], wanted


def _read_by(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node reads, also from inside its subgraphs; names local to those do no harm."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            names.update(v.name for v in graph.output)
            for inner in graph.node:
                names |= _read_by(inner)
    return names - {""}


def _keep(field: Any, values: list[Any]) -> None:
    """Reduce a repeated field to `values`, which are some of its own."""
    copies = [type(v).FromString(v.SerializeToString()) for v in values]
    del field[:]
    field.extend(copies)


def _type_name(value: onnx.ValueInfoProto) -> str:
    number = value.type.tensor_type.elem_type
    known = onnx.TensorProto.DataType
    return known.Name(number).lower() if number in known.values() else f"of unknown type {number}"
