"""Passes per CPU second of other explainers, in PyTorch eager mode and in ONNX Runtime, timed in turn with ours."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import peers, published
from benchmarks.conftest import Size, Subject, Subjects
from benchmarks.measure import seconds, take_turns
from benchmarks.record import Rows
from benchmarks.settings import sane

ROUNDS = 3
GRAPH = "similarity.fp32.onnx"


@pytest.mark.parametrize("name", ["resnet18"])
def test_passes_per_second(benchmark: Any, subject: Subjects, rows: Rows, size: Size, name: str, tmp_path: Path) -> None:
    opened = subject(name)
    query = opened.queries(1)[0]
    graph = opened.network.bundle / GRAPH
    engines = {"PyTorch eager": published.eager(opened.network.torch()), "ONNX Runtime": peers.onnx_runtime(graph)}
    pixels = opened.pixels(query.picture), opened.pixels(query.references[0])
    pairs = {engine: peers.Pair(*pixels, opened.network.preprocessing, embed) for engine, embed in engines.items()}
    calls = _ours(opened, query, size)
    counts = dict.fromkeys(calls, size.peer_passes)
    for engine, pair in pairs.items():
        for who, peer in peers.PEERS.items():
            calls[f"{who}, {engine}"] = functools.partial(_run, peer, pair, size.peer_passes)
            counts[f"{who}, {engine}"] = peers.places(who, pair, size.peer_passes)
    pair = pairs["ONNX Runtime"]
    file = peers.scored(graph, pair, tmp_path / "scored.onnx")
    calls["dianna RISE, its own runner"] = functools.partial(
        _run, functools.partial(peers.dianna_on_file, file), pair, size.peer_passes
    )
    counts["dianna RISE, its own runner"] = size.peer_passes
    times = take_turns(benchmark, calls, ROUNDS)
    for who, spent in times.items():
        row = seconds(spent, counts[who])
        for ours in (w for w in times if w.startswith("ours")):
            middle, extent = _ratio(spent, times[ours], counts[who] / size.peer_passes)
            precision = ours.removeprefix("ours, ")
            row |= {f"ratio_cpu_{precision}": middle, f"ratio_cpu_{precision}_range": extent}
        precision = who.removeprefix("ours, ") if who.startswith("ours") else "fp32"
        rows.add("peers", who, name, precision=precision, masks=counts[who], seed=0, size=opened.network.size, **row)


def _ours(opened: Subject, query: Any, size: Size) -> dict[str, Any]:
    """Return our calls, in fp32 and in the default precision, with the published estimator: only passes count here."""
    method = sane(size.peer_passes)

    def call(explainer: Any, i: int) -> None:
        explainer.explain(query.picture, query.references[0], method)

    explainers = {e.precision: e for e in (opened.plain, opened.explainer)}
    return {f"ours, {precision}": functools.partial(call, e) for precision, e in explainers.items()}


def _run(peer: Any, pair: peers.Pair, passes: int, i: int) -> np.ndarray:
    return peer(pair, passes)


def _ratio(theirs: Any, ours: Any, share: float) -> tuple[float, list[float]]:
    """Return their CPU time per pass over ours, median and range. share: the number of their passes over that of ours"""
    ratios = [t / share / o for t, o in zip(theirs.cpu, ours.cpu, strict=True)]
    return float(np.median(ratios)), [min(ratios), max(ratios)]
