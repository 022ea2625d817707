"""Counters of the double of libcuda.so.1, and what its tests share. pytest loads this as a plugin, for its fixtures."""

import contextlib
import ctypes
import gc
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import pytest

import engine.runtime.gpu_session
from engine.runtime.gpu_device import close_device
from kernels.device import Device
from kernels.rank import RankRenderer
from kernels.rise import RiseRenderer, cell_size
from kernels.segments import SegmentRenderer
from kernels.window import WindowRenderer

T = TypeVar("T")

NAMES = ("allocations", "streams", "events", "modules", "contexts", "retained", "launches", "copies_in", "copies_out")
HELD = NAMES[:6]


def counts() -> dict[str, int]:
    found = (ctypes.c_long * len(NAMES))()
    ctypes.CDLL("libcuda.so.1").double_counts(found)
    return dict(zip(NAMES, found, strict=True))


def held() -> dict[str, int]:
    return {name: count for name, count in counts().items() if name in HELD and count}


def settled() -> None:
    """Wait until the work of all finalizers is done."""
    gc.collect()
    engine.runtime.gpu_device.shared_device().synchronize()


def in_time(function: Callable[[], T]) -> T:
    """Return the function's result; fail if it does not return."""
    answer: queue.SimpleQueue[T] = queue.SimpleQueue()
    threading.Thread(target=lambda: answer.put(function()), daemon=True).start()
    return answer.get(timeout=60)


@contextlib.contextmanager
def busy(device: Device) -> Iterator[None]:
    """Keep the worker busy until the end of the block."""
    begun, enough = threading.Event(), threading.Event()
    thread = threading.Thread(target=device.call, args=(lambda: begun.set() or enough.wait(),))
    thread.start()
    assert begun.wait(60)
    try:
        yield
    finally:
        enough.set()
        thread.join()


def renderers(height: int, width: int) -> dict[str, object]:
    rng = np.random.default_rng(3)
    shifts = rng.integers(0, (cell_size(height, 5), cell_size(width, 5)), (40, 2))
    return {
        "rise": RiseRenderer(rng.random((40, 5, 5)) < 0.5, shifts, height, width),
        "rise, 9 x 9": RiseRenderer(rng.random((40, 9, 9)) < 0.5, shifts % 2, height, width),
        "window": WindowRenderer(np.arange(-3, 17, 4), np.arange(-3, 21, 3), (6, 7), height, width),
        "segments": SegmentRenderer(rng.integers(0, 70, (height, width)), rng.random((40, 70)) < 0.5),
        "rank": RankRenderer(
            rng.permutation(height * width).reshape(height, width), rng.integers(0, height * width, 40), rng.random(40) < 0.5
        ),
    }


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    close_device()
    gc.collect()
    assert held() == {}


@pytest.fixture
def device() -> Iterator[Device]:
    with Device() as device:
        yield device
