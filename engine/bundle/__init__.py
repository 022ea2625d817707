"""Read and verify a bundle: one folder with everything that the engine needs to know about a model.

manifest.json      the model: graphs, preprocessing, metric, conditions
attributes.json    its attributes, if it has any
attribute_vectors.npz   a vector per attribute, for pictures of which only the embedding is known, or instead of a graph
probes.json        how the attributes were fitted to labels, if they were; a record for people
calibration.json   how the attributes were calibrated and weighted, if they were; a record for people
precision.json     how close its int8 and fp16 graphs come to the fp32 graph, if it has any
canonical.npz      `picture` (H, W, 3) uint8, and each graph's result for it on the machine that exported the bundle
*.onnx             the graphs, and their external data if they keep any
SHA256SUMS         checksums of all files above, as `sha256sum -c SHA256SUMS` reads them
"""

import dataclasses
import hashlib
from importlib import resources
from pathlib import Path

import numpy as np

from engine.attributes.table import AttributeTable
from engine.attributes.vectors import MATRICES, OF_PASSES, REQUIRED, AttributeVectors
from engine.bundle.external_data import files_and_operators
from engine.bundle.manifest import MANIFEST, Graph, Manifest, attributes_from_json, identity
from engine.bundle.operators import check_operators
from engine.bundle.report import Report
from engine.errors import BundleError, OptionError, OutputError, shortened
from engine.files import OLD, found_beside, sha256_of
from engine.npz import open_npz

ATTRIBUTES = "attributes.json"
VECTORS = "attribute_vectors.npz"
PROBES = "probes.json"
CALIBRATION = "calibration.json"
PRECISION = "precision.json"
CANONICAL = "canonical.npz"
SUMS = "SHA256SUMS"


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle whose files were all verified.

    attributes: None if the model has none; vectors: a vector for each attribute, None if there are none
    identity: see `engine.bundle.manifest.identity`
    digests: sha256 by file name; beside: by graph file, the files in which its weights lie
    canonical: `picture` (H, W, 3) uint8, and by graph file the expected result (n,) float32
    precision: None if the bundle was never quantized
    """

    folder: Path
    manifest: Manifest
    attributes: AttributeTable | None
    identity: str
    digests: dict[str, str]
    beside: dict[str, set[str]]
    canonical: dict[str, np.ndarray]
    precision: Report | None = None
    vectors: AttributeVectors | None = None


def demo_bundle() -> Path:
    """Return the folder of the bundle inside this package (emoji; see its MODEL_CARD.md)."""
    return Path(str(resources.files("engine") / "data" / "bundle"))


def load_bundle(folder: Path) -> Bundle:
    """Verify every file of `folder` and read it.

    Raises BundleError if a file is missing, changed or not valid, has an unknown version, or leads outside the folder.
    """
    try:
        return _load(folder)
    except OSError as error:
        raise BundleError(f"cannot read the bundle {folder}: {error.strerror or error}") from error


def _load(folder: Path) -> Bundle:
    if not folder.is_dir():
        raise BundleError(_missing(folder))
    manifest = Manifest.from_json(_text(folder, MANIFEST))
    sums = _sums(folder)
    for name, expected in sums.items():
        if sha256_of(_inside(folder, name)) != expected:
            raise BundleError(
                f"{folder / name} was changed after the export: its sha256 is not the one in {SUMS}; export the bundle again"
            )
    for name in (MANIFEST, CANONICAL, *(g.file for g in manifest.graphs)):
        _require_listed(folder, name, sums)
    beside = {}
    for graph in manifest.graphs:
        content = _inside(folder, graph.file).read_bytes()
        files, operators = files_and_operators(content)
        check_operators(content, operators, folder / graph.file)
        beside[graph.file] = files
        for external in sorted(files):
            _require_listed(folder, external, sums)
    base = manifest.base
    table = attributes_from_json(_text(folder, ATTRIBUTES)) if ATTRIBUTES in sums else None
    vectors = _vectors(folder, manifest, table) if VECTORS in sums else None
    shown = manifest.graph("attributes", "fp32", "cpu") is not None
    if (table is not None) != (shown or vectors is not None):
        raise BundleError(f"{folder} must have {ATTRIBUTES} and an attribute graph or {VECTORS}, or none of them")
    similarity = [sums[name] for name in (base.file, *sorted(beside[base.file]))]
    found = identity(manifest, similarity)
    report = Report.from_json(_text(folder, PRECISION)) if PRECISION in sums else None
    if report is not None and (report.identity != found or report.graphs.keys() - {g.file for g in manifest.graphs}):
        raise BundleError(f"{folder / PRECISION} is about another model; quantize the bundle again")
    return Bundle(folder, manifest, table, found, sums, beside, _canonical(folder, manifest), report, vectors)


def _missing(folder: Path) -> str:
    """What to do about a folder that is not there: a process that replaced it may have been killed half-way."""
    old = [left for left in found_beside(folder, OLD) if (left / SUMS).is_file()]
    if old:
        return f"there is no bundle at {folder}, because an export was stopped that replaced it: rename {old[0]} to {folder}"
    return f"there is no bundle at {folder}; `python -m export similarity --out {folder} ...` makes one"


def _vectors(folder: Path, manifest: Manifest, table: AttributeTable | None) -> AttributeVectors:
    try:
        vectors = _read_vectors(_inside(folder, VECTORS), manifest.embedding)
    except (OutputError, OptionError) as error:
        raise BundleError(f"{folder / VECTORS} is not valid: {error}; export the attributes again") from error
    wanted = (0 if table is None else len(table.names), manifest.embedding)
    if vectors.vectors.shape != wanted:
        got = vectors.vectors.shape
        raise BundleError(f"{folder / VECTORS} must have a vector {wanted} for each attribute of the bundle, got {got}")
    return vectors


def _read_vectors(path: Path, size: int) -> AttributeVectors:
    with open_npz(path) as file:
        missing = sorted({*REQUIRED, "confidence"} - set(file.names))
        if missing:
            raise OutputError(f"it lacks {', '.join(missing)}")
        file.refuse_others((*REQUIRED, *OF_PASSES, "confidence"))
        shapes = {name: (None, size) if name in MATRICES else (None,) for name in (*REQUIRED, *OF_PASSES)}
        arrays = {name: file.read(name, "f", shape) for name, shape in shapes.items() if name in file.names}
        return AttributeVectors(confidence=str(file.read("confidence", "U", ())), **arrays)


def graph_digest(bundle: Bundle, graph: Graph) -> str:
    """Return the sha256 (hex) of a graph's file; if its weights lie beside it, of both."""
    beside = sorted(bundle.beside[graph.file])
    digests = [bundle.digests[name] for name in (graph.file, *beside)]
    return hashlib.sha256("".join(digests).encode()).hexdigest() if beside else digests[0]


def checksums(folder: Path) -> str:
    """Return the text of SHA256SUMS for all files in `folder`."""
    files = sorted(p for p in folder.iterdir() if p.name != SUMS)
    return "".join(f"{sha256_of(p)}  {p.name}\n" for p in files)


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file of the bundle. Raises BundleError if the name or a link leads outside, or it is missing."""
    if not name or name != Path(name).name or "\\" in name or ":" in name or name == "..":
        raise BundleError(f"{folder}: {shortened(repr(name))} is not a plain file name inside the bundle")
    path = folder / name
    if not path.is_file():
        raise BundleError(f"{path} is missing; export the bundle again")
    if path.resolve().parent != folder.resolve():
        raise BundleError(f"{path} is a link that leads outside the bundle")
    return path


def _text(folder: Path, name: str) -> str:
    try:
        return _inside(folder, name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{folder / name} is not text ({error.reason})") from error


def _sums(folder: Path) -> dict[str, str]:
    """Return the recorded sha256 by file name."""
    lines = [line.split("  ", 1) for line in _text(folder, SUMS).splitlines()]
    if not all(len(parts) == 2 and len(parts[0]) == 64 for parts in lines):
        raise BundleError(f"{folder / SUMS} is not a list of sha256 sums")
    return {name: digest for digest, name in lines}


def _require_listed(folder: Path, name: str, sums: dict[str, str]) -> None:
    if name not in sums:
        _inside(folder, name)
        raise BundleError(f"{folder / name} is not listed in {SUMS}")


def _canonical(folder: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    size, graphs = (manifest.preprocessing.height, manifest.preprocessing.width, 3), [g.file for g in manifest.graphs]
    try:
        with open_npz(folder / CANONICAL) as file:
            arrays = {"picture": file.read_uint8("picture", size)}  # results of graphs that are gone are not read
            arrays |= {name: file.read_float32(name, (None,)) for name in graphs}
    except OutputError as error:
        raise BundleError(f"{error}; export the bundle again") from error
    if not all(array.size for array in arrays.values()):
        raise BundleError(f"{folder / CANONICAL} holds an empty result; export the bundle again")
    return arrays
