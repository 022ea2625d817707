"""What a CUDA kernel needs to know of a plan: a few kilobytes, drawn on the host and copied to the device once."""

import dataclasses

import numpy as np

DTYPES = (np.dtype("<u8"), np.dtype("<i4"), np.dtype("u1"))
"""Of the arrays that kernels read: packed bits, integers, flags."""


@dataclasses.dataclass(frozen=True, eq=False)
class KernelPlan:
    """The masks of a plan, as arguments of a kernel.

    kernel: its name in masks.cu, such as "rise"; masks: number of masks in the plan
    arguments: the kernel's own, in its order: arrays (C-contiguous; the kernel gets a pointer) and integers (int32)
    Raises TypeError if an array has another dtype or is not contiguous.
    """

    kernel: str
    masks: int
    arguments: tuple[np.ndarray | int, ...]

    def __post_init__(self) -> None:
        for value in self.arguments:
            if isinstance(value, np.ndarray) and (value.dtype not in DTYPES or not value.flags.c_contiguous):
                kind = "contiguous" if value.flags.c_contiguous else "not contiguous"
                raise TypeError(f"kernel {self.kernel} takes contiguous uint64, int32 or uint8, got {kind} {value.dtype}")


def packed(bits: np.ndarray) -> np.ndarray:
    """Pack flags: (N, ...) bool -> (N, words) uint64. Flag k of a row, in row-major order, is bit k % 64 of word k // 64."""
    flags = bits.reshape(len(bits), -1)
    padded = np.zeros((len(flags), -(-flags.shape[1] // 64) * 64), bool)
    padded[:, : flags.shape[1]] = flags
    return np.packbits(padded, axis=1, bitorder="little").view("<u8")


def whole(values: np.ndarray) -> np.ndarray:
    """Return integers as a contiguous int32 array."""
    return np.ascontiguousarray(values, "<i4")
