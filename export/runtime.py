"""ONNX Runtime on the CPU, to compare graphs while they are made; engine.runtime.session runs bundles."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from export import onnx_files
from export.errors import ExportError, root_cause

LARGEST_IN_MEMORY = 2**26
"""Most bytes of weights that are handed to ONNX Runtime in memory, where three copies of them meet."""


class ModelRunner:
    """Runs one graph silently. Raises ExportError with ONNX Runtime's own message if that fails.

    graph: the content of its file, or the file's path
    optimised: let the runtime rewrite the graph; without that, the graph loads faster and runs slower
    """

    def __init__(self, graph: bytes | str, optimised: bool = True) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if not optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's error classes have no common base class
            raise ExportError(root_cause(error)) from error

    def run(self, pictures: np.ndarray) -> list[Any]:
        """Return all outputs of a graph with one input, for `pictures` (n, ...) float32 as the graph takes them."""
        return self.run_all({self._session.get_inputs()[0].name: pictures})

    def run_all(self, feeds: dict[str, np.ndarray]) -> list[Any]:
        """Return all outputs. feeds: every input by its name"""
        try:
            return self._session.run(None, feeds)
        except Exception as error:  # as above
            raise ExportError(root_cause(error)) from error


def runner_of(model: onnx.ModelProto) -> ModelRunner:
    """Return a runner of a graph of any size. Large ones pass through a file, of which ONNX Runtime makes no copies."""
    if onnx_files.weight_bytes(model) <= LARGEST_IN_MEMORY:
        return ModelRunner(onnx_files.serialised(model))
    with tempfile.TemporaryDirectory() as folder:  # the session reads the weights while it is made
        path = Path(folder) / "model.onnx"
        onnx_files.write_model(model, path, LARGEST_IN_MEMORY)
        return ModelRunner(str(path))


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Suppress log lines, warnings and prints: a fault of an export raises an error, or shows in the comparison later."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
