"""One graph on OpenVINO, used like `engine.runtime.session.Session`. Imported only if that provider may run."""

import functools
import os
import sys
from pathlib import Path

import numpy as np

from engine.errors import BundleError, ProviderError, first_line
from engine.protocol import GraphSignature, Renderer
from engine.runtime.forks import Threaded
from engine.runtime.host_stage import HostStage
from engine.runtime.token_tail import KEPT_INPUT, TOKENS_INPUT, require_token_inputs

TELEMETRY = "openvino_telemetry"
_before = {name: module for name, module in sys.modules.items() if name == TELEMETRY}
sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # OpenVINO then sends nothing: its import alone would tell its makers
try:
    import openvino
except ImportError as error:
    raise ProviderError(
        "provider 'openvino' was asked for, but the package openvino is not installed; pip install 'sane-engine[openvino]'"
    ) from error
finally:
    del sys.modules[TELEMETRY]
    sys.modules.update(_before)

HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}
"""By precision: what OpenVINO computes in, except in int8 nodes. Without a hint it takes bf16 if the processor has it."""
TYPE_NAMES = {"f32": "tensor(float)", "i64": "tensor(int64)"}
"""Types of inputs in ONNX Runtime's words."""


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
        model = compiled(path, precision, threads)
        self._model = Threaded(model)
        try:
            input_, output = model.input(signature.input), model.output(signature.output)
            one = len(model.inputs) == len(model.outputs) == 1
        except Exception as error:  # OpenVINO raises plain RuntimeErrors
            raise BundleError(f"OpenVINO cannot load {path}: {first_line(error)}") from error
        for node, shape in ((input_, signature.input_shape), (output, signature.output_shape)):
            if not one or not _fits(node.partial_shape, shape) or node.element_type != openvino.Type.f32:
                raise BundleError(
                    f"{path} does not have the one input and output that the manifest promises, but {node}; "
                    "export the bundle again"
                )
        self._signature = signature

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) float32 as the network takes it -> (B, ...) float32. Raises BundleError if the result is not finite."""
        model, names = self._model.get(), self._signature
        try:
            # a request of its own, so that threads can run at the same time
            output = model.create_infer_request().infer({names.input: batch})[names.output].copy()
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


@functools.cache
def _core(process: int) -> "openvino.Core":
    """The one core of a process; a fork has its own. Where several are made and freed, OpenVINO crashes as Python ends."""
    return openvino.Core()


class OpenVinoTail:
    """The graph behind a transformer's tokens on OpenVINO. See `engine.runtime.token_tail.TokenTail`.

    precision: fp32; int8 for an int8 graph; bf16 for an fp32 graph
    Raises BundleError if the graph does not load, ProviderError if OpenVINO cannot run this precision here.
    """

    def __init__(self, path: Path, precision: str, threads: int | None, output: str) -> None:
        model = compiled(path, precision, threads)
        self._path, self._model, self._output = path, Threaded(model), output
        names = {i.any_name: TYPE_NAMES.get(i.element_type.get_type_name(), "") for i in model.inputs}
        require_token_inputs(path, names)

    def run(self, tokens: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Return the embeddings (N, E) float32. tokens: (T, D) float32; kept: (N, K) int64. Raises BundleError."""
        model = self._model.get()
        try:
            request = model.create_infer_request()
            return np.array(request.infer({TOKENS_INPUT: tokens, KEPT_INPUT: kept})[self._output])
        except Exception as error:  # OpenVINO raises plain RuntimeErrors
            raise BundleError(f"OpenVINO cannot run {self._path}: {first_line(error)}") from error


def compiled(path: Path, precision: str, threads: int | None) -> "openvino.CompiledModel":
    """Compile a graph for the CPU. Raises BundleError if it does not load, ProviderError without this precision."""
    core = _core(os.getpid())
    hint = HINTS.get(precision)
    if hint is None or (hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
        raise ProviderError(f"OpenVINO cannot run {precision} on this processor; ask for another precision")
    options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads or 0}
    try:
        model = core.compile_model(str(path), "CPU", options)
    except Exception as error:  # as above
        raise BundleError(f"OpenVINO cannot load {path}: {first_line(error)}") from error
    got = model.get_property("INFERENCE_PRECISION_HINT").to_string()
    if got not in (hint, {"f32": "float", "bf16": "bfloat16"}[hint]):
        raise ProviderError(f"OpenVINO was asked to compute in {hint}, but chose {got}; ask for another precision")
    return model


def _fits(got: "openvino.PartialShape", wanted: tuple[int | None, ...]) -> bool:
    """Whether the shape is a dynamic batch, then these sizes (None: any size)."""
    sizes = [None if d.is_dynamic else d.get_length() for d in got]
    same = [w is None or g is None or g == w for g, w in zip(sizes[1:], wanted, strict=False)]
    return len(sizes) == len(wanted) + 1 and sizes[0] is None and all(same)
