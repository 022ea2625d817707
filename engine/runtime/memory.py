"""The memory that this process holds, where the system tells."""

import os
from pathlib import Path


def resident_bytes() -> int:
    """Return the memory that this process holds; 0 on systems that do not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def peak_bytes() -> int | None:
    """Return the most memory that this process held; None on systems that do not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
