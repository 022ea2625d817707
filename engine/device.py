"""The hot loop's buffers on a GPU: masks are drawn, run and embedded there; only plans go in, and embeddings come out.

`DeviceSession` is a graph on ONNX Runtime's CUDA or TensorRT provider, `DeviceStage` what `engine.passes` draws on and runs.
"""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.binding import Bound, element_of
from engine.errors import BundleError, ProviderError
from engine.gpu_options import (
    WHOLE,
    WHOLE_PROFILE,
    Profile,
    Setting,
    largest_that_fits,
    masked_profile,
    run_options,
)
from engine.protocol import Renderer
from engine.session import Notice, check_nodes, gpu_session, run_finite
from kernels.device import DRAWING, NETWORK, Device, DeviceArray, DeviceError

MEMORY = "cuda"
"""Where bound memory lies, as ONNX Runtime calls it."""
BUFFERS = 2
"""Masks are drawn into one while the network reads the other."""
KEPT_BYTES = 2**25
"""Embeddings that stay on the device before they are copied out, some ten thousand rows."""
WARM_UPS = 3
"""Runs before a network is as fast as it gets: the first ones choose algorithms, and a CUDA graph is captured."""

_shared: list[Device] = []
_sharing = threading.Lock()


def shared_device() -> Device:
    """The process's CUDA device, opened when it is first asked for. Raises ProviderError, saying what is missing."""
    with _sharing, told("cannot be used"):
        if not _shared:
            _shared.append(Device())
        return _shared[0]


def close_device() -> None:
    """Give everything on it back; sessions that use it are of no use after that."""
    with _sharing:
        while _shared:
            _shared.pop().close()


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Errors of the device as a ProviderError: "the GPU", then `what`."""
    try:
        yield
    except DeviceError as error:
        raise ProviderError(f"the GPU {what}: {error}") from error


class DeviceSession:
    """Runs one graph with one input and one output on the device; threads may share it.

    provider: cuda, tensorrt; precision: of the graph; digest: sha256 of all it consists of
    The rest, and what is raised, as `Session`.
    """

    def __init__(
        self,
        path: Path,
        provider: str,
        precision: str,
        digest: str,
        input_name: str,
        input_shape: tuple[int, ...],
        output_name: str,
        output_shape: tuple[int | None, ...],
    ) -> None:
        self.path, self.input_name, self.output_name = path, input_name, output_name
        self._provider, self._precision, self._digest, self._shape = provider, precision, digest, input_shape
        self._device = shared_device()
        self._masked: _Masked | None = None
        whole = self._opened(self._setting(WHOLE_PROFILE, graphs=False))
        check_nodes(path, "input", whole.get_inputs(), {input_name: input_shape})
        check_nodes(path, "output", whole.get_outputs(), {output_name: output_shape})
        self._whole = [whole]  # for whole pictures
        self._own(self._whole.clear)

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) float32 as the network takes it -> (B, ...) float32; raises BundleError where that is not finite."""

        def do() -> list[np.ndarray]:
            parts = (batch[start : start + WHOLE] for start in range(0, len(batch), WHOLE))
            return [run_finite(self._whole[0], self.path, [self.output_name], {self.input_name: part})[0] for part in parts]

        with told(f"cannot run {self.path}"):
            return np.concatenate(self._device.call(do))

    def fit(self, notice: Notice) -> int:
        """Make ready for masked pictures: the largest batch that the device's memory holds, warmed up; gives that batch.

        notice: told what is going on, in lines. Raises ProviderError, BundleError.
        """
        name = f"{self._provider} on {self._device.name}"

        def attempt(batch: int, graphs: bool) -> _Masked:
            notice(f"{name}: preparing {self.path.name} for batches of {batch}")
            setting = self._setting(masked_profile(batch), graphs)
            return self._device.call(lambda: _Masked(self._device, self._opened(setting), setting, self.path))

        def fitted(graphs: bool) -> _Masked:
            def too_large(batch: int) -> None:
                notice(f"{name}: out of memory at batches of {batch}")

            return largest_that_fits(lambda batch: attempt(batch, graphs), stepped=too_large)

        with told(f"cannot run {self.path}"):
            refused = ""
            try:
                masked = fitted(graphs=True)
            except (BundleError, ProviderError, DeviceError) as error:
                refused = str(error)
            if refused:  # outside the handler: its traceback keeps memory
                notice(f"{name}: no CUDA graphs, {refused}")
                masked = fitted(graphs=False)
            self._own(masked.close)
        self._masked = masked
        return masked.batch

    def _own(self, close: Callable[[], None]) -> None:
        """`close` runs on the worker when this object goes, or the device before it."""
        weakref.finalize(self, self._device.release, self._device.attach(close))

    @property
    def batch(self) -> int | None:
        """Of masked pictures; None before `fit`."""
        return None if self._masked is None else self._masked.batch

    def stage(self, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool) -> "DeviceStage":
        """Where the hot loop draws and runs. image, baseline: float32, one picture as the network takes it"""
        if self._masked is None:
            raise ProviderError(f"{self.path} was not made ready for masked pictures: call fit first")
        return DeviceStage(self._device, self._masked, renderer, image, baseline, channels_last)

    def _setting(self, profile: Profile, graphs: bool) -> Setting:
        return Setting(
            self._provider,
            self._precision,
            self.input_name,
            self._shape,
            profile,
            ordinal=self._device.ordinal,
            stream=self._device.stream,
            graphs=graphs,
        )

    def _opened(self, setting: Setting) -> ort.InferenceSession:
        device = self._device
        return device.call(lambda: gpu_session(self.path, setting, self._digest, device.capability))


class _Masked:
    """The network at one fixed batch, bound to buffers that never move. Made and closed by the worker thread.

    Raises BundleError, DeviceError.
    """

    def __init__(self, device: Device, session: ort.InferenceSession, setting: Setting, path: Path) -> None:
        self.batch, self.path, self.lock = setting.profile.most, path, threading.Lock()
        self._device = device
        self.rows: list[DeviceArray] = []
        self.outputs: list[DeviceArray] = []
        self.bound: list[Bound] = []
        (given,) = session.get_outputs()
        size = given.shape[1] if len(given.shape) == 2 else None
        if not isinstance(size, int):
            raise BundleError(f"{path}: {given.name} must be embeddings (batch, D) with D written down, got {given.shape}")
        (taken,) = session.get_inputs()
        try:
            for number in range(1, BUFFERS + 1):
                self.rows.append(device.empty((self.batch, *setting.shape), element_of(taken)))
                self.outputs.append(device.empty((self.batch, size), element_of(given)))
                memory, options = (MEMORY, setting.ordinal), run_options(setting, number)
                self.bound.append(Bound(session, self.rows[-1], self.outputs[-1], memory, options))
            room = max(KEPT_BYTES // self.outputs[0].row, self.batch)
            self.embeddings = device.empty((room, size), element_of(given))
            for bound in self.bound * WARM_UPS:
                bound.run()
                device.synchronize()
        except BaseException:
            self.close()
            raise
        self.drawn, self.free = ([device.event() for _ in range(BUFFERS)] for _ in range(2))

    def close(self) -> None:
        self.bound.clear()  # and with the last of them the session
        kept = [self.embeddings] if hasattr(self, "embeddings") else []
        self._device.free(*self.rows, *self.outputs, *kept)


class DeviceStage:
    """What `engine.passes` draws on and runs, as `HostStage`; between `with` and its end the buffers are this one's own.

    Nothing here waits for the device but `draw`, for the batch before the last one, `wait` and `embeddings`.
    """

    def __init__(
        self,
        device: Device,
        masked: _Masked,
        renderer: Renderer,
        image: np.ndarray,
        baseline: np.ndarray,
        channels_last: bool,
    ) -> None:
        self._device, self._masked, self.batch = device, masked, masked.batch
        with told("cannot take the plan"):
            self._drawing = device.drawing(renderer.kernel_plan(), image, baseline, channels_last)
        weakref.finalize(self, device.discard, self._drawing)
        self._filled, self._turn = 0, 0
        self._taken: list[np.ndarray] = []

    def __enter__(self) -> "DeviceStage":
        self._masked.lock.acquire()
        self._filled, self._turn, self._taken = 0, 0, []
        return self

    def __exit__(self, *_: object) -> None:
        self._masked.lock.release()

    def draw(self, first: int, count: int) -> None:
        device, masked, turn = self._device, self._masked, self._turn

        def do() -> None:
            device.join(masked.free[turn])  # the network has read what was drawn here two batches ago
            device.draw(self._drawing, first, count, masked.rows[turn])
            device.record(masked.drawn[turn], DRAWING)

        self._do(do)

    def run(self, count: int) -> None:
        device, masked, turn = self._device, self._masked, self._turn
        if self._filled + count > masked.embeddings.shape[0]:
            self._take()

        def do() -> None:
            device.wait(masked.drawn[turn], NETWORK)
            masked.bound[turn].run()
            device.copy(masked.outputs[turn], masked.embeddings, self._filled, count)
            device.record(masked.free[turn], NETWORK)

        self._do(do)
        self._filled += count
        self._turn = (turn + 1) % BUFFERS

    def wait(self) -> None:
        self._do(self._device.synchronize)

    def embeddings(self) -> list[np.ndarray]:
        self._take()
        return self._taken

    def _take(self) -> None:
        if not self._filled:
            return
        with told(f"cannot run {self._masked.path}"):
            found = self._device.download(self._masked.embeddings, self._filled).astype(np.float32, copy=False)
        if not np.isfinite(found).all():
            raise BundleError(f"{self._masked.path} gives numbers that are not finite for this picture")
        self._taken.append(found)
        self._filled = 0

    def _do(self, job: Callable[[], None]) -> None:
        with told(f"cannot run {self._masked.path}"):
            self._device.call(job)
