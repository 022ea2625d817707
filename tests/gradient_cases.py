"""One small graph for each form of each operator that gradient graphs know: what the rules are tested, and broken, on."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from gradient_graphs import floats, integers, model_of, node
from onnx import NodeProto, TensorProto

Case = tuple[str, Callable[[], onnx.ModelProto], float | None]
"""The operator, the graph's builder, and the lowest entry of its pictures; None for normal ones."""


def entrywise(kind: str, low: float | None = None, **attributes: Any) -> Case:
    return kind, lambda: model_of([node(kind, ["x"], ["y"], **attributes)], {}), low


def with_constants(
    kind: str, *values: np.ndarray | None, low: float | None = None, opset: int = 20, first: bool = False, **attributes: Any
) -> Case:
    """x and constants; first: x comes after the first constant. None: an input left out."""
    names = ["" if v is None else f"c{i}" for i, v in enumerate(values)]
    inputs = [*names[:1], "x", *names[1:]] if first else ["x", *names]
    constants = {n: v for n, v in zip(names, values, strict=True) if v is not None}
    return kind, lambda: model_of([node(kind, inputs, ["y"], **attributes)], constants, opset=opset), low


def several(
    kind: str, nodes: Sequence[NodeProto], low: float | None = None, opset: int = 20, **constants: np.ndarray
) -> Case:
    return kind, lambda: model_of(nodes, constants, opset=opset), low


drawn = functools.partial(floats, np.random.default_rng(0))
"""Constants of the cases, drawn one after another."""
HALVES = node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2)
BATCH = node("Shape", ["x"], ["batch"], start=0, end=1)
CASES: list[Case] = [
    *(entrywise(k) for k in ("Identity", "Neg", "Abs", "Exp", "Erf", "Tanh", "Sigmoid", "Softplus", "Relu", "HardSwish")),
    *(entrywise(k, low=0.5) for k in ("Log", "Sqrt", "Reciprocal")),
    entrywise("Dropout"),
    entrywise("LeakyRelu", alpha=0.3),
    entrywise("LeakyRelu"),
    entrywise("Elu", alpha=0.7),
    entrywise("HardSigmoid", alpha=0.5, beta=0.4),
    entrywise("Gelu"),
    entrywise("Gelu", approximate="tanh"),
    with_constants("PRelu", drawn(4, 1, 1)),
    with_constants("Clip", np.float32(-0.4), np.float32(0.6)),
    with_constants("Clip", None, np.float32(0.6)),
    with_constants("Clip", np.float32(0.1)),
    with_constants("Pow", np.float32(2)),
    with_constants("Pow", np.float32(0.4), low=0.5),
    with_constants("Add", drawn(4, 1, 6)),
    with_constants("Sub", drawn(5, 1)),
    with_constants("Sub", drawn(5, 1), first=True),
    with_constants("Mul", drawn(6)),
    with_constants("Div", drawn(4, 1, 1, low=1)),
    with_constants("Div", drawn(2, 4, 5, 6)[0], first=True, low=1),
    several("Mul", [HALVES, node("Mul", ["a", "b"], ["y"])]),
    several("Mul", [node("ReduceMean", ["x", "axes"], ["m"]), node("Mul", ["x", "m"], ["y"])], axes=integers(2, 3)),
    several("Div", [HALVES, node("Div", ["a", "b"], ["y"])], low=1),
    several("Sum", [HALVES, node("Sum", ["a", "b", "c"], ["y"])], c=drawn(2, 5, 6)),
    several("Max", [HALVES, node("Max", ["a", "b"], ["y"])]),
    several("Min", [HALVES, node("Min", ["a", "b", "c"], ["y"])], c=drawn(1, 6)),
    several("Where", [HALVES, node("Greater", ["a", "b"], ["c"]), node("Where", ["c", "a", "b"], ["y"])]),
    with_constants("Reshape", integers(0, 2, -1)),
    entrywise("Flatten"),
    several("Squeeze", [node("Unsqueeze", ["x", "axes"], ["u"]), node("Squeeze", ["u", "axes"], ["y"])], axes=integers(2)),
    several("Unsqueeze", [node("Unsqueeze", ["x", "axes"], ["y"])], axes=integers(1, 4)),
    several(
        "Expand",
        [node("ReduceSum", ["x", "axes"], ["s"]), node("Expand", ["s", "shape"], ["y"])],
        axes=integers(1),
        shape=integers(1, 3, 5, 6),
    ),
    entrywise("Transpose", perm=[0, 2, 3, 1]),
    several("Concat", [HALVES, node("Concat", ["b", "x", "a"], ["y"], axis=-3)]),
    several("Split", [node("Split", ["x", "sizes"], ["a", "y", "b"], axis=3)], sizes=integers(1, 3, 2)),
    with_constants("Slice", integers(1, -4), integers(3, 100), integers(1, 3)),
    with_constants("Slice", integers(0, 5), integers(5, -100), integers(2, 3), integers(2, -2)),
    with_constants("Gather", integers(2, 0, 0, -1), axis=2),
    with_constants("Gather", np.array(-1), axis=1),
    with_constants("Pad", integers(0, 0, 1, 0, 0, 2, 0, 3)),
    with_constants("Pad", integers(1, 2, 2, 1), None, integers(2, 3), mode="reflect"),
    with_constants("Pad", integers(0, 2, 1, 0), None, integers(2, 3), mode="edge"),
    with_constants("ReduceSum", integers(1, 2), keepdims=0),
    with_constants("ReduceMean", integers(-1), keepdims=1),
    with_constants("ReduceL2", integers(1), keepdims=0),
    with_constants("ReduceMax", integers(2, 3)),
    with_constants("ReduceSumSquare", integers(2), keepdims=0),
    several("Cast", [node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE), node("Cast", ["d"], ["y"], to=TensorProto.FLOAT)]),
    several(
        "Slice", [node("Slice", ["x", "s", "e", "a"], ["y"])], s=integers(0, 1), e=integers(2**31 - 1, 3), a=integers(0, 1)
    ),
    entrywise("GlobalAveragePool"),
    entrywise("Softmax", axis=1),
    entrywise("Softmax"),
    with_constants("LayerNormalization", drawn(5, 6), drawn(5, 6), axis=2),
    with_constants("LayerNormalization", drawn(6), epsilon=0.1),
    with_constants("BatchNormalization", drawn(4), drawn(4), drawn(4), drawn(4, low=0.5), epsilon=0.01),
    with_constants("MatMul", drawn(6, 3)),
    with_constants("MatMul", drawn(1, 4, 3, 5), first=True),
    several("MatMul", [node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]), node("MatMul", ["x", "t"], ["y"])]),
    several(
        "MatMul",
        [node("ReduceMean", ["x", "axes"], ["m"]), node("MatMul", ["m", "c"], ["y"])],
        axes=integers(1),
        c=drawn(1, 3, 6, 2),
    ),
    several(
        "Gemm",
        [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "c", "d"], ["y"], alpha=0.5)],
        c=drawn(120, 3),
        d=drawn(3),
    ),
    several("Gemm", [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "c"], ["y"], transB=1)], c=drawn(3, 120)),
    with_constants("Conv", drawn(6, 4, 3, 3), drawn(6), pads=[1, 1, 1, 1]),
    with_constants("Conv", drawn(6, 4, 3, 3), strides=[2, 2]),
    with_constants("Conv", drawn(6, 4, 2, 3), strides=[3, 1], pads=[0, 2, 1, 0]),
    with_constants("Conv", drawn(8, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    with_constants("Conv", drawn(4, 1, 3, 3), group=4, dilations=[2, 2], pads=[2, 2, 2, 2]),
    with_constants("Conv", drawn(4, 1, 3, 3), group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
    with_constants("Conv", drawn(3, 4, 1, 1), strides=[2, 2]),
    with_constants("Conv", drawn(3, 4, 3, 3), pads=[4, 3, 4, 3]),
    with_constants("Conv", drawn(3, 4, 2, 2), strides=[2, 2], auto_pad="SAME_UPPER"),
    with_constants("Conv", drawn(3, 4, 3, 3), auto_pad="SAME_LOWER"),
    with_constants("ConvTranspose", drawn(4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 0]),
    with_constants("ConvTranspose", drawn(4, 2, 2, 2), dilations=[2, 1]),
    entrywise("AveragePool", kernel_shape=[2, 3], strides=[2, 1], pads=[1, 0, 0, 1]),
    entrywise("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    entrywise("AveragePool", kernel_shape=[5, 6]),
    entrywise("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    entrywise("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    *(entrywise(k) for k in ("Sin", "Cos", "Softsign", "Celu", "Selu")),
    entrywise("Celu", alpha=0.7),
    several("Mean", [HALVES, node("Mean", ["a", "b", "c"], ["y"])], c=drawn(2, 5, 6)),
    with_constants("ReduceL1", integers(1), keepdims=0),
    with_constants("ReduceLogSumExp", integers(2, 3)),
    with_constants("ReduceMin", integers(1), keepdims=0),
    entrywise("LogSoftmax", axis=1),
    entrywise("GlobalMaxPool"),
    with_constants("Tile", integers(1, 2, 1, 3)),
    entrywise("DepthToSpace", blocksize=2),
    several(
        "DepthToSpace",
        [
            *(node("Exp", ["x"], ["e"]), node("Concat", ["x", "e"], ["both"], axis=1)),
            node("DepthToSpace", ["both"], ["y"], blocksize=2, mode="CRD"),
        ],
    ),
    several(
        "SpaceToDepth",
        [node("Slice", ["x", "zero", "four", "rows"], ["s"]), node("SpaceToDepth", ["s"], ["y"], blocksize=2)],
        zero=integers(0),
        four=integers(4),
        rows=integers(2),
    ),
    with_constants("Gather", np.array([[2, 0, 1], [3, -1, 2]]), axis=1),
    several(  # PyTorch's as_strided: places in the whole batch
        "Gather",
        [
            *(node("Reshape", ["x", "all"], ["f"]), BATCH, node("Squeeze", ["batch"], ["count"])),
            *(node("Range", ["zero", "count", "one"], ["n"]), node("Mul", ["n", "size"], ["starts"])),
            *(node("Unsqueeze", ["starts", "one_axis"], ["column"]), node("Add", ["column", "places"], ["i"])),
            node("Gather", ["f", "i"], ["y"]),
        ],
        all=integers(-1),
        zero=np.array(0),
        one=np.array(1),
        size=np.array(120),
        one_axis=integers(1),
        places=integers(3, 100, 3, 7),
    ),
    several(
        "GatherND",
        [
            node("Transpose", ["x"], ["t"], perm=[1, 2, 3, 0]),
            node("GatherND", ["t", "places"], ["r"]),
            node("Transpose", ["r"], ["y"], perm=[2, 0, 1]),
        ],
        places=np.array([[0, 1], [3, 4], [0, 1]]),
    ),
    several(
        "GatherElements",
        [
            *(BATCH, node("Concat", ["batch", "rest"], ["shape"], axis=0), node("Expand", ["c", "shape"], ["i"])),
            node("GatherElements", ["x", "i"], ["y"], axis=3),
        ],
        rest=integers(4, 5, 3),
        c=np.random.default_rng(2).integers(0, 6, (1, 4, 5, 3)),
    ),
    with_constants("InstanceNormalization", drawn(4), drawn(4), epsilon=0.01),
    with_constants("GroupNormalization", drawn(4), drawn(4), num_groups=2, opset=21),
    with_constants("RMSNormalization", drawn(5, 6), axis=2, opset=23),
    entrywise("LpNormalization", axis=1),
    entrywise("LpNormalization", p=1),
    with_constants("Resize", None, np.array([1, 1, 2, 1.5], np.float32), mode="linear"),
    with_constants("Resize", None, None, integers(3, 11), mode="linear", axes=[2, 3]),
    with_constants(
        *("Resize", None, None, integers(9, 4)), mode="linear", coordinate_transformation_mode="align_corners", axes=[2, 3]
    ),
    with_constants("Resize", None, None, integers(2, 3), mode="linear", antialias=1, axes=[2, 3]),
    with_constants("Resize", None, np.array([1, 1, 2, 3], np.float32), mode="nearest"),
    with_constants(
        *("Resize", None, None, integers(4, 8)),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        axes=[2, 3],
    ),
    with_constants("Resize", None, None, integers(10, 9), mode="cubic", cubic_coeff_a=-0.5, axes=[2, 3]),
    several("Einsum", [HALVES, node("Einsum", ["a", "b"], ["y"], equation="bchw,bdhw->bcd")]),
    with_constants("Einsum", drawn(6, 3), equation="bchw, wo -> bcho"),
    with_constants("Einsum", drawn(4, 5), equation="bchw,ch"),
    with_constants("Einsum", drawn(4, 5), first=True, equation="ch,bchw->bc"),
    entrywise("Einsum", equation="bchw->bhc"),
    several("Attention", [node("Attention", ["x", "x", "x"], ["y"])], opset=23),
    several("Attention", [node("Attention", ["x", "x", "x"], ["y"], is_causal=1, scale=0.7)], opset=23),
    several(
        "Attention",
        [HALVES, node("Attention", ["x", "a", "b", "mask"], ["y"], softcap=0.8)],
        opset=23,
        mask=np.where(np.eye(5) > 0, -np.inf, drawn(5, 5)).astype(np.float32),
    ),
    several(
        "Attention",
        [
            *(node("Reshape", ["x", "tokens"], ["q"]), node("MatMul", ["q", "c"], ["k"]), node("MatMul", ["q", "d"], ["v"])),
            node("Attention", ["q", "k", "v"], ["y"], q_num_heads=4, kv_num_heads=2),
        ],
        opset=23,
        tokens=integers(0, 10, 12),
        c=drawn(12, 6),
        d=drawn(12, 4),
    ),
    *(
        several(
            "RotaryEmbedding",
            [
                *(BATCH, node("Concat", ["batch", "rest"], ["shape"], axis=0)),
                *(node("Expand", ["c", "shape"], ["cos"]), node("Expand", ["s", "shape"], ["sin"])),
                node("RotaryEmbedding", ["x", "cos", "sin"], ["y"], interleaved=interleaved),
            ],
            opset=23,
            rest=integers(5, 3),
            c=np.cos(drawn(1, 5, 3)),
            s=np.sin(drawn(1, 5, 3)),
        )
        for interleaved in (0, 1)
    ),
]
