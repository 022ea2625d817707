"""Measure the settings of ONNX Runtime's and OpenVINO's sessions: CPU time and wall time of a run, the settings in turns.

    python -m benchmarks.sessions [--rounds N]

On the embedded network, int8 and fp32, with a batch of 64 pictures. Ratios are to the engine's settings, round by round.
Rows go to benchmarks/results/sessions.json; `python -m benchmarks.report` makes the table of docs/benchmarks.md.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.record import COMMITTED, PACKAGES, circumstances, write
from engine import Explainer
from engine.protocol import require_whole
from engine.terminal import CommandParser, run_command, say

BATCH, ROUNDS = 64, 6
RESULTS = COMMITTED / "sessions.json"
NO_SPINNING = {"session.intra_op.allow_spinning": "0"}
LEVELS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED")
OURS = "as the engine has it"
Run = Callable[[], object]
Opened = Callable[[], Run]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m benchmarks.sessions", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of which the medians are taken (default: %(default)s)")
    return parser


def _run(options: argparse.Namespace) -> None:
    require_whole("--rounds", options.rounds, 1, 10**4)
    rows = []
    for precision in ("int8", "fp32"):
        model = Explainer(provider="cpu", precision=precision).model
        path, picture = model.similarity.path, model.bundle.canonical["picture"]
        batch = np.repeat(model.preprocessing.normalised(picture[None]), BATCH, axis=0)
        for provider, runs in (("cpu", onnx_runs(path, batch)), ("openvino", openvino_runs(path, batch))):
            same = {"network": "demo", "size": 64, "provider": provider, "precision": precision, "batch": BATCH}
            rows += [same | row | circumstances((*PACKAGES, "openvino")) for row in measure(runs, options.rounds)]
            write(RESULTS, rows)
    say(f"wrote {RESULTS}")


def onnx_runs(path: Path, batch: np.ndarray) -> dict[str, Opened]:
    """Return what opens a session and gives its run, by setting: one thing changed at a time."""
    cores = len(os.sched_getaffinity(0))

    def run(entries: dict[str, str], threads: int, changes: dict[str, Any]) -> Run:
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, threads
        for key, value in (NO_SPINNING | entries).items():
            options.add_session_config_entry(key, value)
        for name, value in changes.items():
            setattr(options, name, value)
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: batch})

    def opened(entries: dict[str, str], threads: int = cores, **changes: Any) -> Opened:
        return lambda: run(entries, threads, changes)

    levels = {f"graph optimisation {n}": getattr(ort.GraphOptimizationLevel, f"ORT_{n}") for n in LEVELS}
    return {
        OURS: opened({}),
        **{name: opened({}, graph_optimization_level=level) for name, level in levels.items()},
        "threads spin": opened({"session.intra_op.allow_spinning": "1"}),
        "no prepacking": opened({"session.disable_prepacking": "1"}),
        "no arena": opened({}, enable_cpu_mem_arena=False),
        "no memory pattern": opened({}, enable_mem_pattern=False),
        "dynamic block size 4": opened({"session.dynamic_block_base": "4"}),
        "parallel execution": opened({}, execution_mode=ort.ExecutionMode.ORT_PARALLEL),
        "one thread": opened({}, threads=1),
    }


def openvino_runs(path: Path, batch: np.ndarray) -> dict[str, Opened]:
    """Return the same for OpenVINO."""
    import openvino  # noqa: PLC0415, an extra

    core = openvino.Core()

    def run(changes: dict[str, Any]) -> Run:
        ours = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        model = core.compile_model(
            core.read_model(path), "CPU", {k: v for k, v in (ours | changes).items() if v is not None}
        )
        return lambda: model.create_infer_request().infer([batch])

    def opened(**changes: Any) -> Opened:
        return lambda: run(changes)

    return {
        OURS: opened(),
        "hint THROUGHPUT": opened(PERFORMANCE_HINT="THROUGHPUT"),
        "two streams": opened(PERFORMANCE_HINT=None, NUM_STREAMS="2"),
        "threads not bound": opened(ENABLE_CPU_PINNING=False),
        "one thread": opened(INFERENCE_NUM_THREADS=1),
    }


def measure(runs: dict[str, Opened], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each setting. In each round every session is opened, run twice and closed; the second run counts."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for done in range(rounds):
        first = done % len(runs)
        for name, opened in [*runs.items()][first:] + [*runs.items()][:first]:
            run = opened()
            run()
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            spent[name].append((time.process_time() - cpu, time.perf_counter() - wall))
            del run  # threads that are left spin for a while, which must not count against the next
    rows = []
    for name, times in spent.items():
        row: dict[str, Any] = {"setting": name, "rounds": rounds, "load": round(os.getloadavg()[0], 1)}
        for i, clock in enumerate(("cpu", "wall")):
            ratios = [one[i] / ours[i] for one, ours in zip(times, spent[OURS], strict=True)]
            quarters = [ratios[0]] * 3 if len(ratios) == 1 else statistics.quantiles(ratios, n=4)
            row[f"{clock}_ms"] = _digits(1000 * statistics.median(one[i] for one in times))
            row |= {f"{clock}_ratio": _digits(statistics.median(ratios))}
            row |= {f"{clock}_ratio_quartiles": [_digits(quarters[0]), _digits(quarters[2])]}
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the rows: medians, with the quartiles of the ratios."""
    lines = ["| provider | precision | setting | CPU ms | over ours |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        low, high = row["cpu_ratio_quartiles"]
        ratio = "" if row["setting"] == OURS else f"{row['cpu_ratio']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {row['provider']} | {row['precision']} | {row['setting']} | {row['cpu_ms']:g} | {ratio} |")
    return "\n".join(lines) + "\n"


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


if __name__ == "__main__":
    raise SystemExit(main())
