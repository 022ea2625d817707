"""Make a bundle, which `engine` runs, from a trained PyTorch model or an ONNX file.

Names are imported at their first use: `check` needs neither PyTorch nor onnx.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

import engine

if getattr(engine, "ORIGIN", None) != "sane-engine":
    _wrong = (
        f"export needs sane-engine's own package `engine`, but Python finds another one at {engine.__file__}: "
        "rename that one, or run the command from another folder"
    )
    if sys.argv[:1] == ["-m"]:  # Python is still looking for the module to run: a command ends in one line
        print(f"error: {_wrong}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(_wrong)

if TYPE_CHECKING:
    from export.bundles import export_attributes, export_similarity
    from export.calibration import calibrate
    from export.checkpoints import load_checkpoint, load_typespaces
    from export.checks import check
    from export.errors import ExportError
    from export.inputs import load_conditions, load_names
    from export.onnx_source import OnnxSource
    from export.quantize import export_quantized
    from export.torch_source import TorchSource, load_module

_MODULES = {
    "ExportError": "errors",
    "OnnxSource": "onnx_source",
    "TorchSource": "torch_source",
    "calibrate": "calibration",
    "check": "checks",
    "export_attributes": "bundles",
    "export_quantized": "quantize",
    "export_similarity": "bundles",
    "load_checkpoint": "checkpoints",
    "load_conditions": "inputs",
    "load_module": "torch_source",
    "load_names": "inputs",
    "load_typespaces": "checkpoints",
}

__all__ = [
    "ExportError",
    "OnnxSource",
    "TorchSource",
    "calibrate",
    "check",
    "export_attributes",
    "export_quantized",
    "export_similarity",
    "load_checkpoint",
    "load_conditions",
    "load_module",
    "load_names",
    "load_typespaces",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'export' has no attribute {name!r}")
    return getattr(importlib.import_module(f"export.{_MODULES[name]}"), name)
