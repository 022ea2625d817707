"""A vision transformer in two graphs: a picture gives its tokens; the tokens that are kept give the embedding.

So a hidden part of a picture is left out, not painted (docs/tokens.md). The picture's patches become tokens in a convolution
whose kernel is its stride. The cut is where the first block reads them: class token, registers and positions are in them by
then. Whether blocks know the place of a token in other ways is not seen here for sure: `export.token_check` decides.
"""

import dataclasses

import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.bundle.manifest import TokenLayout
from engine.runtime.token_tail import KEPT_INPUT, TOKENS_INPUT
from export.errors import ExportError
from export.light_graph import LightGraph, Shapes
from export.token_positions import attending, follow_kept, open_splits

MIXING = ("MatMul", "Gemm", "Einsum", "Attention", "FusedMatMul", "MultiHeadAttention")
"""Operators with which blocks begin: positions are added without them."""


class NoPatchesError(ExportError):
    """A network that does not begin with patches: it is no vision transformer."""


@dataclasses.dataclass(frozen=True)
class TokenGraphs:
    """The two graphs, and the second one in two parts for its check; their weights are those of the whole graph.

    stem: pictures (N, ...) -> tokens (N, T, D)
    tail: TOKENS_INPUT (T, D) float32, KEPT_INPUT (N, K) int64 -> embeddings (N, E)
    blocks: the same inputs -> the kept tokens after all blocks (N, K, D); readout: those -> embeddings
    attending: where blocks read positions from tables, what `export.token_positions.attending` makes of them, else None
    layout: where the tokens lie in the picture
    """

    stem: LightGraph
    tail: LightGraph
    blocks: LightGraph
    readout: LightGraph
    attending: LightGraph | None
    layout: TokenLayout


def cut(model: onnx.ModelProto, channels_last: bool) -> TokenGraphs:
    """Cut a graph with one input and one output. Raises NoPatchesError, or ExportError if its tokens cannot be left out.

    channels_last: whether it takes pictures (N, H, W, C)
    """
    patches = patch_convolution(model.graph)  # before anything is run: most networks have none
    light = LightGraph.of(model)
    shapes, _ = light.probed()
    picture, output = light.model.graph.input[0].name, light.model.graph.output[0].name
    grid, sides = shapes[patches.output[0]][2:], shapes[picture][1:3] if channels_last else shapes[picture][2:]
    rows, columns = (size or 0 for size in grid)
    stream = token_stream(light, shapes, (rows, columns))
    count, width = (size or 0 for size in shapes[stream][1:])
    if any((side or 0) % size for side, size in zip(sides, (rows, columns), strict=True)):
        raise ExportError(f"{rows} x {columns} patches do not cover a picture of {sides} pixels evenly")
    prefix, tail = count - rows * columns, _part(light, stream, output, shapes)
    _refuse_windows(tail, shapes, count)
    places_follow = follow_kept(tail, shapes, prefix, count)
    open_splits(tail, shapes, prefix, count)
    tail = freed(_part(tail, stream, output, shapes), shapes, {count, rows * columns})
    last = _last(tail, shapes, count)
    shapes[last] = (None, None, shapes[last][2])
    return TokenGraphs(
        _part(light, picture, stream, shapes),
        gathered(tail, (count, width)),
        gathered(_part(tail, stream, last, shapes), (count, width)),
        _part(tail, last, output, shapes),
        attending(_part(light, stream, last, shapes), shapes, count) if places_follow else None,
        TokenLayout(prefix, rows, columns),
    )


def patch_convolution(graph: onnx.GraphProto) -> onnx.NodeProto:
    """Return the convolution that the picture reaches first, if it makes patches; else raise NoPatchesError."""
    readers, weights = _readers(graph), {tensor.name: tensor.dims for tensor in graph.initializer}
    name = graph.input[0].name
    while len(readers.get(name, ())) == 1:
        (node,) = readers[name]
        if node.op_type == "Conv":
            found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            kernel = list(weights.get(node.input[1], ())[2:])
            padded = any(found.get("pads", ())) or found.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
            if not padded and len(kernel) == 2 and kernel == list(found.get("strides", ())) and min(kernel) > 1:
                return node
            break
        name = node.output[0]
    raise NoPatchesError("the network does not begin with a convolution over patches: it is no vision transformer")


def token_stream(light: LightGraph, shapes: Shapes, grid: tuple[int, int]) -> str:
    """Return the tensor (N, T, D) that the first block reads: the last one through which all passes before tokens mix.

    grid: rows and columns of patches
    """
    mixing = next((n for n in light.model.graph.node if n.op_type in MIXING and light.active().intersection(n.output)), None)
    before = _bottlenecks(light, mixing)
    tokens = [name for name in before if len(shapes.get(name, ())) == 3 and (shapes[name][1] or 0) >= grid[0] * grid[1]]
    if not tokens or shapes[tokens[-1]][0] is not None:
        raise ExportError("after its patches come maps or windows, as in ConvNeXt and Swin, and not one sequence of tokens")
    return tokens[-1]


def freed(tail: LightGraph, shapes: Shapes, counts: set[int]) -> LightGraph:
    """Return the graph with the number of tokens left open where a Reshape holds it as a constant: its input has it.

    counts: of tokens, with and without the prefix
    """
    graph = tail.model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for index, node in enumerate(graph.node):
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        entering, wanted = shapes[node.input[0]], constants[node.input[1]].copy()
        same = [i for i, size in enumerate(wanted) if size in counts and i < len(entering) and entering[i] == size]
        if not same:
            continue
        wanted[same] = 0  # takes the size of the input
        name = f"sane_shape_{index}"
        graph.initializer.append(numpy_helper.from_array(wanted, name))
        node.input[1] = name
        for attribute in [a for a in node.attribute if a.name == "allowzero"]:
            node.attribute.remove(attribute)
    return tail


def gathered(part: LightGraph, tokens: tuple[int, int]) -> LightGraph:
    """Return a graph of tokens (N, K, D) as one of all tokens (T, D) and of which are kept (N, K). tokens: (T, D)"""
    graph = part.model.graph
    given, *others = graph.input
    nodes = [helper.make_node("Gather", [TOKENS_INPUT, KEPT_INPUT], [given.name], name="sane_gather", axis=0), *graph.node]
    inputs = [
        helper.make_tensor_value_info(TOKENS_INPUT, TensorProto.FLOAT, tokens),
        helper.make_tensor_value_info(KEPT_INPUT, TensorProto.INT64, ["batch", "kept"]),
        *others,
    ]
    return _with(part, nodes, inputs, list(graph.output))


def _part(light: LightGraph, start: str, end: str, shapes: Shapes) -> LightGraph:
    """Return the nodes that make `end` of `start` and of constants. Sizes of what is before, they take from `start`."""
    graph, active = light.model.graph, light.active()
    after, wanted = _after(graph, start), {end}
    nodes: list[onnx.NodeProto] = []
    for given in reversed(graph.node):
        if not wanted.intersection(given.output) or start in given.output:
            continue
        node = _copied(given)
        before = active.intersection(node.input) - after - {start}
        if before and node.op_type == "Shape":
            node.input[0] = start
        elif before:
            raise ExportError("its blocks read the picture again, besides its tokens")
        wanted.update(node.input)
        nodes.append(node)
    inputs = [_declared(start, shapes), *(value for value in graph.input if value.name in light.weights)]
    return _with(light, nodes[::-1], inputs, [_declared(end, shapes)])


def _with(
    light: LightGraph, nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
) -> LightGraph:
    """Return a graph of these nodes, with the constants and weights of `light` that they read."""
    read = {name for node in nodes for name in node.input}
    model = onnx.ModelProto(ir_version=light.model.ir_version, producer_name=light.model.producer_name)
    model.opset_import.extend(light.model.opset_import)
    model.functions.extend(light.model.functions)
    model.graph.name = light.model.graph.name
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensor for tensor in light.model.graph.initializer if tensor.name in read)
    model.graph.input.extend(value for value in inputs if value.name in read or value.name not in light.weights)
    model.graph.output.extend(outputs)
    return LightGraph(model, {name: array for name, array in light.weights.items() if name in read})


def _refuse_windows(tail: LightGraph, shapes: Shapes, count: int) -> None:
    for node in tail.model.graph.node:
        entering, leaving = shapes.get(node.input[0], ()) if node.input else (), shapes.get(node.output[0], ())
        if node.op_type != "Reshape" or len(entering) < 2 or len(leaving) < 3 or None in leaving[1:3]:
            continue
        rows, columns = leaving[1] or 0, leaving[2] or 0
        if entering[1] == rows * columns == count and min(rows, columns) > 1:
            raise ExportError("its blocks put the tokens back on the picture's grid, as Swin's windows do")


def _last(tail: LightGraph, shapes: Shapes, count: int) -> str:
    """Return the last tensor (N, T, D) through which all that the tokens say passes: the tokens after all blocks."""
    whole = [name for name in _bottlenecks(tail) if shapes.get(name, ())[:2] == (None, count) and len(shapes[name]) == 3]
    return whole[-1] if whole else tail.model.graph.input[0].name


def _bottlenecks(light: LightGraph, end: onnx.NodeProto | None = None) -> list[str]:
    """Return the tensors through which all that the input says passes, in order. end: the node before which to stop"""
    graph, active = light.model.graph, light.active()
    left = {name: len(nodes) for name, nodes in _readers(graph).items()}
    left |= dict.fromkeys((value.name for value in graph.output), 1)
    live, found = {graph.input[0].name}, [graph.input[0].name]
    for node in graph.node:
        if node is end:
            break
        if active.intersection(node.output):
            for name in live.intersection(node.input):
                left[name] -= 1
            live = {name for name in live if left[name]} | {name for name in node.output if left.get(name)}
            found += live if len(live) == 1 else ()
    return found


def _after(graph: onnx.GraphProto, start: str) -> set[str]:
    """Return the tensors that depend on `start`, or on its size."""
    found = {start}
    for node in graph.node:
        if found.intersection(node.input):
            found.update(node.output)
    return found - {start}


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read the values of each tensor."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type not in ("Shape", "Size"):
            for name in dict.fromkeys(node.input):
                found.setdefault(name, []).append(node)
    return found


def _declared(name: str, shapes: Shapes) -> onnx.ValueInfoProto:
    sizes = [s if s is not None else ("kept" if axis else "batch") for axis, s in enumerate(shapes[name])]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
