"""The two exports: a similarity model into a new bundle, and an attribute model into an existing one."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from engine.attributes.table import AttributeTable
from engine.bundle import ATTRIBUTES, CALIBRATION, CANONICAL, PRECISION, PROBES, SUMS, VECTORS, load_bundle
from engine.bundle.manifest import MANIFEST, Conditions, Graph, Manifest
from engine.errors import OptionError
from engine.pictures.preprocessing import Preprocessing
from engine.saliency.similarity import METRICS
from export import graphs, onnx_files
from export.attribute_files import ATTRIBUTES_FILE, write_attributes
from export.demo_pictures import demo_pictures
from export.gradient_file import add_gradient
from export.graphs import ExportedGraph
from export.sources import Source
from export.token_file import add_tokens
from export.write import canonical_of, check_free, copy_without, finish, replacing

SIMILARITY_FILE = "similarity.fp32.onnx"
OWN_FILES = (MANIFEST, ATTRIBUTES, VECTORS, CALIBRATION, PROBES, PRECISION, CANONICAL, SUMS)


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
    pictures: np.ndarray | None = None,
    origin: str = "",
    extra_files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a bundle whose graph maps pictures to embeddings (N, D), and return its folder.

    metric: cosine, dot or euclidean; conditions: weights (C, D) float32, before relu; name: None takes the name of `out`
    origin: where the weights came from, one line
    gradient: whether to add the graph that method "mask" needs; if it is not right, the bundle is written without it, and a
        line on standard error says why
    pictures: (n, H, W, 3) uint8 as the network sees them, to verify the gradient on; None: the demo pictures
    extra_files: more files by name, such as a model card
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
    name = out.resolve().name if name is None else name
    manifest = Manifest(name, licence, preprocessing, made.shape[0], metric, (graph,), conditions, origin=origin)
    with replacing(out) as folder:
        for extra, content in (extra_files or {}).items():
            (folder / extra).write_bytes(content)
        onnx_files.write_model(made.model, folder / graph.file)
        picture = demo_pictures(preprocessing)[0]
        canonical = {"picture": picture, graph.file: canonical_of(folder, graph, made.shape, manifest, picture)}
        tokens = add_tokens(folder, made.model, manifest, canonical, demo_pictures(preprocessing))
        manifest = dataclasses.replace(manifest, graphs=(graph, *tokens))
        del made  # its weights need not lie in memory beside those of what follows
        if gradient:
            pictures = demo_pictures(preprocessing) if pictures is None else pictures
            added = add_gradient(folder, manifest, canonical, pictures)
            manifest = dataclasses.replace(manifest, graphs=(*manifest.graphs, *([added] if added else [])))
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
    entry = _graph_entry(made, ATTRIBUTES_FILE, "attributes")
    write_attributes(before, table, (made.model, entry, made.shape))
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


def _graph_entry(made: ExportedGraph, file: str, role: str) -> Graph:
    return Graph(file, role, "fp32", "any", made.opset, made.input, made.output)
