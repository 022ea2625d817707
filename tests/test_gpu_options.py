"""The ladder of batches, when a cached engine is the right one, and what a GPU's sessions and runs are told.

That the options are ones which the providers know: `tests/test_provider_options.py`.
"""

import dataclasses
import gc
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.runtime.gpu_options import (
    LADDER,
    WHOLE_PROFILE,
    Profile,
    Setting,
    Versions,
    cache_key,
    cuda_options,
    largest_that_fits,
    masked_profile,
    out_of_memory,
    run_options,
    tensorrt_options,
)
from kernels.device import DeviceError, OutOfMemory

SETTING = Setting("tensorrt", "fp16", "image", (3, 32, 48), masked_profile(128), ordinal=1, stream=77, graphs=True)
VERSIONS = Versions("1.31.1", "10.13.3", "NVIDIA L4", (8, 9))
DIGEST = "ab" * 32


def test_profiles() -> None:
    assert LADDER == (256, 128, 64, 32)
    assert Profile(64, 64, 64) == masked_profile(64)
    assert (WHOLE_PROFILE.least, WHOLE_PROFILE.most) == (1, 8)
    options = tensorrt_options(SETTING, Path("/cache"), DIGEST, VERSIONS)
    for kind in ("min", "opt", "max"):
        assert options[f"trt_profile_{kind}_shapes"] == "image:128x3x32x48"
    options = tensorrt_options(dataclasses.replace(SETTING, profile=WHOLE_PROFILE), Path("/cache"), DIGEST, VERSIONS)
    assert options["trt_profile_min_shapes"] == "image:1x3x32x48"
    assert options["trt_profile_max_shapes"] == "image:8x3x32x48"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_tensorrt_computes_in_the_graphs_own_precision(precision: str) -> None:
    options = tensorrt_options(dataclasses.replace(SETTING, precision=precision), Path("/cache"), DIGEST, VERSIONS)
    switches = {p: options[f"trt_{p}_enable"] for p in ("fp16", "bf16", "int8")}
    assert switches == {p: str(p == precision) for p in switches}


def test_an_engine_serves_only_what_it_was_built_for() -> None:
    """Caches that leave one of these out would run an engine of another graph, device or precision."""
    settings = [
        dataclasses.replace(SETTING, **change)
        for change in (
            {},
            {"provider": "cuda"},
            {"precision": "int8"},
            {"shape": (32, 48, 3)},
            {"profile": masked_profile(64)},
            {"profile": WHOLE_PROFILE},
        )
    ]
    versions = [
        dataclasses.replace(VERSIONS, **change)
        for change in ({"onnxruntime": "1.32.0"}, {"tensorrt": "10.14.0"}, {"device": "NVIDIA L40"}, {"capability": (9, 0)})
    ]
    keys = [cache_key(setting, DIGEST, VERSIONS) for setting in settings]
    keys += [cache_key(SETTING, DIGEST, each) for each in versions] + [cache_key(SETTING, "cd" * 32, VERSIONS)]
    assert len(set(keys)) == len(keys)
    # a stream's handle and a device's number change from run to run, and a CUDA graph holds runs of the same engine
    assert cache_key(dataclasses.replace(SETTING, stream=5, ordinal=0, graphs=False), DIGEST, VERSIONS) == keys[0]
    options = tensorrt_options(SETTING, Path("/cache"), DIGEST, VERSIONS)
    assert options["trt_engine_cache_path"] == f"/cache/{keys[0]}"
    other = tensorrt_options(SETTING, Path("/cache"), "cd" * 32, VERSIONS)
    assert options["trt_timing_cache_path"] == other["trt_timing_cache_path"]


def test_only_a_fixed_batch_on_a_stream_of_ours_is_captured() -> None:
    cuda = dataclasses.replace(SETTING, provider="cuda")
    assert run_options(cuda, 2) == {"disable_synchronize_execution_providers": "1", "gpu_graph_id": "2"}
    assert cuda_options(cuda)["enable_cuda_graph"] == "True"
    assert cuda_options(cuda)["user_compute_stream"] == "77"
    for change in ({"profile": WHOLE_PROFILE}, {"stream": None}, {"graphs": False}):
        changed = dataclasses.replace(cuda, **change)
        assert cuda_options(changed)["enable_cuda_graph"] == "False"
        assert "gpu_graph_id" not in run_options(changed, 2)
    assert "user_compute_stream" not in cuda_options(dataclasses.replace(cuda, stream=None))
    assert cuda_options(cuda)["use_tf32"] == "False"


class Taken:
    """Memory of a device."""


def test_the_ladder_goes_one_step_down_when_memory_runs_out() -> None:
    tried: list[int] = []
    alive: list[weakref.ref[Taken]] = []

    def attempt(batch: int) -> int:
        gc.collect()
        assert not any(taken() for taken in alive)  # what the step before took was given back
        taken = Taken()
        alive.append(weakref.ref(taken))
        tried.append(batch)
        if batch > 64:
            raise OutOfMemory(f"no room for {batch}")
        return batch

    too_large: list[int] = []
    assert largest_that_fits(attempt, on_too_large=too_large.append) == 64
    assert (tried, too_large) == ([256, 128, 64], [256, 128])

    def always(batch: int) -> int:
        raise OutOfMemory(f"no room for {batch}")

    with pytest.raises(OutOfMemory, match="no room for 32"):
        largest_that_fits(always)


@pytest.mark.parametrize("ladder", [LADDER, (8, 4)])
def test_other_errors_are_not_taken_for_a_lack_of_memory(ladder: Sequence[int]) -> None:
    tried: list[int] = []

    def attempt(batch: int) -> int:
        tried.append(batch)
        raise DeviceError("misaligned address")

    with pytest.raises(DeviceError, match="misaligned"):
        largest_that_fits(attempt, ladder)
    assert tried == [ladder[0]]


def test_how_a_lack_of_memory_is_said() -> None:
    assert out_of_memory(OutOfMemory("cuMemAlloc failed"))
    assert out_of_memory(RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 1073741824"))
    assert out_of_memory(RuntimeError("CUDA failure 2: out of memory ; GPU=0"))
    assert out_of_memory(MemoryError())
    # ONNX Runtime's, of TensorRT and cuBLAS
    fused = "TensorrtExecutionProvider_TRTKernel_graph_main_0"
    assert out_of_memory(RuntimeError(f"TensorRT EP failed to create engine from network for fused node: {fused}"))
    assert out_of_memory(RuntimeError("TensorRT EP failed to create context."))
    assert out_of_memory(RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0"))
    assert not out_of_memory(RuntimeError(f"TensorRT EP failed to parse the network of fused node: {fused}"))
    error = RuntimeError("the run failed")
    error.__cause__ = OutOfMemory("cuMemAlloc failed")
    assert out_of_memory(error)
    assert not out_of_memory(RuntimeError("invalid argument"))
