"""What ONNX Runtime's CUDA and TensorRT providers are told: pure functions, checked without a GPU.

A provider refuses an unknown option only where a GPU is; tests hold these against the written list of the options that each
version of ONNX Runtime knows.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

LADDER = (256, 128, 64, 32)
"""Pictures of a batch of masked ones: the largest that the device's memory holds."""
WHOLE = 8
"""Whole pictures in one run at most."""
MEMORY_WORDS = (
    "out of memory",
    "outofmemory",
    "failed to allocate memory",
    "cudaerrormemoryallocation",
    "bfc_arena",
    "cublas_status_alloc_failed",
    # of any failure to build or run an engine, which memory is the usual reason of: TensorRT logs the reason elsewhere
    "tensorrt ep failed to create engine from network for fused node",
    "tensorrt ep failed to create context",
)
"""How ONNX Runtime, TensorRT and CUDA say, in small letters, that memory did not suffice."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """Batches that a session is made for: the least, the one it is tuned for, the most"""

    least: int
    best: int
    most: int

    @property
    def fixed(self) -> bool:
        return self.least == self.most

    def __str__(self) -> str:
        return f"{self.least}-{self.best}-{self.most}"


WHOLE_PROFILE = Profile(1, 1, WHOLE)


def masked_profile(batch: int) -> Profile:
    """Of one batch only, so that a CUDA graph can hold its run."""
    return Profile(batch, batch, batch)


@dataclasses.dataclass(frozen=True)
class Setting:
    """provider: cuda, tensorrt; precision: of the graph; input: its name; shape: of one picture (3, H, W) or (H, W, 3)

    ordinal: the device's number; stream: the handle of the stream to run on, None: ONNX Runtime's own; graphs: whether runs
    of a fixed batch are captured as CUDA graphs
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
        """Whether runs become CUDA graphs: those of one shape on a stream of ours."""
        return self.graphs and self.profile.fixed and self.stream is not None


@dataclasses.dataclass(frozen=True)
class Versions:
    """What a TensorRT engine is good for beside its graph.

    device: the card's name; capability: its compute capability, such as (9, 0)
    """

    onnxruntime: str
    tensorrt: str
    device: str
    capability: tuple[int, int]


def cuda_options(setting: Setting) -> dict[str, str]:
    """Of CUDAExecutionProvider."""
    return {
        **_common(setting),
        # copies of whole pictures stay in order with the runs
        "do_copy_in_default_stream": _flag(True),
        # a batch that never changes is worth a search; whole pictures come by one and by eight
        "cudnn_conv_algo_search": "EXHAUSTIVE" if setting.profile.fixed else "HEURISTIC",
        # what was asked for as fp32 is not rounded to 10 bits
        "use_tf32": _flag(False),
        # buffers are ours and fixed: an arena that grows by powers of two would only take what the batch needs
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": _flag(setting.captured),
    }


def tensorrt_options(setting: Setting, folder: Path, graph_digest: str, versions: Versions) -> dict[str, str]:
    """Of TensorrtExecutionProvider. folder: of caches; graph_digest: sha256 of the graph"""
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
        # kernels that were timed for one graph serve the next on such a device
        "trt_timing_cache_path": str(folder / f"timing-{timing_key(versions)}"),
        "trt_cuda_graph_enable": _flag(setting.captured),
    }


def cache_key(setting: Setting, graph_digest: str, versions: Versions) -> str:
    """A folder's name: all that decides whether a TensorRT engine that was built before is the right one."""
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
    return hashlib.sha256(json.dumps(dataclasses.astuple(versions)).encode()).hexdigest()[:16]


def run_options(setting: Setting, graph: int) -> dict[str, str]:
    """Of each run over bound memory. graph: the number of the buffer: a captured run is tied to its memory"""
    options = {"disable_synchronize_execution_providers": "1"}  # the embeddings are waited for once, at the end
    return {**options, "gpu_graph_id": str(graph)} if setting.captured and setting.provider == "cuda" else options


def out_of_memory(error: BaseException) -> bool:
    """Whether ONNX Runtime, TensorRT or the driver ran out of the device's memory."""
    text = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or any(word in text for word in MEMORY_WORDS):
        return True
    return error.__cause__ is not None and out_of_memory(error.__cause__)


def largest_that_fits(
    attempt: Callable[[int], T], ladder: Sequence[int] = LADDER, stepped: Callable[[int], None] = lambda batch: None
) -> T:
    """What `attempt` gives for the first batch of the ladder that does not run out of memory; its error at the last one.

    stepped: told each batch that was too large, once what the attempt took is given back
    """
    *before_last, last = ladder
    for batch in before_last:
        try:
            return attempt(batch)
        except Exception as error:
            if not out_of_memory(error):
                raise
        # outside the handler: the traceback keeps what the attempt took
        stepped(batch)
    return attempt(last)


def _common(setting: Setting) -> dict[str, str]:
    options = {"device_id": str(setting.ordinal)}
    if setting.stream is not None:
        options["user_compute_stream"] = str(setting.stream)
    return options


def _flag(value: bool) -> str:
    return str(value)  # TensorRT's options take these words alone
