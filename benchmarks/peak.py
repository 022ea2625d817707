"""Run a command of the package and print what it took: its last line on standard output is a JSON object.

    python -m benchmarks.peak MODULE ARGUMENT ...     for example: python -m benchmarks.peak export.commands check bundle

MODULE has a function main(arguments) that returns an exit status. cpu_s and wall_s count the imports; peak_bytes is of
resident memory.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory import peak_bytes

ROOT = Path(__file__).parent.parent


def main(arguments: list[str]) -> int:
    """Run the command in this process; return its exit status."""
    started = time.perf_counter()
    module = importlib.import_module(arguments[0])
    status = int(module.main(arguments[1:]))
    wall = time.perf_counter() - started
    print(json.dumps({"cpu_s": time.process_time(), "wall_s": wall, "peak_bytes": peak_bytes()}))
    return status


def measured(module: str, arguments: Sequence[str | Path], folder: Path | None = None) -> tuple[list[str], dict[str, Any]]:
    """Run a command in a new process, in a folder; return the lines that it printed, and what it took.

    What it took has `notices` too, the lines of standard error.
    Raises RuntimeError with its error line if it fails.
    """
    command = [sys.executable, "-m", "benchmarks.peak", module, *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    *lines, last = done.stdout.splitlines()
    return lines, {**json.loads(last), "notices": done.stderr.strip().splitlines()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
