"""Open sessions on the CUDA and TensorRT providers; say what TensorRT's engines depend on."""

import contextlib
import ctypes
import importlib.metadata
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from engine.files import cache_folder
from engine.protocol import Notice
from engine.runtime.gpu_options import Setting, Versions, cache_key, cuda_options, tensorrt_options
from engine.runtime.session import open_session
from engine.runtime.tensorrt_cache import load_or_build
from kernels.driver import DRIVER


def warn_always(line: str) -> None:
    """Show a notice as a Python warning: the default if the caller passes no `notice`."""
    warnings.warn(line, stacklevel=2)


def open_gpu_session(
    path: Path, setting: Setting, digest: str, capability: tuple[int, int], notice: Notice = warn_always
) -> ort.InferenceSession:
    """Open a session on the CUDA or TensorRT provider; TensorRT's engines are kept in our cache folder.

    digest: sha256 of the graph; capability: the device's compute capability, such as (9, 0)
    Raises BundleError if the graph does not load, ProviderError if the provider is missing or cannot run it.
    """
    if setting.provider == "cuda":
        _load_libraries()
        return open_session(path, "cuda", None, cuda_options(setting))
    versions = versions_of(setting.ordinal, capability)

    def open_in(folder: Path, without: tuple[str, ...]) -> ort.InferenceSession:
        return tensorrt_session(path, tensorrt_options(setting, folder, digest, versions), without)

    return load_or_build(tensorrt_folder(), cache_key(setting, digest, versions), open_in, notice)


def tensorrt_session(path: Path, options: Mapping[str, str], without: tuple[str, ...] = ()) -> ort.InferenceSession:
    """Open a session on TensorRT, which writes its engines where the options say.

    without: leave out the options whose names begin with one of these
    Raises BundleError if the graph does not load, ProviderError if the provider is missing or cannot run it.
    """
    _load_libraries()
    with contextlib.suppress(ImportError):
        import tensorrt  # noqa: F401, PLC0415 - loads libnvinfer from its wheel; if it is missing, opening fails below
    kept = {key: value for key, value in options.items() if not key.startswith(without)}
    for key in kept.keys() & {"trt_engine_cache_path", "trt_timing_cache_path"}:
        with contextlib.suppress(OSError):  # ONNX Runtime reports the same error itself
            Path(kept[key]).mkdir(parents=True, exist_ok=True)
    return open_session(path, "tensorrt", None, kept)


def _load_libraries() -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels if they are installed."""
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it cannot load
        if hasattr(ort, "preload_dlls"):  # since ONNX Runtime 1.21
            ort.preload_dlls()


def tensorrt_folder() -> Path:
    """Return the folder of TensorRT's engines and timings."""
    return cache_folder() / "tensorrt"


def versions_of(ordinal: int, capability: tuple[int, int]) -> Versions:
    """Return the versions that a TensorRT engine built now for this device depends on."""
    return Versions(ort.__version__, tensorrt_version(), device_name(ordinal), capability)


def tensorrt_version() -> str:
    """Return TensorRT's version, from its wheel or else from the system's library; "unknown" if neither is found."""
    found = [d.version for name in ("tensorrt-cu13", "tensorrt") for d in importlib.metadata.distributions(name=name)]
    if found:
        return found[0]
    try:
        return str(ctypes.CDLL("libnvinfer.so.10").getInferLibVersion())
    except (OSError, AttributeError):
        return "unknown"


def device_name(ordinal: int) -> str:
    """Return the driver's name of CUDA device `ordinal`; "unknown" if there is none."""
    name = ctypes.create_string_buffer(256)
    try:
        failed = ctypes.CDLL(DRIVER).cuDeviceGetName(name, len(name), ordinal)
    except (OSError, AttributeError):
        return "unknown"
    return "unknown" if failed else name.value.decode(errors="replace")
