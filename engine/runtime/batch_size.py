"""How many rows one network run takes: measured once per bundle and machine, then kept."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.errors import OutputError
from engine.files import cache_folder, write_whole
from engine.pictures.preprocessing import Preprocessing
from engine.protocol import Runner

LARGEST_BATCH = 64
BATCH_PIXELS = 2**19
"""Pixels in one batch at most: activations stay in some 100 MB."""
TIMING_ROUNDS = 3
SECONDS = 0.5
"""A calibration that took this long measures no batch a second time."""


def largest_batch(preprocessing: Preprocessing) -> int:
    """Rows per network run that memory allows at this picture size: a power of two from 2 to 64."""
    rows = max(BATCH_PIXELS // (preprocessing.height * preprocessing.width), 2)
    return int(min(2 ** (rows.bit_length() - 1), LARGEST_BATCH))


def calibrated_batch(session: Runner, preprocessing: Preprocessing, setting: Sequence[object], picture: np.ndarray) -> int:
    """The batch with the least time per row, from the cache or measured now and written there.

    setting: what the time depends on beside the machine: model, provider, precision, threads
    picture: (H, W, 3) uint8 that the network is known to take
    """
    key = json.dumps([*setting, ort.__version__, processor(), os.cpu_count()]).encode()
    file = cache_folder() / f"batch-{hashlib.sha256(key).hexdigest()[:32]}.json"
    largest = largest_batch(preprocessing)
    try:
        kept = json.loads(file.read_text())["batch"]
        if kept in _candidates(largest):
            return int(kept)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not measured yet, or somebody's damaged file: measured anew
    batch = _measured(session, np.repeat(preprocessing.normalised(picture[None]), largest, axis=0))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({"batch": batch, "setting": list(setting)}).encode())
    except (OSError, OutputError):
        pass  # a cache that cannot be written costs the next process one calibration
    return batch


def _candidates(largest: int) -> list[int]:
    return [b for b in (2, 4, 8, 16, 32, 64) if largest // 4 <= b <= largest]


def _measured(session: Runner, rows: np.ndarray) -> int:
    """Sizes alternate, so that a busy moment hits all of them; the least time of each counts."""
    candidates, began = _candidates(len(rows)), time.perf_counter()
    best = dict.fromkeys(candidates, np.inf)
    session.run(rows[: candidates[0]])  # warms up
    for _ in range(TIMING_ROUNDS):
        for batch in candidates:
            if best[batch] < np.inf and time.perf_counter() - began > SECONDS:
                continue
            started = time.perf_counter()
            session.run(rows[:batch])
            best[batch] = min(best[batch], (time.perf_counter() - started) / batch)
    return min(candidates, key=lambda b: best[b])


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
