"""A graph's one input and one output bound to fixed memory by pointer: nothing is copied when it runs.

ONNX Runtime trusts such pointers, so all it could get wrong is checked here first. Device memory and a numpy array's go
through the same code.
"""

import math
from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from engine.errors import BundleError, first_line
from kernels.device import DeviceArray

ELEMENTS = {"tensor(float)": "float32", "tensor(float16)": "float16"}
"""ONNX Runtime's names of what a graph takes or gives, and ours."""


class BoundMemory:
    """inputs, outputs: memory of one batch each; memory: where it is, "cpu" or "cuda", and on which device

    options: of each run, as ONNX Runtime's run configuration takes them
    Raises BundleError where the memory is not what the graph takes or gives.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        inputs: DeviceArray,
        outputs: DeviceArray,
        memory: tuple[str, int],
        options: Mapping[str, str],
    ) -> None:
        (taken,), (given,) = session.get_inputs(), session.get_outputs()
        _require_fit("input", taken, inputs)
        _require_fit("output", given, outputs)
        if inputs.shape[0] != outputs.shape[0]:
            raise BundleError(f"memory for {inputs.shape[0]} pictures does not go with {outputs.shape[0]} embeddings")
        self._session, self._binding = session, session.io_binding()
        self._options = ort.RunOptions()
        for key, value in options.items():
            self._options.add_run_config_entry(key, value)
        for bind, node, array in ((self._binding.bind_input, taken, inputs), (self._binding.bind_output, given, outputs)):
            bind(node.name, *memory, np.dtype(array.dtype).type, array.shape, array.pointer)

    def run(self) -> None:
        """What the input's memory holds, through the network, to the output's. Raises BundleError where the run fails.

        On a device this may return before it is done.
        """
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # ONNX Runtime raises its own classes, which share no base with a name
            raise BundleError(f"ONNX Runtime cannot run the graph over bound memory: {first_line(error)}") from error


def element_of(node: ort.NodeArg) -> str:
    """What a graph's input or output consists of. Raises BundleError for anything but floating point."""
    if node.type not in ELEMENTS:
        raise BundleError(f"{node.name} is {node.type}; memory can be bound for {', '.join(ELEMENTS)}")
    return ELEMENTS[node.type]


def _require_fit(kind: str, node: ort.NodeArg, array: DeviceArray) -> None:
    wanted = element_of(node)
    sizes = list(node.shape or [])
    same = [not isinstance(size, int) or size == got for size, got in zip(sizes, array.shape, strict=False)]
    if array.dtype != wanted or len(sizes) != len(array.shape) or not all(same) or not math.prod(array.shape):
        raise BundleError(
            f"the graph's {kind} {node.name} is {wanted} {sizes}, the memory to bind is {array.dtype} {list(array.shape)}"
        )
    if not array.pointer:
        raise BundleError(f"the graph's {kind} {node.name} was to be bound to no memory at all")
