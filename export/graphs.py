"""Makes the graph of a source and proves, on real pictures, that it computes what the source computes."""

import dataclasses
from importlib import resources
from pathlib import Path

import numpy as np
import onnx

from engine.errors import OptionError
from engine.pictures.loading import load_picture
from engine.pictures.preprocessing import Preprocessing
from export import onnx_files
from export.errors import ExportError
from export.runtime import ModelRunner
from export.sources import Source

EXPORT_TOLERANCE = 1e-4
"""Largest difference between a graph and its source, in parts of the largest entry."""


@dataclasses.dataclass(frozen=True)
class ExportedGraph:
    """A verified graph. shape: of one picture's result, (D,) or (A, h, w)."""

    content: bytes
    opset: int
    input: str
    output: str
    shape: tuple[int, ...]


def make(source: Source, preprocessing: Preprocessing, output: str, wanted: tuple[int | None, ...]) -> ExportedGraph:
    """The graph of `source` for any batch; raises ExportError unless it agrees with it on the demo pictures.

    output: what the result is called, in the graph and in messages: embedding or maps
    wanted: shape of one picture's result, None where any size will do
    """
    pictures = preprocessing.normalised(demo_pictures(preprocessing))
    expected = source.results(pictures)
    _check_shape(output, expected.shape[1:], wanted)
    if not np.isfinite(expected).all():
        raise ExportError(f"the model's {output} is not finite everywhere; check its weights and the preprocessing")
    model = source.graph(pictures, output)
    fault = _fault(model, pictures, expected)
    if fault:
        raise ExportError(
            f"the exported graph does not give what its source gives: {fault}; {source.fault(model, pictures)}"
        )
    del model.graph.value_info[:]
    onnx_files.declare(model.graph.input[0], pictures.shape[1:])
    onnx_files.declare(model.graph.output[0], expected.shape[1:])
    onnx_files.strip(model)
    names = (model.graph.input[0].name, model.graph.output[0].name)
    return ExportedGraph(onnx_files.serialised(model), onnx_files.opset(model), *names, expected.shape[1:])


def demo_pictures(preprocessing: Preprocessing) -> np.ndarray:
    """The pictures that the package carries, as the network sees them: (n, H, W, 3) uint8."""
    folder = Path(str(resources.files("engine") / "data" / "pictures"))
    paths = sorted(folder.glob("*.png"))
    if len(paths) < 2:
        raise OptionError(f"{folder} holds no pictures to compare graphs on; install the package anew")
    return np.stack([preprocessing.fitted(load_picture(path))[0] for path in paths])


def _check_shape(output: str, got: tuple[int, ...], wanted: tuple[int | None, ...]) -> None:
    if len(got) != len(wanted) or any(w not in (None, g) for g, w in zip(got, wanted, strict=True)):
        sizes = ", ".join("any" if w is None else str(w) for w in wanted)
        raise ExportError(f"the {output} must be (batch, {sizes}), the model gives (batch, {', '.join(map(str, got))})")


def _fault(model: onnx.ModelProto, pictures: np.ndarray, expected: np.ndarray) -> str:
    """How the graph departs from the expected results for one batch of all pictures; empty where it does not."""
    # sizes that an exporter recorded for batch 1 must not reach the runtime, which plans its memory by them
    clean = onnx.ModelProto()
    clean.CopyFrom(model)
    del clean.graph.value_info[:]
    onnx_files.declare(clean.graph.output[0], expected.shape[1:])
    try:
        (got,) = ModelRunner(onnx_files.serialised(clean)).run(pictures)
    except ExportError as error:
        return str(error)
    if got.shape != expected.shape:
        return f"its result is {got.shape} instead of {expected.shape}"
    limit = EXPORT_TOLERANCE * float(np.abs(expected).max())
    off = float(np.abs(got - expected).max())
    return "" if off <= limit else f"it is off by {off:.2g}, more than {limit:.2g}"
