"""Opens sessions on the CUDA and TensorRT providers, and says what TensorRT's engines depend on."""

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
from engine.runtime.tensorrt_cache import kept_or_built
from kernels.driver import DRIVER


def warn_always(line: str) -> None:
    """A notice that is given even where no caller asks for any."""
    warnings.warn(line, stacklevel=2)


def open_gpu_session(
    path: Path, setting: Setting, digest: str, capability: tuple[int, int], notice: Notice = warn_always
) -> ort.InferenceSession:
    """A session on the CUDA or TensorRT provider, whose engines are kept in the engine's own cache.

    digest: sha256 of the graph; capability: the device's, such as (9, 0)
    Raises BundleError, ProviderError.
    """
    if setting.provider == "cuda":
        _load_libraries()
        return open_session(path, "cuda", None, cuda_options(setting))
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
    return open_session(path, "tensorrt", None, kept)


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
