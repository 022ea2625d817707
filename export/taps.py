"""Where a similarity graph can be tapped: the last activation of each resolution, and its mean over space."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export import onnx_files
from export.errors import ExportError
from export.runtime import ModelRunner, runner_of

MOST_TAPS = 4
"""The coarsest resolutions are taken: what names a thing is seen late in a network."""
CHANNELS = 3
"""Of a picture, which may be normalised or turned inside the graph."""
MOST_PREFIXES = 9
"""Most tokens in front of those of the picture: a class token and registers."""
ACTIVATIONS = frozenset(
    (
        *("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "HardSwish", "HardSigmoid", "Sigmoid", "Mish", "Swish"),
        *("Gelu", "FastGelu", "QuickGelu", "Softplus", "Add", "Sum", "Sub", "Mul", "Div", "Concat", "Conv", "FusedConv"),
        *(
            "BatchNormalization",
            "InstanceNormalization",
            "GroupNormalization",
            "LayerNormalization",
            "MaxPool",
            "AveragePool",
        ),
        *("LayerScale", "Where", "MatMul", "Gemm", "Identity", "Transpose", "Reshape"),
    )
)
"""Operators whose results may be activations of a layer."""
OF_ATTENTION = frozenset(("Softmax", "Attention", "MultiHeadAttention"))


@dataclasses.dataclass(frozen=True)
class Tap:
    """One activation. tensor: its name; layout: "nchw", "nhwc" or "tokens" (batch, prefix + height * width, channels)"""

    tensor: str
    layout: str
    channels: int
    height: int
    width: int
    prefix: int = 0


def find_taps(model: onnx.ModelProto, pictures: np.ndarray) -> list[Tap]:
    """Return the last activation of each resolution, at most MOST_TAPS of them, fine to coarse; [] if there is none.

    pictures: (2, ...) float32 as the graph takes them: the graph is run, because not every graph says its sizes
    """
    (value,) = model.graph.input
    height, width = _sides(pictures.shape)
    of_tokens = any(node.op_type in OF_ATTENTION for node in model.graph.node)
    found: dict[tuple[int, int], Tap] = {}
    for name, shape in _shapes(model, value.name, pictures).items():
        tap = _tap(name, shape, height, width, of_tokens)
        if tap is not None:
            found[tap.height, tap.width] = tap  # later nodes replace earlier ones
    return [found[size] for size in sorted(found, reverse=True)][-MOST_TAPS:]


def pooling_runner(model: onnx.ModelProto, taps: list[Tap]) -> ModelRunner:
    """Return a runner of the graph that gives its embeddings, then the mean over space of each tap, (n, channels)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for number, tap in enumerate(taps):
        name = as_maps(copy.graph, tap, f"tap{number}")
        mean = f"tap{number}_mean"
        copy.graph.node.append(helper.make_node("GlobalAveragePool", [name], [mean]))
        copy.graph.output.append(onnx.ValueInfoProto(name=mean))
    return runner_of(copy)


def as_maps(graph: onnx.GraphProto, tap: Tap, name: str) -> str:
    """Add nodes that bring a tap to (batch, channels, height, width), in place; return their result's name.

    name: in front of the names of everything that is added
    """
    if tap.layout == "nchw":
        return tap.tensor
    tensor = tap.tensor
    if tap.layout == "tokens":
        if tap.prefix:
            limits = {"starts": tap.prefix, "ends": tap.prefix + tap.height * tap.width, "axes": 1}
            given = [constant(graph, f"{name}_{key}", np.array([at], np.int64)) for key, at in limits.items()]
            graph.node.append(helper.make_node("Slice", [tensor, *given], [f"{name}_tokens"]))
            tensor = f"{name}_tokens"
        sizes = constant(graph, f"{name}_sizes", np.array([0, tap.height, tap.width, tap.channels], np.int64))  # 0: as it is
        graph.node.append(helper.make_node("Reshape", [tensor, sizes], [f"{name}_square"]))
        tensor = f"{name}_square"
    graph.node.append(helper.make_node("Transpose", [tensor], [f"{name}_maps"], perm=[0, 3, 1, 2]))
    return f"{name}_maps"


def constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> str:
    """Add a constant to a graph, in place; return its name."""
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def similarity_model(folder: Path, file: str) -> onnx.ModelProto:
    """Read a similarity graph of a bundle. Raises ExportError if it takes two pictures."""
    model = onnx_files.read_model(folder / file)
    if len(model.graph.input) != 1:
        raise ExportError(
            f"{file} takes two pictures and has no embedding: attributes need an attribute network of their own"
        )
    return model


def _shapes(model: onnx.ModelProto, source: str, pictures: np.ndarray) -> dict[str, tuple[int, ...]]:
    """Return the sizes of everything that may be an activation of both pictures, in the order of the graph."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = _depending(model.graph, source)
    if not names:
        return {}
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    results = runner_of(copy).run(pictures)
    return {name: np.shape(result) for name, result in zip(names, results, strict=True) if _is_activation(result)}


def _is_activation(result: object) -> bool:
    return isinstance(result, np.ndarray) and result.dtype == np.float32 and result.ndim in (3, 4) and len(result) == 2


def _depending(graph: onnx.GraphProto, source: str) -> list[str]:
    """Return the results of activations' operators that depend on the picture."""
    live, found = {source}, []
    for node in graph.node:
        if live & set(node.input):
            live |= set(node.output)
            if node.op_type in ACTIVATIONS:
                found.append(node.output[0])
    return found


def _tap(name: str, shape: tuple[int, ...], height: int, width: int, of_tokens: bool) -> Tap | None:
    """Return the tap that a result of this shape is; None if it is no activation over the picture, or the picture itself."""
    if len(shape) == 3:
        if not of_tokens:
            return None
        grid = _grid(shape[1], height, width)
        return None if grid is None else Tap(name, "tokens", shape[2], *grid)
    _, first, second, third = shape
    if sorted(shape[1:]) == sorted((CHANNELS, height, width)):
        return None
    if _covers(second, third, height, width) and not (of_tokens and second * third > first * first):
        # with tokens, (batch, heads, T, T) are weights of attention, not activations
        return Tap(name, "nchw", first, second, third)
    if _covers(first, second, height, width):
        return Tap(name, "nhwc", third, first, second)
    return None


def _covers(h: int, w: int, height: int, width: int) -> bool:
    """Whether h x w cells may lie over a picture of height x width: the same proportions, to within a cell."""
    return 2 <= h <= height and 2 <= w <= width and abs(h * width - w * height) <= max(height, width)


def _grid(tokens: int, height: int, width: int) -> tuple[int, int, int] | None:
    """Return rows, columns and the number of tokens in front of them; None if the tokens do not lie over a picture."""
    for prefix in range(min(MOST_PREFIXES, tokens - 3)):
        rows = round(((tokens - prefix) * height / width) ** 0.5)
        if rows < 2 or (tokens - prefix) % rows:
            continue
        columns = (tokens - prefix) // rows
        patch = height // rows
        if patch and (rows, columns) == (height // patch, width // patch):
            return rows, columns, prefix
    return None


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[1], shape[2]) if shape[3] in (1, 3) and shape[1] not in (1, 3) else (shape[2], shape[3])
