"""Open a bundle's graphs as sessions; each is checked against its canonical result before it is used."""

from pathlib import Path

import numpy as np

from engine.bundle import Bundle, graph_digest
from engine.bundle.manifest import Graph, Manifest, TokenLayout
from engine.errors import BundleError, ProviderError
from engine.passes import MaskedPasses
from engine.pictures.preprocessing import Preprocessing
from engine.protocol import GraphSignature, Runner, silent
from engine.runtime.gpu_session import GpuSession
from engine.runtime.gpu_stage import BUFFERS
from engine.runtime.gradient_session import GradientSession
from engine.runtime.pair_session import PairSession
from engine.runtime.providers import GPU_PROVIDERS, require_gpu
from engine.runtime.session import Session
from engine.runtime.token_network import TokenNetwork
from engine.runtime.token_tail import TokenTail
from kernels.rank import RankRenderer

CANONICAL_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2, "int8": 1e-1}
"""By precision: the largest difference allowed from a canonical result, as a share of its largest entry. Processors round
differently."""
ROWS_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2, "int8": 2e-2}
"""By precision: the same between a picture's results alone and beside another."""
CONTRAST = 16
"""By how much the contrast of the second picture is less."""
GRADIENT_TOLERANCE = 5e-2
"""The same for gradients, where the kinks of ReLUs amplify rounding."""


def verify_graph(bundle: Bundle, graph: Graph) -> None:
    """Run one of the bundle's graphs on the CPU and compare with its canonical result. Raises BundleError if they differ."""
    if graph.role == "gradient":
        open_gradient(bundle, graph, "cpu", None)
    elif graph.role in ("stem", "tokens"):
        open_tokens(bundle, "cpu", graph.precision, None)
    else:
        open_graph(bundle, graph, "cpu", None)


def open_graph(bundle: Bundle, graph: Graph, provider: str, threads: int | None, precision: str | None = None) -> Runner:
    """Open a similarity or attribute graph of the bundle, checked against its canonical result.

    threads: of the CPU, None for all cores; precision: to run in, None for the graph's own
    Raises BundleError if the graph does not load or gives another result, ProviderError if the provider is missing or cannot
    run it.
    """
    precision = precision or graph.precision
    count = len(bundle.attributes.names) if bundle.attributes is not None else 0
    output = (bundle.manifest.embedding,) if graph.role == "similarity" else (count, None, None)
    path = bundle.folder / graph.file
    shape = bundle.manifest.preprocessing.input_shape
    signature = GraphSignature(graph.input, shape, graph.output, output)
    session: Runner
    if graph.second_input is not None:
        session = open_pair(path, graph, provider, threads, bundle.manifest.preprocessing, bundle.canonical["picture"])
    elif provider in GPU_PROVIDERS:
        require_gpu(provider)  # not every caller has checked this
        session = GpuSession(path, provider, precision, graph_digest(bundle, graph), signature)
    elif provider == "openvino":
        from engine.runtime.openvino_session import OpenVinoSession  # noqa: PLC0415 - an optional package

        session = OpenVinoSession(path, precision, threads, signature)
    else:
        session = Session(path, provider, threads, signature)
    if provider in GPU_PROVIDERS:
        got = canonical_result(session, bundle.manifest, bundle.canonical["picture"])
    else:
        got = _as_one_vector(_rows_alone(bundle, path, session, ROWS_TOLERANCE[precision]))
    _require_canonical(bundle, graph, provider, got, CANONICAL_TOLERANCE[precision])
    return session


def _rows_alone(bundle: Bundle, path: Path, session: Runner, tolerance: float) -> np.ndarray:
    """Run the canonical picture beside one of another range; return its row. Raises BundleError if rows are not independent.

    The second picture is the first with little contrast about the mean colour: a scale taken over the whole batch would be
    too coarse for it. It is run alone too, which also finds that two runs differ.
    """
    rows = bundle.manifest.preprocessing.normalised(np.stack([bundle.canonical["picture"]] * 2))
    rows[1] /= CONTRAST
    together, (alone,) = session.run(rows), session.run(rows[1:])
    limit = tolerance * max(float(np.abs(alone).max()), float(np.abs(together).max()) / CONTRAST)
    if together.shape != (2, *alone.shape) or not np.abs(together[1] - alone).max() <= limit:
        raise BundleError(
            f"{path} gives a picture another result beside a second one than alone, by more than {limit:.2g}: it computes "
            "over the whole batch, or draws random numbers; export the model for inference, and not dynamically quantised"
        )
    return np.asarray(together[0])


def open_pair(
    path: Path, graph: Graph, provider: str, threads: int | None, preprocessing: Preprocessing, picture: np.ndarray
) -> PairSession:
    """Open a graph of two inputs, with the mirror image of the canonical picture (H, W, 3) uint8 held fixed.

    So its canonical result is the score of that picture and its mirror image. Raises BundleError, ProviderError.
    """
    if provider != "cpu":
        raise ProviderError(f"a model that takes two pictures runs on provider cpu alone, not on {provider}: leave it out")
    signature = GraphSignature(graph.input, preprocessing.input_shape, graph.output, (1,))
    mirrored = preprocessing.normalised(picture[:, ::-1])
    return PairSession(path, provider, threads, signature, graph.second_input or "", mirrored)


def verify_masked(bundle: Bundle, provider: str, session: Runner) -> None:
    """Run the canonical picture through the hot loop behind a mask that hides nothing. Raises BundleError if it differs.

    This checks a GPU's kernel, bound buffers and fixed batch, as `open_graph` checks whole pictures.
    """
    preprocessing, picture = bundle.manifest.preprocessing, bundle.canonical["picture"]
    ranks = np.zeros((preprocessing.height, preprocessing.width), np.int64)
    shows_all = RankRenderer(ranks, np.ones(1, np.int64), np.ones(1, bool))
    image = preprocessing.normalised(picture)
    last = preprocessing.layout == "nhwc"
    passes = MaskedPasses(session.stage(shows_all, image, np.zeros_like(image), last, 1))
    graph = next(g for g in bundle.manifest.graphs if g.file == session.path.name)
    for _ in range(BUFFERS):  # runs take the buffers in turn: check each
        ((got,),) = passes.run(0, 1, None, silent, 1)
        _require_canonical(bundle, graph, provider, got, CANONICAL_TOLERANCE[graph.precision])


def open_gradient(bundle: Bundle, graph: Graph, provider: str, threads: int | None) -> GradientSession:
    """Open the bundle's gradient graph, checked against its canonical result.

    threads: of the CPU, None for all cores
    Raises BundleError if the graph does not load or gives another result, ProviderError if the provider is missing or cannot
    run it.
    """
    manifest = bundle.manifest
    signature = GraphSignature(graph.input, manifest.preprocessing.input_shape, graph.output, (manifest.embedding,))
    session = GradientSession(bundle.folder / graph.file, provider, threads, signature)
    picture, embedding = bundle.canonical["picture"], bundle.canonical[manifest.base.file]
    got = canonical_gradient(session, manifest, picture, embedding)
    # the similarity is compared separately: it can be a thousand times the gradient
    for part in (slice(0, 1), slice(1, None)):
        _require_canonical(bundle, graph, provider, got, GRADIENT_TOLERANCE, part)
    return session


def open_tokens(bundle: Bundle, provider: str, precision: str, threads: int | None) -> TokenNetwork:
    """Open the bundle's graphs of tokens, checked against their canonical results.

    provider: cpu or openvino; precision: fp32, int8 if there is such a graph, or with OpenVINO bf16; threads: None for all
    cores
    Raises BundleError if a graph is missing, does not load or gives another result, ProviderError if the provider cannot run
    it.
    """
    manifest = bundle.manifest
    of_stem, stored = ("bf16", "fp32") if precision == "bf16" else ("fp32", precision)
    stem, graph = manifest.graph("stem", "fp32", "cpu"), manifest.graph("tokens", stored, "cpu")
    if stem is None or graph is None or graph.layout is None:
        raise BundleError(f"{bundle.folder} has no graphs of tokens in {stored}; ask for precision fp32")
    first, second = bundle.folder / stem.file, bundle.folder / graph.file
    if provider == "openvino":
        from engine.runtime.openvino_session import OpenVinoSession, OpenVinoTail  # noqa: PLC0415 - an optional package

        session = OpenVinoSession(first, of_stem, threads, stem_signature(manifest, stem, graph.layout))
        network = TokenNetwork(session, OpenVinoTail(second, precision, threads, graph.output), graph.layout)
    else:
        network = tokens_on_cpu(first, second, manifest, (stem, graph), threads)
    image = manifest.preprocessing.normalised(bundle.canonical["picture"])
    _require_canonical(bundle, stem, provider, network.canonical_stem(image), CANONICAL_TOLERANCE[of_stem])
    _require_canonical(bundle, graph, provider, network.canonical(image), CANONICAL_TOLERANCE[precision])
    return network


def tokens_on_cpu(
    stem_file: Path, file: Path, manifest: Manifest, graphs: tuple[Graph, Graph], threads: int | None
) -> TokenNetwork:
    """Open graphs of tokens on ONNX Runtime, not checked against anything. graphs: of the stem and of the tokens

    Raises BundleError if a graph does not load.
    """
    stem, graph = graphs
    if graph.layout is None:
        raise BundleError(f"{file} has no layout of its tokens; export the model again")
    session = Session(stem_file, "cpu", threads, stem_signature(manifest, stem, graph.layout))
    return TokenNetwork(session, TokenTail(file, graph.precision, threads, graph.output), graph.layout)


def stem_signature(manifest: Manifest, stem: Graph, layout: TokenLayout) -> GraphSignature:
    """Return what the graph that makes a picture's tokens takes and gives: as many tokens, of any width."""
    return GraphSignature(stem.input, manifest.preprocessing.input_shape, stem.output, (layout.count, None))


def canonical_result(session: Runner, manifest: Manifest, picture: np.ndarray) -> np.ndarray:
    """Return a graph's result for a picture (H, W, 3) uint8: the embedding (D,) or the attributes' scores (A,), float32."""
    return _as_one_vector(session.run(manifest.preprocessing.normalised(picture[None]))[0])


def _as_one_vector(output: np.ndarray) -> np.ndarray:
    return output if output.ndim == 1 else output.mean((1, 2))


def canonical_gradient(
    session: GradientSession, manifest: Manifest, picture: np.ndarray, embedding: np.ndarray
) -> np.ndarray:
    """Return a gradient graph's result (1 + 16,) float32 for a picture, see `GradientSession.canonical`.

    picture: (H, W, 3) uint8; embedding: (D,), the picture's own
    """
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
