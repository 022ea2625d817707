"""What a CUDA kernel needs of a plan: a few kilobytes, drawn on the host and copied to the device once."""

import dataclasses

import numpy as np

DTYPES = (np.dtype("<u8"), np.dtype("<i4"), np.dtype("u1"))
"""Of the arrays that kernels read: packed bits, whole numbers, flags."""


@dataclasses.dataclass(frozen=True, eq=False)
class KernelPlan:
    """kernel: its name in masks.cu without the type, such as "rise"; masks: how many the plan has

    arguments: those of its kind, in its order: arrays (C-contiguous; the kernel gets a pointer) and whole numbers (int32)
    """

    kernel: str
    masks: int
    arguments: tuple[np.ndarray | int, ...]

    def __post_init__(self) -> None:
        for value in self.arguments:
            if isinstance(value, np.ndarray) and (value.dtype not in DTYPES or not value.flags.c_contiguous):
                raise TypeError(f"kernel {self.kernel} takes contiguous uint64, int32 or uint8, got {value.dtype}")


def packed(bits: np.ndarray) -> np.ndarray:
    """(N, ...) bool -> (N, words) uint64: flag k of a row, in row-major order, is bit k % 64 of word k // 64."""
    flags = bits.reshape(len(bits), -1)
    padded = np.zeros((len(flags), -(-flags.shape[1] // 64) * 64), bool)
    padded[:, : flags.shape[1]] = flags
    return np.packbits(padded, axis=1, bitorder="little").view("<u8")


def whole(values: np.ndarray) -> np.ndarray:
    """As int32, contiguous."""
    return np.ascontiguousarray(values, "<i4")
