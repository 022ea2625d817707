"""Attributes written into a bundle, in place of those it has."""

import dataclasses
import json
from typing import Any

import onnx

from engine.attributes.table import AttributeTable
from engine.attributes.vectors import AttributeVectors
from engine.bundle import CALIBRATION, PROBES, VECTORS, Bundle
from engine.bundle.manifest import Graph
from export import onnx_files
from export.write import canonical_of, copy_without, finish, replacing

ATTRIBUTES_FILE = "attributes.fp32.onnx"
AttributeGraph = tuple[onnx.ModelProto, Graph, tuple[int | None, ...]]
"""A graph, its entry in the manifest, and the shape of one picture's maps (A, h, w)."""


def write_attributes(
    before: Bundle,
    table: AttributeTable,
    made: AttributeGraph | None,
    vectors: AttributeVectors | None = None,
    record: dict[str, Any] | None = None,
) -> None:
    """Write attributes into a bundle; what was made for its earlier ones goes, and its identity stays the same.

    made: their graph, vectors: their vectors: at least one of the two; record: the content of `probes.json`, if any
    Raises an EngineError, and leaves the bundle as it was, if they do not fit.
    """
    kept = tuple(g for g in before.manifest.graphs if g.role != "attributes")
    canonical = {name: before.canonical[name] for name in ("picture", *(g.file for g in kept))}
    manifest = dataclasses.replace(before.manifest, graphs=(*kept, *(() if made is None else (made[1],))))
    with replacing(before.folder) as folder:
        copy_without(before, [g for g in before.manifest.graphs if g.role == "attributes"], folder)
        for stale in (CALIBRATION, VECTORS, PROBES):
            (folder / stale).unlink(missing_ok=True)
        if record is not None:
            (folder / PROBES).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if made is not None:
            model, entry, shape = made
            onnx_files.write_model(model, folder / entry.file)
            canonical[entry.file] = canonical_of(folder, entry, shape, manifest, canonical["picture"])
        finish(folder, manifest, table, canonical, vectors)
