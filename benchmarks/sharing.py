"""Would a network run that takes rows of several requests save anything over requests that take turns?

    python -m benchmarks.sharing [--bundle DIR ...] [--rounds N] [--out FILE]

A row for each bundle, in CPU time, at the sizes of a run that the engine chooses from. `fill`: rows that show a masked
picture, of all rows that are run for explanations with the default options: what is missing are the padded rows of last
batches, all that sharing could fill. `row_cost`: CPU time of a row, as a share of the dearest size's; medians of rounds that
alternate. `saving`: the share of CPU time that sharing would save at most: its runs of the cheapest size, no row padded,
against requests that take turns at the size that is cheapest for them.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import circumstances, write
from benchmarks.service import PICTURES
from engine import Explainer
from engine.runtime.batch_size import largest_batch
from engine.terminal import CommandParser, run_command, say


def fill_of(explainer: Explainer, batch: int) -> float:
    """The share of rows that show a masked picture, at one size of a run."""
    model = explainer.model
    model.run_settings = dataclasses.replace(model.run_settings, batch=batch)
    masked = runs = 0
    for picture in sorted(PICTURES.glob("*.png")):
        told: list[int] = []
        prepared = explainer.prepare(picture, progress=lambda done, _, told=told: told.append(done))  # type: ignore[misc]
        masked += len(prepared.plan)
        runs += len(told)
    return masked / (runs * batch)


def row_costs(explainer: Explainer, batches: Sequence[int], rounds: int) -> dict[int, float]:
    """CPU time of a row by the size of a run, as a share of the dearest."""
    model = explainer.model
    picture = model.picture(next(PICTURES.glob("*.png"))).pixels
    rows = np.repeat(model.preprocessing.normalised(picture[None]), max(batches), axis=0)
    seconds = np.zeros((rounds + 1, len(batches)))
    for number in range(rounds + 1):
        for column, batch in enumerate(batches):
            began = time.process_time()
            for start in range(0, len(rows), batch):
                model.similarity.run(rows[start : start + batch])
            seconds[number, column] = time.process_time() - began
    medians = np.median(seconds[1:], axis=0)  # the first round allocates
    return dict(zip(batches, (medians / medians.max()).tolist(), strict=True))


def measure(bundle: Path | None, rounds: int) -> dict[str, Any]:
    """Measure one bundle."""
    explainer = Explainer(bundle, threads=1)
    model = explainer.model
    largest = largest_batch(model.preprocessing)
    batches = [b for b in (largest // 4, largest // 2, largest) if b > 1]
    costs = row_costs(explainer, batches, rounds)
    fill = {batch: fill_of(explainer, batch) for batch in batches}
    in_turns = min(costs[batch] / fill[batch] for batch in batches)
    return {
        "suite": "sharing",
        "name": "sharing",
        "network": model.manifest.name,
        "precision": model.precision,
        "provider": model.provider,
        "rounds": rounds,
        "fill": {str(batch): share for batch, share in fill.items()},
        "row_cost": {str(batch): cost for batch, cost in costs.items()},
        "saving": 1 - min(costs.values()) / in_turns,
        **circumstances(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m benchmarks.sharing", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", nargs="+", type=Path, default=[], metavar="DIR", help="bundles beside the demo")
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="runs of each size (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows there too")
    return parser


def _run(options: argparse.Namespace) -> None:
    rows = [measure(bundle, options.rounds) for bundle in (None, *options.bundle)]
    for row in rows:
        say(json.dumps(row))
    if options.out:
        write(options.out, rows)


if __name__ == "__main__":
    sys.exit(main())
