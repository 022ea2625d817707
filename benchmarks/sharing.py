"""What does a service save where the rows of several requests share runs of the network?

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.sharing [--bundle DIR ...] [--rounds N] [--out FILE]

A row for each bundle: CLIENTS explanations at once, in the service's threads and without HTTP, on one thread of the network,
by kind of request. Each round runs them twice, sharing runs and not. `fill`: rows that show a masked picture, of all rows
that were run, [not sharing, sharing]; what sharing fills are the padded rows of last runs. `cpu`, `wall`: time with sharing,
as a share of the time without: the median of the rounds, and their quartiles. Masks are drawn beside the network then, which
shows in wall time, where a core is free for it. numpy's BLAS has one thread as well (`blas_threads`): more of them wait for
each other in a loop, and CPU time then says how busy the machine was.
"""

import argparse
import collections
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import circumstances, write
from benchmarks.service import CLIENTS, PICTURES, REFERENCE
from engine import Explainer
from engine.errors import OptionError
from engine.protocol import require_whole
from engine.service.explaining import Question, explain
from engine.service.limits import Limits
from engine.service.resolving import Loaded
from engine.service.schemas import ExplainOptions
from engine.service.service import Service
from engine.terminal import CommandParser, run_command, say

KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "pair": {"mode": "pair"},
    "100 masks": {"masks": 100},
    "window": {"method": "window"},
    "lime": {"method": "lime", "masks": 500},
}
QUARTILES = (25, 50, 75)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What some explanations cost. cpu, wall: seconds; masked, padded: rows that were run"""

    cpu: float
    wall: float
    masked: int
    padded: int


def cost(service: Service, loaded: Loaded, options: dict[str, Any]) -> Cost:
    """Explain CLIENTS pictures at once."""
    batch, how = loaded.explainer.model.run_settings.batch, ExplainOptions.model_validate(options)
    tickets, futures = [], []
    wall, cpu = time.perf_counter(), time.process_time()
    for path in sorted(PICTURES.glob("*.png"))[:CLIENTS]:
        question, ticket = Question(path.read_bytes(), [REFERENCE.read_bytes()], how), service.executor.accept()
        futures.append(
            service.executor.submit(ticket, lambda q=question, t=ticket: explain(loaded, service.limits, q, t))  # type: ignore[misc]
        )
        tickets.append(ticket)
    for future in futures:
        future.result()
    masked = sum(ticket.rows for ticket in tickets)
    padded = sum(ticket.padded + max(ticket.batches * batch - ticket.rows, 0) for ticket in tickets)
    return Cost(time.process_time() - cpu, time.perf_counter() - wall, masked, padded)


def measure(bundle: Path | None, rounds: int) -> dict[str, Any]:
    """Measure one bundle. Raises OptionError where its requests share no runs."""
    own = Explainer(bundle, threads=1)
    service = Service(lambda: own, Limits(concurrency=CLIENTS))
    if not service.loaded.shares_runs:
        raise OptionError(f"requests to {own.model.manifest.name} share no runs: the log says why")
    ways = (dataclasses.replace(service.loaded, explainer=own), service.loaded)
    found = collections.defaultdict[str, list[list[Cost]]](list)
    for _ in range(rounds + 1):
        for kind, options in KINDS.items():
            found[kind].append([cost(service, loaded, options) for loaded in ways])
    service.close()
    return {
        "suite": "sharing",
        "name": "sharing",
        "network": own.model.manifest.name,
        "precision": own.precision,
        "provider": own.provider,
        "clients": CLIENTS,
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS"),
        "batch": own.model.run_settings.batch,
        "rounds": rounds,
        "kinds": {kind: summary(costs[1:]) for kind, costs in found.items()},  # the first round warms up
        **circumstances(),
    }


def summary(costs: Sequence[Sequence[Cost]]) -> dict[str, list[float]]:
    """Of rounds, each without sharing and with it."""
    fill = [sum(c.masked for c in way) / sum(c.masked + c.padded for c in way) for way in zip(*costs, strict=True)]
    ratios = {name: [getattr(b, name) / getattr(a, name) for a, b in costs] for name in ("cpu", "wall")}
    return {
        "fill": [round(share, 4) for share in fill],
        **{name: [round(float(q), 4) for q in np.percentile(own, QUARTILES)] for name, own in ratios.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status (see `engine.terminal`)."""
    return run_command(lambda: _run(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m benchmarks.sharing", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", nargs="+", type=Path, default=[], metavar="DIR", help="bundles beside the demo")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="of each kind (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows there too")
    return parser


def _run(options: argparse.Namespace) -> None:
    require_whole("--rounds", options.rounds, 1, 10**4)
    rows = [measure(bundle, options.rounds) for bundle in (None, *options.bundle)]
    for row in rows:
        say(json.dumps(row))
    if options.out:
        write(options.out, rows)


if __name__ == "__main__":
    sys.exit(main())
