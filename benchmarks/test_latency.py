"""The time of one explanation: from a cold start, with the model loaded, and with the query prepared."""

import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import Size, Subject, Subjects
from benchmarks.measure import Times, run_module, seconds, take_turns
from benchmarks.record import Rows
from benchmarks.settings import DEFAULT

NAMES = ["resnet18", "vit", "mobilenet"]
REPEATS = 100


@pytest.mark.parametrize("name", NAMES)
def test_cold(benchmark: Any, subject: Subjects, rows: Rows, size: Size, name: str, tmp_path: Path) -> None:
    """The command in a new process: imports, verification of the bundle, opening the sessions, and one explanation."""
    opened = subject(name)
    query = opened.queries(1)[0]
    query.picture.save(tmp_path / "query.png")
    query.references[0].save(tmp_path / "reference.png")
    files = [str(tmp_path / "query.png"), str(tmp_path / "reference.png"), "--bundle", str(opened.network.bundle)]
    found = []
    benchmark.pedantic(
        lambda: found.append(run_module(["engine.explain", *files, "--json", "--quiet"])), rounds=size.rounds, iterations=1
    )
    cpu, wall, answers = zip(*found, strict=True)
    _add(rows, "cold", opened, Times(cpu, wall), passes=answers[0][0]["passes"])


@pytest.mark.parametrize("name", NAMES)
def test_warm(benchmark: Any, subject: Subjects, rows: Rows, size: Size, name: str) -> None:
    """`explain` on new pictures, with the model loaded."""
    opened = subject(name)
    queries = opened.queries(size.rounds)
    passes = []

    def ours(i: int) -> None:
        query = queries[i % len(queries)]
        passes.append(opened.explainer.explain(query.picture, query.references[0], DEFAULT).passes)

    times = take_turns(benchmark, {"ours": ours}, size.rounds)
    _add(rows, "warm", opened, times["ours"], passes=statistics.mean(passes))


@pytest.mark.parametrize("name", NAMES)
def test_prepared(benchmark: Any, subject: Subjects, rows: Rows, size: Size, name: str) -> None:
    """`prepared.explain` with a picture, which takes one pass, and with its embedding, which takes none."""
    opened = subject(name)
    query = opened.queries(1)[0]
    prepared = opened.explainer.prepare(query.picture, DEFAULT)
    vector = opened.explainer.embed([query.references[0]])[0]

    def repeated(reference: Any) -> Any:
        def call(i: int) -> None:
            for _ in range(REPEATS):
                prepared.explain(reference)

        return call

    calls = {"prepared, embedding": repeated(vector), "prepared, picture": repeated(query.references[0])}
    for what, times in take_turns(benchmark, calls, size.rounds).items():
        _add(rows, what, opened, times, REPEATS, passes=len(prepared.plan))


def _add(rows: Rows, name: str, opened: Subject, times: Times, per: int = 1, **fields: Any) -> None:
    rows.add("latency", name, opened.network.name, **opened.row(DEFAULT) | seconds(times, per) | fields)
