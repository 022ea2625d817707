"""Graphs bound to memory by pointer, on the CPU: numpy's memory through the code that binds a GPU's."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from engine import BundleError
from engine.runtime.bound_memory import BoundMemory
from kernels.device import DeviceArray

DATA = Path(__file__).parent / "data"
BATCH, SHAPE, SIZE = 4, (3, 112, 112), 16


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    return ort.InferenceSession(str(DATA / "tiny_general.onnx"), providers=["CPUExecutionProvider"])


def memory(values: np.ndarray) -> DeviceArray:
    """A numpy array's own."""
    return DeviceArray(values.ctypes.data, values.shape, values.dtype.name)


def bound(session: ort.InferenceSession, rows: np.ndarray, outputs: np.ndarray) -> BoundMemory:
    options = {"disable_synchronize_execution_providers": "1", "gpu_graph_id": "1"}
    return BoundMemory(session, memory(rows), memory(outputs), ("cpu", 0), options)


def test_embeddings_are_those_of_run(session: ort.InferenceSession) -> None:
    rng = np.random.default_rng(0)
    rows, outputs = np.empty((BATCH, *SHAPE), np.float32), np.empty((BATCH, SIZE), np.float32)
    network = bound(session, rows, outputs)
    for _ in range(3):  # what is written into the memory later is what the next run sees
        rows[:] = rng.standard_normal(rows.shape)
        network.run()
        np.testing.assert_array_equal(outputs, session.run(None, {session.get_inputs()[0].name: rows})[0])


def test_half_precision_is_bound_as_such(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n", 5]) for name in "xy"]
    graph = helper.make_graph(nodes, "half", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "half.onnx")
    session = ort.InferenceSession(str(tmp_path / "half.onnx"), providers=["CPUExecutionProvider"])
    rows, outputs = np.arange(10, dtype=np.float16).reshape(2, 5), np.zeros((2, 5), np.float16)
    bound(session, rows, outputs).run()
    np.testing.assert_array_equal(outputs, -rows)
    with pytest.raises(BundleError, match=r"float16.*float32"):
        bound(session, rows.astype(np.float32), outputs)


@pytest.mark.parametrize(
    ("rows", "outputs", "message"),
    [
        (np.zeros((BATCH, *SHAPE)), np.zeros((BATCH, SIZE), np.float32), r"input .* is float32 .*float64"),
        (np.zeros((BATCH, *SHAPE), np.float16), np.zeros((BATCH, SIZE), np.float32), r"input .* is float32 .*float16"),
        (np.zeros((BATCH, 3, 112, 111), np.float32), np.zeros((BATCH, SIZE), np.float32), r"\[4, 3, 112, 111\]"),
        (np.zeros(SHAPE, np.float32), np.zeros((BATCH, SIZE), np.float32), r"\[3, 112, 112\]"),
        (np.zeros((BATCH, *SHAPE), np.float32), np.zeros((BATCH, SIZE - 1), np.float32), r"output .*\[4, 15\]"),
        (np.zeros((BATCH, *SHAPE), np.float32), np.zeros((BATCH, SIZE)), r"output .*float64"),
        (np.zeros((BATCH, *SHAPE), np.float32), np.zeros((BATCH - 1, SIZE), np.float32), "4 pictures .* 3 embeddings"),
        (np.zeros((0, *SHAPE), np.float32), np.zeros((0, SIZE), np.float32), r"\[0, 3, 112, 112\]"),
    ],
)
def test_memory_that_does_not_fit_is_refused(
    session: ort.InferenceSession, rows: np.ndarray, outputs: np.ndarray, message: str
) -> None:
    """ONNX Runtime would write past its end."""
    with pytest.raises(BundleError, match=message):
        bound(session, rows, outputs)


def test_no_memory_is_refused(session: ort.InferenceSession) -> None:
    nothing, outputs = DeviceArray(0, (BATCH, *SHAPE), "float32"), np.zeros((BATCH, SIZE), np.float32)
    with pytest.raises(BundleError, match="no memory at all"):
        BoundMemory(session, nothing, memory(outputs), ("cpu", 0), {})


def test_a_graph_of_integers_is_refused(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "whole", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "whole.onnx")
    session = ort.InferenceSession(str(tmp_path / "whole.onnx"), providers=["CPUExecutionProvider"])
    numbers = np.zeros(3, np.int64)
    with pytest.raises(BundleError, match=r"tensor\(int64\)"):
        bound(session, numbers, numbers)
