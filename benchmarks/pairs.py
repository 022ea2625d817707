"""Measure whether many pairs are explained faster side by side, one thread each, than in a loop on all cores.

    OMP_NUM_THREADS=1 python -m benchmarks.pairs [--rounds N]

The two take turns on the same pairs, and their maps are compared bit for bit. What no schedule can exceed, all cores busy
all the time with the CPU time of one-thread runs, follows from CPU time alone, so that it holds on a busy machine too.
Rows go to benchmarks/results/pairs.json; `python -m benchmarks.report` makes a table of docs/benchmarks.md.
"""

import argparse
import itertools
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import networks
from benchmarks.measure import network_clock
from benchmarks.pictures import DEMO
from benchmarks.record import COMMITTED, circumstances, write
from benchmarks.settings import regression
from engine import Explainer
from engine.protocol import require_whole
from engine.terminal import CommandParser, run_command, say

SETTINGS = (("demo", 28, "fp32"), ("demo", 64, "fp32"), ("demo", 64, "int8"), ("resnet18", 112, "fp32"))
"""Networks, sides of their pictures in pixels, and precisions. Only the demo at 64 has trained weights."""
MASKS, PAIRS, ROUNDS = 256, 4, 5
RESULTS = COMMITTED / "pairs.json"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.pairs", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of which the medians are taken (default: %(default)s)")
    return parser


def _run(options: argparse.Namespace) -> None:
    require_whole("--rounds", options.rounds, 1, 10**4)
    rows = []
    for name, size, precision in SETTINGS:
        bundle = None if (name, size) == ("demo", 64) else networks.untrained(name, size).bundle
        rows.append({"network": name, "size": size, **measure(bundle, precision, options.rounds)} | circumstances())
        write(RESULTS, rows)
    say(f"wrote {RESULTS}")


def measure(bundle: Path | None, precision: str, rounds: int) -> dict[str, Any]:
    """Return the cost of a pair both ways, with the ratios of pairs per second, and the most that any schedule can reach."""
    cores = len(os.sched_getaffinity(0))
    pairs = list(itertools.permutations(sorted(DEMO.rglob("*.png")), 2))[:: len(list(DEMO.rglob("*.png")))][:PAIRS]
    loop, single = (Explainer(bundle, "cpu", precision, threads) for threads in (cores, 1))

    def maps(explainer: Explainer, workers: int) -> list[bytes]:
        def one(pair: tuple[Path, Path]) -> bytes:
            return explainer.explain(*pair, regression(MASKS), top=0).saliency.tobytes()

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, pairs))

    equal = maps(loop, 1) == maps(single, cores)
    spent: dict[str, list[tuple[float, float]]] = {"loop": [], "beside": []}
    for _ in range(rounds):
        for name, explainer, workers in (("loop", loop, 1), ("beside", single, cores)):
            cpu, wall = time.process_time(), time.perf_counter()
            maps(explainer, workers)
            spent[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    began = time.process_time()
    with network_clock() as inside:
        maps(single, 1)
    rest = time.process_time() - began - inside[0]
    row = {f"{n}_{clock}_ms": _ms([s[i] for s in v]) for n, v in spent.items() for i, clock in enumerate(("cpu", "wall"))}
    ratios = [loop_[1] / beside[1] for loop_, beside in zip(*spent.values(), strict=True)]
    return {
        **{"precision": precision, "masks": MASKS, "seed": 0, "pairs": len(pairs), "rounds": rounds, "equal": equal, **row},
        "ratio_wall": float(f"{statistics.median(ratios):.3g}"),
        "ratio_wall_range": [float(f"{bound:.3g}") for bound in (min(ratios), max(ratios))],
        "rest_ms": _ms([rest]),
        "load": round(os.getloadavg()[0], 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the rows.

    The loop runs the network on all cores and the rest on one; at best, all cores share one-thread runs and the rest.
    """
    lines = [
        "| network | precision | loop, CPU ms | side by side, CPU ms | outside the network | at most | measured | load |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cores = int(row["machine"].rsplit(", ", 1)[1].split()[0])
        loop, beside, rest = (row[f"{name}_ms"] for name in ("loop_cpu", "beside_cpu", "rest"))
        most = ((loop - rest) / cores + rest) / (beside / cores)
        low, high = row["ratio_wall_range"]
        cells = [f"{row['network']}, {row['size']} px", row["precision"], f"{loop:.0f}", f"{beside:.0f}", f"{rest:.0f}"]
        cells += [f"**{most:.2f}**", f"{row['ratio_wall']:.2f} ({low:.2f} to {high:.2f})", f"{row['load']:g}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _ms(seconds: list[float]) -> float:
    return float(f"{1000 * statistics.median(seconds) / PAIRS:.4g}")


if __name__ == "__main__":
    raise SystemExit(main())
