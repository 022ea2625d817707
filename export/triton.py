"""python -m export triton: a bundle's graphs as a model repository of NVIDIA's Triton Inference Server."""

import os
import shutil
from pathlib import Path

import onnx

from engine.bundle import Bundle, load_bundle
from engine.bundle.manifest import Graph
from engine.errors import OutputError
from engine.files import beside, write_whole

SERVED = ("similarity", "attributes")
"""Roles of the graphs that make sense alone: gradients are of use to the engine only."""
SERVED_BATCH, QUEUE_MICROSECONDS = 64, 1000
"""The largest batch, and how long a request may wait for others to share one."""
SERVER_TYPES: dict[int, str] = {onnx.TensorProto.FLOAT: "TYPE_FP32", onnx.TensorProto.FLOAT16: "TYPE_FP16"}
INSTANCE_KINDS = {"any": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}


def write_repository(folder: Path, out: Path) -> str:
    """Write the repository, whole or not at all; say for people what is in it.

    Raises BundleError, OutputError if there is something at `out` already.
    """
    bundle = load_bundle(folder)
    if out.exists():
        raise OutputError(f"cannot write {out}: it is there already; name a folder that is not")
    graphs = [graph for graph in bundle.manifest.graphs if graph.role in SERVED]
    new = beside(out)
    try:
        for graph in graphs:
            _write_model(bundle, graph, new / served_name(graph))
        os.replace(new, out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return "\n".join([f"wrote {out}", *(f"  {served_name(graph)}: {graph.file}" for graph in graphs)])


def served_name(graph: Graph) -> str:
    """Return the name under which Triton serves a graph, such as similarity_int8-cpu."""
    return Path(graph.file).stem.replace(".", "_")


def _write_model(bundle: Bundle, graph: Graph, folder: Path) -> None:
    version = folder / "1"
    version.mkdir(parents=True)
    for name in (graph.file, *sorted(bundle.beside.get(graph.file, ()))):
        (version / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / name, version / name)
    model = onnx.load(bundle.folder / graph.file, load_external_data=False)
    write_whole(folder / "config.pbtxt", repository_config(graph, model.graph).encode())


def repository_config(graph: Graph, network: onnx.GraphProto) -> str:
    """Return the text of config.pbtxt about a graph."""
    weights = {tensor.name for tensor in network.initializer}
    inputs = [one for one in network.input if one.name not in weights]
    return (
        f"name: {_quoted(served_name(graph))}\n"
        'backend: "onnxruntime"\n'
        f"default_model_filename: {_quoted(graph.file)}\n"
        f"max_batch_size: {SERVED_BATCH}\n"
        f"{''.join(_tensor('input', one) for one in inputs)}"
        f"{''.join(_tensor('output', one) for one in network.output)}"
        f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_MICROSECONDS} }}\n"
        f"instance_group [ {{ count: 1 kind: {INSTANCE_KINDS[graph.target]} }} ]\n"
    )


def _tensor(which: str, value: onnx.ValueInfoProto) -> str:
    """Return the lines about an input or output. Triton counts the batch apart; -1: a size that the graph leaves open"""
    kind = value.type.tensor_type
    sizes = [size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim[1:]]
    if kind.elem_type not in SERVER_TYPES:
        raise OutputError(f"{value.name} holds numbers of kind {kind.elem_type}, which this repository does not describe")
    parts = f"name: {_quoted(value.name)} data_type: {SERVER_TYPES[kind.elem_type]} dims: [ {', '.join(map(str, sizes))} ]"
    return f"{which} [ {{ {parts} }} ]\n"


def _quoted(text: str) -> str:
    r"""Return a string of protobuf's text format, in which other bytes than printable ASCII are \ooo."""
    shown = (chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03o}" for b in text.encode(errors="backslashreplace"))
    return f'"{"".join(shown)}"'
