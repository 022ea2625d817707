"""From a trained PyTorch model or an ONNX file to a bundle that `engine` runs.

Names are imported when they are first used: `check` needs neither PyTorch nor onnx.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.bundles import export_attributes, export_similarity
    from export.calibration import calibrate
    from export.checkpoints import load_checkpoint, load_typespaces
    from export.checks import check
    from export.errors import ExportError
    from export.inputs import load_conditions, load_names
    from export.quantize import export_quantized
    from export.sources import OnnxSource, TorchSource, load_module

_MODULES = {
    "ExportError": "errors",
    "OnnxSource": "sources",
    "TorchSource": "sources",
    "calibrate": "calibration",
    "check": "checks",
    "export_attributes": "bundles",
    "export_quantized": "quantize",
    "export_similarity": "bundles",
    "load_checkpoint": "checkpoints",
    "load_conditions": "inputs",
    "load_module": "sources",
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
