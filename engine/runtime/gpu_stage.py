"""The hot loop on a GPU: masks are drawn and run there; only plans go in, and only embeddings come out."""

import functools
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime as ort

from engine.errors import BundleError
from engine.protocol import Renderer
from engine.runtime.bound_memory import BoundMemory
from engine.runtime.gpu_device import as_provider_error
from engine.runtime.gpu_options import Setting, run_options
from kernels.device import DRAWING, NETWORK, Device, DeviceArray, Drawing, Job
from kernels.plan import KernelPlan

T = TypeVar("T")

MEMORY = "cuda"
"""ONNX Runtime's name for the place of the bound memory."""
BUFFERS = 2
"""Masks are drawn into one buffer while the network reads the other."""
KEPT_BYTES = 2**25
"""Bytes of one picture's embeddings that stay on the device before they are copied out: about ten thousand rows."""
WARM_UPS = 3
"""Runs until a network reaches full speed: the first ones choose algorithms and capture a CUDA graph."""


class MaskedNetwork:
    """The network at one fixed batch, bound to buffers that never move. Made, used and closed by the worker thread.

    Batches of all callers use the buffers in turn, in the order they come. The network runs over a batch only when the next
    one is being drawn, or at `finish`: so a run that ends by waiting for the stream, as a CUDA graph may, delays no drawing.
    Raises BundleError if the graph cannot be bound or run, DeviceError if the GPU fails.
    """

    def __init__(self, device: Device, session: ort.InferenceSession, setting: Setting, path: Path) -> None:
        self.batch, self.path = setting.profile.most, path
        self._device, self._turn = device, 0
        self._pending: Job[None] | None = None  # will run the network over the batch that was drawn last
        self.rows: list[DeviceArray] = []
        self.outputs: list[DeviceArray] = []
        self.bound: list[BoundMemory] = []
        self._drawn: list[int] = []
        self._free: list[int] = []
        (graph_output,) = session.get_outputs()
        size = graph_output.shape[1] if len(graph_output.shape) == 2 else None
        if not isinstance(size, int):
            got = graph_output.shape
            raise BundleError(f"{path}: {graph_output.name} must have shape (batch, D) with D a fixed number, got {got}")
        try:
            for number in range(1, BUFFERS + 1):
                self.rows.append(device.empty((self.batch, *setting.shape), "float32"))
                self.outputs.append(device.empty((self.batch, size), "float32"))
                self._drawn.append(device.event())
                self._free.append(device.event())
                memory, options = (MEMORY, setting.ordinal), run_options(setting, number)
                self.bound.append(BoundMemory(session, self.rows[-1], self.outputs[-1], memory, options))
            self._warm_up()
        except BaseException:
            self.close()
            raise

    def _warm_up(self) -> None:
        spare = self._device.empty((KEPT_BYTES,), "uint8")  # later runs need this much more, for their embeddings
        try:
            for bound in self.bound * WARM_UPS:
                bound.run()
                self._device.synchronize()
        finally:
            self._device.free(spare)

    def put(self, drawing: Drawing, first: int, count: int, kept: DeviceArray, at: int) -> Job[None]:
        """Draw masks first..first + count, and run the network over the batch drawn before.

        Return the job that will run the network over this batch and copy its embeddings to rows at..at + count of `kept`.
        """
        device, turn = self._device, self._turn
        device.wait(self._free[turn], DRAWING)  # the network has read what was drawn here two batches ago
        device.draw(drawing, first, count, self.rows[turn])
        device.record(self._drawn[turn], DRAWING)
        self.finish()
        device.join(self._free[turn])  # so no caller gets more than two batches ahead of the GPU
        self._turn = (turn + 1) % BUFFERS
        self._pending = Job(functools.partial(self._run, turn, count, kept, at))
        return self._pending

    def finish(self) -> None:
        """Run the network over the batch drawn last (by any caller) if it has not run yet. Its job keeps the error."""
        job, self._pending = self._pending, None
        if job is not None:
            job.run()

    def _run(self, turn: int, count: int, kept: DeviceArray, at: int) -> None:
        device = self._device
        device.wait(self._drawn[turn], NETWORK)
        self.bound[turn].run()
        device.copy(self.outputs[turn], kept, at, count)
        device.record(self._free[turn], NETWORK)

    def close(self) -> None:
        """Finish, then free the buffers and the session."""
        self.finish()
        self.bound.clear()  # holds the last references to the session
        self._device.free(*self.rows, *self.outputs)
        self._device.forget(*self._drawn, *self._free)


class GpuStage:
    """Draw masked pictures with a CUDA kernel and run them on the GPU. See `engine.protocol.Stage`.

    image, baseline: (C, H, W), or (H, W, C) if `channels_last`, float32
    Stages of several threads share the buffers, batch by batch.

    Three methods wait for the device: `embed` (for the batch before the last one), `wait` and `embeddings`. Each is a single
    job for the worker thread, because every job may have to wait for another caller's batch.
    Raises ProviderError if the GPU cannot take the plan, BundleError if a run fails or gives numbers that are not finite.
    """

    waited = 0.0

    def __init__(
        self,
        device: Device,
        masked: MaskedNetwork,
        renderer: Renderer,
        image: np.ndarray,
        baseline: np.ndarray,
        channels_last: bool,
    ) -> None:
        self._device, self._masked, self.batch = device, masked, masked.batch
        plan = renderer.kernel_plan()
        with as_provider_error("cannot take the plan"):
            device.call(lambda: self._upload(plan, image, baseline, channels_last))
        self._filled = 0
        self._last_job: Job[None] | None = None
        self._collected: list[np.ndarray] = []

    def _upload(self, plan: KernelPlan, image: np.ndarray, baseline: np.ndarray, channels_last: bool) -> None:
        device, output = self._device, self._masked.outputs[0]
        self._drawing = device.drawing(plan, image, baseline, channels_last)
        weakref.finalize(self, device.later, functools.partial(device.discard, self._drawing))
        rows = min(max(KEPT_BYTES // output.row, self.batch), plan.masks)
        self._kept = device.empty((rows, *output.shape[1:]), output.dtype)
        weakref.finalize(self, device.later, functools.partial(device.free, self._kept))

    def __enter__(self) -> "GpuStage":
        self._filled, self._last_job, self._collected = 0, None, []
        return self

    def __exit__(self, *_: object) -> None:
        self._device.later(self._masked.finish)  # a run that was broken off must leave no batch to other callers

    def embed(self, first: int, count: int, until: float | None = None) -> bool:
        """Draw masks first..first + count, run the network over the batch before, and raise what that run raised."""
        if self._filled + count > self._kept.shape[0]:
            self._collect()
        at, before = self._filled, self._last_job
        self._last_job = self._on_worker(lambda: self._masked.put(self._drawing, first, count, self._kept, at))
        self._filled += count
        self._check(before)
        return True

    def wait(self) -> None:
        """Return when the device has finished everything asked for so far."""
        self._on_worker(self._finish)
        self._check(self._last_job)

    def _finish(self) -> None:
        self._masked.finish()
        self._device.synchronize()

    def embeddings(self) -> list[np.ndarray]:
        """All rows run since the start of the run, in parts (n, D) float32."""
        self._collect()
        return self._collected

    def _collect(self) -> None:
        """Copy the kept embeddings out of the device's memory."""
        if not self._filled:
            return
        found = self._on_worker(self._download)
        self._check(self._last_job)
        if not np.isfinite(found).all():
            raise BundleError(f"{self._masked.path} gives numbers that are not finite for this picture")
        self._collected.append(found)
        self._filled = 0

    def _download(self) -> np.ndarray:
        self._masked.finish()
        return self._device.download(self._kept, self._filled)

    def _check(self, job: Job[None] | None) -> None:
        """Raise what a finished run over a batch raised."""
        if job is not None:
            with as_provider_error(f"cannot run {self._masked.path}"):
                job.result(timeout=0)

    def _on_worker(self, job: Callable[[], T]) -> T:
        with as_provider_error(f"cannot run {self._masked.path}"):
            return self._device.call(job)
