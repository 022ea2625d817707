"""What ONNX Runtime is asked for on a GPU, and what may run on the CPU beside it; no GPU has run this yet."""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime as ort
import pytest

from engine.bundle import demo_bundle
from engine.errors import ProviderError
from engine.runtime.gpu_opening import device_name, tensorrt_version
from engine.runtime.session import open_session, require_network_on

GRAPH = demo_bundle() / "similarity.fp32.onnx"


def recorded(path: Path) -> ort.InferenceSession:
    """A session that knows what it runs where: all on the CPU."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def sizes(path: Path) -> Path:
    """A graph that flattens its pictures by arithmetic on their shape, as exported transformers do."""
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 3, 4, 4] image) => (float[n, m] out)
        {
            shape = Shape(image)
            zero = Constant<value_ints = [0]>()
            batch = Gather<axis = 0>(shape, zero)
            rest = Constant<value_ints = [-1]>()
            flat = Concat<axis = 0>(batch, rest)
            out = Reshape(image, flat)
        }"""
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_the_cpu_may_compute_sizes_beside_cuda_and_nothing_else(tmp_path: Path) -> None:
    require_network_on(recorded(sizes(tmp_path / "sizes.onnx")), GRAPH)
    with pytest.raises(ProviderError, match=r"'cuda' does not run all of .*: ONNX Runtime leaves Conv, .*Gemm"):
        require_network_on(recorded(GRAPH), GRAPH)


class Remembered:
    """An inference session that was made with these options. given: of the last one"""

    given: ort.SessionOptions

    def __init__(self, path: str, options: ort.SessionOptions, **_: object) -> None:
        Remembered.given = options

    def get_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        node = SimpleNamespace(op_type="Conv")
        return [SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: [node])]


def entry(key: str) -> str:
    try:
        return str(Remembered.given.get_session_config_entry(key))
    except RuntimeError:  # never set
        return ""


def test_only_tensorrt_refuses_the_cpu_altogether(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime puts arithmetic on sizes on the CPU beside CUDA, and would refuse graphs that have some."""
    monkeypatch.setattr("engine.runtime.session.ort.get_available_providers", lambda: Remembered.get_providers(Remembered))  # type: ignore[arg-type]
    monkeypatch.setattr("engine.runtime.session.ort.InferenceSession", Remembered)
    with pytest.raises(ProviderError, match="leaves Conv to the CPU"):
        open_session(GRAPH, "cuda", None)
    assert entry("session.disable_cpu_ep_fallback") == ""
    assert entry("session.record_ep_graph_assignment_info") == "1"
    open_session(GRAPH, "tensorrt", None)
    assert entry("session.disable_cpu_ep_fallback") == "1"


def test_the_version_of_a_tensorrt_without_a_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.runtime.gpu_opening.importlib.metadata.distributions", lambda name: [])
    loaded = {"libnvinfer.so.10": SimpleNamespace(getInferLibVersion=lambda: 101303)}
    monkeypatch.setattr(ctypes, "CDLL", loaded.__getitem__)
    assert tensorrt_version() == "101303"

    def none(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", none)
    assert (tensorrt_version(), device_name(0)) == ("unknown", "unknown")
