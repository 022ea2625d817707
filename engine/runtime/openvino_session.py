"""One graph on OpenVINO, used like `engine.runtime.session.Session`. Imported only if that provider is asked for."""

from pathlib import Path

import numpy as np

from engine.errors import BundleError, ProviderError, first_line
from engine.protocol import GraphSignature, Renderer
from engine.runtime.host_stage import HostStage

try:
    import openvino
except ImportError as error:
    raise ProviderError(
        "provider 'openvino' was asked for, but the package openvino is not installed; pip install 'sane-engine[openvino]'"
    ) from error

HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}
"""By precision: what OpenVINO computes in, except in int8 nodes. Without a hint it takes bf16 if the processor has it."""


class OpenVinoSession:
    """Run one graph with one input and one output; threads may share it.

    precision: fp32; int8 for an int8 graph; bf16 for an fp32 graph; threads: None for all cores
    Raises BundleError if the graph does not load or its input or output differs from `signature`, ProviderError if OpenVINO
    cannot run this precision here.
    """

    def __init__(
        self,
        path: Path,
        precision: str,
        threads: int | None,
        signature: GraphSignature,
    ) -> None:
        self.path = path
        core = openvino.Core()
        hint = HINTS.get(precision)
        if hint is None or (hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
            raise ProviderError(f"OpenVINO cannot run {precision} on this processor; ask for another precision")
        options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads or 0}
        try:
            self._model = core.compile_model(str(path), "CPU", options)
            self._input, self._output = self._model.input(signature.input), self._model.output(signature.output)
            one = len(self._model.inputs) == len(self._model.outputs) == 1
        except Exception as error:  # OpenVINO raises plain RuntimeErrors
            raise BundleError(f"OpenVINO cannot load {path}: {first_line(error)}") from error
        for node, shape in ((self._input, signature.input_shape), (self._output, signature.output_shape)):
            if not one or not _fits(node.partial_shape, shape) or node.element_type != openvino.Type.f32:
                raise BundleError(
                    f"{path} does not have the one input and output that the manifest promises, but {node}; "
                    "export the bundle again"
                )
        got = self._model.get_property("INFERENCE_PRECISION_HINT").to_string()
        if got not in (hint, {"f32": "float", "bf16": "bfloat16"}[hint]):
            raise ProviderError(f"OpenVINO was asked to compute in {hint}, but chose {got}; ask for another precision")

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) float32 as the network takes it -> (B, ...) float32. Raises BundleError if the result is not finite."""
        try:
            # a request of its own, so that threads can run at the same time
            output = self._model.create_infer_request().infer({self._input: batch})[self._output].copy()
        except Exception as error:  # as above
            raise BundleError(f"OpenVINO cannot run {self.path}: {first_line(error)}") from error
        if not np.isfinite(output).all():
            raise BundleError(f"{self.path} gives numbers that are not finite for this picture")
        return output

    def stage(
        self, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool, batch: int
    ) -> HostStage:
        """See `engine.protocol.Runner`."""
        return HostStage(self, renderer, image, baseline, channels_last, batch)


def _fits(got: "openvino.PartialShape", wanted: tuple[int | None, ...]) -> bool:
    """Whether the shape is a dynamic batch, then these sizes (None: any size)."""
    sizes = [None if d.is_dynamic else d.get_length() for d in got]
    same = [w is None or g is None or g == w for g, w in zip(sizes[1:], wanted, strict=False)]
    return len(sizes) == len(wanted) + 1 and sizes[0] is None and all(same)
