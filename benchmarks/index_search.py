"""How long a search of a large index takes, exact and on usearch's graph, and how many of the best rows the graph misses.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.index_search [--rows N ...] [--out FILE]

Synthetic embeddings of the demo network's size: points around centres, a hundred each, and queries near some of them. The
table is in memory: what is measured is the search. CPU time of this process, with one thread.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import PACKAGES, circumstances
from engine import Explainer
from engine.files import write_whole
from engine.index import graph
from engine.index.searching import RowSearch
from engine.terminal import CommandParser, run_command, say

OUT = Path(__file__).parent / "results" / "index" / "search.json"
CACHE = Path(".cache/benchmarks/search")
ROWS = (30_000, 300_000)
OF_A_CENTRE, SPREAD, QUERY_SPREAD = 100, 0.7, 0.1
"""Rows around a centre; deviations, in every number, of rows from their centre and of queries from a row."""
QUERIES, K, SEED = 100, 20, 0
BLOCK = 16_384


class Rows:
    """In place of a table: embeddings (n, D) float32 in memory."""

    def __init__(self, embeddings: np.ndarray) -> None:
        self._embeddings = embeddings

    def __len__(self) -> int:
        return len(self._embeddings)

    def embeddings(self) -> Iterator[np.ndarray]:
        """All of them, in blocks as a table gives them."""
        for start in range(0, len(self), BLOCK):
            yield self._embeddings[start : start + BLOCK]

    def embeddings_at(self, places: Sequence[int]) -> np.ndarray:
        """Some of them."""
        return self._embeddings[places]

    def fingerprint(self) -> str:
        """Of these rows."""
        return f"{len(self)}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.index_search", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rows", nargs="+", type=int, default=ROWS, metavar="N", help="of each index (default: 30000 300000)")
    add("--out", type=Path, default=OUT, metavar="FILE", help="the rows of results")
    return parser


def _run(options: argparse.Namespace) -> None:
    explainer = Explainer(provider="cpu", precision="fp32", threads=1)
    found = [_measured(explainer, count) for count in options.rows]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, (json.dumps(found, indent=1) + "\n").encode())
    say(json.dumps(found))


def _measured(explainer: Explainer, count: int) -> dict[str, Any]:
    graph.APPROXIMATE_ABOVE = 0
    random, size = np.random.default_rng(SEED), explainer.model.manifest.embedding
    centres = random.standard_normal((count // OF_A_CENTRE, size), np.float32)
    rows = centres[random.integers(len(centres), size=count)]
    rows += np.float32(SPREAD) * random.standard_normal((count, size), np.float32)
    near = rows[random.choice(count, QUERIES, replace=False)]
    queries = near + np.float32(QUERY_SPREAD) * random.standard_normal((QUERIES, size), np.float32)
    table: Any = Rows(rows)
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True)
    exact, approximate = (RowSearch(CACHE, table, explainer.model, None, np.ones(count, bool)) for _ in range(2))
    exact.nearest(queries[0], K)  # before there is a graph
    began = time.process_time()
    approximate.write_graph()
    build = time.process_time() - began
    (file,) = (CACHE / graph.GRAPHS).iterdir()
    approximate.nearest(queries[0], K)
    times: dict[str, list[float]] = {"exact": [], "approximate": []}
    shared = []
    for query in queries:  # in turn, so that what else runs slows both
        best = []
        for name, search in (("exact", exact), ("approximate", approximate)):
            began = time.process_time()
            best.append(set(search.nearest(query, K)[0].tolist()))
            times[name].append(1000 * (time.process_time() - began))
        shared.append(len(best[0] & best[1]) / K)
    return {
        "rows": count,
        "size": size,
        "k": K,
        "queries": QUERIES,
        "cpu_ms": {name: statistics.median(values) for name, values in times.items()},
        "recall": {"mean": statistics.mean(shared), "least": min(shared)},
        "expansion": graph.EXPANSION,
        "build_cpu_s": build,
        "graph_bytes_per_row": file.stat().st_size / count,
        "seed": SEED,
        **circumstances((*PACKAGES, "usearch")),
    }


if __name__ == "__main__":
    raise SystemExit(main())
