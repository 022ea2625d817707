"""Reads and verifies a bundle: one folder that says everything the engine needs of a model.

manifest.json      the model: graphs, preprocessing, metric, conditions
attributes.json    its words, where it has any
calibration.json   how those words were calibrated and weighed, where they were; a record for people
precision.json     how close its int8 and fp16 graphs come to the fp32 one, where it has any
canonical.npz      `picture` (H, W, 3) uint8, and what each graph gave for it on the machine that exported it
*.onnx             the graphs (with external data, where they keep any, beside them)
SHA256SUMS         of every file above, as `sha256sum -c SHA256SUMS` reads it
"""

import dataclasses
import hashlib
import io
from importlib import resources
from pathlib import Path

import numpy as np

from engine.attributes import AttributeTable
from engine.device import BUFFERS, DeviceSession
from engine.errors import BundleError
from engine.gradient import GradientSession
from engine.manifest import Graph, Manifest, attributes_from_json, identity
from engine.onnxfile import external_files
from engine.passes import MaskedPasses, silent
from engine.precision import Report
from engine.protocol import Runner
from engine.session import GPU_PROVIDERS, Session, require_gpu
from kernels.rank import RankRenderer

MANIFEST = "manifest.json"
ATTRIBUTES = "attributes.json"
CALIBRATION = "calibration.json"
PRECISION = "precision.json"
CANONICAL = "canonical.npz"
SUMS = "SHA256SUMS"
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2, "int8": 1e-1}
"""Largest difference from a canonical embedding, in parts of its largest entry: other processors round otherwise."""
GRADIENT_TOLERANCE = 5e-2
"""The same of a gradient, in which the kinks of ReLUs make more of that."""


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
    """A folder whose every file was verified.

    digests: sha256 by file; canonical: `picture` and the expected result by graph file; precision: None where it was never
    quantized
    """

    folder: Path
    manifest: Manifest
    attributes: AttributeTable | None
    identity: str
    digests: dict[str, str]
    canonical: dict[str, np.ndarray]
    precision: Report | None = None


def demo_bundle() -> Path:
    """The bundle that the package carries (emoji; see its MODEL_CARD.md)."""
    return Path(str(resources.files("engine") / "data" / "bundle"))


def load(folder: Path) -> Bundle:
    """Verify every file of `folder` and read it.

    Raises BundleError for a missing or changed file, an unknown version, or a name, link or external data that leads
    outside the folder.
    """
    try:
        return _load(folder)
    except OSError as error:
        raise BundleError(f"cannot read the bundle {folder}: {error.strerror or error}") from error


def _load(folder: Path) -> Bundle:
    if not folder.is_dir():
        raise BundleError(f"there is no bundle {folder}; `python -m export similarity --out {folder} ...` makes one")
    manifest = Manifest.from_json(_text(folder, MANIFEST))
    sums = _sums(folder)
    for name, expected in sums.items():
        if _sha256(_inside(folder, name)) != expected:
            raise BundleError(f"{folder / name} was changed after the export: its sha256 is not that of {SUMS}")
    for name in (MANIFEST, CANONICAL, *(g.file for g in manifest.graphs)):
        _require_listed(folder, name, sums)
    weights = {}
    for graph in manifest.graphs:
        weights[graph.file] = sorted(external_files(_inside(folder, graph.file).read_bytes()))
        for external in weights[graph.file]:
            _inside(folder, external)
            _require_listed(folder, external, sums)
    base = _base(manifest)
    table = attributes_from_json(_text(folder, ATTRIBUTES)) if ATTRIBUTES in sums else None
    if (table is None) != (manifest.graph("attributes", "fp32", "cpu") is None):
        raise BundleError(f"{folder} must have both an attribute graph and {ATTRIBUTES}, or neither")
    similarity = [sums[name] for name in (base.file, *weights[base.file])]
    found = identity(manifest, similarity)
    report = Report.from_json(_text(folder, PRECISION)) if PRECISION in sums else None
    if report is not None and (report.identity != found or not set(report.graphs) <= {g.file for g in manifest.graphs}):
        raise BundleError(f"{folder / PRECISION} is about another model; quantize the bundle again")
    return Bundle(folder, manifest, table, found, sums, _canonical(folder, manifest), report)


def verify_graph(bundle: Bundle, graph: Graph) -> None:
    """Run one of the bundle's graphs on the CPU against its canonical result; raises BundleError."""
    (open_gradient if graph.role == "gradient" else open_graph)(bundle, graph, "cpu", None)


def open_graph(bundle: Bundle, graph: Graph, provider: str, threads: int | None, precision: str | None = None) -> Runner:
    """A session for one of the bundle's graphs that give one thing, checked against its canonical result.

    precision: to run in; None: the graph's own
    Raises BundleError, ProviderError.
    """
    precision = precision or graph.precision
    count = len(bundle.attributes.names) if bundle.attributes is not None else 0
    output = (bundle.manifest.embedding,) if graph.role == "similarity" else (count, None, None)
    path = bundle.folder / graph.file
    shape = bundle.manifest.preprocessing.input_shape
    names = (graph.input, shape, graph.output, output)
    session: Runner
    if provider in GPU_PROVIDERS:
        require_gpu(provider)  # for callers that have not
        session = DeviceSession(path, provider, precision, graph_digest(bundle, graph), *names)
    elif provider == "openvino":
        from engine.openvino_session import OpenVinoSession  # noqa: PLC0415 - an optional package

        session = OpenVinoSession(path, precision, threads, *names)
    else:
        session = Session(path, provider, threads, *names)
    got = canonical_result(session, bundle.manifest, bundle.canonical["picture"])
    _require_canonical(bundle, graph, provider, got, TOLERANCE[precision])
    return session


def verify_masked(bundle: Bundle, provider: str, session: Runner) -> None:
    """Run the canonical picture through the hot loop behind one mask that hides nothing; raises BundleError.

    So the kernel, the bound buffers and the fixed batch of a GPU are checked as whole pictures are by `open_graph`.
    """
    preprocessing, picture = bundle.manifest.preprocessing, bundle.canonical["picture"]
    ranks = np.zeros((preprocessing.height, preprocessing.width), np.int64)
    nothing = RankRenderer(ranks, np.ones(1, np.int64), np.ones(1, bool))
    image = preprocessing.normalised(picture)
    passes = MaskedPasses(session, nothing, preprocessing, image, np.zeros_like(image), 1)
    graph = next(g for g in bundle.manifest.graphs if g.file == session.path.name)
    for _ in range(BUFFERS):  # one after another they go through each
        ((got,),) = passes.run(0, 1, None, silent, 1)
        _require_canonical(bundle, graph, provider, got, TOLERANCE[graph.precision])


def graph_digest(bundle: Bundle, graph: Graph) -> str:
    """sha256 of a graph and of the files it keeps tensors in."""
    files = [graph.file, *sorted(external_files((bundle.folder / graph.file).read_bytes()))]
    return hashlib.sha256("".join(bundle.digests[name] for name in files).encode()).hexdigest()


def open_gradient(bundle: Bundle, graph: Graph, provider: str, threads: int | None) -> GradientSession:
    """A session for the bundle's gradient graph, checked against its canonical result; raises BundleError."""
    manifest = bundle.manifest
    names, shape = (graph.input, manifest.preprocessing.input_shape), manifest.embedding
    session = GradientSession(bundle.folder / graph.file, provider, threads, *names, graph.output, shape)
    picture, embedding = bundle.canonical["picture"], bundle.canonical[_base(manifest).file]
    got = canonical_gradient(session, manifest, picture, embedding)
    # the similarity by itself: it can be a thousand times the gradient
    for part in (slice(0, 1), slice(1, None)):
        _require_canonical(bundle, graph, provider, got, GRADIENT_TOLERANCE, part)
    return session


def canonical_result(session: Runner, manifest: Manifest, picture: np.ndarray) -> np.ndarray:
    """What a graph gives for the canonical picture (H, W, 3) uint8: its embedding (D,), or scores (A,) float32."""
    output = session.run(manifest.preprocessing.normalised(picture[None]))[0]
    return output if output.ndim == 1 else output.mean((1, 2))


def canonical_gradient(
    session: GradientSession, manifest: Manifest, picture: np.ndarray, embedding: np.ndarray
) -> np.ndarray:
    """The same of a gradient graph, see `GradientSession.canonical`; embedding: (D,) of the picture."""
    preprocessing = manifest.preprocessing
    return session.canonical(preprocessing.normalised(picture), embedding, preprocessing.layout == "nhwc")


def _require_canonical(
    bundle: Bundle, graph: Graph, provider: str, got: np.ndarray, tolerance: float, part: slice = slice(None)
) -> None:
    expected, got = bundle.canonical[graph.file][part], got[part]
    limit = tolerance * float(np.abs(expected).max())
    if got.shape != expected.shape or not np.abs(got - expected).max() <= limit:
        raise BundleError(
            f"{bundle.folder / graph.file} does not give its canonical result on {provider}: it is off by more than "
            f"{limit:.2g}; export the bundle again on this machine, or report the versions of both"
        )


def _base(manifest: Manifest) -> Graph:
    """The fp32 similarity graph."""
    base = manifest.graph("similarity", "fp32", "cpu")
    if base is None:
        raise BundleError(f"{MANIFEST} names no fp32 similarity graph; export the bundle again")
    return base


def checksums(folder: Path) -> str:
    """The text of SHA256SUMS for every file in `folder`."""
    files = sorted(p for p in folder.iterdir() if p.name != SUMS)
    return "".join(f"{_sha256(p)}  {p.name}\n" for p in files)


def _inside(folder: Path, name: str) -> Path:
    """The file of this plain name; raises BundleError for a path or a link that leads outside."""
    if not name or name != Path(name).name or "\\" in name or ":" in name or name == "..":
        raise BundleError(f"{folder}: {name!r} is not a plain file name inside the bundle")
    path = folder / name
    if not path.is_file():
        raise BundleError(f"{path} is missing; the bundle is not complete")
    if path.resolve().parent != folder.resolve():
        raise BundleError(f"{path} is a link that leads outside the bundle")
    return path


def _text(folder: Path, name: str) -> str:
    try:
        return _inside(folder, name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{folder / name} is not text ({error.reason})") from error


def _sums(folder: Path) -> dict[str, str]:
    """File name -> sha256 as recorded."""
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
        with np.load(io.BytesIO((folder / CANONICAL).read_bytes()), allow_pickle=False) as data:
            arrays = {name: data[name] for name in data}
    except Exception as error:  # numpy and zlib raise almost anything on a broken archive
        raise BundleError(f"{folder / CANONICAL} cannot be read ({error})") from error
    size = (manifest.preprocessing.height, manifest.preprocessing.width, 3)
    missing = {"picture", *(g.file for g in manifest.graphs)} - set(arrays)
    if missing or arrays["picture"].shape != size or arrays["picture"].dtype != np.uint8:
        raise BundleError(f"{folder / CANONICAL} does not fit the manifest (missing: {', '.join(missing) or 'none'})")
    for graph in manifest.graphs:
        expected = arrays[graph.file]
        if expected.ndim != 1 or not expected.size or expected.dtype != np.float32 or not np.isfinite(expected).all():
            raise BundleError(f"{folder / CANONICAL}: {graph.file} must be finite float32 (n,)")
    return arrays
