"""ONNX Runtime on the CPU, to compare graphs while they are made; engine.runtime.session runs bundles."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime as ort

from export.errors import ExportError, root_cause


class ModelRunner:
    """Runs one graph silently. Raises ExportError with ONNX Runtime's own message if that fails.

    optimised: let the runtime rewrite the graph; without that, the graph loads faster and runs slower
    """

    def __init__(self, graph: bytes, optimised: bool = True) -> None:
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
