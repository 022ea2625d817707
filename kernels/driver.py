"""What the worker thread of `kernels.device` does through pycuda. Only this module imports it, when a device is opened."""

import contextlib
import ctypes
import dataclasses
import importlib.util
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.cubins import fatbin
from kernels.plan import KernelPlan

DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
DRAWING, NETWORK = 0, 1
"""The two streams: masks are drawn on one while the network runs on the other."""
BLOCK_THREADS, THREAD_VALUES = 256, 4
"""Threads of a block; values that each writes at once."""


class DeviceError(RuntimeError):
    """Something went wrong on the device. The message is one line."""


class NoDevice(DeviceError):
    """No CUDA device can be used here. The message says what is missing."""


class OutOfMemory(DeviceError):
    """The device has too little free memory."""


def lacking() -> list[str]:
    """Return, in words, what is missing before a device can be looked for. Takes under a millisecond; loads no pycuda."""
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
    """A C-contiguous array in the device's memory; `Device.free` or closing the device frees it.

    pointer: its address; dtype: numpy's name of it, such as "float32"
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def row(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A plan and a picture on the device.

    kernel: its name in masks.cu; masks: number of masks in the plan
    picture, baseline: (C, H, W), or (H, W, C) if `channels_last`, float32; baseline None: all zeros
    arrays: the plan's arrays; arguments: the kernel's own, after the common ones; types: theirs: P a pointer, i an integer
    """

    kernel: str
    masks: int
    picture: DeviceArray
    baseline: DeviceArray | None
    channels_last: bool
    arrays: tuple[DeviceArray, ...]
    arguments: tuple[int, ...]
    types: str


class Driver:
    """Everything that pycuda owns. Only the worker thread uses it. Raises pycuda's errors, and NoDevice."""

    def __init__(self) -> None:
        self.module: Any = None  # pycuda.driver
        self.streams: list[Any] = []
        self.events: dict[int, Any] = {}
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
        except cuda.Error:  # the fatbin has no code for this device
            from kernels.build import cubin_for  # noqa: PLC0415 - needs NVRTC, most devices do not

            major, minor = self.capability
            self._code = cuda.module_from_buffer(cubin_for(10 * major + minor))

    def close(self) -> None:
        """Free everything, even if a step fails: pycuda aborts a process whose context stays pushed."""
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
        # pycuda makes a primary context current again to release it, and leaves it current
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
        number = max(self.events, default=-1) + 1
        self.events[number] = self.module.Event(self.module.event_flags.DISABLE_TIMING)
        return number

    def forget(self, events: tuple[int, ...]) -> None:
        for event in events:
            self.events.pop(event, None)

    def join(self, event: int) -> None:
        self.events[event].synchronize()

    def empty(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        array = self._allocate(shape, dtype)
        self.module.memset_d8_async(array.pointer, 0, array.nbytes, self.streams[DRAWING])
        self.streams[DRAWING].synchronize()  # else the network could write before the memset
        return array

    def upload(self, values: np.ndarray) -> DeviceArray:
        values = np.ascontiguousarray(values)
        array = self._allocate(values.shape, values.dtype.name)
        self.module.memcpy_htod_async(array.pointer, values, self.streams[DRAWING])  # pageable: read before this returns
        return array

    def _allocate(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
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

    def drawing(self, plan: KernelPlan, picture: np.ndarray, baseline: np.ndarray, channels_last: bool) -> Drawing:
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
        shown = self.upload(picture)
        return Drawing(plan.kernel, plan.masks, shown, hidden, channels_last, tuple(arrays), tuple(arguments), types)

    def draw(self, drawing: Drawing, first: int, count: int, rows: DeviceArray) -> None:
        shape = drawing.picture.shape
        channels, height, width = (shape[2], *shape[:2]) if drawing.channels_last else shape
        function = self._function(drawing.kernel, "PPPiiiiii" + drawing.types)
        grid = (-(-height * width // (BLOCK_THREADS * THREAD_VALUES)), count)
        where = (drawing.picture.pointer, drawing.baseline.pointer if drawing.baseline else 0, rows.pointer)
        what = (first, count, channels, height, width, int(drawing.channels_last))
        stream = self.streams[DRAWING]
        function.prepared_async_call(grid, (BLOCK_THREADS, 1, 1), stream, *where, *what, *drawing.arguments)
        rest = (rows.shape[0] - count) * rows.row
        if rest:
            self.module.memset_d8_async(rows.pointer + count * rows.row, 0, rest, stream)

    def _function(self, name: str, types: str) -> Any:
        if (name, types) not in self._functions:
            self._functions[name, types] = self._code.get_function(name).prepare(types)
        return self._functions[name, types]


def _pycuda() -> Any:
    """Import and initialise pycuda.driver. Raises NoDevice, which says what is missing."""
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
