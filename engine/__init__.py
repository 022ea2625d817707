"""Why do these two images match? Saliency maps and attributes for image-similarity models, on ONNX Runtime."""

import importlib.metadata
import importlib.util
import os
import warnings

# Nothing leaves the machine: ONNX Runtime sends events and keeps a device id unless it is told so before its first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if importlib.util.find_spec("onnxruntime") is None:
    raise ImportError("engine needs ONNX Runtime: pip install 'sane-engine[cpu]' (or [cuda] on a machine with a GPU)")

import kernels

if getattr(kernels, "ORIGIN", None) != "sane-engine":
    raise ImportError(
        f"engine needs its own package `kernels`, but finds another distribution's at {kernels.__file__}: "
        "pip uninstall kernels, then install sane-engine again"
    )

from engine.cache import CacheInfo
from engine.errors import BundleError, EngineError, ImageError, OptionError, OutputError, ProcessError, ProviderError
from engine.explainer import Explainer
from engine.explanation import Explanation
from engine.methods.learned_mask import LearnedMask
from engine.methods.lime import Lime, LimePlan
from engine.methods.rise import Rise, RisePlan
from engine.methods.tokens import TokenPlan, Tokens
from engine.methods.window import Window, WindowPlan
from engine.prepared import Prepared
from engine.reference_vectors import StoredReference

ORIGIN = "sane-engine"
"""Tells this package from a user's own `engine.py`; `export` checks it at import."""

__all__ = [
    "BundleError",
    "CacheInfo",
    "EngineError",
    "Explainer",
    "Explanation",
    "ImageError",
    "LearnedMask",
    "Lime",
    "LimePlan",
    "OptionError",
    "OutputError",
    "Prepared",
    "ProcessError",
    "ProviderError",
    "Rise",
    "RisePlan",
    "StoredReference",
    "TokenPlan",
    "Tokens",
    "Window",
    "WindowPlan",
]


def _warn_of_two_runtimes() -> None:
    """Both wheels own the import name `onnxruntime`: the one installed last wins."""
    found = {d.metadata["Name"].lower() for d in importlib.metadata.distributions(name="onnxruntime")}
    found |= {d.metadata["Name"].lower() for d in importlib.metadata.distributions(name="onnxruntime-gpu")}
    if len(found) > 1:
        warnings.warn(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: uninstall both, then install one",
            stacklevel=3,
        )


_warn_of_two_runtimes()
