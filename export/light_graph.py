"""A graph apart from its weights: reading and changing its structure then copies no weights, however large they are."""

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from export import onnx_files
from export.errors import ExportError, root_cause

LARGE = 2**16
"""Least bytes of a constant that becomes an input of the light graph."""
BATCHES = (2, 3)
LARGEST_KNOWN = 64
"""Most entries of a tensor whose value is recorded: these are shapes, indices and scales."""
Shapes = dict[str, tuple[int | None, ...]]


@dataclasses.dataclass(frozen=True)
class LightGraph:
    """model: a graph whose large constants are inputs, after its own ones; weights: the values of those by name"""

    model: onnx.ModelProto
    weights: dict[str, np.ndarray]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> "LightGraph":
        """Split a model, which stays as it is. Nodes named Constant become constants of the graph."""
        given, light = model.graph, onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
        light.opset_import.extend(model.opset_import)
        light.functions.extend(model.functions)
        graph = light.graph
        graph.name = given.name
        graph.input.extend(given.input)
        graph.output.extend(given.output)
        graph.node.extend(node for node in given.node if node.op_type != "Constant")
        constants = [_tensor_of(node) for node in given.node if node.op_type == "Constant"]
        weights = {}
        for tensor in (*given.initializer, *constants):
            if tensor.ByteSize() < LARGE:
                graph.initializer.append(tensor)
                continue
            weights[tensor.name] = numpy_helper.to_array(tensor)
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        return cls(light, weights)

    def whole(self) -> onnx.ModelProto:
        """Return the model with its weights inside."""
        model = self._bare()
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self.weights.items())
        return model

    def write(self, path: Path) -> None:
        """Write the model as `onnx_files.write_model` does; weights that lie beside the graph are not copied for that."""
        if sum(array.nbytes for array in self.weights.values()) <= onnx_files.LARGEST_WEIGHTS:
            onnx_files.write_model(self.whole(), path)
            return
        model = self._bare()
        with onnx_files.weights_beside(path) as append:
            for name, array in self.weights.items():
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                tensor = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
                model.graph.initializer.append(onnx_files.stub(tensor, append(np.ascontiguousarray(array).data)))
        path.write_bytes(onnx_files.serialised(model))

    def _bare(self) -> onnx.ModelProto:
        """Return a copy of the graph in which the weights are no inputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        inputs = [value for value in model.graph.input if value.name not in self.weights]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        return model

    def referring(self, places: Mapping[str, dict[str, int | str]]) -> onnx.ModelProto:
        """Return the model with its constants inside, except for those whose content lies elsewhere.

        places: by a constant's name, where it lies, as `onnx_files.stub` takes it
        """
        model = self._bare()
        inside = list(model.graph.initializer)
        del model.graph.initializer[:]
        model.graph.initializer.extend(
            onnx_files.stub(tensor, places[tensor.name]) if tensor.name in places else tensor for tensor in inside
        )
        for name, array in self.weights.items():
            if name in places:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                tensor = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
                model.graph.initializer.append(onnx_files.stub(tensor, places[name]))
            else:
                model.graph.initializer.append(numpy_helper.from_array(array, name))
        return model

    def runner(self) -> "LightRunner":
        """Return what runs the graph."""
        return LightRunner(self.model.SerializeToString(), self.weights)

    def active(self) -> set[str]:
        """Return the names of the tensors whose values depend on the first input's values; its sizes do not count."""
        found = {self.model.graph.input[0].name}
        for node in self.model.graph.node:
            branches = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
            if branches or (node.op_type not in ("Shape", "Size") and found & set(node.input)):
                found |= set(node.output)
        return found

    def simplified(self) -> "LightGraph":
        """Return the graph after ONNX Runtime's basic changes, which replace functions and branches. Raises ExportError."""
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC  # standard operators alone
        options.log_severity_level = 4
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "simple.onnx"
            options.optimized_model_filepath = str(path)
            try:
                # weights that are inputs lead this one astray: it moves transposes across a resize, which then cannot run
                astray, graph = ["TransposeOptimizer"], self.model.SerializeToString()
                ort.InferenceSession(graph, options, ["CPUExecutionProvider"], disabled_optimizers=astray)
                simple = LightGraph.of(onnx.load(path))
            except Exception as error:  # ONNX Runtime's error classes have no common base class
                raise ExportError(root_cause(error)) from error
        return LightGraph(simple.model, {**self.weights, **simple.weights})

    def at_opset(self, version: int) -> "LightGraph":
        """Return a copy with the standard operators of this version, and with the same weights. Raises ExportError."""
        if onnx_files.opset(self.model) == version:
            copy = onnx.ModelProto()
            copy.CopyFrom(self.model)
            return LightGraph(copy, self.weights)
        try:
            return LightGraph(onnx.version_converter.convert_version(self.model, version), self.weights)
        except Exception as error:  # onnx has no error of its own
            raise ExportError(f"it cannot be brought to opset {version}: {root_cause(error)}") from error

    def probed(self) -> tuple[Shapes, dict[str, np.ndarray]]:
        """Return the shapes of all tensors, None for a size that follows the batch, and the values of known ones.

        Known are constants, and small tensors that follow neither the picture nor the batch. The graph is run on batches of
        two sizes: the shapes that an exporter recorded may be symbolic, or wrong. Raises ExportError.
        """
        names = list(dict.fromkeys(name for node in self.model.graph.node for name in node.output if name))
        types = self._with_outputs(names).output_types
        names = [name for name in names if types[name].startswith("tensor(")]
        inactive = [name for name in names if name not in self.active()]
        # sizes instead of values: the runtime then frees each tensor after its last use
        sizes = {name: f"{name}/size for the gradient" for name in names}
        shape_nodes = [helper.make_node("Shape", [name], [size]) for name, size in sizes.items()]
        runner = self._with_outputs([*sizes.values(), *inactive], shape_nodes)
        known = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer} | self.weights
        shapes: Shapes = {name: array.shape for name, array in known.items()}
        examples = [self._example(batch) for batch in BATCHES]
        few, many = (runner.run(example) for example in examples)
        for name, size in sizes.items():
            shapes[name] = _common(few[size], many[size])
        for name in examples[0]:
            shapes[name] = _common(*(example[name].shape for example in examples))
        for name in inactive:
            if few[name].size <= LARGEST_KNOWN and np.array_equal(few[name], many[name]):
                known[name] = few[name]
        return shapes, known

    def values(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return what these tensors are for a batch of random pictures. Raises ExportError."""
        return self._with_outputs(names).run(self._example(BATCHES[0]))

    def _with_outputs(self, names: Sequence[str], more: Sequence[onnx.NodeProto] = ()) -> "LightRunner":
        """Return what runs the graph with more nodes and with these outputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        model.graph.node.extend(more)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        return LightRunner(model.SerializeToString(), self.weights)

    def _example(self, batch: int) -> dict[str, np.ndarray]:
        """Return random values for every input but the weights."""
        random = np.random.default_rng(0)
        given = [value for value in self.model.graph.input if value.name not in self.weights]
        sizes = [[d.dim_value or batch for d in value.type.tensor_type.shape.dim] for value in given]
        return {v.name: random.normal(size=size).astype(np.float32) for v, size in zip(given, sizes, strict=True)}


class LightRunner:
    """Runs a light graph in ONNX Runtime on the CPU, on the weights where they lie. Raises ExportError if that fails.

    The graph runs as it is: weights that are inputs lead the runtime's changes astray.
    """

    def __init__(self, graph: bytes, weights: dict[str, np.ndarray]) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False  # it keeps what the largest run needed
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # tensors are freed as early as possible
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's error classes have no common base class
            raise ExportError(root_cause(error)) from error
        self._weights = weights

    @property
    def output_types(self) -> dict[str, str]:
        """The type of each output in ONNX Runtime's words, such as tensor(float)."""
        return {output.name: output.type for output in self._session.get_outputs()}

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return all outputs by name. feeds: every input but the weights"""
        try:
            found = self._session.run(None, {**self._weights, **feeds})
        except Exception as error:  # as above
            raise ExportError(root_cause(error)) from error
        return dict(zip(self.output_types, found, strict=True))


def _common(few: Iterable[int], many: Iterable[int]) -> tuple[int | None, ...]:
    return tuple(int(a) if a == b else None for a, b in zip(few, many, strict=True))


def _tensor_of(node: onnx.NodeProto) -> onnx.TensorProto:
    """Return what a node Constant holds."""
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    kind = np.int64 if attribute.name in ("value_int", "value_ints") else np.float32
    return numpy_helper.from_array(np.asarray(value, kind), node.output[0])
