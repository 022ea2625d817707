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
from engine.attributes.vectors import AttributeVectors
from engine.bundle.external_data import external_files
from engine.bundle.manifest import MANIFEST, Graph, Manifest, attributes_from_json, identity
from engine.bundle.report import Report
from engine.errors import BundleError, OptionError, OutputError
from engine.files import read_npz

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
    digests: sha256 by file name
    canonical: `picture` (H, W, 3) uint8, and by graph file the expected result (n,) float32
    precision: None if the bundle was never quantized
    """

    folder: Path
    manifest: Manifest
    attributes: AttributeTable | None
    identity: str
    digests: dict[str, str]
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
        raise BundleError(f"there is no bundle at {folder}; `python -m export similarity --out {folder} ...` makes one")
    manifest = Manifest.from_json(_text(folder, MANIFEST))
    sums = _sums(folder)
    for name, expected in sums.items():
        if _sha256(_inside(folder, name)) != expected:
            raise BundleError(
                f"{folder / name} was changed after the export: its sha256 is not the one in {SUMS}; export the bundle again"
            )
    for name in (MANIFEST, CANONICAL, *(g.file for g in manifest.graphs)):
        _require_listed(folder, name, sums)
    weights = {}
    for graph in manifest.graphs:
        weights[graph.file] = sorted(external_files(_inside(folder, graph.file).read_bytes()))
        for external in weights[graph.file]:
            _inside(folder, external)
            _require_listed(folder, external, sums)
    base = manifest.base
    table = attributes_from_json(_text(folder, ATTRIBUTES)) if ATTRIBUTES in sums else None
    vectors = _vectors(folder, manifest, table) if VECTORS in sums else None
    shown = manifest.graph("attributes", "fp32", "cpu") is not None
    if (table is not None) != (shown or vectors is not None):
        raise BundleError(f"{folder} must have {ATTRIBUTES} and an attribute graph or {VECTORS}, or none of them")
    similarity = [sums[name] for name in (base.file, *weights[base.file])]
    found = identity(manifest, similarity)
    report = Report.from_json(_text(folder, PRECISION)) if PRECISION in sums else None
    if report is not None and (report.identity != found or not set(report.graphs) <= {g.file for g in manifest.graphs}):
        raise BundleError(f"{folder / PRECISION} is about another model; quantize the bundle again")
    return Bundle(folder, manifest, table, found, sums, _canonical(folder, manifest), report, vectors)


def _vectors(folder: Path, manifest: Manifest, table: AttributeTable | None) -> AttributeVectors:
    try:
        vectors = AttributeVectors.from_arrays(read_npz(_inside(folder, VECTORS)))
    except (OutputError, OptionError) as error:
        raise BundleError(f"{folder / VECTORS} is not valid: {error}; export the attributes again") from error
    wanted = (0 if table is None else len(table.names), manifest.embedding)
    if vectors.vectors.shape != wanted:
        got = vectors.vectors.shape
        raise BundleError(f"{folder / VECTORS} must have a vector {wanted} for each attribute of the bundle, got {got}")
    return vectors


def graph_digest(bundle: Bundle, graph: Graph) -> str:
    """Return the sha256 (hex) of a graph's file and its external data."""
    files = [graph.file, *sorted(external_files((bundle.folder / graph.file).read_bytes()))]
    return hashlib.sha256("".join(bundle.digests[name] for name in files).encode()).hexdigest()


def checksums(folder: Path) -> str:
    """Return the text of SHA256SUMS for all files in `folder`."""
    files = sorted(p for p in folder.iterdir() if p.name != SUMS)
    return "".join(f"{_sha256(p)}  {p.name}\n" for p in files)


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file of the bundle. Raises BundleError if the name or a link leads outside, or it is missing."""
    if not name or name != Path(name).name or "\\" in name or ":" in name or name == "..":
        raise BundleError(f"{folder}: {name!r} is not a plain file name inside the bundle")
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


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _canonical(folder: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    try:
        arrays = read_npz(folder / CANONICAL)
    except OutputError as error:
        raise BundleError(str(error)) from error
    size = (manifest.preprocessing.height, manifest.preprocessing.width, 3)
    missing = {"picture", *(g.file for g in manifest.graphs)} - set(arrays)
    if missing or arrays["picture"].shape != size or arrays["picture"].dtype != np.uint8:
        raise BundleError(f"{folder / CANONICAL} does not fit the manifest (missing: {', '.join(missing) or 'none'})")
    for graph in manifest.graphs:
        expected = arrays[graph.file]
        if expected.ndim != 1 or not expected.size or expected.dtype != np.float32 or not np.isfinite(expected).all():
            got = f"{expected.dtype} {expected.shape}"
            raise BundleError(f"{folder / CANONICAL}: {graph.file} must be finite float32 (n,), got {got}")
    return arrays
