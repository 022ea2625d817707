"""ONNX graphs as files and in memory: read, written with external data if they are too large for one file, simplified."""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
from onnx_ir.passes import common as passes
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules import common as rules

from engine.bundle.external_data import files_and_operators
from engine.bundle.operators import check_operators
from export.errors import ExportError, root_cause

LARGEST_FILE = 2**31 - 1
"""Most bytes of a protobuf message, and so of a graph in one file."""
LARGEST_WEIGHTS = 2**26
"""Bytes of weights above which they are written beside the graph: readers map such a file into memory and copy nothing."""
LEAST_EXTERNAL = 1024
"""Bytes from which a tensor is written beside the graph. Smaller ones are shapes and indices, which readers need at once."""
ALIGNMENT = 4096
"""Offsets in a file of weights are multiples of it, so that readers can map tensors into memory."""
DATA_SUFFIX = ".data"
FOLDING = (
    rules.fuse_batchnorm_into_conv_rule,
    rules.fuse_batchnorm_into_conv_transpose_rule,
    rules.fuse_batchnorm_into_gemm_rule,
)


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model of a file, with its external data in memory and its unknown sizes open; raises ExportError."""
    if not path.is_file():
        raise ExportError(f"there is no ONNX file {path}")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's and onnx's own classes share no base
        raise ExportError(
            f"{path} is not an ONNX file, or its external data is missing ({root_cause(error)}): "
            "keep the files of its weights beside it, or export it again"
        ) from error
    if not model.graph.node or not model.graph.output:
        raise ExportError(f"{path} is not an ONNX file: it contains no graph")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.HasField("dim_value") and size.dim_value < 1:  # some exporters write -1 or 0 for an open size
                size.Clear()
    return model


def require_operators(model: onnx.ModelProto, path: Path) -> None:
    """Raise BundleError, before it runs, if a model read from `path` may never end or draws random numbers."""
    content = serialised(without_weights(model))
    check_operators(content, files_and_operators(content)[1], path)


def write_model(model: onnx.ModelProto, path: Path, largest: int | None = None) -> None:
    """Write a model: one file, or, where its weights are large, a file and beside it (its name + DATA_SUFFIX) the weights.

    largest: bytes of weights in one file; None: LARGEST_WEIGHTS
    """
    if weight_bytes(model) <= (LARGEST_WEIGHTS if largest is None else largest):
        path.write_bytes(serialised(model))
        return
    with weights_beside(path) as append:

        def moved(tensor: onnx.TensorProto) -> dict[str, int | str]:
            return append(tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes())

        light = without_weights(model, moved)
    path.write_bytes(serialised(light))


@contextlib.contextmanager
def weights_beside(path: Path) -> Iterator[Callable[[bytes | memoryview], dict[str, int | str]]]:
    """Open the file of weights beside a graph's file; gives what appends a tensor's bytes, and returns their place."""
    beside = path.with_name(path.name + DATA_SUFFIX)
    with open(beside, "wb") as file:

        def append(content: bytes | memoryview) -> dict[str, int | str]:
            file.write(bytes(-file.tell() % ALIGNMENT))
            return {"location": beside.name, "offset": file.tell(), "length": file.write(content)}

        yield append


def places_beside(path: Path) -> dict[str, dict[str, int | str]]:
    """Return where a model's file says that the content of its initializers lies, by their names."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return {t.name: {e.key: e.value for e in t.external_data} for t in tensors if t.external_data}


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return how many bytes the model's weights take."""
    return sum(_tensor_bytes(tensor) for tensor in model.graph.initializer)


def without_weights(
    model: onnx.ModelProto, moved: Callable[[onnx.TensorProto], dict[str, int | str]] | None = None
) -> onnx.ModelProto:
    """Return a copy whose large initializers have no content but refer to a file.

    moved: takes an initializer, and returns what to record of the place of its content; None: no place, for a copy whose
        shapes alone are of interest
    """
    light = _copy_without(model, "graph")
    light.graph.CopyFrom(_copy_without(model.graph, "initializer"))
    for tensor in model.graph.initializer:
        if _tensor_bytes(tensor) < LEAST_EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
            light.graph.initializer.append(tensor)
            continue
        light.graph.initializer.append(stub(tensor, moved(tensor) if moved else {"location": "nowhere"}))
    return light


def stub(tensor: onnx.TensorProto, place: dict[str, int | str]) -> onnx.TensorProto:
    """Return a tensor of the same name, type and shape whose content lies in a file. place: what to record of where"""
    made = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    made.data_location = onnx.TensorProto.EXTERNAL
    for key, value in place.items():
        made.external_data.add(key=key, value=str(value))
    return made


def fixed_shape(model: onnx.ModelProto) -> tuple[int | None, ...] | None:
    """Return the declared shape of the input, with None for each open size; or None if the graph declares no shape."""
    return sizes_of(model.graph.input[0])


def sizes_of(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    """Return a tensor's declared shape, with None for each open size; or None if there is none."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)


def folded(model: onnx.ModelProto | onnx_ir.Model) -> onnx.ModelProto:
    """Return a copy with BatchNormalization folded into a convolution directly before it, and with every node named."""
    graph = model if isinstance(model, onnx_ir.Model) else onnx_ir.from_proto(model)
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


def with_names(model: onnx.ModelProto, input_name: str, output_name: str) -> onnx.ModelProto:
    """Name the only input and the only output, in place; a tensor inside that has one of these names gets another one."""
    graph = model.graph
    new = {graph.input[0].name: input_name, graph.output[0].name: output_name}
    for name in (input_name, output_name):
        new.setdefault(name, f"{name}_inside")
    rename(graph, new)
    return model


def rename(graph: onnx.GraphProto, new: dict[str, str]) -> None:
    """Rename tensors of a graph and of the graphs inside its nodes, in place. new: their new names by their present ones"""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = new.get(value.name, value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                rename(inner, new)


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


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    return math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _copy_without(message: Any, left_out: str) -> Any:
    """Return a copy of a protobuf message without one of its fields, which is never copied, for it may be large."""
    copy = type(message)()
    for field, value in message.ListFields():
        if field.name == left_out:
            continue
        if hasattr(value, "extend"):
            getattr(copy, field.name).extend(value)
        elif field.message_type is not None:
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)
    return copy
