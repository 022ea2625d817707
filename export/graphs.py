"""Make the graph of a source, and verify on real pictures that it computes what the source computes."""

import dataclasses

import numpy as np
import onnx

from engine.pictures.preprocessing import Preprocessing
from export import onnx_files
from export.demo_pictures import demo_pictures
from export.errors import ExportError
from export.runtime import runner_of
from export.sources import Source

EXPORT_TOLERANCE = 1e-4
"""Largest difference between a graph and its source, relative to the largest entry."""
HALF_TOLERANCE = 2e-2
"""The same for a source that computes in half precision: its graph does not."""
PROBABILITY_TOLERANCE = 1e-3
"""Numbers of a row that are positive and sum to 1 to within this are taken for probabilities."""


@dataclasses.dataclass(frozen=True)
class ExportedGraph:
    """A verified graph. input, output: names; shape: of one picture's result, (D,) or (A, h, w)"""

    model: onnx.ModelProto
    opset: int
    input: str
    output: str
    shape: tuple[int, ...]

    @property
    def content(self) -> bytes:
        """The content of its file; raises ExportError if the graph is too large for one."""
        return onnx_files.serialised(self.model)


def make(source: Source, preprocessing: Preprocessing, output: str, wanted: tuple[int | None, ...]) -> ExportedGraph:
    """Return the graph of `source` for any batch; raises ExportError unless both agree on the demo pictures.

    output: the name of the result in the graph and in messages: embedding or maps
    wanted: the shape of one picture's result, None for any size
    """
    pictures = preprocessing.normalised(demo_pictures(preprocessing))
    expected = source.results(pictures)
    _check_shape(source, output, expected.shape[1:], wanted)
    if not np.isfinite(expected).all():
        raise ExportError(
            f"some numbers of the model's {output} are not finite; check the model's weights and the preprocessing"
        )
    if len(wanted) == 1 and not source.confident:
        _check_embedding(source, expected)
    model = source.graph(pictures, output)
    fault = _fault(model, pictures, expected, HALF_TOLERANCE if source.halves else EXPORT_TOLERANCE)
    if fault:
        raise ExportError(
            f"the exported graph does not give what its source gives: {fault}; {source.explain_fault(model, pictures)}"
        )
    onnx_files.declare(model.graph.input[0], pictures.shape[1:])
    onnx_files.strip(model)
    names = (model.graph.input[0].name, model.graph.output[0].name)
    return ExportedGraph(model, onnx_files.opset(model), *names, expected.shape[1:])


def _check_shape(source: Source, output: str, got: tuple[int, ...], wanted: tuple[int | None, ...]) -> None:
    if len(got) == len(wanted) and all(w in (None, g) for g, w in zip(got, wanted, strict=True)):
        return
    sizes = ", ".join("any" if w is None else str(w) for w in wanted)
    remedy = source.suggestion() if len(wanted) == 1 else "correct the list of names, or the model"
    if len(wanted) == 1 and len(got) == 2:
        remedy = f"--pool cls or --pool mean makes one vector of tokens (batch, T, D); or {remedy}"
    elif len(wanted) == 1 and len(got) == 3:
        remedy = f"--pool mean makes one vector of maps; or {remedy}"
    raise ExportError(
        f"the {output} must be (batch, {sizes}), but the model gives (batch, {', '.join(map(str, got))}): {remedy}"
    )


def _check_embedding(source: Source, expected: np.ndarray) -> None:
    """Raise ExportError if embeddings (n, D) float32 look like scores of classes."""
    sums = expected.astype(np.float64).sum(1), np.exp(np.minimum(expected, 0).astype(np.float64)).sum(1)
    close = [np.abs(total - 1).max() <= PROBABILITY_TOLERANCE for total in sums]
    if expected.shape[1] <= 2:
        count = "one number" if expected.shape[1] == 1 else "two numbers"
        why = f"the model gives {count} per picture, as a classifier of two classes does"
    elif (close[0] and expected.min() >= 0) or (close[1] and expected.max() <= 0):
        why = "the numbers that the model gives are probabilities of classes, as after a softmax"
    else:
        return
    raise ExportError(
        f"{why}, not an embedding: {source.suggestion()}; or take them for one all the same with --yes-embedding"
    )


def _fault(model: onnx.ModelProto, pictures: np.ndarray, expected: np.ndarray, tolerance: float) -> str:
    """Say how the graph's results for one batch of all pictures differ from the expected ones; empty if they do not."""
    # the runtime plans its memory by recorded sizes, so those that an exporter recorded for batch 1 must not reach it
    del model.graph.value_info[:]
    onnx_files.declare(model.graph.output[0], expected.shape[1:])
    try:
        (got,) = runner_of(model).run(pictures)
    except ExportError as error:
        return str(error)
    if got.shape != expected.shape:
        return f"its result is {got.shape} instead of {expected.shape}"
    limit = tolerance * float(np.abs(expected).max())
    off = float(np.abs(got - expected).max())
    return "" if off <= limit else f"it is off by {off:.2g}, more than {limit:.2g}"
