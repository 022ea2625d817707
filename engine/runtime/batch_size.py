"""How many rows one network run takes: measured once per bundle and machine, then kept on disk."""

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


def calibrated_batch(session: Runner, preprocessing: Preprocessing, setting: Sequence[object], picture: np.ndarray) -> int:
    """Return the batch size with the least time per row, from the cache or else measured now and cached.

    setting: what the time depends on besides the machine: model, provider, precision, threads; ready for JSON
    picture: (H, W, 3) uint8 at the network's size
    Raises BundleError if a measured run fails.
    """
    key = json.dumps([*setting, ort.__version__, processor(), os.cpu_count()]).encode()
    file = cache_folder() / f"batch-{hashlib.sha256(key).hexdigest()[:32]}.json"
    largest = largest_batch(preprocessing)
    try:
        kept = json.loads(file.read_text())["batch"]
        if kept in _candidates(largest):
            return int(kept)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not measured yet, or a damaged file: measure again
    batch = _fastest_batch(session, np.repeat(preprocessing.normalised(picture[None]), largest, axis=0))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({"batch": batch, "setting": list(setting)}).encode())
    except (OSError, OutputError):
        pass  # without the cache file, the next process measures again
    return batch


def _candidates(largest: int) -> list[int]:
    return [b for b in (2, 4, 8, 16, 32, 64) if largest // 4 <= b <= largest]


def _fastest_batch(session: Runner, rows: np.ndarray) -> int:
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
    return min(candidates, key=lambda b: best[b])


def _fitting(session: Runner, rows: np.ndarray) -> list[int]:
    """Run every candidate once, from the smallest on, as long as the memory that the runs keep allows the next."""
    candidates, before = _candidates(len(rows)), _resident_bytes()
    for i, batch in enumerate(candidates[:-1]):
        session.run(rows[:batch])
        if 2 * (_resident_bytes() - before) > ACTIVATION_BYTES:  # the next batch is twice as large
            return candidates[: i + 1]
    return candidates


def _resident_bytes() -> int:
    """Return the memory that this process holds; 0 on systems that do not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def processor() -> str:
    """Return the processor's name, "" if the system does not tell it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
