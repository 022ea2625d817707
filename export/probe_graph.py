"""An attribute graph out of a similarity graph: a linear probe on its taps, as maps whose spatial means are the logits."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from export import onnx_files
from export.onnx_selection import reduce_to
from export.taps import Tap, as_maps, constant
from kernels.areas import areas

MOST_CELLS = 16
"""Most cells a side of the activation maps: finer ones say little more and cost memory for every attribute."""


def grid_of(taps: Sequence[Tap]) -> tuple[int, int]:
    """Return rows and columns of the activation maps: those of the finest tap, at most MOST_CELLS on the longer side."""
    height, width = taps[0].height, taps[0].width
    share = min(MOST_CELLS / max(height, width), 1)
    return max(round(height * share), 1), max(round(width * share), 1)


def probe_graph(model: onnx.ModelProto, taps: Sequence[Tap], weights: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """Return a graph that takes pictures and gives maps (batch, A, rows, columns), the sum of the taps' own maps.

    weights: (A, F) of the taps' spatial means, in their order; bias: (A,). The spatial means of the maps are the logits
    `means @ weights.T + bias`: maps of another size are brought to the grid by means over areas, which keep the mean.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, grid = made.graph, grid_of(taps)
    total, start = "", 0
    for number, tap in enumerate(taps):
        part = weights[:, start : start + tap.channels]
        start += tap.channels
        own = bias if number == 0 else np.zeros_like(bias)
        maps = _maps_of(graph, tap, f"probe{number}", part, own, grid)
        if total:
            graph.node.append(helper.make_node("Add", [total, maps], [f"probe{number}_sum"]))
            maps = f"probe{number}_sum"
        total = maps
    graph.node.append(helper.make_node("Identity", [total], ["maps"]))
    del graph.output[:]
    graph.output.append(onnx.ValueInfoProto(name="maps"))
    onnx_files.declare(graph.output[0], (len(bias), *grid))
    del graph.value_info[:]
    reduce_to(made, Path("the similarity graph"), None, "maps")  # without what only the embedding needed
    return made


def _maps_of(
    graph: onnx.GraphProto, tap: Tap, name: str, weights: np.ndarray, bias: np.ndarray, grid: tuple[int, int]
) -> str:
    """Add one tap's maps; return their name. Whichever is smaller is resized: the tap, or its maps."""
    tensor = as_maps(graph, tap, name)
    shrinks = (tap.height, tap.width) > grid
    if shrinks:
        tensor = _resized(graph, tensor, name, (tap.height, tap.width), grid)
    filters = constant(graph, f"{name}_weights", weights.astype(np.float32)[:, :, None, None])
    shift = constant(graph, f"{name}_bias", bias.astype(np.float32))
    graph.node.append(helper.make_node("Conv", [tensor, filters, shift], [f"{name}_own"], kernel_shape=[1, 1]))
    return f"{name}_own" if shrinks else _resized(graph, f"{name}_own", name, (tap.height, tap.width), grid)


def _resized(graph: onnx.GraphProto, tensor: str, name: str, sides: tuple[int, int], grid: tuple[int, int]) -> str:
    """Add means over equal areas, as products from both sides; nothing where the sizes are equal."""
    if sides == grid:
        return tensor
    down, across = (areas(*pair).astype(np.float32) for pair in zip(sides, grid, strict=True))
    given = constant(graph, f"{name}_down", down), constant(graph, f"{name}_across", across.T.copy())
    graph.node.append(helper.make_node("MatMul", [tensor, given[1]], [f"{name}_narrow"]))
    graph.node.append(helper.make_node("MatMul", [given[0], f"{name}_narrow"], [f"{name}_cells"]))
    return f"{name}_cells"
