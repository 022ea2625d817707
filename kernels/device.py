"""The launcher: one CUDA device, driven through pycuda by one worker thread that owns all there is on it.

The thread holds the device's primary context (which ONNX Runtime uses too), two streams, the module of masks.cu with its
prepared kernels, and every array. Methods of `Device` may be called from any thread: they run on the worker, one after
another.
"""

import contextlib
import dataclasses
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import numpy as np

from kernels.cubins import KernelError
from kernels.driver import (
    DRAWING,
    NETWORK,
    TYPE_SUFFIXES,
    DeviceArray,
    DeviceError,
    Drawing,
    Driver,
    NoDevice,
    OutOfMemory,
    lacking,
)
from kernels.plan import KernelPlan

__all__ = [
    "DRAWING",
    "NETWORK",
    "Device",
    "DeviceArray",
    "DeviceError",
    "Drawing",
    "Job",
    "NoDevice",
    "OutOfMemory",
    "lacking",
]

T = TypeVar("T")

LARGEST_PICTURE = 2**30
"""Values of a picture, which kernels number in 32 bits; it must have fewer."""


class Device:
    """Raises NoDevice where there is none, DeviceError where it fails, OutOfMemory; so do all methods.

    name: the device's; capability: its compute capability, such as (9, 0); stream: handle of the network's stream
    """

    def __init__(self, ordinal: int = 0) -> None:
        self._jobs = _Jobs()
        self._worker = threading.Thread(target=self._jobs.work, name="cuda", daemon=True)
        self._worker.start()
        self._driver = Driver()
        self._close = weakref.finalize(self, _end, self._jobs, self._worker, self._driver)
        self.ordinal = ordinal
        try:
            self.call(lambda: self._driver.open(ordinal))
        except BaseException:
            self.close()
            raise
        self.name, self.capability = self._driver.name, self._driver.capability
        self.stream: int = self._driver.streams[NETWORK].handle

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is under way, then give everything back in the reverse of the order it was taken. Once is enough."""
        self._close()

    def call(self, function: Callable[[], T]) -> T:
        """What `function` gives on the worker thread; what pycuda raises becomes a DeviceError."""
        if threading.current_thread() is self._worker:
            return function()
        job = Job(function)
        self._jobs.put(job)
        return job.result()

    def later(self, function: Callable[[], object]) -> None:
        """Have `function` run on the worker some time, unless the device closes first; nobody waits or hears of its errors.

        For finalizers: the garbage collector may call them anywhere, on a thread that holds any lock.
        """
        self._jobs.put_unheard(Job(function))

    def attach(self, close: Callable[[], None]) -> int:
        """`close` runs on the worker when the device closes, before the arrays go, or at `release` of the number given."""
        return self.call(lambda: self._driver.attach(close))

    def release(self, owner: int) -> None:
        """Run what was attached under this number, once. On a closed device, nothing: it was run."""
        with contextlib.suppress(DeviceError):
            self.call(lambda: self._driver.release(owner))

    def empty(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """An array of zeros."""
        return self.call(lambda: self._driver.empty(shape, dtype))

    def download(self, array: DeviceArray, rows: int) -> np.ndarray:
        """The first rows (rows, ...), when all that was asked of both streams is done."""
        return self.call(lambda: self._driver.download(array, rows))

    def copy(self, source: DeviceArray, target: DeviceArray, at: int, rows: int) -> None:
        """The first rows of `source` to row `at` of `target`, on the network's stream."""
        if source.row != target.row or not (0 <= rows <= source.shape[0] and 0 <= at <= target.shape[0] - rows):
            raise DeviceError(f"{rows} rows of {source} do not fit at row {at} of {target}")
        self.call(lambda: self._driver.copy(source.pointer, target.pointer + at * target.row, rows * source.row))

    def free(self, *arrays: DeviceArray) -> None:
        """On a closed device, nothing: they went with it."""
        with contextlib.suppress(DeviceError):
            self.call(lambda: self._driver.free(arrays))

    def event(self) -> int:
        """The number of a new event."""
        return self.call(self._driver.event)

    def forget(self, *events: int) -> None:
        """Free these events. On a closed device, nothing: they went with it."""
        with contextlib.suppress(DeviceError):
            self.call(lambda: self._driver.forget(events))

    def record(self, event: int, stream: int) -> None:
        """The event happens when all that the stream was asked is done."""
        self.call(lambda: self._driver.events[event].record(self._driver.streams[stream]))

    def wait(self, event: int, stream: int) -> None:
        """The stream goes on once the event happened; one that was never recorded has."""
        self.call(lambda: self._driver.streams[stream].wait_for_event(self._driver.events[event]))

    def join(self, event: int) -> None:
        """Wait here until the event happened."""
        self.call(lambda: self._driver.join(event))

    def synchronize(self) -> None:
        """Wait here until both streams are done."""
        self.call(self._driver.synchronize)

    def drawing(self, plan: KernelPlan, image: np.ndarray, baseline: np.ndarray, channels_last: bool) -> Drawing:
        """Plan and picture, copied to the device.

        image, baseline: (C, H, W), or (H, W, C) if `channels_last`, float32
        """
        if image.ndim != 3 or image.shape != baseline.shape or not image.dtype == baseline.dtype == np.float32:
            raise DeviceError(f"picture and baseline must be float32 (C, H, W), got {image.shape} and {baseline.shape}")
        if image.size >= LARGEST_PICTURE:
            raise DeviceError(
                f"kernels draw pictures of fewer than {LARGEST_PICTURE} values, got {image.shape}: {image.size}"
            )
        return self.call(lambda: self._driver.drawing(plan, image, baseline, channels_last))

    def draw(self, drawing: Drawing, first: int, count: int, rows: DeviceArray) -> None:
        """Show the picture through masks first..first + count in the first rows of `rows` (B, ...), on the drawing stream.

        The rows after them become 0.
        """
        if rows.shape[1:] != drawing.image.shape or not 0 < count <= rows.shape[0] or rows.dtype not in TYPE_SUFFIXES:
            raise DeviceError(f"{count} pictures {drawing.image.shape} do not go into {rows.dtype} {rows.shape}")
        if not 0 <= first <= drawing.masks - count:
            raise DeviceError(f"masks {first} to {first + count} were asked for, the plan has {drawing.masks}")
        self.call(lambda: self._driver.draw(drawing, first, count, rows))

    def discard(self, drawing: Drawing) -> None:
        """Free what it keeps on the device."""
        self.free(drawing.image, *([drawing.baseline] if drawing.baseline else []), *drawing.arrays)


@dataclasses.dataclass(frozen=True, eq=False)
class Job(Generic[T]):
    """Something for the worker to do, and where the answer goes."""

    function: Callable[[], T]
    _future: "Future[T]" = dataclasses.field(default_factory=Future)

    def run(self) -> None:
        """On the worker; raises nothing."""
        try:
            self._future.set_result(self.function())
        except DeviceError as error:
            self._future.set_exception(error)
        except KernelError as error:
            self._future.set_exception(DeviceError(str(error)))
        except BaseException as error:
            self._future.set_exception(_told(error))

    def result(self, timeout: float | None = None) -> T:
        """What it gave, once it ran; raises what it raised, pycuda's errors as a DeviceError.

        timeout: seconds after which to raise TimeoutError; None: never
        """
        return self._future.result(timeout)


class _Jobs:
    """The worker's queue; what is put before its end is done, what comes later is refused."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._ended = False
        self._lock = threading.RLock()  # the garbage collector may come by while it is held, and call whatever it finds

    def put(self, job: Job[Any]) -> None:
        with self._lock:
            if self._ended:
                raise DeviceError("the CUDA device was closed")
            self._queue.put(job)

    def put_unheard(self, job: Job[Any]) -> None:
        """Takes no lock; after the end nobody looks."""
        self._queue.put(job)

    def end(self, last: Job[Any]) -> None:
        with self._lock:
            self._ended = True
            self._queue.put(last)
            self._queue.put(None)

    def work(self) -> None:
        while (job := self._queue.get()) is not None:
            job.run()
            del job  # its closure may hold the device, which then could not go


def _told(error: BaseException) -> BaseException:
    """pycuda's errors in our words, others as they are."""
    cuda = sys.modules.get("pycuda.driver")
    if cuda is None or not isinstance(error, cuda.Error):
        return error
    kind = OutOfMemory if isinstance(error, cuda.MemoryError) else DeviceError
    told = kind(f"the CUDA driver refused: {str(error).strip().splitlines()[0]}")
    told.__cause__ = error
    return told


def _end(jobs: _Jobs, worker: threading.Thread, driver: Driver) -> None:
    jobs.end(Job(driver.close))
    if threading.current_thread() is not worker:  # the device went while a job of its own ran
        worker.join()
