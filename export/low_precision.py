"""Make int8 and fp16 graphs from an fp32 graph, with onnxruntime.quantization."""

import dataclasses
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationMethod, QuantType, TensorsData
from onnxruntime.transformers.float16 import convert_float_to_float16

from export import onnx_files
from export.errors import ExportError, root_cause
from export.runtime import silence

LEAST_OPSET = 13
"""The lowest opset that has int8 weights with a scale per channel."""
LINEAR = ("Conv", "Gemm", "MatMul")
CONVOLUTIONAL = (*LINEAR, "Add", "Relu", "Clip", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
TRANSFORMER_SIGNS = {"LayerNormalization", "Softmax", "Attention", "MultiHeadAttention"}
SENSITIVE = {*LINEAR, "Add", "Concat"}
"""Operators that can each be left in fp32; the others follow the operators before them."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What to quantize, and how. activations: their type; operators: those that are quantized

    options: by their names in onnxruntime.quantization
    """

    activations: QuantType
    operators: tuple[str, ...]
    options: dict[str, Any]


class Quantizer:
    """Makes int8 versions of an fp32 graph, whose value ranges are measured once on `batches`.

    gpu: make symmetric int8 around the inputs of convolutions and matrix products only, as TensorRT takes it. Otherwise
    activations are uint8 through whole blocks of a convolutional network, as ONNX Runtime's CPU kernels take them; of a
    transformer only the inputs of matrix products are quantized, because the rest loses much in int8 and gains little.
    """

    def __init__(self, graph: Path, batches: Iterable[np.ndarray], gpu: bool) -> None:
        self._model = _prepare(graph)
        operators = {node.op_type for node in self._model.graph.node}
        self._recipe = _recipe(gpu, whole_blocks=not gpu and not operators & TRANSFORMER_SIGNS)
        # the last node stays in fp32: the embedding must not be rounded to 255 values
        (output,) = self._model.graph.output
        self._last = [node.name for node in self._model.graph.node if output.name in node.output]
        self._ranges = _measure_ranges(self._model, self._recipe, batches)

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

    def quantized(self, only: list[str] | None = None, kept: Iterable[str] = ()) -> onnx.ModelProto:
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
                    only or [],
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


def to_fp16(graph: Path) -> onnx.ModelProto:
    """Return the graph in fp16, with float32 input and output; raises ExportError."""
    try:
        with silence():
            result: onnx.ModelProto = convert_float_to_float16(onnx.load(graph), keep_io_types=True)
    except Exception as error:  # as above
        raise ExportError(f"the graph cannot be converted to fp16: {root_cause(error)}") from error
    del result.graph.value_info[:]
    onnx_files.strip(result)
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


def _prepare(graph: Path) -> onnx.ModelProto:
    """Return the graph with shapes inferred and constants folded, at an opset that has int8 per channel."""
    try:
        model = onnx.load(graph)
        if onnx_files.opset(model) < LEAST_OPSET:
            model = onnx.version_converter.convert_version(model, LEAST_OPSET)
        with tempfile.TemporaryDirectory() as folder, silence():
            whole, prepared = Path(folder) / "whole.onnx", Path(folder) / "prepared.onnx"
            onnx.save(model, whole)
            quantization.quant_pre_process(whole, prepared, skip_symbolic_shape=True)
            return onnx.load(prepared)
    except Exception as error:  # neither onnx nor onnxruntime.quantization has an error class of its own
        raise ExportError(f"{graph.name} cannot be prepared for quantization: {root_cause(error)}") from error


def _measure_ranges(model: onnx.ModelProto, recipe: Recipe, batches: Iterable[np.ndarray]) -> TensorsData:
    """Return the smallest and largest value of every tensor. They are computed inside the graph: no activation is kept."""
    try:
        with tempfile.TemporaryDirectory() as folder, silence():
            path = Path(folder) / "prepared.onnx"
            onnx.save(model, path)
            calibrator = quantization.create_calibrator(
                path, list(recipe.operators), str(Path(folder) / "augmented.onnx"), CalibrationMethod.MinMax
            )
            calibrator.collect_data(_Reader(model.graph.input[0].name, batches))
            return calibrator.compute_data()
    except ExportError:
        raise
    except Exception as error:  # as above
        raise ExportError(f"the value ranges of the graph cannot be measured: {root_cause(error)}") from error


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, name: str, batches: Iterable[np.ndarray]) -> None:
        self._name, self._batches = name, iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}
