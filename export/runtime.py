"""ONNX Runtime on the CPU, for comparing graphs while they are made; bundles are run by engine.session."""

from typing import Any

import numpy as np
import onnxruntime as ort

from export.errors import ExportError, first_line


class Runner:
    """Runs one graph with one input, silently; raises ExportError in ONNX Runtime's own words where that fails."""

    def __init__(self, graph: bytes) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own classes, which share no base with a name
            raise ExportError(first_line(error)) from error

    def run(self, pictures: np.ndarray) -> list[Any]:
        """All outputs for (n, ...) float32 as the graph takes it."""
        try:
            return self._session.run(None, {self._session.get_inputs()[0].name: pictures})
        except Exception as error:  # as above
            raise ExportError(first_line(error)) from error
