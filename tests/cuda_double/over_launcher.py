"""Tests of kernels.device over the test double of libcuda.so.1; `tests/test_device.py` starts them in their own process.

pycuda is the real one.
"""

import contextlib
import ctypes
import gc
import threading
from collections.abc import Callable

import numpy as np
import pycuda.driver as cuda
import pytest
from double import busy, counts, held, in_time, renderers

import engine.runtime.gpu_session
from kernels.blend import blend
from kernels.device import DRAWING, NETWORK, Device, DeviceArray, DeviceError, Job, NoDevice, OutOfMemory
from kernels.nvidia import version
from kernels.plan import KernelPlan
from kernels.rise import RiseRenderer


def uploaded(device: Device, values: np.ndarray) -> DeviceArray:
    return device.call(lambda: device._driver.upload(values))


@pytest.mark.parametrize("kind", list(renderers(8, 8)))
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("hidden", [0.0, -0.5])
def test_kernels_draw_what_numpy_draws(device: Device, kind: str, channels_last: bool, hidden: float) -> None:
    height, width = 31, 26
    renderer, shape = renderers(height, width)[kind], (height, width, 3) if channels_last else (3, height, width)
    image = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    baseline = np.full(shape, hidden, np.float32)
    rows = uploaded(device, np.ones((9, *shape), np.float32))
    drawing = device.drawing(renderer.kernel_plan(), image, baseline, channels_last)
    device.draw(drawing, 11, 7, rows)
    masks, expected = np.empty((7, height, width), np.float32), np.empty((7, *shape), np.float32)
    renderer.masks(11, 18, out=masks)
    blend(image, baseline, masks, channels_last, out=expected)
    got = device.download(rows, 9)
    np.testing.assert_allclose(got[:7], expected, atol=2e-6)
    assert not got[7:].any()  # rows that are not drawn are cleared
    device.discard(drawing)
    assert counts()["allocations"] == 1


def test_arrays_go_there_and_back(device: Device) -> None:
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    there = uploaded(device, values)
    elsewhere = device.empty((8, 4), "float32")
    np.testing.assert_array_equal(device.download(there, 5), values[:5])
    device.copy(there, elsewhere, 2, 3)
    np.testing.assert_array_equal(device.download(elsewhere, 8), np.pad(values[:3], ((2, 3), (0, 0))))
    assert (there.row, there.nbytes) == (16, 96)
    assert counts()["allocations"] == 2
    device.free(there, elsewhere)
    device.free(there)  # it was freed before: nothing happens
    assert counts()["allocations"] == 0
    for source, target, at, rows in ((there, elsewhere, 6, 3), (there, elsewhere, -1, 2), (there, elsewhere, 0, 7)):
        with pytest.raises(DeviceError, match="do not fit"):
            device.copy(source, target, at, rows)


def test_streams_wait_for_events(device: Device) -> None:
    """The double's streams do nothing until somebody waits for them; a GPU may do the same."""
    source, target = uploaded(device, np.ones((1, 4), np.float32)), device.empty((1, 4), "float32")
    memory = np.frombuffer((ctypes.c_float * 4).from_address(target.pointer), np.float32)
    event = device.event()
    device.join(event)  # never recorded: counts as happened
    device.copy(source, target, 0, 1)
    device.record(event, NETWORK)
    assert not memory.any()
    device.wait(event, DRAWING)
    assert memory.all()


def test_the_driver_refuses_what_it_must(device: Device) -> None:
    array = device.empty((4, 4), "float32")
    too_large = np.empty(array.nbytes + 64, np.uint8)
    with pytest.raises(DeviceError, match="cuMemcpyDtoH failed"):
        device.call(lambda: cuda.memcpy_dtoh(too_large, array.pointer))
    with pytest.raises(cuda.LogicError, match="201"):  # this thread has no context, only the worker has
        cuda.mem_alloc(16)
    with pytest.raises(DeviceError, match="cuModuleGetFunction failed"):
        picture = np.ones((3, 4, 4), np.float32)
        rows = device.empty((1, 3, 4, 4), "float32")
        device.draw(device.drawing(KernelPlan("nothing", 1, ()), picture, picture, False), 0, 1, rows)
    assert device.call(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):  # an error that is not the device's is not changed
        device.call(lambda: 1 / 0)


def test_the_launcher_refuses_what_does_not_fit(device: Device) -> None:
    picture = np.ones((3, 8, 8), np.float32)
    plan = renderers(8, 8)["rank"].kernel_plan()
    for image, baseline in ((picture[0], picture[0]), (picture, picture[:, :4]), (picture.astype(np.float64), picture)):
        with pytest.raises(DeviceError, match="must be float32 arrays of one shape"):
            device.drawing(plan, image, baseline, False)
    drawing = device.drawing(plan, picture, picture, False)
    for shape, dtype, count in (
        ((4, 3, 8, 9), "float32", 1),
        ((4, 3, 8, 8), "float64", 1),
        ((4, 3, 8, 8), "float32", 5),
        ((4, 3, 8, 8), "float32", 0),
    ):
        with pytest.raises(DeviceError, match="do not fit into"):
            device.draw(drawing, 0, count, device.empty(shape, dtype))
    rows = device.empty((4, 3, 8, 8), "float32")
    device.draw(drawing, 36, 4, rows)  # the last masks
    for first in (-1, 37, 40):
        with pytest.raises(DeviceError, match=f"masks {first} to {first + 4} were asked for, but the plan has 40"):
            device.draw(drawing, first, 4, rows)
    large = np.broadcast_to(np.zeros((), np.float32), (1, 2**15, 2**15))
    with pytest.raises(DeviceError, match=f"fewer than {2**30} values, got .*: {2**30}"):
        device.drawing(plan, large, large, False)
    grids, shifts = np.zeros((1, 65, 65), bool), np.zeros((1, 2), np.int64)
    with pytest.raises(ValueError, match="1 to 64 cells a side, got 65"):
        RiseRenderer(grids, shifts, 65, 65).kernel_plan()
    RiseRenderer(grids[:, :64, :64], shifts, 64, 64).kernel_plan()
    with pytest.raises(TypeError, match="contiguous"):
        KernelPlan("rank", 3, (np.ones(3),))


def test_a_missing_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoDevice, match="no CUDA device 7"):
        Device(7)
    monkeypatch.setenv("CUDA_DOUBLE_DEVICES", "0")
    with pytest.raises(NoDevice, match="finds no CUDA device"):
        Device()


def test_lack_of_memory_has_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DOUBLE_MEMORY", "1000")
    with Device() as device, pytest.raises(OutOfMemory, match="out of memory"):
        device.empty((1001,), "uint8")


def test_an_architecture_without_machine_code_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        version()
    except RuntimeError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("CUDA_DOUBLE_NO_FATBIN", "1")
    with Device() as device:
        assert counts()["modules"] == 1
        assert device.capability == (8, 6)


def test_everything_is_freed_in_order() -> None:
    order: list[str] = []
    device = Device()
    array = device.empty((4,), "float32")

    def owner(name: str) -> Callable[[], None]:
        # arrays and streams still exist while owners are closed
        return lambda: order.append(f"{name} {counts()['allocations']} {counts()['streams']}")

    first = device.attach(owner("first"))
    device.attach(owner("second"))
    device.attach(owner("third"))
    device.release(first)
    device.release(first)
    assert order == ["first 1 2"]
    device.close()
    device.close()
    assert order == ["first 1 2", "third 1 2", "second 1 2"]
    assert held() == {}
    device.free(array)  # after the end these do nothing, so holders need not know that the device is closed
    device.release(2)
    device.forget(0)
    device.later(lambda: order.append("never"))
    with pytest.raises(DeviceError, match="closed"):
        device.synchronize()
    assert len(order) == 3


def test_a_job_put_while_the_device_closes_is_run() -> None:
    """A job put after the last one would never run."""
    device = Device()
    jobs = device._jobs
    with jobs._lock:  # as `put` holds it between its check and the queue
        closing = threading.Thread(target=device.close, daemon=True)
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()
        job = Job(lambda: "answered")
        jobs.put(job)
    assert in_time(job.result) == "answered"
    closing.join(60)
    assert not closing.is_alive()
    with pytest.raises(DeviceError, match="closed"):
        jobs.put(job)


def test_calls_from_many_threads_end_with_the_device() -> None:
    device, refused = Device(), threading.Semaphore(0)

    def call_on() -> None:
        with contextlib.suppress(DeviceError):
            while True:
                device.call(lambda: None)
        refused.release()

    for _ in range(8):
        threading.Thread(target=call_on, daemon=True).start()
    device.close()
    assert all(refused.acquire(timeout=60) for _ in range(8))


def test_events_are_freed(device: Device) -> None:
    first, second = device.event(), device.event()
    device.forget(first)
    device.forget(first)
    assert counts()["events"] == 1
    assert device.event() not in (first, second)
    device.record(second, NETWORK)
    with pytest.raises(KeyError):
        device.join(first)


def test_finalizers_wait_for_nothing() -> None:
    """The garbage collector may call one on any thread, whatever lock that thread holds."""
    device = Device()
    array = device.empty((4,), "float32")

    class Holder:
        pass

    holder = Holder()
    engine.runtime.gpu_device.close_with(holder, device, lambda: device.free(array))
    with busy(device):
        holders = [holder]
        del holder
        with device._jobs._lock:
            in_time(holders.clear)
        assert counts()["allocations"] == 1
    device.synchronize()
    assert counts()["allocations"] == 0
    device.close()


def test_a_forgotten_device_is_closed() -> None:
    device = Device()
    device.empty((4,), "float32")
    del device
    gc.collect()
    assert held() == {}
