"""The options that the engine gives ONNX Runtime's GPU providers, against the written list of the pinned version's.

Without a GPU a wrong option passes in silence: `onnxruntime.InferenceSession` falls back to the CPU before or after it
notices. `tests/data/provider_options.json` says which options there are, what values they take, and how that was found.
Where onnxruntime-gpu is installed (in CI in an environment of its own, for it has the same import name as onnxruntime) its
own binding is asked as well, which needs no GPU.
"""

import importlib.metadata
import inspect
import itertools
import re
from pathlib import Path

import pytest
from helpers import DATA, ROOT
from provider_options import CUDA, TENSORRT, WRITTEN, faults

SAMPLES = {"word": "True", "switch": "1", "whole": "1", "text": "x", "search": "HEURISTIC", "arena": "kSameAsRequested"}
SAMPLES["shapes"] = "image:1x3x8x8"


def test_a_bogus_option_is_found() -> None:
    assert faults(TENSORRT, {"trt_fp16_enable": "True", "user_compute_stream": "94"}) == []
    assert faults(CUDA, {"enable_cuda_graph": "1", "cudnn_conv_algo_search": "HEURISTIC"}) == []
    for provider, bogus in (
        (TENSORRT, {"trt_fp8_enable": "True"}),
        (TENSORRT, {"trt_fp16_enable": "1"}),  # the binding takes words alone
        (TENSORRT, {"trt_fp16_enable": True}),
        (TENSORRT, {"has_user_compute_stream": "1"}),  # the CUDA provider's
        (TENSORRT, {"trt_profile_min_shapes": "image:1,3,8,8"}),
        (CUDA, {"user_compute_stream": 94}),
        (CUDA, {"cudnn_conv_algo_search": "heuristic"}),
        (CUDA, {"trt_fp16_enable": "True"}),
    ):
        assert len(faults(provider, bogus)) == 1, bogus


def pinned() -> str:
    constraints = (ROOT / "constraints.txt").read_text()
    found = re.search(r"^onnxruntime-gpu==(\S+)$", constraints, re.MULTILINE)
    assert found
    return found[1]


def test_the_list_is_of_the_pinned_version() -> None:
    assert WRITTEN["onnxruntime-gpu"] == pinned()
    for known in WRITTEN["providers"].values():
        assert set(known.values()) <= set(WRITTEN["kinds"])


def test_the_engine_gives_only_known_options(tmp_path: Path) -> None:
    gpu = pytest.importorskip("engine.runtime.gpu_options", reason="the engine has no GPU options yet")
    versions = gpu.Versions("1.31.1", "10.13.3", "a card", (9, 0))
    profiles = (gpu.WHOLE_PROFILE, *(gpu.masked_profile(batch) for batch in gpu.LADDER))
    for precision, profile, shape, stream, graphs in itertools.product(
        ("fp32", "fp16", "bf16", "int8"), profiles, ((3, 8, 9), (8, 9, 3)), (None, 94), (False, True)
    ):
        common = {"stream": stream, "graphs": graphs, "ordinal": 1}
        setting = gpu.Setting("cuda", precision, "image", shape, profile, **common)
        assert faults(CUDA, gpu.cuda_options(setting)) == []
        setting = gpu.Setting("tensorrt", precision, "image", shape, profile, **common)
        assert faults(TENSORRT, gpu.tensorrt_options(setting, tmp_path, "0" * 64, versions)) == []
    # whatever it depends on: no name in the source is unknown
    names = set(re.findall('"(trt_[a-z0-9_]+)"', inspect.getsource(gpu)))
    assert names
    assert names <= set(WRITTEN["providers"][TENSORRT])


def refusal(provider: str, key: str, value: str) -> str:
    """What the binding says of one option, before it opens the provider's library; empty where it takes it."""
    import onnxruntime as ort  # noqa: PLC0415 - the GPU wheel here

    binding = ort.capi.onnxruntime_pybind11_state
    options = ort.SessionOptions()
    options.log_severity_level = 4
    ort.set_default_logger_severity(4)
    session = binding.InferenceSession(options, str(DATA / "tiny_general.onnx"), True, False)
    try:
        session.initialize_session([provider], [{key: value}], set())  # what InferenceSession hides
    except Exception as error:  # the binding raises its own classes
        return str(error)
    return ""


@pytest.fixture
def _gpu_wheel() -> None:
    try:
        version = importlib.metadata.version("onnxruntime-gpu")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs onnxruntime-gpu, in an environment without onnxruntime; .ci/run makes one")
    assert version == pinned()


@pytest.mark.usefixtures("_gpu_wheel")
@pytest.mark.parametrize("provider", [TENSORRT, CUDA])
def test_the_wheel_agrees_with_the_list(provider: str) -> None:
    if not refusal(provider, "no_such_option", "1"):
        assert provider == CUDA
        pytest.skip("the CUDA provider's library does not load here, so that no option of it is read")
    for key, kind in WRITTEN["providers"][provider].items():
        assert not re.search("nvalid TensorRT|nknown provider", refusal(provider, key, SAMPLES[kind])), key
    if provider == TENSORRT:
        for key, kind in WRITTEN["providers"][provider].items():
            assert not refusal(provider, key, SAMPLES[kind]), key
            if kind == "word":
                assert "should be 'True' or 'False'" in refusal(provider, key, "1"), key
