"""What can be exported, a PyTorch module or an ONNX file, and what is known of the one that was chosen."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from engine.bundle.manifest import Conditions
from engine.pictures.preprocessing import Preprocessing
from export.hf import load_hf
from export.onnx_source import OnnxSource
from export.timm_source import load_timm
from export.torch_source import TorchSource, load_module

__all__ = ["ChosenModel", "OnnxSource", "Source", "TorchSource", "hf_model", "load_module", "timm_model"]

Source = TorchSource | OnnxSource


@dataclasses.dataclass(frozen=True)
class ChosenModel:
    """A model to export.

    source: gives its graph and results; conditions: that it holds itself
    preprocessing: returns what the model's own files say of it, or raises ExportError; None: they do not say
    origin: where its weights came from, for the manifest; note: one line for people on what is exported
    """

    source: Source
    conditions: Conditions | None = None
    preprocessing: Callable[[], Preprocessing] | None = None
    origin: str = ""
    note: str = ""


def hf_model(name: str, pool: str | None = None) -> ChosenModel:
    """Return a model of transformers, see `export.hf.load_hf`."""
    found = load_hf(name, pool if pool != "none" else None)
    note = f"took {found.taken} as the embedding{f', from {found.origin}' if found.origin else ''}"
    return ChosenModel(TorchSource(found.module, sure=True, own=True), None, found.preprocessing, found.origin, note)


def timm_model(name: str, weights: Path | None = None) -> ChosenModel:
    """Return a network of timm, see `export.timm_source.load_timm`."""
    found = load_timm(name, weights)
    origin = f", with the weights of {found.origin}" if found.origin else ""
    note = f"took {type(found.module).__name__} without its classifier as the embedding{origin}"
    return ChosenModel(TorchSource(found.module, sure=True, own=True), None, found.preprocessing, found.origin, note)
