"""The compiled kernels in this package: masks.fatbin, and masks.json, which records what it was compiled from."""

import hashlib
import json
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("masks.cu")
FATBIN = Path(__file__).with_name("masks.fatbin")
FATBIN_RECORD = Path(__file__).with_name("masks.json")

GPU_ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
"""Compute capabilities, times ten, that get machine code. Later ones that are not listed use the PTX of the first."""
NVRTC_OPTIONS = ("--std=c++17", "--fmad=false", "--ptxas-options=-v")
"""Of NVRTC. No fused multiply-add, as in numpy; the last one makes the log report registers and spills."""


class KernelError(RuntimeError):
    """The kernels cannot be loaded or compiled. The message says in one line what is wrong and what to do."""


def key() -> str:
    """Return the sha256 of everything that the compiled kernels depend on: source, options, architectures."""
    parts = [SOURCE.read_bytes(), *(option.encode() for option in NVRTC_OPTIONS), repr(GPU_ARCHITECTURES).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def record() -> dict[str, Any]:
    """Return the content of masks.json. Raises KernelError if it or the fatbin is missing, was changed or is out of date."""
    if not (FATBIN_RECORD.is_file() and FATBIN.is_file()):
        raise KernelError(f"{FATBIN.name} or {FATBIN_RECORD.name} is missing beside {SOURCE}: run python -m kernels.build")
    stored: dict[str, Any] = json.loads(FATBIN_RECORD.read_text())
    if stored["key"] != key():
        raise KernelError(f"{FATBIN.name} is stale, {SOURCE.name} or its options changed: run python -m kernels.build")
    if stored["sha256"] != hashlib.sha256(FATBIN.read_bytes()).hexdigest():
        raise KernelError(f"{FATBIN.name} is not the file that {FATBIN_RECORD.name} describes: run python -m kernels.build")
    return stored


def fatbin() -> bytes:
    """Return the file that a driver loads: machine code for `GPU_ARCHITECTURES`, and PTX. Raises KernelError as `record`."""
    record()
    return FATBIN.read_bytes()
