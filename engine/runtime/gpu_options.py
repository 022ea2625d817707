"""Options of ONNX Runtime's CUDA and TensorRT providers: pure functions, checked without a GPU.

A provider refuses an unknown option only on a machine with a GPU. So tests compare these with a written list of the options
that each version of ONNX Runtime knows.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

LADDER = (256, 128, 64, 32)
"""Batch sizes to try for masked pictures, largest first."""
WHOLE_BATCH = 8
"""At most this many whole pictures in one run."""
MEMORY_WORDS = (
    "out of memory",
    "outofmemory",
    "failed to allocate memory",
    "cudaerrormemoryallocation",
    "bfc_arena",
    "cublas_status_alloc_failed",
    # any failure to build or run an engine: TensorRT logs the reason elsewhere, and lack of memory is the usual one
    "tensorrt ep failed to create engine from network for fused node",
    "tensorrt ep failed to create context",
)
"""Words, in lower case, by which ONNX Runtime, TensorRT and CUDA report that memory ran out."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """Batch sizes that a session is made for: the least, the one it is tuned for, the most."""

    least: int
    best: int
    most: int

    @property
    def fixed(self) -> bool:
        """Whether every run has the same batch size."""
        return self.least == self.most

    def __str__(self) -> str:
        return f"{self.least}-{self.best}-{self.most}"


WHOLE_PROFILE = Profile(1, 1, WHOLE_BATCH)


def masked_profile(batch: int) -> Profile:
    """Return the profile of one batch size only, so that a CUDA graph can hold the run."""
    return Profile(batch, batch, batch)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a GPU session is opened with.

    provider: cuda or tensorrt; precision: the graph's; input: the name of the graph's input
    shape: of one picture, (3, H, W) or (H, W, 3)
    ordinal: the device's number; stream: handle of the stream to run on, None for ONNX Runtime's own
    graphs: capture runs of a fixed batch as CUDA graphs
    """

    provider: str
    precision: str
    input: str
    shape: tuple[int, ...]
    profile: Profile
    ordinal: int = 0
    stream: int | None = None
    graphs: bool = False

    @property
    def captured(self) -> bool:
        """Whether runs become CUDA graphs: only with one batch size, on our own stream."""
        return self.graphs and self.profile.fixed and self.stream is not None


@dataclasses.dataclass(frozen=True)
class Versions:
    """What a TensorRT engine depends on besides its graph.

    onnxruntime, tensorrt: versions; device: the GPU's name; capability: its compute capability, such as (9, 0)
    """

    onnxruntime: str
    tensorrt: str
    device: str
    capability: tuple[int, int]


def cuda_options(setting: Setting) -> dict[str, str]:
    """Return the options of CUDAExecutionProvider."""
    return {
        **_common(setting),
        # keeps copies of whole pictures in order with the runs
        "do_copy_in_default_stream": _flag(True),
        # a search pays for a batch size that never changes; whole pictures come in batches of one to eight
        "cudnn_conv_algo_search": "EXHAUSTIVE" if setting.profile.fixed else "HEURISTIC",
        # TF32 would round fp32 to 10 bits of mantissa
        "use_tf32": _flag(False),
        # our buffers are fixed: an arena that grows by powers of two would take memory that the batch needs
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": _flag(setting.captured),
    }


def tensorrt_options(setting: Setting, folder: Path, graph_digest: str, versions: Versions) -> dict[str, str]:
    """Return the options of TensorrtExecutionProvider.

    folder: for the caches; graph_digest: sha256 of the graph
    """
    key = cache_key(setting, graph_digest, versions)
    shapes = {
        f"trt_profile_{kind}_shapes": f"{setting.input}:{'x'.join(map(str, (batch, *setting.shape)))}"
        for kind, batch in zip(
            ("min", "opt", "max"), (setting.profile.least, setting.profile.best, setting.profile.most), strict=True
        )
    }
    return {
        **_common(setting),
        **shapes,
        "trt_fp16_enable": _flag(setting.precision == "fp16"),
        "trt_bf16_enable": _flag(setting.precision == "bf16"),
        "trt_int8_enable": _flag(setting.precision == "int8"),
        "trt_engine_cache_enable": _flag(True),
        "trt_engine_cache_path": str(folder / key),
        "trt_engine_cache_prefix": f"sane-{key[:16]}",
        "trt_timing_cache_enable": _flag(True),
        # kernel timings of one graph are reused for the next graph on the same kind of device
        "trt_timing_cache_path": str(folder / f"timing-{timing_key(versions)}"),
        "trt_cuda_graph_enable": _flag(setting.captured),
    }


def cache_key(setting: Setting, graph_digest: str, versions: Versions) -> str:
    """Return the name of an engine's folder: a hash of everything that a TensorRT engine depends on."""
    parts = [
        graph_digest,
        setting.provider,
        setting.precision,
        str(setting.profile),
        list(setting.shape),
        dataclasses.astuple(versions),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def timing_key(versions: Versions) -> str:
    """Return the name of the folder of kernel timings: a hash of what they depend on."""
    return hashlib.sha256(json.dumps(dataclasses.astuple(versions)).encode()).hexdigest()[:16]


def run_options(setting: Setting, graph: int) -> dict[str, str]:
    """Return the options of a run over bound memory.

    graph: the buffer's number; every buffer needs its own CUDA graph, because a captured run is tied to its memory
    """
    options = {"disable_synchronize_execution_providers": "1"}  # we wait once, for the embeddings at the end
    return {**options, "gpu_graph_id": str(graph)} if setting.captured and setting.provider == "cuda" else options


def out_of_memory(error: BaseException) -> bool:
    """Whether the error, or one that caused it, says that the device's memory ran out."""
    text = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or any(word in text for word in MEMORY_WORDS):
        return True
    return error.__cause__ is not None and out_of_memory(error.__cause__)


def largest_that_fits(
    attempt: Callable[[int], T], ladder: Sequence[int] = LADDER, on_too_large: Callable[[int], None] | None = None
) -> T:
    """Call `attempt` with each batch size of the ladder until one does not run out of memory, and return its result.

    on_too_large: called with every batch size that was too large, after the memory of the attempt was freed
    Raises what `attempt` raises for another reason, or at the last batch size.
    """
    *before_last, last = ladder
    for batch in before_last:
        try:
            return attempt(batch)
        except Exception as error:
            if not out_of_memory(error):
                raise
        # after the handler: inside it, the traceback would keep the attempt's memory alive
        if on_too_large is not None:
            on_too_large(batch)
    return attempt(last)


def _common(setting: Setting) -> dict[str, str]:
    options = {"device_id": str(setting.ordinal)}
    if setting.stream is not None:
        options["user_compute_stream"] = str(setting.stream)
    return options


def _flag(value: bool) -> str:
    return str(value)  # TensorRT's options accept only True and False
