"""One graph in an ONNX Runtime session: on the provider that was asked for, or not at all."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.errors import BundleError, ProviderError, first_line
from engine.protocol import GraphSignature, Renderer
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
"""Operators that sizes are computed with: such nodes ONNX Runtime keeps on the CPU beside CUDA, by design."""
GRAPH_ERRORS = ("InvalidProtobuf", "InvalidGraph", "NoSuchFile", "InvalidArgument")
"""ONNX Runtime's errors where the graph is to blame, and not the device."""


class Session:
    """Runs one graph with one input and one output.

    Raises BundleError where the graph does not load or its input or output is not what the manifest says, ProviderError
    where the provider is missing.
    """

    def __init__(
        self,
        path: Path,
        provider: str,
        threads: int | None,
        signature: GraphSignature,
    ) -> None:
        self._session = open_session(path, provider, threads)
        self.path, self.signature = path, signature
        check_nodes(path, "input", self._session.get_inputs(), {signature.input: signature.input_shape})
        check_nodes(path, "output", self._session.get_outputs(), {signature.output: signature.output_shape})

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) float32 as the network takes it -> (B, ...) float32; raises BundleError where that is not finite."""
        (output,) = run_finite(self._session, self.path, [self.signature.output], {self.signature.input: batch})
        return output

    def stage(
        self, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool, batch: int
    ) -> HostStage:
        """See `engine.protocol.Runner`."""
        return HostStage(self, renderer, image, baseline, channels_last, batch)


def open_session(
    path: Path, provider: str, threads: int | None, provider_options: Mapping[str, str] | None = None
) -> ort.InferenceSession:
    """Raises BundleError where the graph does not load, ProviderError where the provider is missing or cannot run it."""
    wanted, remedy = RUNTIME_PROVIDERS[provider]
    require_among(provider, ort.get_available_providers())
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors come as exceptions; warnings about fallback are checked below
    options.intra_op_num_threads = threads or 0
    # threads that wait for the next batch sleep: a sixth less CPU time at int8, for some 5% more wall time
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider == "cpu" and int8_overflows():
        options.add_session_config_entry("session.x64quantprecision", "1")  # slower kernels that do not
    if provider == "cuda":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # for `require_network_on`
    elif provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        chosen = (wanted, dict(provider_options)) if provider_options else wanted
        # on a GPU's error it would print, and try the CPU
        fallback = {} if provider == "cpu" else {"enable_fallback": 0}
        session = ort.InferenceSession(str(path), options, providers=[chosen], **fallback)
    except Exception as error:  # ONNX Runtime raises its own classes, which share no base with a name
        if provider in GPU_PROVIDERS and type(error).__name__ not in GRAPH_ERRORS:
            raise ProviderError(f"provider {provider!r} cannot run {path}: {first_line(error)}; {remedy}") from error
        raise BundleError(f"ONNX Runtime cannot load {path}: {first_line(error)}") from error
    require_among(provider, session.get_providers())  # the list above names providers the machine cannot run
    if provider == "cuda":
        require_network_on(session, path)
    return session


def require_network_on(session: ort.InferenceSession, path: Path) -> None:
    """Raise ProviderError where the CPU was given more than the arithmetic of sizes.

    Of ONNX Runtime before 1.24, which cannot tell, nothing is required.
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
    """These outputs; raises BundleError where one is not finite."""
    try:
        found: list[np.ndarray] = session.run(outputs, feeds)
    except Exception as error:  # as in `open_session`
        raise BundleError(f"ONNX Runtime cannot run {path}: {first_line(error)}") from error
    if not all(np.isfinite(output).all() for output in found):
        raise BundleError(f"{path} gives numbers that are not finite for this picture")
    return found


def check_nodes(path: Path, kind: str, nodes: list[ort.NodeArg], wanted: dict[str, tuple[int | None, ...]]) -> None:
    """The graph has these inputs or outputs and no others: float32, a dynamic batch, then this shape (None: any size).

    Raises BundleError.
    """
    found = {n.name: n for n in nodes}
    if found.keys() == wanted.keys() and all(_fits(found[name], shape) for name, shape in wanted.items()):
        return
    got = ", ".join(f"{n.name} {n.type} {n.shape}" for n in nodes)
    sizes = {name: ", ".join(["batch", *("any" if s is None else str(s) for s in shape)]) for name, shape in wanted.items()}
    promised = ", ".join(f"{name} float32 [{size}]" for name, size in sizes.items())
    raise BundleError(f"{path}: the manifest promises {kind} {promised}, the graph has {got}")


def _fits(node: ort.NodeArg, shape: tuple[int | None, ...]) -> bool:
    batch, *rest = node.shape or [0]  # ONNX Runtime gives an empty shape where it knows none
    # a size the exporter left symbolic is checked by the canonical embedding instead
    same = [w is None or not isinstance(g, int) or g == w for g, w in zip(rest, shape, strict=False)]
    return node.type == "tensor(float)" and not isinstance(batch, int) and len(rest) == len(shape) and all(same)
