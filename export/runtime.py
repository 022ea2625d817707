"""ONNX Runtime on the CPU, for comparing graphs while they are made; bundles are run by engine.runtime.session."""

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
    """Runs one graph, silently; raises ExportError in ONNX Runtime's own words where that fails.

    optimised: whether the runtime may rewrite the graph; without, it loads faster, and runs slower
    """

    def __init__(self, graph: bytes, optimised: bool = True) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if not optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own classes, which share no base with a name
            raise ExportError(root_cause(error)) from error

    def run(self, pictures: np.ndarray) -> list[Any]:
        """All outputs of a graph with one input for (n, ...) float32 as the graph takes it."""
        return self.run_all({self._session.get_inputs()[0].name: pictures})

    def run_all(self, feeds: dict[str, np.ndarray]) -> list[Any]:
        """All outputs, for every input by its name."""
        try:
            return self._session.run(None, feeds)
        except Exception as error:  # as above
            raise ExportError(root_cause(error)) from error


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No log lines, warnings or listings: what is wrong with an export is raised, or shows in the comparison after it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
