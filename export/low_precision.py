"""Make int8 and fp16 graphs from an fp32 graph, with onnxruntime.quantization."""

import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationMethod, QuantType, TensorsData
from onnxruntime.transformers.float16 import convert_float_to_float16

from export import onnx_files
from export.errors import ExportError, root_cause
from export.onnx_selection import sort_nodes
from export.runtime import silence

LEAST_OPSET = 13
"""The lowest opset that has int8 weights with a scale per channel."""
LINEAR = ("Conv", "Gemm", "MatMul")
CONVOLUTIONAL = (*LINEAR, "Add", "Relu", "Clip", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
TRANSFORMER_SIGNS = {"LayerNormalization", "Softmax", "Attention", "MultiHeadAttention"}
SENSITIVE = {*LINEAR, "Add", "Concat"}
"""Operators that can each be left in fp32; the others follow the operators before them."""
Feeds = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What to quantize, and how. activations: their type; operators: those that are quantized

    options: by their names in onnxruntime.quantization
    """

    activations: QuantType
    operators: tuple[str, ...]
    options: dict[str, Any]


class Quantizer:
    """Makes int8 versions of an fp32 graph.

    model: as `prepared` returns it; ranges: as `measured_ranges` returns them for this model
    gpu: make symmetric int8 around the inputs of convolutions and matrix products only, as TensorRT takes it. Otherwise
    activations are uint8 through whole blocks of a convolutional network, as ONNX Runtime's CPU kernels take them; of a
    transformer only the inputs of matrix products are quantized, because the rest loses much in int8 and gains little.
    """

    def __init__(self, model: onnx.ModelProto, ranges: TensorsData, gpu: bool) -> None:
        self._model, self._ranges = model, ranges
        self._recipe = _recipe(gpu, whole_blocks=not gpu and not is_transformer(model))
        # the last node stays in fp32: the embedding must not be rounded to 255 values
        (output,) = model.graph.output
        self._last = [node.name for node in model.graph.node if output.name in node.output]

    def candidates(self) -> list[str]:
        """Return the names of the quantized nodes that could each be left in fp32."""
        constants = {tensor.name for tensor in self._model.graph.initializer}
        return [
            node.name
            for node in self._model.graph.node
            if node.op_type in SENSITIVE & set(self._recipe.operators)
            and node.name not in self._last
            and (node.op_type != "MatMul" or node.input[1] in constants)
        ]

    def quantized(self, only: Sequence[str] | None = None, kept: Iterable[str] = ()) -> onnx.ModelProto:
        """Return the int8 graph; raises ExportError.

        only: the nodes to quantize, None for all; kept: nodes to leave in fp32
        """
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        try:
            with silence():
                quantizer = quantization.QDQQuantizer(
                    model,
                    True,  # per channel
                    False,  # weights in 8 bits, not 7
                    QuantType.QInt8,
                    self._recipe.activations,
                    self._ranges,
                    list(only or []),
                    [*self._last, *kept],
                    list(self._recipe.operators),
                    self._recipe.options,
                )
                quantizer.quantize_model()
        except Exception as error:  # onnxruntime.quantization has no error class of its own
            raise ExportError(f"onnxruntime.quantization cannot quantize the graph: {root_cause(error)}") from error
        result: onnx.ModelProto = quantizer.model.model
        onnx_files.strip(result)
        return result


def is_transformer(model: onnx.ModelProto) -> bool:
    """Tell whether the graph has nodes that transformers have and convolutional networks do not."""
    return any(node.op_type in TRANSFORMER_SIGNS for node in model.graph.node)


def to_fp16(graph: Path) -> onnx.ModelProto:
    """Return the graph in fp16, with float32 input and output; raises ExportError."""
    try:
        with silence():
            result: onnx.ModelProto = convert_float_to_float16(onnx.load(graph), keep_io_types=True)
    except Exception as error:  # as above
        raise ExportError(f"the graph cannot be converted to fp16: {root_cause(error)}") from error
    del result.graph.value_info[:]
    onnx_files.strip(result)
    sort_nodes(result.graph, graph)
    return result


def _recipe(gpu: bool, whole_blocks: bool) -> Recipe:
    options: dict[str, Any] = {"WeightSymmetric": True, "MatMulConstBOnly": True}
    if gpu:
        # for TensorRT: no zero points, a pair of nodes per consumer, floating-point biases
        options |= {"ActivationSymmetric": True, "DedicatedQDQPair": True, "QuantizeBias": False}
    if not whole_blocks:
        options["OpTypesToExcludeOutputQuantization"] = list(LINEAR)
    return Recipe(
        QuantType.QInt8 if gpu else QuantType.QUInt8,
        CONVOLUTIONAL if whole_blocks else LINEAR,
        options,
    )


def prepared(graph: Path) -> onnx.ModelProto:
    """Return the graph with shapes inferred and constants folded, at an opset that has int8 per channel.

    Raises ExportError.
    """
    try:
        model = onnx.load(graph)
        if onnx_files.opset(model) < LEAST_OPSET:
            model = onnx.version_converter.convert_version(model, LEAST_OPSET)
        with tempfile.TemporaryDirectory() as folder, silence():
            whole, result = Path(folder) / "whole.onnx", Path(folder) / "prepared.onnx"
            onnx.save(model, whole)
            quantization.quant_pre_process(whole, result, skip_symbolic_shape=True)
            return onnx.load(result)
    except Exception as error:  # neither onnx nor onnxruntime.quantization has an error class of its own
        raise ExportError(f"{graph.name} cannot be prepared for quantization: {root_cause(error)}") from error


def measured_ranges(model: onnx.ModelProto, batches: Iterable[np.ndarray | Feeds]) -> TensorsData:
    """Return the smallest and largest value of every tensor that a `Quantizer` may round.

    batches: (n, ...) float32, what the first input takes, or what all inputs take by their names
    They are computed inside the graph: no activation is kept. Raises ExportError.
    """
    operators = LINEAR if is_transformer(model) else CONVOLUTIONAL
    try:
        with tempfile.TemporaryDirectory() as folder, silence():
            path = Path(folder) / "prepared.onnx"
            onnx.save(model, path)
            calibrator = quantization.create_calibrator(
                path, list(operators), str(Path(folder) / "augmented.onnx"), CalibrationMethod.MinMax
            )
            calibrator.collect_data(_Reader(model.graph.input[0].name, batches))
            return calibrator.compute_data()
    except ExportError:
        raise
    except Exception as error:  # as above
        raise ExportError(f"the value ranges of the graph cannot be measured: {root_cause(error)}") from error


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, name: str, batches: Iterable[np.ndarray | Feeds]) -> None:
        self._name, self._batches = name, iter(batches)

    def get_next(self) -> Feeds | None:
        batch = next(self._batches, None)
        return {self._name: batch} if isinstance(batch, np.ndarray) else batch
