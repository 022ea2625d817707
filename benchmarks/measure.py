"""Measure CPU time and wall time, of calls that take turns, of the network alone and of separate processes."""

import contextlib
import dataclasses
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.runtime.session import Session

REST = 0.2
"""Seconds between measured calls: thread pools keep spinning for a while, which must not count against the next call."""
ROOT = Path(__file__).parent.parent


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of each round."""

    cpu: tuple[float, ...]
    wall: tuple[float, ...]


def take_turns(
    benchmark: Any, calls: Mapping[str, Callable[[int], Any]], rounds: int, warm: bool = True
) -> dict[str, Times]:
    """Time all calls in turn, `rounds` times. The first call comes last in each round; pytest-benchmark shows that one.

    calls: by name; each gets the number of the round; warm: run one round before, which is not counted
    """
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    first, *others = calls
    if warm:
        for name in (*others, first):
            calls[name](0)
    numbers = iter(range(rounds))
    number = 0

    def setup() -> None:
        nonlocal number
        number = next(numbers)
        for name in others:
            _rest()
            spent[name].append(_clocked(calls[name], number))
        _rest()

    benchmark.pedantic(lambda: spent[first].append(_clocked(calls[first], number)), setup=setup, rounds=rounds, iterations=1)
    return {name: Times(*zip(*pairs, strict=True)) for name, pairs in spent.items()}


def _clocked(call: Callable[[int], Any], number: int) -> tuple[float, float]:
    """Return the CPU seconds of this process, over all threads, and the wall seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    call(number)
    return time.process_time() - cpu, time.perf_counter() - wall


def _rest() -> None:
    gc.collect()
    time.sleep(REST)


def ratio(theirs: Times, ours: Times, scale: float = 1.0) -> dict[str, Any]:
    """Return the ratio of their time to ours: median, lowest and highest over the rounds. scale: multiplies their times"""
    row: dict[str, Any] = {"rounds": len(ours.cpu)}
    for clock in ("cpu", "wall"):
        mine, yours = getattr(ours, clock), getattr(theirs, clock)
        ratios = [scale * y / m for y, m in zip(yours, mine, strict=True)]
        row |= {f"ratio_{clock}": statistics.median(ratios), f"ratio_{clock}_range": [min(ratios), max(ratios)]}
        row |= {f"ours_{clock}_s": statistics.median(mine), f"theirs_{clock}_s": scale * statistics.median(yours)}
    return row


def seconds(times: Times, per: float = 1.0) -> dict[str, Any]:
    """Return median and range of CPU seconds and wall seconds, divided by `per`."""
    row: dict[str, Any] = {"rounds": len(times.cpu)}
    for clock in ("cpu", "wall"):
        values = [v / per for v in getattr(times, clock)]
        row |= {f"{clock}_s": statistics.median(values), f"{clock}_s_range": [min(values), max(values)]}
    return row


@contextlib.contextmanager
def network_clock() -> Iterator[list[float]]:
    """Give a list of one number, to which the CPU seconds of the networks' runs are added, whatever the provider."""
    openvino = sys.modules.get("engine.runtime.openvino_session")  # there only if an explainer runs on it
    spent, kinds = [0.0], [Session, openvino.OpenVinoSession] if openvino else [Session]
    runs = {kind: kind.run for kind in kinds}

    def clocked(session: Any, batch: np.ndarray) -> np.ndarray:
        began = time.process_time()
        output: np.ndarray = runs[type(session)](session, batch)
        spent[0] += time.process_time() - began
        return output

    for kind in kinds:
        kind.run = clocked  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        for kind in kinds:
            kind.run = runs[kind]  # type: ignore[method-assign]


def run_module(arguments: Sequence[str]) -> tuple[float, float, Any]:
    """Run `python -m ARGUMENTS` in a new process; return its CPU seconds, its wall seconds and the JSON that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *arguments], env=environment, stdout=subprocess.PIPE)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"failed: python -m {' '.join(arguments)}")
    wall = time.perf_counter() - started
    return usage.ru_utime + usage.ru_stime, wall, json.loads(output)
