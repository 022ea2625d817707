"""One graph in an ONNX Runtime session: it runs on the provider that was asked for, or not at all."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.errors import BundleError, ProviderError, first_line
from engine.protocol import GraphSignature, Renderer
from engine.runtime.forks import Threaded
from engine.runtime.host_stage import HostStage
from engine.runtime.precision import int8_overflows
from engine.runtime.providers import GPU_PROVIDERS, RUNTIME_PROVIDERS, require_among

SHAPE_ARITHMETIC = frozenset(
    (
        *("Shape", "Size", "Constant", "ConstantOfShape", "Range", "Identity", "Cast", "Where", "Equal", "Greater", "Less"),
        *("And", "Or", "Not", "Gather", "Slice", "Split", "Concat", "Squeeze", "Unsqueeze", "Reshape", "Expand"),
        *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Min", "Max", "Floor", "Ceil", "ReduceProd", "ScatterND"),
    )
)
"""Operators that compute sizes: with CUDA, ONNX Runtime runs such nodes on the CPU by design."""
GRAPH_ERRORS = ("InvalidProtobuf", "InvalidGraph", "NoSuchFile", "InvalidArgument")
"""ONNX Runtime's errors about the graph, not the device."""


class Session:
    """Run one graph with one input and one output; threads may share it.

    threads: of the CPU, None for all cores
    Raises BundleError if the graph does not load or its input or output differs from `signature`, ProviderError if the
    provider is missing.
    """

    def __init__(self, path: Path, provider: str, threads: int | None, signature: GraphSignature) -> None:
        session = open_session(path, provider, threads)
        self._session = Threaded(session)
        self.path, self.signature = path, signature
        check_nodes(path, "input", session.get_inputs(), {signature.input: signature.input_shape})
        check_nodes(path, "output", session.get_outputs(), {signature.output: signature.output_shape})

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) float32 as the network takes it -> (B, ...) float32. Raises BundleError if the result is not finite."""
        (output,) = run_finite(self._session.get(), self.path, [self.signature.output], {self.signature.input: batch})
        return output

    def stage(
        self, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool, batch: int
    ) -> HostStage:
        """See `engine.protocol.Runner`."""
        return HostStage(self, renderer, image, baseline, channels_last, batch)


def open_session(
    path: Path,
    provider: str,
    threads: int | None,
    provider_options: Mapping[str, str] | None = None,
    config: Mapping[str, str] | None = None,
) -> ort.InferenceSession:
    """Open a session on exactly this provider.

    provider: cpu, cuda or tensorrt; threads: of the CPU, None for all cores; provider_options, config: of
        the provider and of the session, as ONNX Runtime takes them
    Raises BundleError if the graph does not load, ProviderError if the provider is missing or cannot run it.
    """
    wanted, remedy = RUNTIME_PROVIDERS[provider]
    require_among(provider, ort.get_available_providers())
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors come as exceptions; fallback to another provider is checked below
    options.intra_op_num_threads = threads or 0
    # let threads sleep while they wait for the next batch: a sixth less CPU time at int8, about 5% more wall time
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    if provider == "cpu" and int8_overflows():
        options.add_session_config_entry("session.x64quantprecision", "1")  # slower kernels that do not overflow
    if provider == "cuda":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # for `require_network_on`
    elif provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        chosen = (wanted, dict(provider_options)) if provider_options else wanted
        # otherwise, after a GPU error, ONNX Runtime would print a message and try the CPU
        fallback = {} if provider == "cpu" else {"enable_fallback": 0}
        session = ort.InferenceSession(str(path), options, providers=[chosen], **fallback)
    except Exception as error:  # ONNX Runtime raises its own classes, which share no base with a name
        if provider in GPU_PROVIDERS and type(error).__name__ not in GRAPH_ERRORS:
            raise ProviderError(f"provider {provider!r} cannot run {path}: {first_line(error)}; {remedy}") from error
        raise BundleError(f"ONNX Runtime cannot load {path}: {first_line(error)}") from error
    require_among(provider, session.get_providers())  # the first check's list has providers that the machine cannot run
    if provider == "cuda":
        require_network_on(session, path)
    return session


def require_network_on(session: ort.InferenceSession, path: Path) -> None:
    """Raise ProviderError if the CPU was given more than the arithmetic of sizes.

    ONNX Runtime before 1.24 does not report this; then nothing is checked.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return
    parts = session.get_provider_graph_assignment_info()
    nodes = [node for part in parts if part.ep_name == "CPUExecutionProvider" for node in part.get_nodes()]
    strays = sorted({node.op_type for node in nodes} - SHAPE_ARITHMETIC)
    if strays:
        names = ", ".join(strays)
        raise ProviderError(f"provider 'cuda' does not run all of {path}: ONNX Runtime leaves {names} to the CPU")


def run_finite(
    session: ort.InferenceSession, path: Path, outputs: list[str], feeds: dict[str, np.ndarray]
) -> list[np.ndarray]:
    """Return the named outputs. Raises BundleError if the run fails or a number is not finite."""
    try:
        found: list[np.ndarray] = session.run(outputs, feeds)
    except Exception as error:  # as in `open_session`
        raise BundleError(f"ONNX Runtime cannot run {path}: {first_line(error)}") from error
    if not all(np.isfinite(output).all() for output in found):
        raise BundleError(f"{path} gives numbers that are not finite for this picture")
    return found


def check_nodes(path: Path, kind: str, nodes: list[ort.NodeArg], wanted: dict[str, tuple[int | None, ...]]) -> None:
    """Raise BundleError unless the graph has exactly these inputs or outputs.

    wanted: by name, the shape after a dynamic batch (None: any size); all are float32
    """
    found = {n.name: n for n in nodes}
    if found.keys() == wanted.keys() and all(_fits(found[name], shape) for name, shape in wanted.items()):
        return
    got = ", ".join(f"{n.name} {n.type} {n.shape}" for n in nodes)
    sizes = {name: ", ".join(["batch", *("any" if s is None else str(s) for s in shape)]) for name, shape in wanted.items()}
    promised = ", ".join(f"{name} float32 [{size}]" for name, size in sizes.items())
    raise BundleError(f"{path}: the manifest promises {kind} {promised}, but the graph has {got}; export the bundle again")


def _fits(node: ort.NodeArg, shape: tuple[int | None, ...]) -> bool:
    batch, *rest = node.shape or [0]  # ONNX Runtime gives an empty shape if it knows none
    # a size that the exporter left symbolic is checked by the canonical result instead
    same = [w is None or not isinstance(g, int) or g == w for g, w in zip(rest, shape, strict=False)]
    return node.type == "tensor(float)" and not isinstance(batch, int) and len(rest) == len(shape) and all(same)
