"""The compiled kernels that the package carries: masks.fatbin, and masks.json, which says what it was made from."""

import hashlib
import json
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("masks.cu")
FATBIN = Path(__file__).with_name("masks.fatbin")
FATBIN_RECORD = Path(__file__).with_name("masks.json")

GPU_ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
"""Compute capabilities, times ten, that get machine code; the PTX of the first serves those after it that are not listed."""
OPTIONS = ("--std=c++17", "--fmad=false", "--ptxas-options=-v")
"""NVRTC's. No fused multiply-add, as in numpy; the last makes the log say registers and spills."""


class KernelError(RuntimeError):
    """The kernels cannot be had: what is missing or wrong, and what to do, on one line."""


def key() -> str:
    """sha256 of all that decides what the kernels do: source, options, architectures."""
    parts = [SOURCE.read_bytes(), *(option.encode() for option in OPTIONS), repr(GPU_ARCHITECTURES).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def record() -> dict[str, Any]:
    """What masks.json says. Raises KernelError where it or the fatbin is missing, was changed, or has another key."""
    if not (FATBIN_RECORD.is_file() and FATBIN.is_file()):
        raise KernelError(f"{FATBIN.name} is missing beside {SOURCE}: python -m kernels.build")
    said: dict[str, Any] = json.loads(FATBIN_RECORD.read_text())
    if said["key"] != key():
        raise KernelError(f"{FATBIN.name} is stale, {SOURCE.name} or its options changed: python -m kernels.build")
    if said["sha256"] != hashlib.sha256(FATBIN.read_bytes()).hexdigest():
        raise KernelError(f"{FATBIN.name} is not the file that {FATBIN_RECORD.name} tells of: python -m kernels.build")
    return said


def fatbin() -> bytes:
    """Machine code of the kernels for `GPU_ARCHITECTURES`, and PTX, for a driver to load. Raises KernelError."""
    record()
    return FATBIN.read_bytes()
