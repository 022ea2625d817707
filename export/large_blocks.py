"""Memory that the process frees goes back to the system at once, block by block."""

import ctypes
import platform

LARGE_BLOCK = 2**20
"""Bytes of a block that is large: it gets pages of its own."""
_M_MMAP_THRESHOLD = -3  # from glibc's malloc.h


def return_large_blocks() -> None:
    """Have this process give large blocks back to the system as soon as they are freed. For a command: it owns its process.

    glibc raises the size from which a block has pages of its own, up to 32 MB, whenever such a block is freed. Then aligned
    blocks, which ONNX Runtime asks for, come from its heap, and its versions before 2.38 do not use the holes between them
    again: one run of a large network left a gigabyte of them. Does nothing with other C libraries.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)
