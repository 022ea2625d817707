"""What every benchmark row says of where it was measured, and where rows are kept."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

COMMITTED = Path(__file__).parent / "results"
CACHE = Path(".cache/benchmarks")
PACKAGES = ("numpy", "onnxruntime", "pillow")
PEERS = ("torch", "captum", "xaitk-saliency", "dianna")
DIGITS = 5


def circumstances(packages: tuple[str, ...] = PACKAGES) -> dict[str, object]:
    """Machine, versions and commit, as a flat dict."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "python": platform.python_version(),
        **versions,
        "commit": _commit(),
    }


class Rows:
    """One JSON file per suite, one row a line; a row replaces the one it repeats.

    smoke: rows of the smoke size, kept apart; committed: below benchmarks/results, else below .cache/benchmarks
    """

    def __init__(self, smoke: bool, committed: bool) -> None:
        self.folder = folder(smoke, committed)
        self._circumstances = circumstances((*PACKAGES, *PEERS))

    def add(self, suite: str, name: str, network: str, **fields: Any) -> None:
        """precision, masks and seed are part of every row; None where a row has none."""
        row = {"suite": suite, "name": name, "network": network, "precision": None, "masks": None, "seed": None}
        row |= {k: _rounded(v) for k, v in fields.items()}
        path = self.folder / f"{suite}.json"
        kept = [r for r in read(path) if key(r) != key(row)]
        write(path, [*kept, row | self._circumstances])


def folder(smoke: bool, committed: bool) -> Path:
    place = COMMITTED if committed else CACHE / "results"
    return place / "smoke" if smoke else place


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells rows of a suite apart."""
    return tuple(row.get(k) for k in ("suite", "name", "network", "provider", "precision", "masks", "size", "references"))


def read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.is_file() else []


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    os.replace(beside, path)


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
