"""What every benchmark row says of where it was measured."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path


def circumstances() -> dict[str, object]:
    """Machine, versions and commit, as a flat dict."""
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "onnxruntime", "pillow")}
    return {
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "python": platform.python_version(),
        **versions,
        "commit": _commit(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
