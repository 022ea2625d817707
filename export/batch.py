"""Make a graph of batch 1 take any batch.

The graph's shapes are compared at batches of 1 and 2, node by node. Where a Reshape names sizes for one picture, the batch
is left open in the axis in which its numbers lie; what was made once for one picture is made for each. The result is not
trusted: `graphs.make` compares a whole batch with the original graph, picture by picture.
"""

import math
from collections.abc import Mapping

import numpy as np
import onnx

from export.onnx_files import sizes_of, without_weights
from export.onnx_selection import read_by
from export.runtime import runner_of

SMALL_CONSTANT = 2**16
"""Most bytes of a tensor that is computed in advance: sizes, positions and class tokens are smaller."""
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "Equal", "Less", "Greater", "And", "Or")
JOINING = ("Concat", "MatMul", *ELEMENTWISE)
"""Operators in which a constant for one picture can meet a tensor that follows the batch."""
Shape = tuple[int, ...]


def make_sizes_constant(model: onnx.ModelProto) -> None:
    """Make sizes and positions constants in a graph that is declared with batch 1 and fixed sizes, in place.

    What the picture's numbers do not reach is computed by running the graph once.
    """
    graph = model.graph
    depends, constants = _dependent(graph), {tensor.name for tensor in graph.initializer}
    sized = set[str]()  # tensors that depend on the sizes of others
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or not sized.isdisjoint(read_by(node)):
            sized |= set(node.output)
    read = {name for node in graph.node if depends & set(node.output) for name in read_by(node)}
    wanted = sorted(read - depends - constants)
    if not wanted:
        return
    output = graph.output[0].name
    del graph.output[:], graph.value_info[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    shape = [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim]
    found = zip(wanted, runner_of(model).run(np.zeros(shape, np.float32)), strict=True)
    values = {name: np.asarray(value) for name, value in found}
    values = {name: value for name, value in values.items() if name in sized or value.nbytes <= SMALL_CONSTANT}
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    needed, kept = {output}, []
    for node in reversed(graph.node):
        if needed & set(node.output) - set(values):
            needed |= read_by(node)
            kept.append(node)
    del graph.node[:], graph.output[:]
    graph.node.extend(reversed(kept))
    graph.output.add(name=output)


def with_open_batch(model: onnx.ModelProto, other: str = "") -> tuple[onnx.ModelProto, list[str]]:
    """Return a copy of a graph of `make_sizes_constant` that takes any batch, if that can be done.

    Returns the outputs of Reshape nodes too that leave it to a guess in which of two axes the batch is.
    other: such an output, for which the second guess is taken
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    result.graph.output[0].type.tensor_type.ClearField("shape")
    opening = _Opening(result, _shapes(model, 1), other)
    while opening.step(_shapes(result, 2, opening.at_two)):
        pass
    result.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return result, opening.guessed


class _Opening:
    """Opens the batch of a graph, in place, from its input on. one: the shapes of its tensors at batch 1

    guessed: the outputs of Reshape nodes for which there were two axes
    at_two: added tensors that depend on the batch's size alone, as they are at batch 2; those of many numbers have none
    """

    def __init__(self, model: onnx.ModelProto, one: dict[str, Shape], other: str) -> None:
        self._graph, self._one, self._other = model.graph, one, other
        self.guessed: list[str] = []
        self._constants = {t.name: t for t in model.graph.initializer}
        self._depends = _dependent(model.graph)
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._outer: dict[str, int] = {}
        self.at_two: dict[str, onnx.TensorProto] = {}
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
        elif node.op_type in JOINING:
            return self._repeat(node, two)
        elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3] in self._constants:
            sizes = onnx.numpy_helper.to_array(self._constants[node.input[3]])
            if sizes[0] == 1:
                rest = self._constant(f"{node.output[0]}_any_batch/rest", sizes[1:])
                name, nodes = self._size()
                node.input[3] = f"{node.output[0]}_any_batch"
                self.at_two[node.input[3]] = onnx.numpy_helper.from_array(np.array([2, *sizes[1:]]), node.input[3])
                joined = onnx.helper.make_node("Concat", [name, rest], [node.input[3]], name=node.input[3], axis=0)
                return [*nodes, joined]
        return []

    def _open_reshape(self, node: onnx.NodeProto, two: dict[str, Shape]) -> None:
        given, axis, target = node.input[0], self._batch_axis(node.input[0], two), self._one.get(node.output[0])
        if axis is None or target is None:
            return
        below = math.prod(self._one[given][axis:]) // self._outside(given, axis)
        places = _places(below, target, axis)
        if len(places) > 1 and node.output[0] not in self.guessed:
            self.guessed.append(node.output[0])
        place, self._outer[node.output[0]] = (
            places[min(self._other == node.output[0], len(places) - 1)] if places else (None, 1)
        )
        if place is None or two.get(node.output[0]) == (*target[:place], 2 * target[place], *target[place + 1 :]):
            return
        opened, name = np.array([*target[:place], -1, *target[place + 1 :]], np.int64), f"{node.output[0]}_any_batch"
        if name == node.input[1]:
            return
        node.input[1] = self._constant(name, opened)  # other nodes may share the old one
        for attribute in [a for a in node.attribute if a.name == "allowzero"]:
            node.attribute.remove(attribute)

    def _outside(self, name: str, axis: int) -> int:
        """Return how much of a tensor's axis lies outside the batch: what its maker's inputs of the same size have."""
        size = self._one[name][axis]
        while name not in self._outer and name in self._makers:
            known = [i for i in self._makers[name].input if i in self._depends and size in self._one.get(i, ())]
            if not known:
                break
            name = known[0]
        return self._outer.get(name, 1) if size % self._outer.get(name, 1) == 0 else 1

    def _repeat(self, node: onnx.NodeProto, two: dict[str, Shape]) -> list[onnx.NodeProto]:
        """Repeat, for each picture, what a node joins with tensors that follow the batch, such as class tokens and masks."""
        found = [(self._batch_axis(name, two), name) for name in node.input if name in self._depends]
        axis, leader = next(((a, name) for a, name in found if a is not None), (None, ""))
        if axis is None or (node.op_type != "Concat" and self._outside(leader, axis) > 1):
            return []
        rank, size = len(self._one[leader]), 1 if node.op_type == "Concat" else self._one[leader][axis]
        if node.op_type == "MatMul" and axis >= rank - 2:
            return []
        nodes: list[onnx.NodeProto] = []
        for place, name in enumerate(node.input):
            shape = self._one.get(name, ())
            where = len(shape) - rank + axis  # shapes are compared from their ends
            if name in self._depends or where < 0 or shape[where] != size or (size == 1 and node.op_type != "Concat"):
                continue
            each = f"{name}_for_each_{where}"
            if each not in self._made:
                self._made.add(each)
                batch_size, first = self._size()
                before, after = (
                    self._constant(f"{each}/{side}", np.ones(count, np.int64))
                    for side, count in (("before", where), ("after", len(shape) - where - 1))
                )
                make, repeats = onnx.helper.make_node, f"{each}/repeats"
                nodes += [*first, make("Concat", [before, batch_size, after], [repeats], name=repeats, axis=0)]
                nodes.append(make("Tile", [name, repeats], [each], name=each))
                self.at_two[each] = _stub(each, self._constants.get(name), (*shape[:where], 2 * size, *shape[where + 1 :]))
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


def _stub(name: str, like: onnx.TensorProto | None, shape: Shape) -> onnx.TensorProto:
    """Return a tensor without numbers, of the type of another one."""
    kind = onnx.TensorProto.FLOAT if like is None else like.data_type
    stub = onnx.TensorProto(name=name, data_type=kind, dims=shape, data_location=onnx.TensorProto.EXTERNAL)
    stub.external_data.add(key="location", value="nowhere")
    return stub


def _places(below: int, target: Shape, axis: int) -> list[tuple[int, int]]:
    """Return axes of a Reshape's target in which the batch may be, and how much of each lies outside the batch; best first.

    below: how many numbers that lie side by side belong to one picture; axis: of the batch before
    Where the batch lies between two axes, it is taken into the second, unless that is the last, which holds features.
    """
    after = [math.prod(target[place:]) for place in range(len(target) + 1)]
    fitting = [place for place in range(len(target)) if after[place] == below]
    single = [place for place in fitting if target[place] == 1]
    if single:
        return [(place, 1) for place in sorted(single, key=lambda place: place != axis)]
    if fitting and (fitting[0] == 0 or fitting[0] < len(target) - 1):
        return [(fitting[0], 1)]
    return [
        (place, after[place] // below)
        for place in range(len(target))
        if after[place + 1] <= below < after[place] and after[place] % below == 0
    ]


def _shapes(model: onnx.ModelProto, batch: int, known: Mapping[str, onnx.TensorProto] | None = None) -> dict[str, Shape]:
    """Return the shapes of a graph's tensors at a batch, as far as they can be inferred. known: tensors that cannot be"""
    light = without_weights(model)
    graph = light.graph
    for node in [node for node in graph.node if node.output[0] in (known or {})]:
        graph.node.remove(node)
    graph.initializer.extend((known or {}).values())
    del graph.value_info[:]
    graph.output[0].type.tensor_type.ClearField("shape")
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
    shapes = {value.name: sizes_of(value) for value in values}
    found = {name: tuple(s for s in shape if s is not None) for name, shape in shapes.items() if shape and None not in shape}
    return found | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _dependent(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the tensors that depend on the picture, not only on its size."""
    depends = {graph.input[0].name}
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and depends & read_by(node):
            depends |= set(node.output)
    return depends
