"""Write a bundle so that it appears complete and verified, or not at all."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engine.attributes.table import AttributeTable
from engine.attributes.vectors import AttributeVectors
from engine.bundle import ATTRIBUTES, CANONICAL, SUMS, VECTORS, Bundle, checksums, load_bundle
from engine.bundle.manifest import BUNDLE_FORMAT, MANIFEST, Graph, Manifest, attributes_to_json
from engine.errors import BundleError, OutputError
from engine.files import write_npz
from engine.protocol import GraphSignature
from engine.runtime.opening import canonical_result, verify_graph
from engine.runtime.session import Session
from export.swap import folder_for


def check_free(out: Path) -> None:
    """Raise OutputError, before any work is done, if a bundle cannot or must not be written to `out`."""
    with as_output_error(out):
        folder = out.resolve().parent
        if not folder.is_dir():
            raise OutputError(f"cannot write {out}: there is no folder {folder}")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"cannot write {out}: no permission in {folder}")
        if out.exists() and not out.is_dir():
            raise OutputError(f"cannot write {out}: it is a file, and a bundle is a folder; choose another name")
        if out.is_dir() and any(out.iterdir()) and not _is_bundle(out):
            raise OutputError(f"cannot write {out}: the folder holds something other than a bundle; choose another name")


@contextlib.contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """Raise an OSError inside the block as an OutputError that says that `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Give a new folder beside `out`, which takes the place of `out` if the block ends without an error, else is deleted."""
    check_free(out)  # once more, because something may have appeared there during the work
    with as_output_error(out), folder_for(out.resolve()) as folder:  # a link to a bundle stays a link
        yield folder


def finish(
    folder: Path,
    manifest: Manifest,
    table: AttributeTable | None,
    canonical: dict[str, np.ndarray],
    vectors: AttributeVectors | None = None,
) -> None:
    """Write the files that lie beside the graphs, which are already in `folder`; then load the bundle and verify each graph.

    canonical: `picture` (H, W, 3) uint8, and the result of every graph by the name of its file
    vectors: of the attributes; None leaves those that are in `folder`
    """
    if vectors is not None:
        write_npz(folder / VECTORS, vectors.to_arrays())
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    if table is not None:
        (folder / ATTRIBUTES).write_text(attributes_to_json(table), encoding="utf-8")
    with open(folder / CANONICAL, "wb") as file:
        np.savez(file, allow_pickle=False, **canonical)
    (folder / SUMS).write_text(checksums(folder), encoding="utf-8")
    loaded = load_bundle(folder)
    for graph in manifest.graphs:
        if graph.target != "gpu":  # this machine may have no GPU
            verify_graph(loaded, graph)


def canonical_of(
    folder: Path, graph: Graph, shape: tuple[int | None, ...], manifest: Manifest, picture: np.ndarray
) -> np.ndarray:
    """Return what a graph in `folder` gives on the CPU for `picture` (H, W, 3) uint8; shape: of one picture's result."""
    size = manifest.preprocessing.input_shape
    session = Session(folder / graph.file, "cpu", None, GraphSignature(graph.input, size, graph.output, shape))
    return canonical_result(session, manifest, picture)


def copy_without(before: Bundle, stale: Sequence[Graph], folder: Path) -> None:
    """Copy a bundle's files into `folder`, except the stale graphs and the tensors stored beside them."""
    left_out = [name for g in stale for name in (g.file, *before.beside[g.file])]
    for path in sorted(before.folder.iterdir()):
        if path.is_dir():
            raise BundleError(f"{path} is a folder, and a bundle has no folders in it; move it elsewhere first")
        if path.name not in left_out:
            shutil.copy2(path, folder / path.name)


def _is_bundle(folder: Path) -> bool:
    """Say whether the manifest is that of a bundle: a damaged bundle may be replaced, other people's files may not."""
    try:
        fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(fields, dict) and fields.get("format") == BUNDLE_FORMAT
