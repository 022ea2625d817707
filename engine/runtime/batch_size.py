"""How many rows one network run takes, and what a row then costs: measured once per machine, then kept on disk."""

import dataclasses
import hashlib
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.errors import OutputError
from engine.files import cache_folder, write_whole
from engine.pictures.preprocessing import Preprocessing
from engine.protocol import Runner
from engine.runtime.memory import resident_bytes

LARGEST_BATCH = 64
BATCH_PIXELS = 2**19
"""At most this many pixels in one batch, so that most networks' activations stay near 100 MB."""
ACTIVATION_BYTES = 300 * 10**6
"""A batch whose activations would take more is not tried: networks that keep the picture's size for long have large ones."""
TIMING_ROUNDS = 3
TIMING_SECONDS = 0.5
"""After this time no batch size is measured a second time."""


def largest_batch(preprocessing: Preprocessing) -> int:
    """Return the most rows that one network run takes at this picture size: a power of two from 2 to 64."""
    rows = max(BATCH_PIXELS // (preprocessing.height * preprocessing.width), 2)
    return int(min(2 ** (rows.bit_length() - 1), LARGEST_BATCH))


@dataclasses.dataclass(frozen=True)
class BatchTiming:
    """The batch size with the least time per row, and that time in seconds."""

    batch: int
    row_seconds: float


def timed_batch(
    session: Runner, preprocessing: Preprocessing, setting: Sequence[object], picture: np.ndarray
) -> BatchTiming:
    """Return the batch size with the least time per row, from the cache or else measured now and cached.

    setting: what the time depends on besides the machine: model, runtime and its version, precision, threads; ready for JSON
    picture: (H, W, 3) uint8 at the network's size
    Raises BundleError if a measured run fails.
    """
    kept = kept_timing(preprocessing, setting)
    if kept is not None:
        return kept
    rows = np.repeat(preprocessing.normalised(picture[None]), largest_batch(preprocessing), axis=0)
    found = _fastest_batch(session, rows)
    try:
        file = _file(setting)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({**dataclasses.asdict(found), "setting": list(setting)}).encode())
    except (OSError, OutputError):
        pass  # without the cache file, the next process measures again
    return found


def kept_timing(preprocessing: Preprocessing, setting: Sequence[object]) -> BatchTiming | None:
    """Return what was measured before on this machine, see `timed_batch`; None: nothing, or the file is damaged."""
    try:
        file = _file(setting)
        if not file.is_file():  # reading a pipe would wait for ever
            return None
        kept = json.loads(file.read_text())
        batch, seconds = kept["batch"], kept["row_seconds"]
        if batch in _candidates(largest_batch(preprocessing)) and 0 < seconds < np.inf:
            return BatchTiming(int(batch), float(seconds))
    except (OSError, OutputError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _file(setting: Sequence[object]) -> Path:
    key = json.dumps([*setting, processor(), os.cpu_count()]).encode()
    return cache_folder() / f"batch-{hashlib.sha256(key).hexdigest()[:32]}.json"


def _candidates(largest: int) -> list[int]:
    return [b for b in (2, 4, 8, 16, 32, 64) if largest // 4 <= b <= largest]


def _fastest_batch(session: Runner, rows: np.ndarray) -> BatchTiming:
    """Time every candidate that fits. Sizes alternate, so that a busy moment hits all of them.

    rows: (largest, ...) float32 as the network takes them
    """
    candidates, began = _fitting(session, rows), time.perf_counter()
    best = dict.fromkeys(candidates, np.inf)
    for _ in range(TIMING_ROUNDS):
        for batch in candidates:
            if best[batch] < np.inf and time.perf_counter() - began > TIMING_SECONDS:
                continue
            started = time.perf_counter()
            session.run(rows[:batch])
            best[batch] = min(best[batch], (time.perf_counter() - started) / batch)
    batch = min(candidates, key=lambda b: best[b])
    return BatchTiming(batch, best[batch])


def _fitting(session: Runner, rows: np.ndarray) -> list[int]:
    """Run every candidate once, from the smallest on, as long as the memory that the runs keep allows the next."""
    candidates, before = _candidates(len(rows)), resident_bytes()
    for i, batch in enumerate(candidates[:-1]):
        session.run(rows[:batch])
        if 2 * (resident_bytes() - before) > ACTIVATION_BYTES:  # the next batch is twice as large
            return candidates[: i + 1]
    return candidates


def processor() -> str:
    """Return the processor's name, "" if the system does not tell it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
