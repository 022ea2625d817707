"""Derivatives of convolutions and pooling."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from export.rules.step import InputGradients, Step, rule
from export.tape import Value


@rule("Conv")
def _conv(n: Step) -> InputGradients:
    """y = W * x: the transposed convolution of g with W"""
    n.require_fixed(1, 2)
    return [_spread(n, n.g, n.xs[1], n.sizes(n.xs[1], range(2, len(n.x.shape))), n.attribute("group", 1))]


@rule("ConvTranspose")
def _conv_transpose(n: Step) -> InputGradients:
    """y = W^T * x: the convolution of g with W"""
    n.require_fixed(1, 2)
    kernel = n.sizes(n.xs[1], range(2, len(n.x.shape)))
    windows = _Windows.of(n, kernel, n.y, n.x)
    options = {"strides": windows.strides, "dilations": windows.dilations, "group": n.attribute("group", 1)}
    left = windows.unseen  # rows of y after the last one that x reaches
    g = n.g.padded([0] * (2 + len(kernel)), [0, 0, *(min(-u, 0) for u in left)])
    return [g.op("Conv", n.xs[1], pads=[*windows.before, *(max(-u, 0) for u in left)], **options)]


@rule("AveragePool")
def _average_pool(n: Step) -> InputGradients:
    """y = mean of a window: g / count to every pixel of the window"""
    kernel = n.attribute("kernel_shape")
    windows = _Windows.of(n, kernel, n.x, n.y)
    counts = np.ones(())
    for axis in range(len(kernel)):
        counts = counts[..., None] * windows.counts(axis, bool(n.attribute("count_include_pad", 0)))
    channels = n.sizes(n.x, [1])[0]
    spans = zip(kernel, windows.size, windows.before, windows.dilations, strict=True)
    # "the whole map" is often written as a kernel far larger than the map: what no window can see needs no weights
    seen = [min(k, -(-(size + before) // d)) for k, size, before, d in spans]
    ones = n.tape.constant(np.ones((channels, 1, *seen)))
    return [_spread(n, n.g / n.tape.constant(counts), ones, seen, channels)]


@rule("MaxPool")
def _max_pool(n: Step) -> InputGradients:
    """y = x at the first largest pixel of a window: g summed at that pixel, which the node's second output names"""
    if n.attribute("storage_order", 0):
        raise n.fault("it numbers its pixels by columns")
    while len(n.node.output) < 2:
        n.node.output.append(f"{n.node.output[0]}/places")
    places = n.tape.value(n.node.output[1])
    nowhere = n.tape.constant(0.0).op("Expand", n.x.op("Size").op("Reshape", [1]))
    spread = nowhere.op("ScatterElements", places.op("Reshape", [-1]), n.g.op("Reshape", [-1]), axis=0, reduction="add")
    return [spread.like(n.x)]


@dataclasses.dataclass(frozen=True)
class _Windows:
    """Windows over `size` pixels that give `count` places, each a number per spatial axis. before, after: padding"""

    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    before: Sequence[int]
    after: Sequence[int]
    size: Sequence[int]
    count: Sequence[int]

    @classmethod
    def of(cls, n: Step, kernel: Sequence[int], pixels: Value, places: Value) -> "_Windows":
        """Read the windows of a node that go over `pixels` and give `places`."""
        axes = range(2, 2 + len(kernel))
        size, count = n.sizes(pixels, axes), n.sizes(places, axes)
        strides = n.attribute("strides", [1] * len(kernel))
        dilations = n.attribute("dilations", [1] * len(kernel))
        pads, auto = n.attribute("pads", [0] * 2 * len(kernel)), n.attribute("auto_pad", "NOTSET")
        before, after = pads[: len(kernel)], pads[len(kernel) :]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            spans = zip(count, strides, dilations, kernel, size, strict=True)
            total = [max((c - 1) * s + d * (k - 1) + 1 - p, 0) for c, s, d, k, p in spans]
            half = [t // 2 for t in total]
            rest = [t - h for t, h in zip(total, half, strict=True)]
            before, after = (half, rest) if auto == "SAME_UPPER" else (rest, half)
        return cls(kernel, strides, dilations, before, after, size, count)

    @property
    def unseen(self) -> list[int]:
        """Pixels after the end of the last window; negative if the window reaches beyond the pixels."""
        spans = zip(self.size, self.before, self.count, self.strides, self.dilations, self.kernel, strict=True)
        return [p + b - ((c - 1) * s + d * (k - 1) + 1) for p, b, c, s, d, k in spans]

    def counts(self, axis: int, padding: bool) -> np.ndarray:
        """Return the number of entries of each window along an axis: (count,); padding: count those of the padding too."""
        first = np.arange(self.count[axis]) * self.strides[axis] - self.before[axis]
        pixels = first[:, None] + self.dilations[axis] * np.arange(self.kernel[axis])
        low, high = (-self.before[axis], self.size[axis] + self.after[axis]) if padding else (0, self.size[axis])
        return ((pixels >= low) & (pixels < high)).sum(1)


def _spread(n: Step, g: Value, weights: Value, kernel: Sequence[int], group: int) -> Value:
    """Spread g from the places of the windows over their pixels with these weights: a transposed convolution."""
    windows = _Windows.of(n, kernel, n.x, n.y)
    reach = [d * (k - 1) for d, k in zip(windows.dilations, kernel, strict=True)]
    around = (
        [r - b for r, b in zip(reach, windows.before, strict=True)],
        [r + u for r, u in zip(reach, windows.unseen, strict=True)],
    )
    options = {"dilations": windows.dilations, "group": group}
    if max(windows.strides) == 1 and min(*around[0], *around[1]) >= 0:
        # the same sums as a convolution with the kernel reversed, which is a third faster in ONNX Runtime
        return g.op("Conv", _reversed_kernels(weights, group, len(kernel)), pads=[*around[0], *around[1]], **options)
    pads = [*windows.before, *(max(-u, 0) for u in windows.unseen)]
    spread = g.op("ConvTranspose", weights, pads=pads, strides=windows.strides, **options)
    return spread.padded([0] * (2 + len(kernel)), [0, 0, *(max(u, 0) for u in windows.unseen)])


def _reversed_kernels(weights: Value, group: int, space: int) -> Value:
    """Turn weights (M, C / group, ...) of a convolution into (C, M / group, ...), with each kernel reversed.

    Nodes compute them, and the runtime folds those when it loads the graph: stored numbers would double the file.
    """
    outputs, inputs, *kernel = (int(size or 0) for size in weights.shape)
    grouped = weights.op("Reshape", [group, outputs // group, inputs, *kernel])
    exchanged = grouped.op("Transpose", perm=[0, 2, 1, *range(3, 3 + space)])
    whole = exchanged.op("Reshape", [group * inputs, outputs // group, *kernel])
    axes = list(range(2, 2 + space))
    return whole.op("Slice", [-1] * space, [-(2**31)] * space, axes, [-1] * space)
