"""Make a graph of batch 1 take any batch.

The graph's shapes are compared at batches of 1 and 2, node by node: where a Reshape names sizes for one picture, the batch is
left open at the place where its numbers lie in memory; what was made once for one picture is made for each. The result is not
trusted: `graphs.make` compares a whole batch with the original graph, picture by picture.
"""

import math

import numpy as np
import onnx
import onnx_ir
from onnxscript.optimizer import fold_constants

from export.onnx_files import sizes_of, without_weights

SMALL_CONSTANT = 2**16
"""Most bytes of a tensor that is computed in advance: sizes, positions and class tokens are smaller."""
Shape = tuple[int, ...]


def with_constant_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph whose input has a fixed shape, in which sizes are constants instead of computed."""
    graph = onnx_ir.from_proto(model)
    fold_constants(graph, onnx_shape_inference=True, input_size_limit=SMALL_CONSTANT, output_size_limit=SMALL_CONSTANT)
    onnx_ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    onnx_ir.passes.common.RemoveUnusedNodesPass()(graph)
    return onnx_ir.to_proto(graph)


def with_open_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph of `with_constant_sizes`, declared with batch 1, that takes any batch if it can."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    result.graph.output[0].type.tensor_type.ClearField("shape")
    opening = _Opening(result, _shapes(model, 1))
    while opening.step(_shapes(result, 2)):
        pass
    result.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return result


class _Opening:
    """Opens the batch of a graph, in place, from its input on. one: the shapes of its tensors at batch 1"""

    def __init__(self, model: onnx.ModelProto, one: dict[str, Shape]) -> None:
        self._graph, self._one = model.graph, one
        self._constants = {t.name: t for t in model.graph.initializer}
        self._depends = _dependent(model.graph)
        self._made: set[str] = set()

    def step(self, two: dict[str, Shape]) -> bool:
        """Change the first nodes, on every way from the input, that do not take a batch of 2; say whether there were any.

        two: the shapes of the graph's tensors at batch 2, as far as they are known
        """
        nodes, doubtful, changed = [], set[str](), False
        for node in self._graph.node:
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            if doubtful.isdisjoint(node.input):
                before = self._open(copied, two)
                nodes += before
                if before or copied != node:
                    changed = True
                    doubtful |= set(node.output)
            else:
                doubtful |= set(node.output)
            nodes.append(copied)
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        return changed

    def _open(self, node: onnx.NodeProto, two: dict[str, Shape]) -> list[onnx.NodeProto]:
        """Change one node, if it must be; return the nodes that have to come before it."""
        if node.op_type == "Reshape" and node.input[1] in self._constants:
            self._open_reshape(node, two)
        elif node.op_type == "Concat":
            return self._open_concat(node, two)
        elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3] in self._constants:
            sizes = onnx.numpy_helper.to_array(self._constants[node.input[3]])
            if sizes[0] == 1:
                rest = self._constant(f"{node.output[0]}_any_batch/rest", sizes[1:])
                name, nodes = self._size()
                node.input[3] = f"{node.output[0]}_any_batch"
                joined = onnx.helper.make_node("Concat", [name, rest], [node.input[3]], name=node.input[3], axis=0)
                return [*nodes, joined]
        return []

    def _open_reshape(self, node: onnx.NodeProto, two: dict[str, Shape]) -> None:
        axis = self._batch_axis(node.input[0], two)
        target = self._one.get(node.output[0])
        if axis is None or target is None:
            return
        place = _place(self._one[node.input[0]], axis, target)
        if place is None or two.get(node.output[0]) == (*target[:place], 2 * target[place], *target[place + 1 :]):
            return
        opened = np.array([*target[:place], -1, *target[place + 1 :]], np.int64)
        node.input[1] = self._constant(f"{node.output[0]}_any_batch", opened)  # other nodes may share the old one
        for attribute in [a for a in node.attribute if a.name == "allowzero"]:
            node.attribute.remove(attribute)

    def _open_concat(self, node: onnx.NodeProto, two: dict[str, Shape]) -> list[onnx.NodeProto]:
        """Repeat what does not depend on the picture, such as class tokens, for each picture."""
        axis = next((a for a in (self._batch_axis(name, two) for name in node.input) if a is not None), None)
        nodes: list[onnx.NodeProto] = []
        for place, name in enumerate(node.input):
            shape = self._one.get(name)
            if axis is None or name in self._depends or shape is None or len(shape) <= axis or shape[axis] != 1:
                continue
            each = f"{name}_for_each"
            if each not in self._made:
                self._made.add(each)
                size, first = self._size()
                ones = [
                    self._constant(f"{each}/{i}", np.ones(n, np.int64)) for i, n in enumerate((axis, len(shape) - axis - 1))
                ]
                parts = [*ones[: min(axis, 1)], size, *ones[1:]]
                nodes += [
                    *first,
                    onnx.helper.make_node("Concat", parts, [f"{each}/shape"], name=f"{each}/shape", axis=0),
                    onnx.helper.make_node("Expand", [name, f"{each}/shape"], [each], name=each),
                ]
            node.input[place] = each
        return nodes

    def _batch_axis(self, name: str, two: dict[str, Shape]) -> int | None:
        """Return the axis in which a tensor is twice as large at batch 2; None if there is none, or it is not known."""
        one, double = self._one.get(name), two.get(name)
        if one is None or double is None or len(one) != len(double):
            return None
        axes = [axis for axis, (a, b) in enumerate(zip(one, double, strict=True)) if a != b]
        return axes[0] if len(axes) == 1 and double[axes[0]] == 2 * one[axes[0]] else None

    def _size(self) -> tuple[str, list[onnx.NodeProto]]:
        """Return the name of the batch's size (1,), and the nodes that compute it, at the first call."""
        shape, size = "any_batch/shape", "any_batch/size"
        if size in self._made:
            return size, []
        self._made.add(size)
        zero = self._constant("any_batch/zero", np.zeros(1, np.int64))
        make = onnx.helper.make_node
        return size, [
            make("Shape", [self._graph.input[0].name], [shape], name=shape),
            make("Gather", [shape, zero], [size], name=size),
        ]

    def _constant(self, name: str, values: np.ndarray) -> str:
        self._constants[name] = onnx.numpy_helper.from_array(values.astype(np.int64), name)
        self._graph.initializer.append(self._constants[name])
        return name


def _place(given: Shape, axis: int, target: Shape) -> int | None:
    """Return the axis of a Reshape's target in which the batch is, if it is the outer part of an axis of the input."""
    below = math.prod(given[axis:])  # numbers of one picture in one position of the axes before
    fitting = [place for place in range(len(target)) if math.prod(target[place:]) == below]
    single = [place for place in fitting if target[place] == 1]
    return axis if axis in single else next(iter(single or fitting), None)


def _shapes(model: onnx.ModelProto, batch: int) -> dict[str, Shape]:
    """Return the shapes of a graph's tensors at a batch, as far as they can be inferred."""
    light = without_weights(model)
    del light.graph.value_info[:]
    light.graph.output[0].type.tensor_type.ClearField("shape")
    light.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
    shapes = {value.name: sizes_of(value) for value in values}
    known = {name: tuple(s for s in shape if s is not None) for name, shape in shapes.items() if shape and None not in shape}
    return known | {t.name: tuple(t.dims) for t in model.graph.initializer}


def _dependent(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the tensors that depend on the picture, not only on its size."""
    depends = {graph.input[0].name}
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and depends & set(node.input):
            depends |= set(node.output)
    return depends
