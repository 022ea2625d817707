"""The rows of results: where they are kept, and on which machine, versions and commit each was measured."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from engine.files import write_whole

COMMITTED = Path(__file__).parent / "results"
CACHE = Path(".cache/benchmarks")
PACKAGES = ("numpy", "onnxruntime", "pillow")
PEERS = ("torch", "captum", "xaitk-saliency", "dianna")
WRITTEN = ("benchmarks/results", "docs")
DIGITS = 5


def circumstances(packages: tuple[str, ...] = PACKAGES) -> dict[str, object]:
    """Return machine, versions and commit."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "python": platform.python_version(),
        **versions,
        "commit": _commit(),
    }


class Rows:
    """Writes one JSON file per suite, one row per line; a row replaces an earlier one with the same `key`.

    smoke: write to the folder of the smoke size; committed: write below benchmarks/results, not below .cache/benchmarks
    """

    def __init__(self, smoke: bool, committed: bool) -> None:
        self.folder = folder(smoke, committed)
        self._circumstances = circumstances((*PACKAGES, *PEERS))

    def add(self, suite: str, name: str, network: str, **fields: Any) -> None:
        """Add a row. Every row has precision, masks and seed; they are None if nothing else is given."""
        row = {"suite": suite, "name": name, "network": network, "precision": None, "masks": None, "seed": None}
        row |= {k: _rounded(v) for k, v in fields.items()}
        path = self.folder / f"{suite}.json"
        kept = [r for r in read(path) if key(r) != key(row)]
        write(path, [*kept, row | self._circumstances])


def folder(smoke: bool, committed: bool) -> Path:
    """Return the folder of such rows (see `Rows`)."""
    place = COMMITTED if committed else CACHE / "results"
    return place / "smoke" if smoke else place


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the fields by which the rows of a suite differ."""
    return tuple(row.get(k) for k in ("suite", "name", "network", "provider", "precision", "masks", "size", "references"))


def read(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file; none if there is no file."""
    return json.loads(path.read_text()) if path.is_file() else []


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows to a file, one per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, ("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n").encode())


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    """Return the last commit that changed anything but rows and pages, which benchmarks write: what was measured.

    With -dirty if other files than those differ from it now
    """
    but_written = [":/", *(f":(top,exclude){folder}" for folder in WRITTEN)]
    commit, changed = (
        subprocess.run(["git", *command, "--", *but_written], capture_output=True, text=True, check=False).stdout.strip()
        for command in (["log", "-1", "--format=%h"], ["status", "--porcelain", "--untracked-files=no"])
    )
    return f"{commit}-dirty" if commit and changed else commit or "unknown"
