"""Make the graph of a source, and verify on real pictures that it computes what the source computes."""

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
"""Largest difference between a graph and its source, relative to the largest entry."""


@dataclasses.dataclass(frozen=True)
class ExportedGraph:
    """A verified graph. content: its file; input, output: names; shape: of one picture's result, (D,) or (A, h, w)"""

    content: bytes
    opset: int
    input: str
    output: str
    shape: tuple[int, ...]


def make(source: Source, preprocessing: Preprocessing, output: str, wanted: tuple[int | None, ...]) -> ExportedGraph:
    """Return the graph of `source` for any batch; raises ExportError unless both agree on the demo pictures.

    output: the name of the result in the graph and in messages: embedding or maps
    wanted: the shape of one picture's result, None for any size
    """
    pictures = preprocessing.normalised(demo_pictures(preprocessing))
    expected = source.results(pictures)
    _check_shape(output, expected.shape[1:], wanted)
    if not np.isfinite(expected).all():
        raise ExportError(
            f"some numbers of the model's {output} are not finite; check the model's weights and the preprocessing"
        )
    model = source.graph(pictures, output)
    fault = _fault(model, pictures, expected)
    if fault:
        raise ExportError(
            f"the exported graph does not give what its source gives: {fault}; {source.explain_fault(model, pictures)}"
        )
    del model.graph.value_info[:]
    onnx_files.declare(model.graph.input[0], pictures.shape[1:])
    onnx_files.declare(model.graph.output[0], expected.shape[1:])
    onnx_files.strip(model)
    names = (model.graph.input[0].name, model.graph.output[0].name)
    return ExportedGraph(onnx_files.serialised(model), onnx_files.opset(model), *names, expected.shape[1:])


def demo_pictures(preprocessing: Preprocessing) -> np.ndarray:
    """Return the demo pictures of the package as the network sees them: (n, H, W, 3) uint8."""
    folder = Path(str(resources.files("engine") / "data" / "pictures"))
    paths = sorted(folder.glob("*.png"))
    if len(paths) < 2:
        raise OptionError(f"{folder} holds no pictures to compare graphs on; install sane-engine again")
    return np.stack([preprocessing.fitted(load_picture(path))[0] for path in paths])


def _check_shape(output: str, got: tuple[int, ...], wanted: tuple[int | None, ...]) -> None:
    if len(got) != len(wanted) or any(w not in (None, g) for g, w in zip(got, wanted, strict=True)):
        sizes = ", ".join("any" if w is None else str(w) for w in wanted)
        raise ExportError(f"the {output} must be (batch, {sizes}), but the model gives (batch, {', '.join(map(str, got))})")


def _fault(model: onnx.ModelProto, pictures: np.ndarray, expected: np.ndarray) -> str:
    """Say how the graph's results for one batch of all pictures differ from the expected ones; empty if they do not."""
    # the runtime plans its memory by recorded sizes, so those that an exporter recorded for batch 1 must not reach it
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
