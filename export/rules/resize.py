"""The derivative of Resize, which is a matrix product along each axis that it changes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from export.rules.step import InputGradients, Step, rule

OPTIONS = ("antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "mode", "nearest_mode")


@rule("Resize")
def _resize(n: Step) -> InputGradients:
    """y = A x B^T with the weights A, B of its rows and columns: A^T g B"""
    options = {name: n.attribute(name) for name in OPTIONS if n.attribute(name) is not None}
    if options.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise n.fault("it cuts out a region")
    if n.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise n.fault("it keeps the aspect ratio")
    rank = len(n.x.shape)
    axes = [int(a) % rank for a in n.attribute("axes") or range(rank)]
    scales = n.constant(2)
    by_axis = dict(zip(axes, [1.0] * rank if scales is None or not scales.size else scales.tolist(), strict=False))
    g = n.g
    for axis, matrix in resize_matrices(n.x.shape, n.y.shape, by_axis, options).items():
        g = g.along(axis, matrix.T, rank)
    return [g]


def resize_matrices(
    before: Sequence[int | None], after: Sequence[int | None], scales: Mapping[int, float], options: Mapping[str, Any]
) -> dict[int, np.ndarray]:
    """Return the matrix (size, new size) of each axis that Resize changes.

    before, after: shapes, None for a size that follows the batch; scales: by axis, 1 if the new sizes were given instead;
    options: attributes of the node
    """
    found = {}
    for axis, (size, new) in enumerate(zip(before, after, strict=True)):
        scale = scales.get(axis, 1.0)
        if size is not None and new is not None and (size != new or scale != 1):
            found[axis] = _matrix(size, new, scale, options)
    return found


def _matrix(size: int, new: int, scale: float, options: Mapping[str, Any]) -> np.ndarray:
    """Resize each row of a unit matrix: this is what each pixel of the result takes from each pixel of the input."""
    if scale == 1:
        inputs, constant = ["x", "", "", "how"], np.array([size, 1, new, 1], np.int64)
    else:
        inputs, constant = ["x", "", "how"], np.array([1, 1, scale, 1], np.float32)
    node = helper.make_node("Resize", inputs, ["y"], **options)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, 1, size, 1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "rows", [given], [result], [numpy_helper.from_array(constant, "how")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (rows,) = session.run(None, {"x": np.eye(size, dtype=np.float32)[:, None, :, None]})
    return np.asarray(rows)[:, 0, :, 0]
