"""python -m tests.picture_corpus: odd files of pictures are read or refused, and never take much memory or time.

Every file of `tests/picture_files.py` is loaded in a process of its own, forked from one that has the engine imported, with
1 GB of address space and 10 seconds of processor time on top of what it has. A fault is: an error that is not an ImageError,
a message of several lines, a warning of Python's on standard error, 500 MB of memory, or a process that ends otherwise.
What C libraries print is only counted. The report is OUT/report.json, files at fault are kept beside it, and the exit status
is 1 if there are any.
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import PIL

from engine.errors import ImageError
from engine.files import write_json
from engine.pictures.loading import load_picture
from engine.pictures.reading import MAX_PIXELS
from tests.picture_files import NamedFile, corpus

MOST = 8 * MAX_PIXELS + 10**8
"""Bytes of memory that a picture may take while it is read."""
MEMORY, SECONDS = 10**9, 10
"""What a process may take beside what it has when it is forked: bytes of address space, and processor time."""


def main() -> int:
    """Run the corpus; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.picture_corpus", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the report goes, and files at fault")
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="files (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the damage (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [tried(file, options.out) for file in corpus(options.count, options.seed)]
    run = {"count": len(rows), "seed": options.seed, "python": platform.python_version(), "pillow": PIL.__version__}
    report = run | summary(rows)
    write_json(options.out / "report.json", report)
    print(json.dumps(report, indent=1))
    return bool(report["faults"])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Count what came of the files, and name the dearest ones and the faults."""
    kinds = sorted({row["kind"] for row in rows})
    return {
        "outcomes": {kind: dict(Counter(row["outcome"] for row in rows if row["kind"] == kind)) for kind in kinds},
        "most_memory": {k: max(rows, key=lambda row: row["megabytes"])[k] for k in ("name", "megabytes")},
        "most_time": {k: max(rows, key=lambda row: row["seconds"])[k] for k in ("name", "seconds")},
        "large": {r["name"]: [r["outcome"], r["megabytes"], r["seconds"]] for r in rows if r["kind"] == "large"},
        "printed_by_libraries": sum(row["printed"] > 0 for row in rows),
        "faults": [row for row in rows if row["outcome"] == "fault"],
    }


def tried(file: NamedFile, out: Path) -> dict[str, Any]:
    """Load a file in a process of its own; keep it in `out` if that is at fault."""
    name, content = file[0], file[1]()
    with tempfile.TemporaryDirectory() as folder:
        path, said, answer = (Path(folder) / each for each in (name, "said", "answer"))
        path.write_bytes(content)
        process = os.fork()
        if process == 0:
            _load(path, said, answer)
        _, status, used = os.wait4(process, 0)
        printed = said.read_text(errors="replace").splitlines() if said.exists() else []
        outcome, megabytes, text = json.loads(answer.read_text()) if status == 0 else ("fault", 0.0, f"status {status}")
    if any("Warning:" in line or "Traceback" in line for line in printed):
        outcome, text = "fault", " | ".join(printed[:5])
    if outcome == "fault":
        (out / name).write_bytes(content)
    seconds = round(used.ru_utime + used.ru_stime, 2)
    row = {"name": name, "kind": name.split("-")[0], "outcome": outcome, "megabytes": megabytes, "seconds": seconds}
    return row | {"printed": len(printed), "text": text}


def _load(path: Path, said: Path, answer: Path) -> None:
    """In the child: load, keep what is printed on standard error in a file and the answer in another, and end."""
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    before = _status("VmRSS")
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    try:
        picture = load_picture(path)
        outcome = "read" if picture.mode == "RGB" and 0 not in picture.size else "fault"
        text = f"{picture.mode} {picture.size}"
        if _status("VmHWM") - before > MOST:
            outcome = "fault"
    except ImageError as error:
        text = str(error)
        outcome = "fault" if "\n" in text or "MemoryError" in text else "refused"
    except BaseException as error:
        outcome, text = "fault", repr(error)[:500]
    megabytes = round((_status("VmHWM") - before) / 1e6, 1)
    answer.write_text(json.dumps([outcome, megabytes, text]))
    os._exit(0)


def _status(key: str) -> int:
    """Return one of this process's sizes in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
