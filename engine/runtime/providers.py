"""The providers by name, and what this machine lacks to run them. Nothing here opens a session."""

import importlib.metadata
import importlib.util

import onnxruntime as ort

from engine.errors import OptionError, ProviderError
from kernels.device import lacking
from kernels.driver import DRIVER

RUNTIME_PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "pip install 'sane-engine[cpu]'"),
    "cuda": ("CUDAExecutionProvider", "pip install 'sane-engine[cuda]' on a machine with an NVIDIA GPU"),
    "tensorrt": ("TensorrtExecutionProvider", "pip install 'sane-engine[tensorrt]' on a machine with an NVIDIA GPU"),
}
"""The providers of ONNX Runtime: its name for each, and what to install."""
PROVIDERS = (*RUNTIME_PROVIDERS, "openvino")
GPU_PROVIDERS = ("tensorrt", "cuda")
"""In the order in which auto tries them."""


def providers_named(name: str) -> tuple[list[str], str]:
    """Return the providers to try, in order; and for auto, why GPU providers are left out ("" if none is).

    auto: every GPU provider that this machine can run, then the CPU
    Raises OptionError if the name is unknown.
    """
    if name == "auto":
        missing = {provider: gpu_lacks(provider) for provider in GPU_PROVIDERS}
        reasons = [f"{provider} needs {' and '.join(what)}" for provider, what in missing.items() if what]
        return [*(p for p, what in missing.items() if not what), "cpu"], "; ".join(reasons)
    if not isinstance(name, str) or name not in PROVIDERS:
        raise OptionError(f"provider must be one of auto, {', '.join(PROVIDERS)}, got {name!r}")
    return [name], ""


def cpu_runtimes() -> list[str]:
    """Return the providers of the CPU that are installed, ONNX Runtime's first."""
    try:
        importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:  # a folder of that name is none
        return ["cpu"]
    return ["cpu", *(["openvino"] if importlib.util.find_spec("openvino") is not None else [])]


def runtime_version(provider: str) -> str:
    """Return the version of what runs a provider's graphs."""
    return importlib.metadata.version("openvino") if provider == "openvino" else ort.__version__


def gpu_lacks(provider: str) -> list[str]:
    """Return what this machine lacks for a GPU provider, in words. Only opening a session can find the rest."""
    wheel = [] if RUNTIME_PROVIDERS[provider][0] in ort.get_available_providers() else ["the package onnxruntime-gpu"]
    return [*lacking(), *wheel]


def driver_found() -> bool:
    """Whether this machine has an NVIDIA driver, and so most likely a GPU."""
    return not any(DRIVER in what for what in lacking())


def require_gpu(provider: str) -> None:
    """Raise ProviderError if this machine lacks something that the GPU provider needs."""
    missing = gpu_lacks(provider)
    if missing:
        what, remedy = " and ".join(missing), RUNTIME_PROVIDERS[provider][1]
        raise ProviderError(f"provider {provider!r} was asked for, but this machine lacks {what}; {remedy}")


def require_among(provider: str, found: list[str]) -> None:
    """Raise ProviderError unless the provider is among those `found`, as ONNX Runtime names them."""
    wanted, remedy = RUNTIME_PROVIDERS[provider]
    if wanted not in found:
        names = ", ".join(found) or "none"
        raise ProviderError(f"provider {provider!r} ({wanted}) was asked for, but ONNX Runtime has {names}; {remedy}")
