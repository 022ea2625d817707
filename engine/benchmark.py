"""python -m engine.benchmark: what a pass, a pair and a prepared picture cost with your model, on your machine."""

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError, OptionError
from engine.explainer import Explainer
from engine.files import check_writable, write_json
from engine.methods.rise import Rise
from engine.pictures.folders import pictures_below
from engine.pictures.reading import Reading, add_reading_options, reading_of
from engine.protocol import require_whole
from engine.runtime.batch_size import processor
from engine.runtime.cores import usable_cores
from engine.runtime.memory import peak_bytes
from engine.runtime.providers import GPU_PROVIDERS, PROVIDERS, cpu_runtimes, gpu_lacks, runtime_version
from engine.terminal import Bar, CommandParser, notice, run_command, say

PRECISIONS_TRIED = ("fp32", "int8", "bf16", "fp16")
MASKS = 256
"""Of the passes that are timed: as many as the fewest that a default explanation runs."""
SHOWN_PICTURES = 20
LEAST_ROUNDS = 3
HEAD = (
    "provider",
    "precision",
    "threads",
    "batch",
    "ms a pass",
    "ms a pair",
    "passes",
    "ms prepared",
    "pairs a second",
    "MB",
)
_EXAMPLES = """examples:
  python -m engine.benchmark                                             the embedded emoji model, everything that runs here
  python -m engine.benchmark --bundle models/shoes --images photos --out cost.json
  python -m engine.benchmark --providers cpu --precisions fp32,int8 --threads 1,2,4

Every row is measured in a process of its own. "ms a pass" is of one masked picture, masks included; "ms a pair" of one
explanation at the defaults, of "passes" passes in the median; "ms prepared" of one more reference against the same query;
"MB" is all memory that the process held at its peak. Times are medians of the wall clock: leave the machine to itself.
"""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one row is about. threads: CPU threads of a network run; seconds: how long each of its figures is measured
    reading: how pictures are read
    """

    bundle: str | None
    provider: str
    precision: str
    threads: int
    seconds: float
    seed: int
    reading: Reading


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, see `engine.terminal`."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m engine.benchmark",
        description="Measure what explanations cost with a model on this machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--bundle", metavar="DIR", help="model made by `python -m export` (default: the embedded emoji demo)")
    add("--images", type=Path, metavar="DIR", help="folder of pictures to explain (default: the demo's emoji)")
    add("--providers", type=_names(PROVIDERS), metavar="P,P", help=f"of {','.join(PROVIDERS)} (default: all that run here)")
    add("--precisions", type=_names(PRECISIONS_TRIED), metavar="P,P", help="(default: all that the bundle has)")
    add("--threads", type=_counts, default=(), metavar="N,N", help="CPU threads of a network run (default: all cores)")
    add("--seconds", type=float, default=3.0, metavar="S", help="for each figure (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="S", help="of the masks (default: %(default)s)")
    add_reading_options(parser)
    add("--out", type=Path, metavar="FILE", help="write the rows as .json, with machine and versions")
    add("--json", action="store_true", help="print the rows as JSON instead of a table")
    add("--quiet", action="store_true", help="show no progress bar on standard error")
    return parser


def _run(options: argparse.Namespace) -> None:
    require_whole("--seed", options.seed, 0, 2**63)
    if not 0 < options.seconds <= 3600:
        raise OptionError(f"--seconds must be above 0 and at most 3600, got {options.seconds:g}")
    if options.out is not None:
        check_writable(options.out)
    pictures = _pictures(options.images)
    settings = list(_settings(options))
    found, left_out = [], []
    with Bar(options.quiet, "measuring", "row") as bar:
        for done, setting in enumerate(settings):
            bar.show(done, len(settings))
            try:
                found.append(_in_own_process(setting, pictures))
            except EngineError as error:
                left_out.append(f"{setting.provider} {setting.precision}: {error}")
    if not found:
        raise OptionError(f"nothing of what was asked for runs here: {'; '.join(left_out)}")
    for line in left_out if options.providers or options.precisions else ():  # what was named must not go in silence
        notice(f"left out {line}")
    rows = [row | _circumstances(row["provider"]) for row in found]
    if options.out is not None:
        write_json(options.out, rows)
    say(json.dumps(rows) if options.json else table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as aligned text for people: what they are of, then a line for each."""
    lines = [HEAD]
    for row in rows:
        figures = (_digits(row[name]) for name in ("pass_ms", "pair_ms"))
        more = (_digits(row["prepared_ms"]), _digits(row["pairs_per_second"]), _megabytes(row["peak_bytes"]))
        first = (row["provider"], row["precision"], str(row["threads"]), str(row["batch"]))
        lines.append((*first, *figures, str(row["passes"]), *more))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    one = rows[0]
    return "\n".join([f"{one['model']}, {one['size'][0]} x {one['size'][1]}; {one['machine']}", *text])


def _settings(options: argparse.Namespace) -> Iterator[Measured]:
    gpus = [name for name in GPU_PROVIDERS if not gpu_lacks(name)]
    providers = options.providers or (*gpus, *cpu_runtimes())
    for provider, precision in itertools.product(providers, options.precisions or PRECISIONS_TRIED):
        for threads in options.threads or (usable_cores(),):
            yield Measured(options.bundle, provider, precision, threads, options.seconds, options.seed, reading_of(options))


def _pictures(folder: Path | None) -> list[Path]:
    """Return the first pictures of a folder, or the demo's. Raises OptionError where there are fewer than two."""
    where = Path(__file__).parent / "data" / "pictures" if folder is None else folder
    found = pictures_below(where)[:SHOWN_PICTURES]
    if len(found) < 2:
        raise OptionError(f"{where} has {len(found)} pictures, and a pair needs two: give another --images")
    return found


def _in_own_process(setting: Measured, pictures: Sequence[Path]) -> dict[str, Any]:
    """Measure a row where nothing else holds memory. Raises what `measure` raises."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, setting, pictures).result()


def measure(setting: Measured, pictures: Sequence[Path]) -> dict[str, Any]:
    """Return the figures of one row. Raises an EngineError where the setting does not run, or a picture cannot be read."""
    began = time.perf_counter()
    explainer = Explainer(setting.bundle, setting.provider, setting.precision, setting.threads, **vars(setting.reading))
    opened, model = time.perf_counter() - began, explainer.model
    plan = Rise(masks=MASKS, seed=setting.seed)
    pass_seconds = _median(setting.seconds, lambda i: explainer.prepare(pictures[i % len(pictures)], plan)) / MASKS
    pairs = list(itertools.permutations(pictures, 2))
    passes: list[int] = []

    def explain(i: int) -> None:
        query, reference = pairs[i % len(pairs)]
        passes.append(explainer.explain(query, reference, Rise(seed=setting.seed)).passes)

    pair_seconds = _median(setting.seconds, explain)
    prepared, vectors = explainer.prepare(pictures[0], plan), explainer.embed(pictures)
    prepared_seconds = _median(setting.seconds, lambda i: prepared.explain(vectors[i % len(vectors)]))
    return {
        "model": model.manifest.name,
        "identity": model.bundle.identity,
        "size": [model.preprocessing.height, model.preprocessing.width],
        "provider": explainer.provider,
        "precision": explainer.precision,
        "threads": setting.threads,
        "batch": model.run_settings.batch,
        "seed": setting.seed,
        "masks": MASKS,
        "open_seconds": opened,
        "pass_ms": 1000 * pass_seconds,
        "pair_ms": 1000 * pair_seconds,
        "passes": int(statistics.median(passes)),
        "prepared_ms": 1000 * prepared_seconds,
        "pairs_per_second": 1 / pair_seconds,
        "peak_bytes": peak_bytes(),
    }


def _median(seconds: float, run: Callable[[int], object]) -> float:
    """Return the median wall seconds of `run(0)`, `run(1)`, ..., after one that is not counted."""
    run(0)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < LEAST_ROUNDS or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        run(len(times))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _circumstances(provider: str) -> dict[str, Any]:
    return {
        "machine": f"{processor()}, {usable_cores()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": runtime_version("cpu"),
        "runtime": runtime_version(provider),
    }


def _digits(value: float) -> str:
    """Return three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _megabytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.0f}"


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split(",")))
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"must be some of {','.join(known)}, got {text!r}")
        return names

    return parse


def _counts(text: str) -> tuple[int, ...]:
    if not all(part.isdecimal() and int(part) > 0 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be numbers above 0, such as 1,2, got {text!r}")
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    raise SystemExit(main())
