"""A graph evaluated in float64: onnx's reference evaluator, with PyTorch for the operators that it computes slowly.

ONNX Runtime has no float64 convolution. A constant is converted where a node reads it, so no copy of the weights is kept.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch.nn import functional as F

from export.errors import ExportError, root_cause
from export.light_graph import LightGraph
from export.rules.resize import OPTIONS, resize_matrices

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


class Float64Graph:
    """Raises ExportError if an operator has no evaluator, here or at the first run."""

    def __init__(self, light: LightGraph) -> None:
        model = onnx.ModelProto()
        model.CopyFrom(light.model)
        for node in model.graph.node:
            for attribute in node.attribute:
                if (node.op_type, attribute.name) == ("Cast", "to") and attribute.i in FLOATS:
                    attribute.i = onnx.TensorProto.DOUBLE
        self._image, self._output = model.graph.input[0].name, model.graph.output[0].name
        try:
            self._evaluator = ReferenceEvaluator(model, new_ops=[_operator(*item) for item in REPLACED.items()])
        except Exception as error:  # the evaluator raises anything
            raise ExportError(root_cause(error)) from error
        self._weights = light.weights
        self._uses = Counter(name for node in model.graph.node for name in node.input)

    def run(self, pictures: np.ndarray) -> np.ndarray:
        """Return the first output for pictures (n, ...) float64."""
        results: dict[str, Any] = {"": None, **self._weights, **self._evaluator.rt_inits_, self._image: pictures}
        left = self._uses.copy()
        try:
            with np.errstate(all="ignore"), torch.inference_mode():
                for node in self._evaluator.rt_nodes_:
                    inputs = [_doubled(results[name]) for name in node.input]
                    outputs = node.run(*inputs, **({"context": results} if node.need_context() else {}))
                    results.update(zip(node.output, outputs, strict=False))
                    left.subtract(node.input)
                    for name in node.input:
                        if name and not left[name] and name != self._output and not node.need_context():
                            results.pop(name, None)
        except Exception as error:  # as above
            raise ExportError(root_cause(error)) from error
        return np.asarray(results[self._output])


def _doubled(value: Any) -> Any:
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def _operator(name: str, function: Callable[..., np.ndarray]) -> type[OpRun]:
    """Return the evaluator's operator `name`, computed by `function` from the inputs and the attributes as keywords."""
    return type(name, (OpRun,), {"op_domain": "", "_run": lambda self, *inputs, **options: (function(*inputs, **options),)})


def _conv(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, **options: Any) -> np.ndarray:
    space = w.ndim - 2
    strides, dilations = options["strides"] or [1] * space, options["dilations"] or [1] * space
    before, after = _padding(x.shape[2:], w.shape[2:], strides, dilations, options)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(before, after, strict=True)])
    convolve = (F.conv1d, F.conv2d, F.conv3d)[space - 1]
    bias = None if b is None else torch.tensor(b)
    return convolve(torch.tensor(padded), torch.tensor(w), bias, strides, 0, dilations, options["group"] or 1).numpy()


def _conv_transpose(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, **options: Any) -> np.ndarray:
    space = w.ndim - 2
    strides, dilations = options["strides"] or [1] * space, options["dilations"] or [1] * space
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[space - 1]
    given = torch.tensor(x), torch.tensor(w), None if b is None else torch.tensor(b)
    longer = options["output_padding"] or [0] * space
    if max(longer):  # zeros beyond the last windows
        given = torch.tensor(np.pad(x, [(0, 0), (0, 0), *((0, 1) for _ in longer)])), *given[1:]
    full = convolve(*given, strides, 0, 0, options["group"] or 1, dilations).numpy()
    spans = zip(x.shape[2:], w.shape[2:], strides, dilations, longer, strict=True)
    sizes = [(n - 1) * s + d * (k - 1) + 1 + e for n, k, s, d, e in spans]
    auto, wanted = options["auto_pad"] or "NOTSET", options["output_shape"]
    if wanted or auto.startswith("SAME"):
        wanted = wanted or [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        total = [size - want for size, want in zip(sizes, wanted, strict=True)]
        before = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
        after = [t - b for t, b in zip(total, before, strict=True)]
    else:
        pads = options["pads"] or [0] * 2 * space
        before, after = pads[:space], pads[space:]
    kept = (slice(b, size - a) for b, a, size in zip(before, after, sizes, strict=True))
    return np.asarray(full[(slice(None), slice(None), *kept)])


def _max_pool(x: np.ndarray, **options: Any) -> np.ndarray:
    return np.maximum.reduce(_window_entries(x, options, -np.inf))


def _average_pool(x: np.ndarray, **options: Any) -> np.ndarray:
    inside = np.ones((1, 1, *x.shape[2:]))
    counts = np.sum(_window_entries(inside, options, 1.0 if options["count_include_pad"] else 0.0), axis=0)
    return np.sum(_window_entries(x, options, 0.0), axis=0) / counts


def _window_entries(x: np.ndarray, options: dict[str, Any], fill: float) -> list[np.ndarray]:
    """Return, for each place in a pool's window, what all windows have there, with `fill` in the padding.

    Beyond the padding, where windows of ceil_mode reach, is the value that does not count: -inf for a maximum, else 0.
    """
    kernel = options["kernel_shape"]
    space = len(kernel)
    strides, dilations = options["strides"] or [1] * space, options.get("dilations") or [1] * space
    before, after = _padding(x.shape[2:], kernel, strides, dilations, options)
    x = np.pad(x, [(0, 0), (0, 0), *zip(before, after, strict=True)], constant_values=fill)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes, counts = x.shape[2:], []
    for size, span, stride, end in zip(sizes, spans, strides, after, strict=True):
        count = (size - span) // stride + 1
        # in ceil_mode one more window may reach beyond the padding, if it begins before the padding at the end
        more = bool(options["ceil_mode"]) and (size - span) % stride > 0 and count * stride < size - end
        counts.append(count + more)
    seen = [min(k, -(-n // d)) for k, d, n in zip(kernel, dilations, sizes, strict=True)]  # places that see any pixel
    reach = [d * (k - 1) + 1 for k, d in zip(seen, dilations, strict=True)]
    missing = [max((c - 1) * s + p - n, 0) for c, s, p, n in zip(counts, strides, reach, sizes, strict=True)]
    x = np.pad(x, [(0, 0), (0, 0), *((0, m) for m in missing)], constant_values=min(fill, 0.0))
    entries = []
    for place in np.ndindex(*seen):
        ranges = zip(place, dilations, strides, counts, strict=True)
        box = (slice(None), slice(None), *(slice(d * i, d * i + s * (c - 1) + 1, s) for i, d, s, c in ranges))
        entries.append(x[box])
    return entries


def _padding(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], options: dict[str, Any]
) -> tuple[list[int], list[int]]:
    """Return the padding before and after each axis of space."""
    pads, auto = options.get("pads"), options.get("auto_pad") or "NOTSET"
    if auto in ("NOTSET", "VALID"):
        pads = pads or [0] * 2 * len(kernel)
        return list(pads[: len(kernel)]), list(pads[len(kernel) :])
    spans = zip(size, kernel, strides, dilations, strict=True)
    total = [max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0) for n, k, s, d in spans]
    half = [t // 2 for t in total]
    rest = [t - h for t, h in zip(total, half, strict=True)]
    return (half, rest) if auto == "SAME_UPPER" else (rest, half)


def _resize(x: np.ndarray, *inputs: np.ndarray | None, axes: list[int] | None = None, **options: Any) -> np.ndarray:
    """Return what the runtime gives, by its own weights of each row and column."""
    scales, sizes = ((*inputs, None, None, None)[i] for i in (1, 2))
    places = [a % x.ndim for a in axes or range(x.ndim)]
    new = dict(enumerate(x.shape))
    by_axis: dict[int, float] = {}
    if sizes is not None and sizes.size:
        new.update(zip(places, (int(size) for size in sizes), strict=True))
    elif scales is not None:
        by_axis = dict(zip(places, scales.tolist(), strict=True))
        new.update({axis: int(np.floor(x.shape[axis] * scale)) for axis, scale in by_axis.items()})
    kept = {name: options[name] for name in OPTIONS if options.get(name) is not None}
    for axis, matrix in resize_matrices(x.shape, list(new.values()), by_axis, kept).items():
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix, -1, axis)
    return x


def _matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(torch.matmul(torch.tensor(a), torch.tensor(b)).numpy())


def _gemm(a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None, **options: Any) -> np.ndarray:
    a, b = (x.T if options[flip] else x for x, flip in ((a, "transA"), (b, "transB")))
    product = options["alpha"] * _matmul(a, b)
    return product if c is None else product + options["beta"] * c


def _erf(x: np.ndarray) -> np.ndarray:
    return torch.erf(torch.tensor(x)).numpy()


def _gelu(x: np.ndarray, approximate: str) -> np.ndarray:
    return F.gelu(torch.tensor(x), approximate=approximate).numpy()


def _group_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, **options: Any) -> np.ndarray:
    given = torch.tensor(x), options["num_groups"], torch.tensor(scale), torch.tensor(bias)
    return np.asarray(F.group_norm(*given, options["epsilon"]).numpy())


def _lp_norm(x: np.ndarray, axis: int, p: int) -> np.ndarray:
    norm = np.linalg.norm(x, p, axis, keepdims=True)
    return x / np.where(norm == 0, 1, norm)


REPLACED: dict[str, Callable[..., np.ndarray]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Resize": _resize,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Erf": _erf,
    "Gelu": _gelu,
    "GroupNormalization": _group_norm,
    "LpNormalization": _lp_norm,
}
"""By name: operators that onnx's evaluator computes slowly, in float32, or otherwise than the runtime."""
