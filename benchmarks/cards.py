"""Figures of GPUs: published peaks, published throughputs of ResNet-50, and two assumptions."""

import dataclasses

LAUNCH = 3e-6
"""Least seconds of a kernel (an assumption)."""
STREAMING = 0.8
"""Share of the peak bandwidth that kernels reach which only copy or write (an assumption)."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One card. flops: dense peak operations per second by precision; a multiplication and its addition count as two

    bandwidth: of its memory; link: to the host, in one direction; both in bytes per second
    """

    name: str
    flops: dict[str, float]
    bandwidth: float
    link: float
    source: str


GPUS = (
    Gpu("T4", {"fp32": 8.1e12, "fp16": 65e12, "int8": 130e12}, 320e9, 16e9, "NVIDIA T4 datasheet"),
    Gpu(
        "A100",
        {"fp32": 19.5e12, "fp16": 312e12, "int8": 624e12},
        2039e9,
        32e9,
        "NVIDIA A100 80 GB SXM datasheet, without sparsity",
    ),
    Gpu(
        "H100",
        {"fp32": 67e12, "fp16": 989e12, "int8": 1979e12},
        3350e9,
        64e9,
        "NVIDIA H100 SXM datasheet, without sparsity",
    ),
)


@dataclasses.dataclass(frozen=True)
class Published:
    """A published throughput of ResNet-50 at 224 x 224."""

    gpu: str
    precision: str
    batch: int
    images_per_second: float
    source: str


LEAST = (
    Published("T4", "fp16", 128, 1280.0, "Triton with ONNX Runtime's TensorRT provider, NVIDIA DeepLearningExamples"),
    Published("A100", "fp16", 32, 2857.6, "Triton with ONNX Runtime's TensorRT provider, NVIDIA DeepLearningExamples"),
)
MOST = Published("H100", "int8", 256, 88.7e3, "MLPerf Inference, Offline, one accelerator; its batch is assumed")
LEAST_OF = {"T4": LEAST[0], "A100": LEAST[1], "H100": LEAST[1]}
"""The lower figure used for each card, as a share of the roofline. The H100 uses the A100's."""
