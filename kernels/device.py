"""The launcher: one CUDA device, driven through pycuda by one worker thread that owns all there is on it.

The thread holds the device's primary context (which ONNX Runtime uses too), two streams, the module of masks.cu with its
prepared kernels, and every array. Methods of `Device` may be called from any thread: they run on the worker, one after
another. pycuda is imported here alone, when a device is opened.
"""

import contextlib
import ctypes
import dataclasses
import importlib.util
import math
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np

from kernels.cubins import KernelError, fatbin
from kernels.plan import KernelPlan

T = TypeVar("T")

DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
DRAWING, NETWORK = 0, 1
"""The streams: masks are drawn on one while the network runs on the other."""
SUFFIXES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
"""Of kernels, by what they write."""
BLOCK, STORED = 256, 16
"""Threads of a block; bytes that each writes at once."""


class DeviceError(RuntimeError):
    """What went wrong on the device, on one line."""


class NoDevice(DeviceError):
    """No CUDA device can be used here; says what is missing."""


class OutOfMemory(DeviceError):
    """The device's memory does not suffice."""


def lacking() -> list[str]:
    """What this machine lacks before a device can be looked for, in words; in well under a millisecond, without pycuda."""
    found = []
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        found.append(f"an NVIDIA driver ({DRIVER})")
    if importlib.util.find_spec("pycuda") is None:
        found.append("pycuda")
    return found


@dataclasses.dataclass(frozen=True)
class DeviceArray:
    """Memory that a pointer names, C-contiguous; it is freed by `Device.free`, or with the device.

    dtype: "float32", "float16", "bfloat16", ..., as numpy or masks.cu calls it
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, values: np.ndarray) -> "DeviceArray":
        """A numpy array's own memory, which must outlive this."""
        if not values.flags.c_contiguous:
            raise DeviceError("memory that a pointer names must be contiguous")
        return cls(values.ctypes.data, values.shape, values.dtype.name)

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize

    @property
    def row(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.itemsize

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.itemsize


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A plan and a picture on the device. arrays: what it keeps there; arguments: of the kernel, after the common ones"""

    kernel: str
    image: DeviceArray
    baseline: DeviceArray | None
    channels_last: bool
    arrays: tuple[DeviceArray, ...]
    arguments: tuple[int, ...]
    types: str


class Device:
    """Raises NoDevice where there is none, DeviceError where it fails, OutOfMemory; so do all methods.

    name: the device's; capability: its compute capability, such as (9, 0); stream: handle of the network's stream
    """

    def __init__(self, ordinal: int = 0) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=_work, args=(self._jobs,), name="cuda", daemon=True)
        self._worker.start()
        self._driver = _Driver()
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
        if not self._close.alive:
            raise DeviceError("the CUDA device was closed")
        job = _Job(function)
        self._jobs.put(job)
        return job.future.result()

    def attach(self, close: Callable[[], None]) -> int:
        """`close` runs on the worker when the device closes, before the arrays go, or at `release` of the number given."""
        return self.call(lambda: self._driver.attach(close))

    def release(self, owner: int) -> None:
        """Run what was attached under this number, once. On a closed device, nothing: it was run."""
        with contextlib.suppress(DeviceError):
            self.call(lambda: self._driver.release(owner))

    def free_memory(self) -> int:
        """Bytes that are free on the device."""
        return int(self.call(lambda: self._driver.module.mem_get_info()[0]))

    def empty(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """An array of zeros."""
        return self.call(lambda: self._driver.empty(shape, dtype))

    def upload(self, values: np.ndarray) -> DeviceArray:
        """A copy on the device, there before anything is drawn that is drawn later."""
        return self.call(lambda: self._driver.upload(values))

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
        return self.call(lambda: self._driver.drawing(plan, image, baseline, channels_last))

    def draw(self, drawing: Drawing, first: int, count: int, rows: DeviceArray) -> None:
        """Show the picture through masks first..first + count in the first rows of `rows` (B, ...), on the drawing stream.

        The rows after them become 0.
        """
        if rows.shape[1:] != drawing.image.shape or not 0 < count <= rows.shape[0] or rows.dtype not in SUFFIXES:
            raise DeviceError(f"{count} pictures {drawing.image.shape} do not go into {rows.dtype} {rows.shape}")
        self.call(lambda: self._driver.draw(drawing, first, count, rows))

    def discard(self, drawing: Drawing) -> None:
        """Free what it keeps on the device."""
        self.free(drawing.image, *([drawing.baseline] if drawing.baseline else []), *drawing.arrays)


class _Driver:
    """All that belongs to pycuda; used by the worker thread alone."""

    def __init__(self) -> None:
        self.module: Any = None  # pycuda.driver
        self.streams: list[Any] = []
        self.events: list[Any] = []
        self.name, self.capability = "", (0, 0)
        self._context: Any = None
        self._code: Any = None
        self._functions: dict[tuple[str, str], Any] = {}
        self._memory: dict[int, Any] = {}
        self._owners: dict[int, Callable[[], None]] = {}

    def open(self, ordinal: int) -> None:
        cuda = self.module = _pycuda()
        if not 0 <= ordinal < cuda.Device.count():
            raise NoDevice(f"there is no CUDA device {ordinal}: the driver finds {cuda.Device.count()}")
        device = cuda.Device(ordinal)
        self.name, self.capability = device.name(), device.compute_capability()
        self._context = device.retain_primary_context()
        self._context.push()
        self.streams = [cuda.Stream(), cuda.Stream()]
        try:
            self._code = cuda.module_from_buffer(fatbin())
        except cuda.Error:  # the driver finds nothing in it for this device
            from kernels.build import compiled  # noqa: PLC0415 - needs NVRTC, which most devices never do

            major, minor = self.capability
            self._code = cuda.module_from_buffer(compiled(10 * major + minor))

    def close(self) -> None:
        """Each step is done whether or not the one before it failed: a process whose context stays pushed aborts."""
        steps = [self.synchronize, *(lambda owner=owner: self.release(owner) for owner in reversed(self._owners))]
        steps += [self.synchronize, self.free_all, self._functions.clear, self.unload, self._leave]
        for step in steps:
            with contextlib.suppress(Exception):
                step()

    def free_all(self) -> None:
        while self._memory:
            self._memory.popitem()[1].free()

    def unload(self) -> None:
        self._code = None
        self.events.clear()
        self.streams.clear()

    def _leave(self) -> None:
        context, self._context = self._context, None
        if context is None:
            return
        self.module.Context.pop()
        context.detach()
        # to release a primary context pycuda makes it current once more, and leaves it so
        ctypes.CDLL(DRIVER).cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def attach(self, close: Callable[[], None]) -> int:
        number = max(self._owners, default=0) + 1
        self._owners[number] = close
        return number

    def release(self, owner: int) -> None:
        if owner in self._owners:
            self.synchronize()
            self._owners.pop(owner)()

    def synchronize(self) -> None:
        for stream in self.streams:
            stream.synchronize()

    def event(self) -> int:
        self.events.append(self.module.Event(self.module.event_flags.DISABLE_TIMING))
        return len(self.events) - 1

    def join(self, event: int) -> None:
        self.events[event].synchronize()

    def empty(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        array = self._allocated(shape, dtype)
        self.module.memset_d8_async(array.pointer, 0, array.nbytes, self.streams[DRAWING])
        self.streams[DRAWING].synchronize()  # or the network could write first
        return array

    def upload(self, values: np.ndarray) -> DeviceArray:
        values = np.ascontiguousarray(values)
        array = self._allocated(values.shape, values.dtype.name)
        self.module.memcpy_htod_async(array.pointer, values, self.streams[DRAWING])  # pageable: read before it returns
        return array

    def _allocated(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        size = DeviceArray(0, shape, dtype).nbytes
        memory = self.module.mem_alloc(max(size, 1))
        self._memory[int(memory)] = memory
        return DeviceArray(int(memory), shape, dtype)

    def download(self, array: DeviceArray, rows: int) -> np.ndarray:
        values = np.empty((rows, *array.shape[1:]), array.dtype)
        self.synchronize()
        if values.nbytes:
            self.module.memcpy_dtoh(values, array.pointer)
        return values

    def copy(self, source: int, target: int, size: int) -> None:
        self.module.memcpy_dtod_async(target, source, size, self.streams[NETWORK])

    def free(self, arrays: tuple[DeviceArray, ...]) -> None:
        for array in arrays:
            memory = self._memory.pop(array.pointer, None)
            if memory is not None:
                memory.free()

    def drawing(self, plan: KernelPlan, image: np.ndarray, baseline: np.ndarray, channels_last: bool) -> Drawing:
        arrays, arguments, types = [], [], ""
        for value in plan.arguments:
            if isinstance(value, np.ndarray):
                arrays.append(self.upload(value))
                arguments.append(arrays[-1].pointer)
                types += "P"
            else:
                arguments.append(value)
                types += "i"
        hidden = self.upload(baseline) if baseline.any() else None
        shown = self.upload(image)
        return Drawing(plan.kernel, shown, hidden, channels_last, tuple(arrays), tuple(arguments), types)

    def draw(self, drawing: Drawing, first: int, count: int, rows: DeviceArray) -> None:
        shape = drawing.image.shape
        channels, height, width = (shape[2], *shape[:2]) if drawing.channels_last else shape
        function = self._function(f"{drawing.kernel}_{SUFFIXES[rows.dtype]}", "PPPiiiiii" + drawing.types)
        grid = (-(-height * width // (BLOCK * STORED // rows.itemsize)), count)
        where = (drawing.image.pointer, drawing.baseline.pointer if drawing.baseline else 0, rows.pointer)
        what = (first, count, channels, height, width, int(drawing.channels_last))
        stream = self.streams[DRAWING]
        function.prepared_async_call(grid, (BLOCK, 1, 1), stream, *where, *what, *drawing.arguments)
        rest = (rows.shape[0] - count) * rows.row
        if rest:
            self.module.memset_d8_async(rows.pointer + count * rows.row, 0, rest, stream)

    def _function(self, name: str, types: str) -> Any:
        if (name, types) not in self._functions:
            self._functions[name, types] = self._code.get_function(name).prepare(types)
        return self._functions[name, types]


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    """Something for the worker to do, and where the answer goes."""

    function: Callable[[], Any]
    future: "Future[Any]" = dataclasses.field(default_factory=Future)

    def run(self) -> None:
        try:
            self.future.set_result(self.function())
        except DeviceError as error:
            self.future.set_exception(error)
        except KernelError as error:
            self.future.set_exception(DeviceError(str(error)))
        except BaseException as error:
            self.future.set_exception(_told(error))


def _told(error: BaseException) -> BaseException:
    """pycuda's errors in our words, others as they are."""
    cuda = sys.modules.get("pycuda.driver")
    if cuda is None or not isinstance(error, cuda.Error):
        return error
    kind = OutOfMemory if isinstance(error, cuda.MemoryError) else DeviceError
    told = kind(f"the CUDA driver refused: {str(error).strip().splitlines()[0]}")
    told.__cause__ = error
    return told


def _work(jobs: "queue.SimpleQueue[_Job | None]") -> None:
    while (job := jobs.get()) is not None:
        job.run()
        del job  # its closure may hold the device, which then could not go


def _end(jobs: "queue.SimpleQueue[_Job | None]", worker: threading.Thread, driver: _Driver) -> None:
    jobs.put(_Job(driver.close))
    jobs.put(None)
    if threading.current_thread() is not worker:  # the device went while a job of its own ran
        worker.join()


def _pycuda() -> Any:
    """pycuda.driver, initialised. Raises NoDevice, saying what is missing."""
    missing = lacking()
    if missing:
        raise NoDevice(f"this machine lacks {' and '.join(missing)}")
    try:
        import pycuda.driver as cuda  # noqa: PLC0415 - optional, and slow
    except ImportError as error:
        raise NoDevice(f"pycuda cannot be loaded: {str(error).splitlines()[0]}") from error
    try:
        cuda.init()
        count = cuda.Device.count()
    except cuda.Error as error:
        raise NoDevice(f"the NVIDIA driver finds no CUDA device: {str(error).strip().splitlines()[0]}") from error
    if not count:
        raise NoDevice("the NVIDIA driver finds no CUDA device")
    return cuda
