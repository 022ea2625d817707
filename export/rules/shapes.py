"""Derivatives of operators that only move entries."""

from collections.abc import Sequence

import numpy as np

from export.rules.step import InputGradients, Step, rule
from export.tape import Value

EVERYTHING = 2**31 - 1
"""Exporters write an end of at least this for "to the end of the axis"."""


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(n: Step) -> InputGradients:
    """The same numbers in another shape: g in the shape of x"""
    return [n.g.like(n.x)]


@rule("Expand")
def _expand(n: Step) -> InputGradients:
    """x repeated: g summed over the repetitions"""
    return [n.g.summed_to(n.x, n.y)]


@rule("Transpose")
def _transpose(n: Step) -> InputGradients:
    """Axes permuted: g permuted back"""
    order = n.attribute("perm") or range(len(n.x.shape))[::-1]
    return [n.g.op("Transpose", perm=np.argsort(order).tolist())]


@rule("Concat")
def _concat(n: Step) -> InputGradients:
    """Inputs joined along an axis: g cut into the parts"""
    axis = n.attribute("axis") % len(n.y.shape)
    sizes = [n.sizes(x, [axis])[0] for x in n.xs]
    parts: list[Value | None] = list(n.tape.ops("Split", len(sizes), n.g, sizes, axis=axis))
    return [part if wanted else None for part, wanted in zip(parts, n.wanted, strict=True)]


@rule("Split")
def _split(n: Step) -> InputGradients:
    """x cut along an axis: the parts of g joined, with 0 for parts that nothing uses"""
    outputs = [n.tape.value(name) for name in n.node.output]
    gs = [n.tape.constant(0.0).expanded(y) if g is None else g for g, y in zip(n.gs, outputs, strict=True)]
    return [n.tape.op("Concat", *gs, axis=n.attribute("axis", 0))]


@rule("Slice")
def _slice(n: Step) -> InputGradients:
    """A box cut out of x: g with 0 around it (also between its rows, if the box has steps above 1)"""
    rank = len(n.x.shape)
    starts, ends = n.needed(1).tolist(), n.needed(2).tolist()
    given, steps = n.constant(3), n.constant(4)
    axes = [int(a) % rank for a in (range(len(starts)) if given is None else given)]
    g, before, after = n.g, [0] * rank, [0] * rank
    for axis, start, end, step in zip(axes, starts, ends, [1] * len(axes) if steps is None else steps.tolist(), strict=True):
        if (start, step) == (0, 1) and end >= EVERYTHING:
            continue  # the whole axis, which may be the batch
        (size,) = n.sizes(n.x, [axis])
        taken = range(size)[slice(start, max(min(end, 2**31), -(2**31)), step)]
        if step == 1:
            before[axis], after[axis] = taken.start, size - taken.stop
        else:
            g = _put_back(g, axis, list(taken), size, rank)
    return [g.padded(before, after)]


@rule("Gather")
def _gather(n: Step) -> InputGradients:
    """Rows of x at these indices: g added up at the rows that it came from"""
    x, indices = n.xs
    rank, count = len(x.shape), len(indices.shape)
    axis = n.attribute("axis", 0) % rank
    size, known = x.shape[axis], indices.array
    if known is not None and known.ndim < 2 and size is not None:
        g = n.g if known.ndim else n.g.op("Unsqueeze", [axis])
        return [_put_back(g, axis, np.atleast_1d(known % size).tolist(), size, rank)]
    order = [axis, *(i for i in range(rank) if i != axis)]
    chosen = range(axis, axis + count)  # axes of g along which it follows the indices
    rows = n.g.op("Transpose", perm=[*chosen, *(i for i in range(rank - 1 + count) if i not in chosen)])
    empty = x.zeros().op("Transpose", perm=order)
    added = empty.op("ScatterND", indices.op("Unsqueeze", [-1]), rows, reduction="add")
    return [added.op("Transpose", perm=np.argsort(order).tolist())]


@rule("GatherND")
def _gather_nd(n: Step) -> InputGradients:
    """Entries or rows of x at these places: g added up at the places that it came from"""
    if n.attribute("batch_dims", 0):
        raise n.fault("it has batch_dims")
    return [n.x.zeros().op("ScatterND", n.xs[1], n.g, reduction="add")]


@rule("GatherElements")
def _gather_elements(n: Step) -> InputGradients:
    """For each entry of y, one of x along an axis: g added up at the entries that it came from"""
    return [n.x.zeros().op("ScatterElements", n.xs[1], n.g, axis=n.attribute("axis", 0), reduction="add")]


def _put_back(g: Value, axis: int, rows: Sequence[int], size: int, rank: int) -> Value:
    """Sum the rows of g along an axis back into `size` rows, at the places `rows` that they came from.

    It is a product with a matrix of 0 and 1.
    """
    chosen = np.zeros((len(rows), size))
    chosen[np.arange(len(rows)), rows] = 1
    return g.along(axis, chosen, rank)


@rule("Tile")
def _tile(n: Step) -> InputGradients:
    """x repeated along its axes: g summed over the repetitions"""
    repeats = n.needed(1).tolist()
    sizes = [-1 if size is None else size for size in n.x.shape]
    split = n.g.op("Reshape", [i for pair in zip(repeats, sizes, strict=True) for i in pair])
    return [split.op("ReduceSum", list(range(0, 2 * len(sizes), 2)), keepdims=0)]


@rule("DepthToSpace")
def _depth_to_space(n: Step) -> InputGradients:
    """Channels laid out as blocks of pixels: the blocks of g laid back into channels"""
    size, channels_last = n.attribute("blocksize"), n.attribute("mode", "DCR") == "DCR"
    _, channels, height, width = (-1 if i is None else i for i in n.x.shape)
    outer = channels // size**2
    blocks = n.g.op("Reshape", [-1, outer, height, size, width, size])
    moved = blocks.op("Transpose", perm=[0, 3, 5, 1, 2, 4] if channels_last else [0, 1, 3, 5, 2, 4])
    return [moved.like(n.x)]


@rule("SpaceToDepth")
def _space_to_depth(n: Step) -> InputGradients:
    """Blocks of pixels laid out as channels: the channels of g laid back into blocks"""
    return [n.g.op("DepthToSpace", blocksize=n.attribute("blocksize"), mode="DCR")]


@rule("Pad")
def _pad(n: Step) -> InputGradients:
    """Values added around x: g without them; if they are copies of entries of x, g summed back to those entries"""
    rank, mode = len(n.x.shape), n.attribute("mode", "constant")
    pads, given = n.needed(1).tolist(), n.constant(3)
    axes = [int(a) % rank for a in (range(rank) if given is None else given)]
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[len(axes) + i]
    if mode == "constant":
        return [n.g.padded([-b for b in before], [-a for a in after])]
    g = n.g
    for axis in (i for i in range(rank) if before[i] or after[i]):
        (size,) = n.sizes(n.x, [axis])
        came_from = np.pad(np.arange(size), (before[axis], after[axis]), mode=mode).tolist()
        g = _put_back(g, axis, came_from, size, rank)
    return [g]
