"""The two exports: a similarity model into a new bundle, and an attribute model into an existing one."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from engine.attributes.table import AttributeTable
from engine.bundle import ATTRIBUTES, CALIBRATION, CANONICAL, PRECISION, SUMS, Bundle, load_bundle
from engine.bundle.external_data import external_files
from engine.bundle.manifest import MANIFEST, Conditions, Graph, Manifest
from engine.errors import BundleError, OptionError
from engine.pictures.preprocessing import Preprocessing
from engine.protocol import GraphSignature
from engine.runtime.gradient_session import GradientSession
from engine.runtime.opening import canonical_gradient, canonical_result
from engine.runtime.session import Session
from engine.saliency.similarity import METRICS
from export import graphs, onnx_files
from export.gradient import verify, with_gradient
from export.graphs import ExportedGraph
from export.sources import Source
from export.write import check_free, finish, replacing

SIMILARITY_FILE = "similarity.fp32.onnx"
ATTRIBUTES_FILE = "attributes.fp32.onnx"
GRADIENT_FILE = "gradient.fp32.onnx"
OWN_FILES = (MANIFEST, ATTRIBUTES, CALIBRATION, PRECISION, CANONICAL, SUMS)


def export_similarity(
    source: Source,
    preprocessing: Preprocessing,
    out: Path,
    *,
    metric: str = "cosine",
    conditions: Conditions | None = None,
    name: str | None = None,
    licence: str = "",
    gradient: bool = False,
    extra_files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a bundle whose graph maps pictures to embeddings (N, D), and return its folder.

    metric: cosine, dot or euclidean; conditions: weights (C, D) float32, before relu; name: None takes the name of `out`
    gradient: whether to add the graph that method "mask" needs; extra_files: more files by name, such as a model card
    Raises an EngineError, and leaves `out` as it was, if the graph does not agree with the source on real pictures.
    """
    out = Path(out)
    if metric not in METRICS:
        raise OptionError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    for extra in extra_files or {}:
        _check_extra_name(extra)
    check_free(out)
    made = graphs.make(source, preprocessing, "embedding", (None,))
    if conditions is not None and conditions.weights.shape[1:] != made.shape:
        got = conditions.weights.shape
        raise OptionError(f"condition weights must be (C, {made.shape[0]}) like the embedding, got {got}")
    graph = _graph_entry(made, SIMILARITY_FILE, "similarity")
    added = _gradient_graph(made, preprocessing, metric) if gradient else None
    name = out.resolve().name if name is None else name
    all_graphs = (graph, *([added[0]] if added else []))
    manifest = Manifest(name, licence, preprocessing, made.shape[0], metric, all_graphs, conditions)
    with replacing(out) as folder:
        for extra, content in (extra_files or {}).items():
            (folder / extra).write_bytes(content)
        (folder / graph.file).write_bytes(made.content)
        picture = graphs.demo_pictures(preprocessing)[0]
        canonical = {"picture": picture, graph.file: canonical_of(folder, graph, made.shape, manifest, picture)}
        if added:
            gradient_graph, content = added
            (folder / gradient_graph.file).write_bytes(content)
            signature = GraphSignature(gradient_graph.input, preprocessing.input_shape, gradient_graph.output, made.shape)
            session = GradientSession(folder / gradient_graph.file, "cpu", None, signature)
            found = canonical_gradient(session, manifest, picture, canonical[graph.file])
            canonical[gradient_graph.file] = found
        finish(folder, manifest, None, canonical)
    return out


def export_attributes(source: Source, table: AttributeTable, bundle: Path) -> Path:
    """Add a graph that maps pictures to activation maps (N, A, h, w), and its attributes, to a bundle; return its folder.

    An attribute model that is already in the bundle is replaced. The bundle's picture size, preprocessing and identity stay
    the same. Raises an EngineError, and leaves the bundle as it was, if the graph does not fit.
    """
    bundle = Path(bundle)
    before = load_bundle(bundle)
    check_free(bundle)
    made = graphs.make(source, before.manifest.preprocessing, "maps", (len(table.names), None, None))
    graph = _graph_entry(made, ATTRIBUTES_FILE, "attributes")
    kept = tuple(g for g in before.manifest.graphs if g.role != "attributes")
    manifest = dataclasses.replace(before.manifest, graphs=(*kept, graph))
    with replacing(bundle) as folder:
        copy_without(before, [g for g in before.manifest.graphs if g.role == "attributes"], folder)
        (folder / CALIBRATION).unlink(missing_ok=True)  # it was made for the model that is replaced
        (folder / graph.file).write_bytes(made.content)
        canonical = {n: before.canonical[n] for n in ("picture", *(g.file for g in kept))}
        canonical[graph.file] = canonical_of(folder, graph, made.shape, manifest, canonical["picture"])
        finish(folder, manifest, table, canonical)
    return bundle


def export_file(bundle: Path, name: str, content: bytes) -> Path:
    """Add one more file, such as a model card, to a bundle, or replace it; return the bundle's folder.

    Raises an EngineError, and leaves the bundle as it was, if the bundle itself uses that name.
    """
    bundle = Path(bundle)
    _check_extra_name(name)
    before = load_bundle(bundle)
    with replacing(bundle) as folder:
        copy_without(before, [], folder)
        (folder / name).write_bytes(content)
        finish(folder, before.manifest, before.attributes, before.canonical)
    return bundle


def _check_extra_name(extra: str) -> None:
    if extra in OWN_FILES or extra.endswith(".onnx") or extra != Path(extra).name or extra in ("", ".."):
        raise OptionError(f"an extra file needs a plain name that the bundle itself does not use, got {extra!r}")


def _gradient_graph(made: ExportedGraph, preprocessing: Preprocessing, metric: str) -> tuple[Graph, bytes]:
    """Return the manifest's entry for the gradient of a similarity graph, verified on the demo pictures, and its file."""
    model = with_gradient(onnx.load_from_string(made.content), metric)
    verify(model, preprocessing.normalised(graphs.demo_pictures(preprocessing)))
    graph = Graph(GRADIENT_FILE, "gradient", "fp32", "any", onnx_files.opset(model), made.input, made.output)
    return graph, onnx_files.serialised(model)


def _graph_entry(made: ExportedGraph, file: str, role: str) -> Graph:
    return Graph(file, role, "fp32", "any", made.opset, made.input, made.output)


def canonical_of(
    folder: Path, graph: Graph, shape: tuple[int | None, ...], manifest: Manifest, picture: np.ndarray
) -> np.ndarray:
    """Return what a graph in `folder` gives on the CPU for `picture` (H, W, 3) uint8; shape: of one picture's result."""
    size = manifest.preprocessing.input_shape
    session = Session(folder / graph.file, "cpu", None, GraphSignature(graph.input, size, graph.output, shape))
    return canonical_result(session, manifest, picture)


def copy_without(before: Bundle, stale: Sequence[Graph], folder: Path) -> None:
    """Copy a bundle's files into `folder`, except the stale graphs and the tensors stored beside them."""
    left_out = [g.file for g in stale]
    for graph in tuple(left_out):
        left_out.extend(external_files((before.folder / graph).read_bytes()))
    for path in sorted(before.folder.iterdir()):
        if path.is_dir():
            raise BundleError(f"{path} is a folder, and a bundle has no folders in it; move it elsewhere first")
        if path.name not in left_out:
            shutil.copy2(path, folder / path.name)
