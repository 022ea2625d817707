"""Bind a graph's one input and one output to fixed memory by pointer, so that a run copies nothing.

ONNX Runtime trusts such pointers, so types and sizes are checked here first. The memory may be a GPU's or a numpy array's.
"""

import math
from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from engine.errors import BundleError, first_line
from kernels.device import DeviceArray


class BoundMemory:
    """A session whose input and output stay in the same memory.

    inputs, outputs: memory of one batch each, float32; memory: where it is: "cpu" or "cuda", and the device's number
    options: ONNX Runtime's run configuration, the same for every run
    Raises BundleError if type or shape of the memory do not fit the graph.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        inputs: DeviceArray,
        outputs: DeviceArray,
        memory: tuple[str, int],
        options: Mapping[str, str],
    ) -> None:
        (graph_input,), (graph_output,) = session.get_inputs(), session.get_outputs()
        _require_fit("input", graph_input, inputs)
        _require_fit("output", graph_output, outputs)
        if inputs.shape[0] != outputs.shape[0]:
            raise BundleError(
                f"input memory for {inputs.shape[0]} pictures and output memory for {outputs.shape[0]} embeddings: the two "
                "numbers must be equal"
            )
        self._session, self._binding = session, session.io_binding()
        self._options = ort.RunOptions()
        for key, value in options.items():
            self._options.add_run_config_entry(key, value)
        bind_input, bind_output = self._binding.bind_input, self._binding.bind_output
        for bind, node, array in ((bind_input, graph_input, inputs), (bind_output, graph_output, outputs)):
            bind(node.name, *memory, np.dtype(array.dtype).type, array.shape, array.pointer)

    def run(self) -> None:
        """Run the network from the input's memory to the output's. Raises BundleError if the run fails.

        On a GPU this may return before the run is finished.
        """
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # ONNX Runtime raises its own classes, which share no base with a name
            raise BundleError(f"ONNX Runtime cannot run the graph over bound memory: {first_line(error)}") from error


def _require_fit(kind: str, node: ort.NodeArg, array: DeviceArray) -> None:
    if node.type != "tensor(float)":
        raise BundleError(f"the graph's {kind} {node.name} is {node.type}; memory can be bound only for tensor(float)")
    sizes = list(node.shape or [])
    same = [not isinstance(size, int) or size == got for size, got in zip(sizes, array.shape, strict=False)]
    if array.dtype != "float32" or len(sizes) != len(array.shape) or not all(same) or not math.prod(array.shape):
        raise BundleError(
            f"the graph's {kind} {node.name} is float32 {sizes}, the memory to bind is {array.dtype} {list(array.shape)}"
        )
    if not array.pointer:
        raise BundleError(f"the memory to bind to the graph's {kind} {node.name} is a null pointer")
