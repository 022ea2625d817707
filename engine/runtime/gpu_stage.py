"""The hot loop's buffers on a GPU: masks are drawn and run there; only plans go in, and only embeddings come out."""

import functools
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime as ort

from engine.errors import BundleError
from engine.protocol import Renderer
from engine.runtime.bound_memory import BoundMemory, element_of
from engine.runtime.gpu_device import as_provider_error
from engine.runtime.gpu_options import Setting, run_options
from kernels.device import DRAWING, NETWORK, Device, DeviceArray, Drawing, Job
from kernels.plan import KernelPlan

T = TypeVar("T")

MEMORY = "cuda"
"""Where bound memory lies, as ONNX Runtime calls it."""
BUFFERS = 2
"""Masks are drawn into one while the network reads the other."""
KEPT_BYTES = 2**25
"""Embeddings of one picture that stay on the device before they are copied out, some ten thousand rows."""
WARM_UPS = 3
"""Runs before a network is as fast as it gets: the first ones choose algorithms, and a CUDA graph is captured."""


class MaskedNetwork:
    """The network at one fixed batch, bound to buffers that never move. Made, used and closed by the worker thread.

    Batches of all callers take turns with the buffers, in the order they come. The network is asked to run over one when the
    next is being drawn, or at `finish`: a run that ends by waiting for the stream, as a CUDA graph's may, delays no drawing.
    Raises BundleError, DeviceError.
    """

    def __init__(self, device: Device, session: ort.InferenceSession, setting: Setting, path: Path) -> None:
        self.batch, self.path = setting.profile.most, path
        self._device, self._turn = device, 0
        self._due: Job[None] | None = None
        self.rows: list[DeviceArray] = []
        self.outputs: list[DeviceArray] = []
        self.bound: list[BoundMemory] = []
        self._drawn: list[int] = []
        self._free: list[int] = []
        (given,) = session.get_outputs()
        size = given.shape[1] if len(given.shape) == 2 else None
        if not isinstance(size, int):
            raise BundleError(f"{path}: {given.name} must be embeddings (batch, D) with D written down, got {given.shape}")
        (taken,) = session.get_inputs()
        try:
            for number in range(1, BUFFERS + 1):
                self.rows.append(device.empty((self.batch, *setting.shape), element_of(taken)))
                self.outputs.append(device.empty((self.batch, size), element_of(given)))
                self._drawn.append(device.event())
                self._free.append(device.event())
                memory, options = (MEMORY, setting.ordinal), run_options(setting, number)
                self.bound.append(BoundMemory(session, self.rows[-1], self.outputs[-1], memory, options))
            self._warm_up()
        except BaseException:
            self.close()
            raise

    def _warm_up(self) -> None:
        spare = self._device.empty((KEPT_BYTES,), "uint8")  # there must be room for the embeddings of a run
        try:
            for bound in self.bound * WARM_UPS:
                bound.run()
                self._device.synchronize()
        finally:
            self._device.free(spare)

    def put(self, drawing: Drawing, first: int, count: int, kept: DeviceArray, at: int) -> Job[None]:
        """Draw a batch, and run the network over the one before it.

        The job given is done later; it brings the embeddings to row `at` of `kept`.
        """
        device, turn = self._device, self._turn
        device.wait(self._free[turn], DRAWING)  # the network has read what was drawn here two batches ago
        device.draw(drawing, first, count, self.rows[turn])
        device.record(self._drawn[turn], DRAWING)
        self.finish()
        device.join(self._free[turn])  # no caller runs further ahead
        self._turn = (turn + 1) % BUFFERS
        self._due = Job(lambda: self._run(turn, count, kept, at))
        return self._due

    def finish(self) -> None:
        """Run the network over the batch that was drawn last, whoever's it is, unless it has. Its job keeps the error."""
        due, self._due = self._due, None
        if due is not None:
            due.run()

    def _run(self, turn: int, count: int, kept: DeviceArray, at: int) -> None:
        device = self._device
        device.wait(self._drawn[turn], NETWORK)
        self.bound[turn].run()
        device.copy(self.outputs[turn], kept, at, count)
        device.record(self._free[turn], NETWORK)

    def close(self) -> None:
        self.finish()
        self.bound.clear()  # and with the last of them the session
        self._device.free(*self.rows, *self.outputs)
        self._device.forget(*self._drawn, *self._free)


class GpuStage:
    """Draws masked pictures with a CUDA kernel and runs them on the GPU. See `engine.protocol.Stage`.

    Stages of several threads share the buffers, batch by batch.

    Nothing here waits for the device but `embed`, for the batch before the last one, `wait` and `embeddings`. Each step is
    one job of the worker's: every job may have to wait for a batch of another caller.
    """

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
            device.call(lambda: self._take_in(plan, image, baseline, channels_last))
        self._filled = 0
        self._due: Job[None] | None = None
        self._taken: list[np.ndarray] = []

    def _take_in(self, plan: KernelPlan, image: np.ndarray, baseline: np.ndarray, channels_last: bool) -> None:
        device, output = self._device, self._masked.outputs[0]
        self._drawing = device.drawing(plan, image, baseline, channels_last)
        weakref.finalize(self, device.later, functools.partial(device.discard, self._drawing))
        rows = min(max(KEPT_BYTES // output.row, self.batch), plan.masks)
        self._kept = device.empty((rows, *output.shape[1:]), output.dtype)
        weakref.finalize(self, device.later, functools.partial(device.free, self._kept))

    def __enter__(self) -> "GpuStage":
        self._filled, self._due, self._taken = 0, None, []
        return self

    def __exit__(self, *_: object) -> None:
        self._device.later(self._masked.finish)  # nothing of this run is left to be done, even where it was broken off

    def embed(self, first: int, count: int) -> None:
        if self._filled + count > self._kept.shape[0]:
            self._take()
        at, before = self._filled, self._due
        self._due = self._do(lambda: self._masked.put(self._drawing, first, count, self._kept, at))
        self._filled += count
        self._check(before)

    def wait(self) -> None:
        self._do(self._finish)
        self._check(self._due)

    def _finish(self) -> None:
        self._masked.finish()
        self._device.synchronize()

    def embeddings(self) -> list[np.ndarray]:
        self._take()
        return self._taken

    def _take(self) -> None:
        if not self._filled:
            return
        found = self._do(self._download).astype(np.float32, copy=False)
        self._check(self._due)
        if not np.isfinite(found).all():
            raise BundleError(f"{self._masked.path} gives numbers that are not finite for this picture")
        self._taken.append(found)
        self._filled = 0

    def _download(self) -> np.ndarray:
        self._masked.finish()
        return self._device.download(self._kept, self._filled)

    def _check(self, job: Job[None] | None) -> None:
        """Raise what the network's run over a batch raised; it is over."""
        if job is not None:
            with as_provider_error(f"cannot run {self._masked.path}"):
                job.result(timeout=0)

    def _do(self, job: Callable[[], T]) -> T:
        with as_provider_error(f"cannot run {self._masked.path}"):
            return self._device.call(job)
