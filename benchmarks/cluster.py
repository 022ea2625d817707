"""What a cluster costs beside one process: the same index built by one process, and by two workers of `--ray local`.

    python -m benchmarks.cluster [--pictures N] [--workers N] [--out FILE]

Emoji on the demo network in few passes, so that what comes on top of them is seen, and with one thread for the network
everywhere, so that rows must be equal. Each build is a process of its own; its CPU time is that of all processes below it,
as read every tenth of a second, the starts of Ray and of the models included.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index import emoji_folder
from benchmarks.record import PACKAGES, circumstances
from engine import Explainer, Rise
from engine.cluster import LOCAL, Cluster
from engine.files import write_whole
from engine.index import Index
from engine.index.building import SHARD
from engine.terminal import CommandParser, run_command, say

OUT = Path(__file__).parent / "results" / "index" / "cluster.json"
CACHE = Path(".cache/benchmarks/cluster")
MASKS = 32
PAUSE = 0.1
SEED = 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.cluster", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--pictures", type=int, default=2 * SHARD, metavar="N", help="emoji, in a fixed random order (default: %(default)s)")
    add("--workers", type=int, default=2, metavar="N", help="of the cluster (default: %(default)s)")
    add("--out", type=Path, default=OUT, metavar="FILE", help="the row")
    return parser


def _run(options: argparse.Namespace) -> None:
    files = sorted(emoji_folder().iterdir())
    order = np.random.default_rng(SEED).permutation(len(files))[: options.pictures]
    lines = ["id,path", *(f"{files[i].name},{files[i].absolute()}" for i in order)]
    CACHE.mkdir(parents=True, exist_ok=True)
    table = CACHE / "pictures.csv"
    write_whole(table, ("\n".join(lines) + "\n").encode())
    spent, rows = {}, {}
    for name, workers in (("cluster", options.workers), ("one_process", 0)):
        path = CACHE / f"{name}-{os.getpid()}"
        spent[name] = _spent(f"from benchmarks.cluster import build; build({str(path)!r}, {str(table)!r}, {workers})")
        rows[name] = _rows(path)
    found = {
        "pictures": options.pictures,
        "workers": options.workers,
        "shard": SHARD,
        "masks": MASKS,
        "precision": "fp32",
        "rows_equal": rows["one_process"] == rows["cluster"],
        **spent,
        "seed": SEED,
        **circumstances((*PACKAGES, "pylance", "ray")),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, (json.dumps([found], indent=1) + "\n").encode())
    say(json.dumps(found))


def build(path: str, table: str, workers: int) -> None:
    """Build an index in this process, or with workers of a cluster of this machine."""
    explainer = Explainer(provider="cpu", precision="fp32", threads=1)
    Index.build(path, explainer, table, method=Rise(masks=MASKS), cluster=Cluster(LOCAL, workers) if workers else None)


def _rows(path: Path) -> dict[str, list[bytes]]:
    """Return what is stored of each row but for the seconds that it took."""
    index = Index.open(path)
    read = index._store.table.read(range(len(index)), index.ids)
    records = read.records.copy()
    records["seconds"] = 0
    parts = zip(read.embeddings, records, read.maps, strict=True)
    return {id_: [e.tobytes(), r.tobytes(), m] for id_, (e, r, m) in zip(index.ids, parts, strict=True)}


def _spent(code: str) -> dict[str, Any]:
    """Run Python in a process of its own; return wall seconds, and the CPU seconds of all processes below it."""
    began, ran = time.perf_counter(), subprocess.Popen([sys.executable, "-c", code])
    ticks: dict[str, int] = {}
    while ran.poll() is None:
        ticks |= _ticks_below(ran.pid)
        time.sleep(PAUSE)
    if ran.returncode:
        raise SystemExit(f"the build ended with status {ran.returncode}")
    seconds = sum(ticks.values()) / os.sysconf("SC_CLK_TCK")
    return {"wall_s": time.perf_counter() - began, "cpu_s": seconds, "processes": len(ticks)}


def _ticks_below(root: int) -> dict[str, int]:
    """Return the clock ticks that a process and those below it have used so far, each by its number and its start."""
    seen: dict[int, tuple[int, str, int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            seen[int(folder.name)] = (int(fields[1]), f"{folder.name} {fields[19]}", int(fields[11]) + int(fields[12]))
    below, found = {root}, 0
    while found < len(below):
        found = len(below)
        below |= {number for number, (parent, _, _) in seen.items() if parent in below}
    return {seen[number][1]: seen[number][2] for number in below if number in seen}


if __name__ == "__main__":
    raise SystemExit(main())
