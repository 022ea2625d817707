"""The providers by name, and what this machine lacks for them. Nothing here opens a session."""

import onnxruntime as ort

from engine.errors import OptionError, ProviderError
from kernels.device import lacking
from kernels.driver import DRIVER

RUNTIME_PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "pip install 'sane-engine[cpu]'"),
    "cuda": ("CUDAExecutionProvider", "pip install 'sane-engine[cuda]' on a machine with an NVIDIA GPU"),
    "tensorrt": ("TensorrtExecutionProvider", "pip install 'sane-engine[tensorrt]' on a machine with an NVIDIA GPU"),
}
"""ONNX Runtime's own: its name for each, and what to install."""
PROVIDERS = (*RUNTIME_PROVIDERS, "openvino")
GPU_PROVIDERS = ("tensorrt", "cuda")
"""The one to try first comes first."""


def providers_named(name: str) -> tuple[list[str], str]:
    """The providers to try, in order; and for auto, why the others are not among them. Raises OptionError.

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
    """What this machine lacks for a GPU provider, in words, as far as it can be told without opening one."""
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


def require_among(provider: str, found: list[str]) -> None:
    """Raise ProviderError unless the provider is among those `found`, as ONNX Runtime names them."""
    wanted, remedy = RUNTIME_PROVIDERS[provider]
    if wanted not in found:
        names = ", ".join(found) or "none"
        raise ProviderError(f"provider {provider!r} was asked for ({wanted}), ONNX Runtime has {names}; {remedy}")
