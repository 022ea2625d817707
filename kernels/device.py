"""One CUDA device, driven through pycuda by one worker thread that owns everything on it.

The thread holds the device's primary context (which ONNX Runtime uses too), two streams, the compiled kernels and every
array. Methods of `Device` may be called from any thread; they run on the worker one after another.
"""

import contextlib
import dataclasses
import os
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
"""A picture must have fewer values than this, because kernels count them in 32 bits."""


class Device:
    """One CUDA device, opened.

    name: as the driver gives it; capability: its compute capability, such as (9, 0); stream: handle of the network's stream
    Raises NoDevice if there is no such device. Methods raise OutOfMemory if memory runs out, else DeviceError.
    """

    def __init__(self, ordinal: int = 0) -> None:
        self._jobs, self._process = _Jobs(), os.getpid()
        self._worker = threading.Thread(target=self._jobs.work, name="cuda", daemon=True)
        self._worker.start()
        self._driver = Driver()
        self._close = weakref.finalize(self, _end, self._jobs, self._worker, self._driver, self._process)
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
        """Wait for the work in progress, then free everything in reverse order. A second call does nothing."""
        self._close()

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the worker thread and return its result. Errors of pycuda become a DeviceError.

        Raises DeviceError in a fork, which has no worker.
        """
        if os.getpid() != self._process:
            raise DeviceError(f"it was opened in process {self._process}, and a fork has no CUDA: open it after the fork")
        if threading.current_thread() is self._worker:
            return function()
        job = Job(function)
        self._jobs.put(job)
        return job.result()

    def later(self, function: Callable[[], object]) -> None:
        """Run `function` on the worker at some time, unless the device closes first. Does not wait; errors are lost.

        For finalizers: the garbage collector may call them anywhere, on a thread that holds any lock.
        """
        self._jobs.put_without_lock(Job(function))

    def attach(self, close: Callable[[], None]) -> int:
        """Have `close` run on the worker when the returned number is released or the device closes, before its arrays go."""
        return self.call(lambda: self._driver.attach(close))

    def release(self, owner: int) -> None:
        """Run what was attached under this number, once. Does nothing on a closed device, which has run it."""
        with contextlib.suppress(DeviceError):
            self.call(lambda: self._driver.release(owner))

    def empty(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """Allocate an array of zeros."""
        return self.call(lambda: self._driver.empty(shape, dtype))

    def download(self, array: DeviceArray, rows: int) -> np.ndarray:
        """Wait for both streams, then return the first rows: (rows, ...) in the array's dtype."""
        return self.call(lambda: self._driver.download(array, rows))

    def copy(self, source: DeviceArray, target: DeviceArray, at: int, rows: int) -> None:
        """Copy the first rows of `source` to row `at` of `target`, on the network's stream."""
        if source.row != target.row or not (0 <= rows <= source.shape[0] and 0 <= at <= target.shape[0] - rows):
            raise DeviceError(
                f"{rows} rows of {source.dtype} {source.shape} do not fit at row {at} of {target.dtype} {target.shape}"
            )
        self.call(lambda: self._driver.copy(source.pointer, target.pointer + at * target.row, rows * source.row))

    def free(self, *arrays: DeviceArray) -> None:
        """Free these arrays. Does nothing on a closed device, which has freed them."""
        with contextlib.suppress(DeviceError):
            self.call(lambda: self._driver.free(arrays))

    def event(self) -> int:
        """Create an event; return its number."""
        return self.call(self._driver.event)

    def forget(self, *events: int) -> None:
        """Free these events. Does nothing on a closed device, which has freed them."""
        with contextlib.suppress(DeviceError):
            self.call(lambda: self._driver.forget(events))

    def record(self, event: int, stream: int) -> None:
        """Let the event happen when everything given to the stream so far is done."""
        self.call(lambda: self._driver.events[event].record(self._driver.streams[stream]))

    def wait(self, event: int, stream: int) -> None:
        """Let the stream wait until the event has happened. An event that was never recorded counts as happened."""
        self.call(lambda: self._driver.streams[stream].wait_for_event(self._driver.events[event]))

    def join(self, event: int) -> None:
        """Wait here until the event has happened."""
        self.call(lambda: self._driver.join(event))

    def synchronize(self) -> None:
        """Wait here until both streams are done."""
        self.call(self._driver.synchronize)

    def drawing(self, plan: KernelPlan, picture: np.ndarray, baseline: np.ndarray, channels_last: bool) -> Drawing:
        """Copy a plan and a picture to the device.

        picture, baseline: (C, H, W), or (H, W, C) if `channels_last`, float32
        """
        if picture.ndim != 3 or picture.shape != baseline.shape or not picture.dtype == baseline.dtype == np.float32:
            raise DeviceError(
                f"picture and baseline must be float32 arrays of one shape with 3 axes, got {picture.dtype} {picture.shape} "
                f"and {baseline.dtype} {baseline.shape}"
            )
        if picture.size >= LARGEST_PICTURE:
            raise DeviceError(
                f"kernels draw pictures of fewer than {LARGEST_PICTURE} values, got {picture.shape}: {picture.size}"
            )
        return self.call(lambda: self._driver.drawing(plan, picture, baseline, channels_last))

    def draw(self, drawing: Drawing, first: int, count: int, rows: DeviceArray) -> None:
        """Show the picture through masks first..first + count in the first rows of `rows`, on the drawing stream.

        rows: (B, ...) float32, each row in the picture's shape. Rows after the first `count` become 0.
        """
        if rows.shape[1:] != drawing.picture.shape or not 0 < count <= rows.shape[0] or rows.dtype != "float32":
            raise DeviceError(
                f"{count} float32 pictures {drawing.picture.shape} do not fit into an array {rows.dtype} {rows.shape}"
            )
        if not 0 <= first <= drawing.masks - count:
            raise DeviceError(f"masks {first} to {first + count} were asked for, but the plan has {drawing.masks}")
        self.call(lambda: self._driver.draw(drawing, first, count, rows))

    def discard(self, drawing: Drawing) -> None:
        """Free the drawing's arrays."""
        self.free(drawing.picture, *([drawing.baseline] if drawing.baseline else []), *drawing.arrays)


@dataclasses.dataclass(frozen=True, eq=False)
class Job(Generic[T]):
    """A function for the worker to run, and its result."""

    function: Callable[[], T]
    _future: "Future[T]" = dataclasses.field(default_factory=Future)

    def run(self) -> None:
        """Run the function; it is called on the worker. Raises nothing."""
        try:
            self._future.set_result(self.function())
        except DeviceError as error:
            self._future.set_exception(error)
        except KernelError as error:
            self._future.set_exception(DeviceError(str(error)))
        except BaseException as error:
            self._future.set_exception(_as_device_error(error))

    def result(self, timeout: float | None = None) -> T:
        """Wait until the function has run, and return its result. Raises what it raised, pycuda's errors as a DeviceError.

        timeout: seconds after which to raise TimeoutError; None: wait for ever
        """
        return self._future.result(timeout)


class _Jobs:
    """The worker's queue. Jobs put before the end are run, later ones are refused."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._ended = False
        self._lock = threading.RLock()  # reentrant: a finalizer may run while it is held

    def put(self, job: Job[Any]) -> None:
        with self._lock:
            if self._ended:
                raise DeviceError("the CUDA device was closed")
            self._queue.put(job)

    def put_without_lock(self, job: Job[Any]) -> None:
        """Put a job that may be lost: after the end nothing runs it."""
        self._queue.put(job)

    def end(self, last: Job[Any]) -> None:
        with self._lock:
            self._ended = True
            self._queue.put(last)
            self._queue.put(None)

    def work(self) -> None:
        while (job := self._queue.get()) is not None:
            job.run()
            del job  # its closure may refer to the device, which then could not be collected


def _as_device_error(error: BaseException) -> BaseException:
    """Turn an error of pycuda into a DeviceError or OutOfMemory; return any other error as it is."""
    cuda = sys.modules.get("pycuda.driver")
    if cuda is None or not isinstance(error, cuda.Error):
        return error
    kind = OutOfMemory if isinstance(error, cuda.MemoryError) else DeviceError
    result = kind(f"the CUDA driver reports an error: {str(error).strip().splitlines()[0]}")
    result.__cause__ = error
    return result


def _end(jobs: _Jobs, worker: threading.Thread, driver: Driver, process: int) -> None:
    if os.getpid() != process:  # a fork: there is no worker, and the device is the parent's
        return
    jobs.end(Job(driver.close))
    if threading.current_thread() is not worker:  # else the device was collected while one of its jobs ran
        worker.join()
