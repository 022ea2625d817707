"""Tests of the engine's device path over the test double of libcuda.so.1; `tests/test_device.py` starts them.

pycuda and the launcher are the real ones; the network runs on ONNX Runtime's CPU provider, bound to the double's memory by
pointer. What no test here can tell: whether CUDA's and TensorRT's providers behave so too.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from double import T, counts, held, in_time, renderers, settled

import engine.runtime.gpu_session
from engine import Explainer, Lime, ProviderError, Rise, Window
from engine.evaluate import insertion_deletion
from engine.runtime.bound_memory import BoundMemory
from engine.runtime.gpu_device import close_device
from engine.runtime.gpu_options import LADDER, Setting
from engine.runtime.gpu_session import GpuSession
from engine.runtime.gpu_stage import GpuStage
from engine.runtime.session import open_session, run_finite
from kernels.device import Device, DeviceArray, Drawing
from kernels.rank import RankRenderer

PICTURES = Path(engine.__file__).parent / "data" / "pictures"
CAT = PICTURES / "cat-noto.png", PICTURES / "cat-twemoji.png"


def on_the_cpu(path: Path, setting: Setting, digest: str, capability: tuple[int, int], *_: object) -> ort.InferenceSession:
    assert len(digest) == 64
    assert capability == (8, 6)
    assert setting.stream
    return open_session(path, "cpu", 1)


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Provider "cuda" is the double's memory and ONNX Runtime's CPU provider."""
    monkeypatch.setattr("engine.runtime.gpu_session.open_gpu_session", on_the_cpu)
    monkeypatch.setattr("engine.runtime.gpu_stage.MEMORY", "cpu")
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("engine.runtime.session.ort.get_available_providers", lambda: names)


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
    waited: list[GpuStage] = []
    wait = GpuStage.wait
    monkeypatch.setattr(GpuStage, "wait", lambda self: waited.append(self) or wait(self))
    late = gpu.prepare(CAT[0], Rise(masks=2000), deadline=1e-6)
    assert late.deadline_reached
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
    monkeypatch.setattr("engine.runtime.gpu_stage.KEPT_BYTES", 1)
    small = Explainer(provider="cuda", precision="fp32")
    np.testing.assert_allclose(small.prepare(CAT[0], Rise(masks=300)).embeddings, expected, atol=1e-4 * scale)


@pytest.mark.usefixtures("lent")
def test_the_next_batch_is_drawn_before_the_network_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may end by waiting for its stream. Of each buffer: wait, draw, run, copy, in turns that events keep."""
    explainer = Explainer(provider="cuda", precision="fp32")
    assert isinstance(explainer.model.similarity, GpuSession)
    masked = explainer.model.similarity._masked
    assert masked is not None
    names: dict[int, str] = {}
    for number in range(engine.runtime.gpu_stage.BUFFERS):
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
    spy(BoundMemory, "run", id)
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
    session = Explainer(provider="cuda", precision="fp32").model.similarity
    assert isinstance(session, GpuSession)
    batch = session.batch
    assert batch is not None
    random = np.random.default_rng(4)
    pictures = random.standard_normal((3, 3, 64, 64)).astype(np.float32)
    plan = RankRenderer(
        random.permutation(64 * 64).reshape(64, 64),
        random.integers(0, 64 * 64, 2 * batch + 9),
        random.random(2 * batch + 9) < 0.5,
    )
    stages = [session.stage(plan, picture, np.zeros_like(picture), False, batch) for picture in pictures]
    batches = [(0, batch), (batch, batch), (2 * batch, 9)]

    def alone(stage: GpuStage) -> np.ndarray:
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

    run = BoundMemory.run

    def broken(self: BoundMemory) -> None:
        monkeypatch.setattr(BoundMemory, "run", run)
        raise engine.BundleError("this run alone")

    def one_fails() -> np.ndarray:
        first, second, _ = stages
        with second:
            monkeypatch.setattr(BoundMemory, "run", broken)
            with first:
                first.embed(*batches[0])
                second.embed(*batches[0])  # here the first one's fails
                with pytest.raises(engine.BundleError, match="this run alone"):
                    first.embed(*batches[1])
            for one in batches[1:]:
                second.embed(*one)
            return np.concatenate(second.embeddings())

    np.testing.assert_array_equal(in_time(one_fails), expected[1])
    for step in (GpuStage.wait, GpuStage.embeddings):
        monkeypatch.setattr(BoundMemory, "run", broken)
        with stages[0] as stage, pytest.raises(engine.BundleError, match="this run alone"):
            stage.embed(*batches[0])
            step(stage)
    with stages[0]:
        stages[0].embed(*batches[0])
    settled()
    assert session._masked is not None
    assert session._masked._pending is None  # what was broken off is not left for others to run


@pytest.mark.usefixtures("lent")
def test_a_run_is_few_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may wait for a batch of another caller, which a deadline must bear."""
    session = Explainer(provider="cuda", precision="fp32").model.similarity
    assert isinstance(session, GpuSession)
    image, jobs = np.ones((3, 64, 64), np.float32), session._device._jobs
    asked: list[object] = []
    put = type(jobs).put
    monkeypatch.setattr(type(jobs), "put", lambda self, job: asked.append(job) or put(self, job))
    with session.stage(renderers(64, 64)["rank"], image, np.zeros_like(image), False, 1) as stage:
        stage.embed(0, 40)
        stage.wait()
        stage.embeddings()
    assert len(asked) == 4


@pytest.mark.usefixtures("lent")
def test_only_cuda_captures_runs_as_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: list[Setting] = []
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("engine.runtime.session.ort.get_available_providers", lambda: names)
    monkeypatch.setattr(
        "engine.runtime.gpu_session.open_gpu_session",
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
    run, captured = BoundMemory.run, []

    def replayed(self: BoundMemory) -> None:
        captured.append(self)
        run(captured[0])

    monkeypatch.setattr(BoundMemory, "run", replayed)
    with pytest.raises(engine.BundleError, match="canonical result on cuda"):
        Explainer(provider="cuda", precision="fp32")


@pytest.mark.usefixtures("lent")
def test_gradients_are_the_workers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def spied(real: Callable[..., T]) -> Callable[..., T]:
        return lambda *arguments: threads.append(threading.current_thread()) or real(*arguments)

    on_cpu = spied(lambda path, provider, *_: open_session(path, "cpu", 1))
    monkeypatch.setattr("engine.runtime.gradient_session.open_session", on_cpu)
    monkeypatch.setattr("engine.runtime.gradient_session.run_finite", spied(run_finite))
    explainer = Explainer(provider="cuda", precision="fp32")
    session = explainer.model.gradient().session
    assert len(threads) == 2  # opened, and checked
    assert set(threads) == {engine.runtime.gpu_device.shared_device()._worker}
    pictures, targets = np.zeros((1, 3, 64, 64), np.float32), np.ones((1, 64), np.float32)
    session.run(pictures, targets, targets)
    assert set(threads) == {engine.runtime.gpu_device.shared_device()._worker}
    close_device()
    assert not session._session
    with pytest.raises(ProviderError, match="closed"):
        session.run(pictures, targets, targets)


@pytest.mark.usefixtures("lent")
def test_the_largest_batch_that_fits_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    rows = 3 * 64 * 64 * 4
    monkeypatch.setenv("CUDA_DOUBLE_MEMORY", str(engine.runtime.gpu_stage.KEPT_BYTES + 2 * 64 * rows + 2**18))
    explainer = Explainer(provider="cuda", precision="fp32", notice=lines.append)
    assert explainer.model.run_settings.batch == 64
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

    monkeypatch.setattr("engine.runtime.gpu_session.open_gpu_session", uncaptured)
    lines: list[str] = []
    assert Explainer(provider="cuda", precision="fp32", notice=lines.append).model.run_settings.batch == LADDER[0]
    assert sum("no CUDA graphs: this graph has nodes" in line for line in lines) == 1


@pytest.mark.usefixtures("lent")
def test_what_draws_wrong_is_found_when_the_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    # the kernel hides the picture that it was asked to show
    monkeypatch.setattr(
        "engine.runtime.opening.RankRenderer", lambda ranks, counts, shown: RankRenderer(ranks, counts, ~shown)
    )
    with pytest.raises(engine.BundleError, match="canonical result on cuda"):
        Explainer(provider="cuda", precision="fp32")


@pytest.mark.usefixtures("lent")
def test_sessions_go_before_their_device_and_with_their_explainer() -> None:
    explainer = Explainer(provider="cuda", precision="fp32")
    session = explainer.model.similarity
    assert isinstance(session, GpuSession)
    settled()
    of_one = counts()["allocations"]
    assert (of_one, counts()["events"]) == (2 * engine.runtime.gpu_stage.BUFFERS, 2 * engine.runtime.gpu_stage.BUFFERS)
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

    monkeypatch.setattr("engine.runtime.gpu_session.open_gpu_session", broken)
    lines: list[str] = []
    explainer = Explainer(precision="fp32", notice=lines.append)
    assert explainer.provider == "cpu"
    assert "no cuda today" in explainer.provider_reason
    assert lines == ["cuda does not run: no cuda today"]
    with pytest.raises(ProviderError, match="no cuda today"):
        Explainer(provider="cuda")
