"""Measure what a look of the stopping rule costs: the fit, its errors and its reliability, on the embedded network.

    OMP_NUM_THREADS=1 python -m benchmarks.looks [--rounds N]

The first look at masks makes what depends on the masks alone; later pictures under the same masks find it kept. Rows go to
benchmarks/results/looks.json, and a table to docs/estimator.md.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.pictures import DEMO
from benchmarks.record import COMMITTED, circumstances, read, write
from benchmarks.settings import regression
from engine import Explainer
from engine.files import write_whole
from engine.prepared import Prepared
from engine.protocol import require_whole
from engine.saliency import designs
from engine.saliency.map_fits import KnownReferences, MapFits
from engine.terminal import CommandParser, run_command, say

MASKS = (256, 512, 1024)
ROUNDS = 40
RESULTS = COMMITTED / "looks.json"
PAGE = Path(__file__).parent.parent / "docs" / "estimator.md"
BEGIN, END = "<!-- looks: python -m benchmarks.looks -->", "<!-- end of looks -->"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.looks", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of which the medians are taken (default: %(default)s)")
    return parser


def _run(options: argparse.Namespace) -> None:
    require_whole("--rounds", options.rounds, 3, 10**4)
    explainer = Explainer(provider="cpu", precision="fp32", threads=1)
    pictures = sorted(DEMO.rglob("*.png"))[:2]
    write(RESULTS, [measure(explainer, pictures, masks, options.rounds) | circumstances() for masks in MASKS])
    before, rest = PAGE.read_text().split(BEGIN)
    write_whole(PAGE, f"{before}{BEGIN}\n\n{table(read(RESULTS))}\n{END}{rest.split(END)[1]}".encode())
    say(f"wrote {RESULTS} and {PAGE}")


def measure(explainer: Explainer, pictures: list[Path], masks: int, rounds: int) -> dict[str, Any]:
    """Return the CPU milliseconds of a look at masks of the first picture, against the second; the calls take turns."""
    method = regression(masks)
    prepared, features = explainer.prepare(pictures[0], method), explainer.embed([pictures[1]])
    known = {None: KnownReferences(explainer.model.reference_features(features, None))}

    def first() -> None:
        designs.kept_rows.cache_clear()
        _look(prepared, known)

    calls: dict[str, Callable[[], object]] = {
        "passes": lambda: explainer.prepare(pictures[0], method),
        "first": first,
        "later": lambda: _look(prepared, known),
        "unknown": lambda: _look(prepared, None),
    }
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            began = time.process_time()
            call()
            spent[name].append(1000 * (time.process_time() - began))
    medians = {f"{name}_ms": float(f"{statistics.median(times[1:]):.3g}") for name, times in spent.items()}
    directions = len(prepared.plan.design(prepared.picture.size).rows().values)
    what = {"network": "demo", "masks": masks, "embedding": explainer.model.manifest.embedding, "seed": method.seed}
    return {**what, "precision": "fp32", "rounds": rounds, "directions": directions, **medians}


def _look(prepared: Prepared, known: dict[int | None, KnownReferences] | None) -> None:
    features = functools.partial(prepared.model.query_features, prepared.embeddings)
    design = prepared.plan.design(prepared.picture.size)
    MapFits(design, features, prepared.model.manifest.embedding).convergence(known)


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the rows."""
    lines = [
        "| masks | directions | first look | later looks | later, references unknown | later look, share of the passes |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [f"{row[f'{name}_ms']:g} ms" for name in ("first", "later", "unknown")]
        share = row["later_ms"] / row["passes_ms"]
        lines.append(f"| {row['masks']} | {row['directions']} | {' | '.join(cells)} | {share:.1%} |")
    one = rows[0]
    where = f"{one['machine']}, onnxruntime {one['onnxruntime']}, numpy {one['numpy']}, commit {one['commit']}"
    said = f"CPU time, median of {one['rounds']} rounds, one thread; {one['embedding']} dimensions, fp32, seed {one['seed']}"
    return "\n".join([*lines, "", f"{said}, {where}."])


if __name__ == "__main__":
    raise SystemExit(main())
