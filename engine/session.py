"""One graph in an ONNX Runtime session, on the provider that was asked for or not at all."""

import contextlib
import ctypes
import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.engines import kept_or_built
from engine.errors import BundleError, OptionError, ProviderError, first_line
from engine.files import cache_folder
from engine.gpu_options import Setting, Versions, cache_key, cuda_options, tensorrt_options
from engine.precision import int8_overflows
from kernels.device import lacking
from kernels.driver import DRIVER

RUNTIME_PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "pip install 'sane-engine[cpu]'"),
    "cuda": ("CUDAExecutionProvider", "pip install 'sane-engine[cuda]' on a machine with an NVIDIA GPU"),
    "tensorrt": ("TensorrtExecutionProvider", "pip install 'sane-engine[tensorrt]' on a machine with an NVIDIA GPU"),
}
"""ONNX Runtime's own, and what to install for them."""
PROVIDERS = (*RUNTIME_PROVIDERS, "openvino")
GPU_PROVIDERS = ("tensorrt", "cuda")
"""The one to try first, first."""
SHAPE_ARITHMETIC = frozenset(
    (
        *("Shape", "Size", "Constant", "ConstantOfShape", "Range", "Identity", "Cast", "Where", "Equal", "Greater", "Less"),
        *("And", "Or", "Not", "Gather", "Slice", "Split", "Concat", "Squeeze", "Unsqueeze", "Reshape", "Expand"),
        *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Min", "Max", "Floor", "Ceil", "ReduceProd", "ScatterND"),
    )
)
"""Operators that sizes are computed with: such nodes ONNX Runtime keeps on the CPU beside CUDA, by design."""
GRAPH_ERRORS = ("InvalidProtobuf", "InvalidGraph", "NoSuchFile", "InvalidArgument")
"""ONNX Runtime's, where the graph is to blame and not the device."""

Notice = Callable[[str], None]
"""Told, in one line, what takes long while a model loads, or what was tried and did not work."""


def unheard(line: str) -> None:
    """Nothing is told unless a caller asks for it."""


def providers_named(name: str) -> tuple[list[str], str]:
    """The providers to try, in order, and for auto what else there could have been; raises OptionError for an unknown name.

    auto begins with a GPU where this machine has what one needs, and ends with the CPU.
    """
    if name == "auto":
        missing = {provider: gpu_lacks(provider) for provider in GPU_PROVIDERS}
        reasons = [f"{provider} needs {' and '.join(what)}" for provider, what in missing.items() if what]
        return [*(p for p, what in missing.items() if not what), "cpu"], "; ".join(reasons)
    if not isinstance(name, str) or name not in PROVIDERS:
        raise OptionError(f"provider must be one of auto, {', '.join(PROVIDERS)}, got {name!r}")
    return [name], ""


def gpu_lacks(provider: str) -> list[str]:
    """What this machine lacks for a GPU provider, in words, as far as can be told at once."""
    wheel = [] if RUNTIME_PROVIDERS[provider][0] in ort.get_available_providers() else ["the package onnxruntime-gpu"]
    return [*lacking(), *wheel]


def driver_found() -> bool:
    """Whether this machine has an NVIDIA driver, and so most likely a GPU."""
    return not any(DRIVER in what for what in lacking())


def require_gpu(provider: str) -> None:
    """Raise ProviderError where something is lacking."""
    missing = gpu_lacks(provider)
    if missing:
        what, remedy = " and ".join(missing), RUNTIME_PROVIDERS[provider][1]
        raise ProviderError(f"provider {provider!r} was asked for, this machine lacks {what}; {remedy}")


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
        input_name: str,
        input_shape: tuple[int, ...],
        output_name: str,
        output_shape: tuple[int | None, ...],
    ) -> None:
        self._session = opened(path, provider, threads)
        self.path, self.input_name, self.output_name = path, input_name, output_name
        check_nodes(path, "input", self._session.get_inputs(), {input_name: input_shape})
        check_nodes(path, "output", self._session.get_outputs(), {output_name: output_shape})

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) float32 as the network takes it -> (B, ...) float32; raises BundleError where that is not finite."""
        (output,) = run_finite(self._session, self.path, [self.output_name], {self.input_name: batch})
        return output


def warned(line: str) -> None:
    """For what must be heard even where no caller asks for notices."""
    warnings.warn(line, stacklevel=2)


def gpu_session(
    path: Path, setting: Setting, digest: str, capability: tuple[int, int], notice: Notice = warned
) -> ort.InferenceSession:
    """A session on the CUDA or TensorRT provider, whose engines are kept in the engine's own cache.

    digest: sha256 of the graph; capability: the device's, such as (9, 0)
    Raises BundleError, ProviderError.
    """
    if setting.provider == "cuda":
        _load_libraries()
        return opened(path, "cuda", None, cuda_options(setting))
    versions = versions_of(setting.ordinal, capability)

    def open_in(folder: Path, without: tuple[str, ...]) -> ort.InferenceSession:
        return tensorrt_session(path, tensorrt_options(setting, folder, digest, versions), without)

    return kept_or_built(tensorrt_folder(), cache_key(setting, digest, versions), open_in, notice)


def tensorrt_session(path: Path, options: Mapping[str, str], without: tuple[str, ...] = ()) -> ort.InferenceSession:
    """A session on TensorRT, that writes engines straight where the options say. without: how options to leave out begin

    Raises BundleError, ProviderError.
    """
    _load_libraries()
    with contextlib.suppress(ImportError):
        import tensorrt  # noqa: F401, PLC0415 - loads libnvinfer from its wheel; without it the session says so below
    kept = {key: value for key, value in options.items() if not key.startswith(without)}
    for key in kept.keys() & {"trt_engine_cache_path", "trt_timing_cache_path"}:
        with contextlib.suppress(OSError):  # ONNX Runtime says so in its own words
            Path(kept[key]).mkdir(parents=True, exist_ok=True)
    return opened(path, "tensorrt", None, kept)


def _load_libraries() -> None:
    """CUDA and cuDNN, from NVIDIA's wheels where there are any."""
    with contextlib.redirect_stdout(sys.stderr):  # where it says what it cannot load
        getattr(ort, "preload_dlls", lambda: None)()


def tensorrt_folder() -> Path:
    """Where TensorRT's engines and timings are kept."""
    return cache_folder() / "tensorrt"


def versions_of(ordinal: int, capability: tuple[int, int]) -> Versions:
    """What an engine built here for this device is good for."""
    return Versions(ort.__version__, tensorrt_version(), device_name(ordinal), capability)


def tensorrt_version() -> str:
    """Of its wheel, or of the library that the system has; "unknown" where neither says one."""
    found = [d.version for name in ("tensorrt-cu13", "tensorrt") for d in importlib.metadata.distributions(name=name)]
    if found:
        return found[0]
    try:
        return str(ctypes.CDLL("libnvinfer.so.10").getInferLibVersion())
    except (OSError, AttributeError):
        return "unknown"


def device_name(ordinal: int) -> str:
    """Of a CUDA device, as the driver says it; "unknown" where there is none."""
    name = ctypes.create_string_buffer(256)
    try:
        failed = ctypes.CDLL(DRIVER).cuDeviceGetName(name, len(name), ordinal)
    except (OSError, AttributeError):
        return "unknown"
    return "unknown" if failed else name.value.decode(errors="replace")


def opened(
    path: Path, provider: str, threads: int | None, provider_options: Mapping[str, str] | None = None
) -> ort.InferenceSession:
    """Raises BundleError where the graph does not load, ProviderError where the provider is missing or cannot run it."""
    wanted, remedy = RUNTIME_PROVIDERS[provider]
    _require(provider, ort.get_available_providers())
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
    _require(provider, session.get_providers())  # the list above names providers the machine cannot run
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
    except Exception as error:  # as in `opened`
        raise BundleError(f"ONNX Runtime cannot run {path}: {first_line(error)}") from error
    if not all(np.isfinite(output).all() for output in found):
        raise BundleError(f"{path} gives numbers that are not finite for this picture")
    return found


def _require(provider: str, found: list[str]) -> None:
    wanted, remedy = RUNTIME_PROVIDERS[provider]
    if wanted not in found:
        names = ", ".join(found) or "none"
        raise ProviderError(f"provider {provider!r} was asked for ({wanted}), ONNX Runtime has {names}; {remedy}")


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
