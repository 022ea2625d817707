"""Graphs bound to memory by pointer, on the CPU: numpy's memory through the code that binds a GPU's."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import DATA
from onnx import TensorProto, helper

from engine import BundleError
from engine.runtime.bound_memory import BoundMemory
from kernels.device import DeviceArray

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
    with pytest.raises(BundleError, match="null pointer"):
        BoundMemory(session, nothing, memory(outputs), ("cpu", 0), {})


@pytest.mark.parametrize("element", ["INT64", "FLOAT16"])
def test_a_graph_of_another_type_is_refused(tmp_path: Path, element: str) -> None:
    values = [helper.make_tensor_value_info(name, getattr(TensorProto, element), ["n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "other", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "other.onnx")
    session = ort.InferenceSession(str(tmp_path / "other.onnx"), providers=["CPUExecutionProvider"])
    numbers = np.zeros(3, element.lower())
    with pytest.raises(BundleError, match=rf"x is tensor\({element.lower()}\)"):
        bound(session, numbers, numbers)
