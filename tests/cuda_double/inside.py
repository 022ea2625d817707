"""Tests that run over the test double of libcuda.so.1; `tests/test_device.py` starts them in a process of their own.

pycuda is the real one, and so is the launcher and the engine's device path; the network runs on ONNX Runtime's CPU provider,
bound to the double's memory by pointer. What no test here can tell: whether CUDA's and TensorRT's providers behave so too.
"""

import contextlib
import ctypes
import gc
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort
import pycuda.driver as cuda
import pytest

import engine.device
from engine import Explainer, Lime, ProviderError, Rise, Window
from engine.binding import Bound
from engine.device import DeviceSession, DeviceStage, close_device
from engine.evaluate import insertion_deletion
from engine.gpu_options import LADDER, Setting
from engine.session import opened, run_finite
from kernels.blend import blend
from kernels.device import DRAWING, NETWORK, Device, DeviceArray, DeviceError, Drawing, Job, NoDevice, OutOfMemory
from kernels.nvidia import version
from kernels.plan import KernelPlan
from kernels.rank import RankRenderer
from kernels.rise import RiseRenderer, cell_size
from kernels.segments import SegmentRenderer
from kernels.window import WindowRenderer

T = TypeVar("T")

PICTURES = Path(engine.__file__).parent / "data" / "pictures"
CAT = PICTURES / "cat-noto.png", PICTURES / "cat-twemoji.png"
NAMES = ("allocations", "streams", "events", "modules", "contexts", "retained", "launches", "copies_in", "copies_out")
HELD = NAMES[:6]


def counts() -> dict[str, int]:
    found = (ctypes.c_long * len(NAMES))()
    ctypes.CDLL("libcuda.so.1").double_counts(found)
    return dict(zip(NAMES, found, strict=True))


def held() -> dict[str, int]:
    return {name: count for name, count in counts().items() if name in HELD and count}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    close_device()
    gc.collect()
    assert held() == {}


def settled() -> None:
    """What finalizers asked for is done."""
    gc.collect()
    engine.device.shared_device().synchronize()


@pytest.fixture
def device() -> Iterator[Device]:
    with Device() as device:
        yield device


def uploaded(device: Device, values: np.ndarray) -> DeviceArray:
    return device.call(lambda: device._driver.upload(values))


def in_time(function: Callable[[], T]) -> T:
    """What it gives; fails where it never comes back."""
    answer: queue.SimpleQueue[T] = queue.SimpleQueue()
    threading.Thread(target=lambda: answer.put(function()), daemon=True).start()
    return answer.get(timeout=60)


@contextlib.contextmanager
def busy(device: Device) -> Iterator[None]:
    """The worker does nothing else until the end."""
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
    assert not got[7:].any()  # rows that are not drawn hold no earlier picture
    device.discard(drawing)
    assert counts()["allocations"] == 1


def test_arrays_go_there_and_back(device: Device) -> None:
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    there = uploaded(device, values)
    elsewhere = device.empty((8, 4), "float32")
    np.testing.assert_array_equal(device.download(there, 5), values[:5])
    device.copy(there, elsewhere, 2, 3)
    np.testing.assert_array_equal(device.download(elsewhere, 8), np.pad(values[:3], ((2, 3), (0, 0))))
    assert (there.row, there.nbytes, there.itemsize) == (16, 96, 4)
    assert counts()["allocations"] == 2
    device.free(there, elsewhere)
    device.free(there)  # it was freed: nothing
    assert counts()["allocations"] == 0
    for source, target, at, rows in ((there, elsewhere, 6, 3), (there, elsewhere, -1, 2), (there, elsewhere, 0, 7)):
        with pytest.raises(DeviceError, match="do not fit"):
            device.copy(source, target, at, rows)


def test_streams_wait_for_events(device: Device) -> None:
    """The double's streams do nothing before they are waited for, as a GPU's may."""
    source, target = uploaded(device, np.ones((1, 4), np.float32)), device.empty((1, 4), "float32")
    looks = DeviceArray(target.pointer, target.shape, target.dtype)
    memory = np.frombuffer((ctypes.c_float * 4).from_address(looks.pointer), np.float32)
    event = device.event()
    device.join(event)  # never recorded: it has happened
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
    with pytest.raises(cuda.LogicError, match="201"):  # no context on this thread: it is the worker's
        cuda.mem_alloc(16)
    with pytest.raises(DeviceError, match="cuModuleGetFunction failed"):
        picture = np.ones((3, 4, 4), np.float32)
        rows = device.empty((1, 3, 4, 4), "float32")
        device.draw(device.drawing(KernelPlan("nothing", 1, ()), picture, picture, False), 0, 1, rows)
    assert device.call(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):  # what is no error of the device stays what it is
        device.call(lambda: 1 / 0)


def test_the_launcher_refuses_what_does_not_fit(device: Device) -> None:
    picture = np.ones((3, 8, 8), np.float32)
    plan = renderers(8, 8)["rank"].kernel_plan()
    for image, baseline in ((picture[0], picture[0]), (picture, picture[:, :4]), (picture.astype(np.float64), picture)):
        with pytest.raises(DeviceError, match="must be float32"):
            device.drawing(plan, image, baseline, False)
    drawing = device.drawing(plan, picture, picture, False)
    for shape, dtype, count in (
        ((4, 3, 8, 9), "float32", 1),
        ((4, 3, 8, 8), "float64", 1),
        ((4, 3, 8, 8), "float32", 5),
        ((4, 3, 8, 8), "float32", 0),
    ):
        with pytest.raises(DeviceError, match="do not go into"):
            device.draw(drawing, 0, count, device.empty(shape, dtype))
    rows = device.empty((4, 3, 8, 8), "float32")
    device.draw(drawing, 36, 4, rows)  # the last of them
    for first in (-1, 37, 40):
        with pytest.raises(DeviceError, match=f"masks {first} to {first + 4} were asked for, the plan has 40"):
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


def test_memory_that_does_not_suffice_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DOUBLE_MEMORY", "1000")
    with Device() as device, pytest.raises(OutOfMemory, match="out of memory"):
        device.empty((1001,), "uint8")


def test_an_architecture_that_is_not_carried_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        version()
    except RuntimeError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("CUDA_DOUBLE_NO_FATBIN", "1")
    with Device() as device:
        assert counts()["modules"] == 1
        assert device.capability == (8, 6)


def test_everything_is_given_back_in_order() -> None:
    order: list[str] = []
    device = Device()
    array = device.empty((4,), "float32")

    def owner(name: str) -> Callable[[], None]:
        # while owners are closed their arrays are there, and so is the stream
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
    device.free(array)  # after the end these do nothing, so that whoever holds something need not know
    device.release(2)
    device.forget(0)
    device.later(lambda: order.append("never"))
    with pytest.raises(DeviceError, match="closed"):
        device.synchronize()
    assert len(order) == 3


def test_what_is_put_while_the_device_closes_is_answered() -> None:
    """A job behind the last one would never be."""
    device = Device()
    jobs = device._jobs
    with jobs._lock:  # as between the question whether it is open and the job that is put
        closing = threading.Thread(target=device.close, daemon=True)
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()
        jobs.put(job := Job(lambda: "answered"))
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


def test_events_are_given_back(device: Device) -> None:
    first, second = device.event(), device.event()
    device.forget(first)
    device.forget(first)
    assert counts()["events"] == 1
    assert device.event() not in (first, second)
    device.record(second, NETWORK)
    with pytest.raises(KeyError):
        device.join(first)


def test_finalizers_wait_for_nothing() -> None:
    """The garbage collector may call one on any thread, whatever lock that holds."""
    device = Device()
    array = device.empty((4,), "float32")

    class Holder:
        pass

    holder = Holder()
    engine.device.own(holder, device, lambda: device.free(array))
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


def on_the_cpu(path: Path, setting: Setting, digest: str, capability: tuple[int, int], *_: object) -> ort.InferenceSession:
    assert len(digest) == 64
    assert capability == (8, 6)
    assert setting.stream
    return opened(path, "cpu", 1)


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provider "cuda" is the double's memory and ONNX Runtime's CPU provider."""
    monkeypatch.setattr("engine.device.gpu_session", on_the_cpu)
    monkeypatch.setattr("engine.device.MEMORY", "cpu")
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("engine.session.ort.get_available_providers", lambda: names)


@pytest.mark.usefixtures("lent")
def test_maps_are_those_of_the_cpu() -> None:
    gpu, cpu = Explainer(provider="cuda", precision="fp32"), Explainer(provider="cpu", precision="fp32")
    assert (gpu.provider, gpu.provider_reason) == ("cuda", "asked for")
    for method, baseline in (
        (Rise(masks=300), None),
        (Rise(masks=130, estimator="sane"), "blur"),
        (Window(size=16, stride=6), "black"),
        (Lime(samples=150), None),
    ):
        got, expected = (e.explain(*CAT, method, baseline=baseline) for e in (gpu, cpu))
        assert (got.passes, got.provider, got.precision) == (expected.passes, "cuda", "fp32")
        scale = np.abs(expected.saliency).max()
        np.testing.assert_allclose(got.saliency, expected.saliency, atol=2e-3 * scale)
        assert got.similarity == pytest.approx(expected.similarity, abs=1e-5)
        assert [a.name for a in got.attributes] == [a.name for a in expected.attributes]
    saliency = cpu.explain(*CAT, Rise(masks=64)).saliency
    curves = [insertion_deletion(e, *CAT, saliency, steps=31) for e in (gpu, cpu)]
    np.testing.assert_allclose(curves[0].insertion_scores, curves[1].insertion_scores, atol=1e-5)


@pytest.mark.usefixtures("lent")
def test_only_plans_go_in_and_embeddings_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = Explainer(provider="cuda", precision="fp32")
    draw, drawn_into = Device.draw, []

    def spied(self: Device, drawing: Drawing, first: int, count: int, rows: DeviceArray) -> None:
        drawn_into.append(rows.pointer)
        draw(self, drawing, first, count, rows)

    monkeypatch.setattr(Device, "draw", spied)
    before = counts()
    prepared = explainer.prepare(CAT[0], Rise(masks=1000), baseline="blur")
    after = counts()
    first, second, *rest = drawn_into
    assert first != second
    assert rest == [first, second]  # so that one is drawn while the network reads the other
    expected = Explainer(provider="cpu", precision="fp32").prepare(CAT[0], Rise(masks=1000), baseline="blur").embeddings
    np.testing.assert_allclose(prepared.embeddings, expected, atol=1e-4 * np.abs(expected).max())
    assert after["launches"] - before["launches"] == 4  # of 256 masks
    assert after["copies_in"] - before["copies_in"] == 4  # grids, shifts, picture, baseline
    assert after["copies_out"] - before["copies_out"] == 1


@pytest.mark.usefixtures("lent")
def test_passes_end_refine_and_run_side_by_side_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = Explainer(provider="cuda", precision="fp32"), Explainer(provider="cpu", precision="fp32")
    waited: list[DeviceStage] = []
    wait = DeviceStage.wait
    monkeypatch.setattr(DeviceStage, "wait", lambda self: waited.append(self) or wait(self))
    late = gpu.prepare(CAT[0], Rise(masks=2000), deadline=1e-6)
    assert late.late
    assert len(late.embeddings) == 256
    assert len(waited) == 1  # or a batch would seem to take no time
    gpu.prepare(CAT[0], Rise(masks=600))
    assert len(waited) == 1  # and without a deadline nobody waits
    expected = cpu.prepare(CAT[0], Rise(masks=300)).embeddings
    scale = np.abs(expected).max()
    refined = gpu.prepare(CAT[0], Rise(masks=200)).refine(100)
    np.testing.assert_allclose(refined.embeddings, expected, atol=1e-4 * scale)
    with ThreadPoolExecutor(3) as pool:
        methods = [Rise(masks=300, seed=seed) for seed in range(6)]
        together = list(pool.map(lambda method: gpu.prepare(CAT[0], method).embeddings, methods))
    for method, embeddings in zip(methods, together, strict=True):
        np.testing.assert_array_equal(embeddings, gpu.prepare(CAT[0], method).embeddings)
    # more embeddings than stay on the device are copied out in parts
    monkeypatch.setattr("engine.device.KEPT_BYTES", 1)
    small = Explainer(provider="cuda", precision="fp32")
    np.testing.assert_allclose(small.prepare(CAT[0], Rise(masks=300)).embeddings, expected, atol=1e-4 * scale)


@pytest.mark.usefixtures("lent")
def test_the_next_batch_is_drawn_before_the_network_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may end by waiting for its stream. Of each buffer: wait, draw, run, copy, in turns that events keep."""
    explainer = Explainer(provider="cuda", precision="fp32")
    assert isinstance(explainer._model.similarity, DeviceSession)
    masked = explainer._model.similarity._masked
    assert masked is not None
    names: dict[int, str] = {}
    for number in range(engine.device.BUFFERS):
        names |= {masked._drawn[number]: f"drawn {number}", masked._free[number]: f"free {number}"}
        names |= {masked.rows[number].pointer: f"rows {number}", masked.outputs[number].pointer: f"outputs {number}"}
        names[id(masked.bound[number])] = f"network {number}"
    done: list[str] = []

    def spy(owner: type, method: str, named: Callable[..., int]) -> None:
        real = getattr(owner, method)

        def spied(*arguments: object) -> object:
            done.append(f"{method} {names[named(*arguments)]}")
            return real(*arguments)

        monkeypatch.setattr(owner, method, spied)

    for method in ("wait", "record", "join"):
        spy(Device, method, lambda self, event, *_: event)
    spy(Device, "draw", lambda self, drawing, first, count, rows: rows.pointer)
    spy(Device, "copy", lambda self, source, *_: source.pointer)
    spy(Bound, "run", id)
    explainer.prepare(CAT[0], Rise(masks=600))

    def drawn(number: int) -> list[str]:
        return [f"wait free {number}", f"draw rows {number}", f"record drawn {number}"]

    def run(number: int) -> list[str]:
        return [f"wait drawn {number}", f"run network {number}", f"copy outputs {number}", f"record free {number}"]

    first, second = masked._turn ^ 1, masked._turn  # of three batches
    expected = [*drawn(first), f"join free {first}", *drawn(second), *run(first), f"join free {second}"]
    assert done == [*expected, *drawn(first), *run(second), f"join free {first}", *run(first)]


@pytest.mark.usefixtures("lent")
def test_batches_of_several_callers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """None waits for another's whole run, and none gets another's embeddings or errors."""
    session = Explainer(provider="cuda", precision="fp32")._model.similarity
    assert isinstance(session, DeviceSession)
    batch = session.batch
    assert batch is not None
    random = np.random.default_rng(4)
    pictures = random.standard_normal((3, 3, 64, 64)).astype(np.float32)
    plan = RankRenderer(
        random.permutation(64 * 64).reshape(64, 64),
        random.integers(0, 64 * 64, 2 * batch + 9),
        random.random(2 * batch + 9) < 0.5,
    )
    stages = [session.stage(plan, picture, np.zeros_like(picture), False) for picture in pictures]
    batches = [(0, batch), (batch, batch), (2 * batch, 9)]

    def alone(stage: DeviceStage) -> np.ndarray:
        with stage:
            for one in batches:
                stage.embed(*one)
            return np.concatenate(stage.embeddings())

    def together() -> list[np.ndarray]:
        first, second, third = stages
        with first, second, third:
            for one in batches:
                for stage in stages:
                    stage.embed(*one)
                second.wait()
            return [np.concatenate(stage.embeddings()) for stage in stages]

    expected = [alone(stage) for stage in stages]
    assert not np.allclose(expected[0], expected[1])
    for got, wanted in zip(in_time(together), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)

    run = Bound.run

    def broken(self: Bound) -> None:
        monkeypatch.setattr(Bound, "run", run)
        raise engine.BundleError("this run alone")

    def one_fails() -> np.ndarray:
        first, second, _ = stages
        with second:
            monkeypatch.setattr(Bound, "run", broken)
            with first:
                first.embed(*batches[0])
                second.embed(*batches[0])  # here the first one's fails
                with pytest.raises(engine.BundleError, match="this run alone"):
                    first.embed(*batches[1])
            for one in batches[1:]:
                second.embed(*one)
            return np.concatenate(second.embeddings())

    np.testing.assert_array_equal(in_time(one_fails), expected[1])
    for step in (DeviceStage.wait, DeviceStage.embeddings):
        monkeypatch.setattr(Bound, "run", broken)
        with stages[0] as stage, pytest.raises(engine.BundleError, match="this run alone"):
            stage.embed(*batches[0])
            step(stage)
    with stages[0]:
        stages[0].embed(*batches[0])
    settled()
    assert session._masked is not None
    assert session._masked._due is None  # what was broken off is not left for others to run


@pytest.mark.usefixtures("lent")
def test_a_run_is_few_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may wait for a batch of another caller, which a deadline must bear."""
    session = Explainer(provider="cuda", precision="fp32")._model.similarity
    assert isinstance(session, DeviceSession)
    image, jobs = np.ones((3, 64, 64), np.float32), session._device._jobs
    asked: list[object] = []
    put = type(jobs).put
    monkeypatch.setattr(type(jobs), "put", lambda self, job: asked.append(job) or put(self, job))
    with session.stage(renderers(64, 64)["rank"], image, np.zeros_like(image), False) as stage:
        stage.embed(0, 40)
        stage.wait()
        stage.embeddings()
    assert len(asked) == 4


@pytest.mark.usefixtures("lent")
def test_only_cuda_captures_runs_as_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: list[Setting] = []
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("engine.session.ort.get_available_providers", lambda: names)
    monkeypatch.setattr(
        "engine.device.gpu_session",
        lambda path, setting, *rest: settings.append(setting) or on_the_cpu(path, setting, *rest),
    )
    for provider, captured in (("cuda", True), ("tensorrt", False)):
        lines: list[str] = []
        Explainer(provider=provider, precision="fp32", notice=lines.append)
        assert [setting.captured for setting in settings if setting.profile.fixed] == [captured]
        assert not any("no CUDA graphs" in line for line in lines)
        settings.clear()


@pytest.mark.usefixtures("lent")
def test_a_graph_that_is_captured_once_for_both_buffers_is_found_when_the_model_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, captured = Bound.run, []

    def replayed(self: Bound) -> None:
        captured.append(self)
        run(captured[0])

    monkeypatch.setattr(Bound, "run", replayed)
    with pytest.raises(engine.BundleError, match="canonical result on cuda"):
        Explainer(provider="cuda", precision="fp32")


@pytest.mark.usefixtures("lent")
def test_gradients_are_the_workers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def spied(real: Callable[..., T]) -> Callable[..., T]:
        return lambda *arguments: threads.append(threading.current_thread()) or real(*arguments)

    on_cpu = spied(lambda path, provider, *_: opened(path, "cpu", 1))
    monkeypatch.setattr("engine.gradient.opened", on_cpu)
    monkeypatch.setattr("engine.gradient.run_finite", spied(run_finite))
    explainer = Explainer(provider="cuda", precision="fp32")
    session = explainer._model.gradient().session
    assert len(threads) == 2  # opened, and checked
    assert set(threads) == {engine.device.shared_device()._worker}
    pictures, targets = np.zeros((1, 3, 64, 64), np.float32), np.ones((1, 64), np.float32)
    session.run(pictures, targets, targets)
    assert set(threads) == {engine.device.shared_device()._worker}
    close_device()
    assert not session._session
    with pytest.raises(ProviderError, match="closed"):
        session.run(pictures, targets, targets)


@pytest.mark.usefixtures("lent")
def test_the_largest_batch_that_fits_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    rows = 3 * 64 * 64 * 4
    monkeypatch.setenv("CUDA_DOUBLE_MEMORY", str(engine.device.KEPT_BYTES + 2 * 64 * rows + 2**18))
    explainer = Explainer(provider="cuda", precision="fp32", notice=lines.append)
    assert explainer._model.running.batch == 64
    tried = [str(line) for line in lines if "out of memory" in line]
    assert [batch for batch in LADDER if any(line.endswith(f" {batch}") for line in tried)] == [256, 128]
    monkeypatch.setenv("CUDA_DOUBLE_MEMORY", str(2**20))
    with pytest.raises(ProviderError, match="out of memory"):
        Explainer(provider="cuda", precision="fp32")


@pytest.mark.usefixtures("lent")
def test_runs_that_refuse_to_be_captured_go_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def uncaptured(path: Path, setting: Setting, *rest: Any) -> ort.InferenceSession:
        if setting.captured:
            raise ProviderError("this graph has nodes that cannot be captured")
        return on_the_cpu(path, setting, *rest)

    monkeypatch.setattr("engine.device.gpu_session", uncaptured)
    lines: list[str] = []
    assert Explainer(provider="cuda", precision="fp32", notice=lines.append)._model.running.batch == LADDER[0]
    assert sum("no CUDA graphs, this graph has nodes" in line for line in lines) == 1


@pytest.mark.usefixtures("lent")
def test_what_draws_wrong_is_found_when_the_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    # the kernel hides the picture that it was asked to show
    monkeypatch.setattr("engine.bundle.RankRenderer", lambda ranks, counts, shown: RankRenderer(ranks, counts, ~shown))
    with pytest.raises(engine.BundleError, match="canonical result on cuda"):
        Explainer(provider="cuda", precision="fp32")


@pytest.mark.usefixtures("lent")
def test_sessions_go_before_their_device_and_with_their_explainer() -> None:
    explainer = Explainer(provider="cuda", precision="fp32")
    session = explainer._model.similarity
    assert isinstance(session, DeviceSession)
    settled()
    of_one = counts()["allocations"]
    assert (of_one, counts()["events"]) == (2 * engine.device.BUFFERS, 2 * engine.device.BUFFERS)
    other = Explainer(provider="cuda", precision="fp32")
    other.explain(*CAT, Rise(masks=8))
    settled()
    assert (counts()["allocations"], counts()["events"]) == (2 * of_one, 2 * of_one)
    del other
    settled()
    assert (counts()["allocations"], counts()["events"]) == (of_one, of_one)
    close_device()
    assert held() == {}
    assert not session._whole
    with pytest.raises(ProviderError, match="closed"):
        explainer.embed([CAT[0]])


@pytest.mark.usefixtures("lent")
def test_auto_takes_the_first_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = Explainer(precision="fp32")
    assert explainer.provider == "cuda"
    assert "tensorrt needs the package onnxruntime-gpu" in explainer.provider_reason
    assert explainer.explain(*CAT, Rise(masks=8)).provider == "cuda"

    def broken(path: Path, setting: Setting, *_: object) -> ort.InferenceSession:
        raise ProviderError(f"no {setting.provider} today")

    monkeypatch.setattr("engine.device.gpu_session", broken)
    lines: list[str] = []
    explainer = Explainer(precision="fp32", notice=lines.append)
    assert explainer.provider == "cpu"
    assert "no cuda today" in explainer.provider_reason
    assert lines == ["cuda does not run: no cuda today"]
    with pytest.raises(ProviderError, match="no cuda today"):
        Explainer(provider="cuda")
