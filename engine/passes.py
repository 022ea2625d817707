"""The hot loop: plan -> masks drawn onto a reused buffer -> network -> embeddings. Every method goes through here.

It reads the same for every device: `HostStage` draws with numpy into a numpy array, `engine.device.DeviceStage` with a CUDA
kernel into the GPU's memory.
"""

import time
from collections.abc import Callable

import numpy as np

from engine.device import DeviceSession
from engine.preprocessing import Preprocessing
from engine.protocol import Renderer, Runner, Stage
from kernels.blend import blend

Progress = Callable[[int, int], None]
"""Called with (network rows done, network rows in all)."""


def silent(done: int, total: int) -> None:
    """No progress is shown unless a caller asks for it."""


class MaskedPasses:
    """The passes over one picture behind masks; the buffers are reused for every batch.

    renderer: draws the masks of a plan at the network's size
    image, baseline: float32, one picture as the network takes it
    batch: rows of every network run, the last one padded; a session on a GPU has its own
    """

    def __init__(
        self,
        session: Runner,
        renderer: Renderer,
        preprocessing: Preprocessing,
        image: np.ndarray,
        baseline: np.ndarray,
        batch: int,
    ) -> None:
        channels_last, self._batch = preprocessing.layout == "nhwc", batch
        self._stage: Stage
        if isinstance(session, DeviceSession):
            stage = session.stage(renderer, image, baseline, channels_last)
            self._stage, self._batch = stage, stage.batch
        else:
            self._stage = HostStage(session, renderer, image, baseline, channels_last, batch)
        self._slowest = 0.0

    def run(self, start: int, stop: int, until: float | None, progress: Progress, total: int) -> list[np.ndarray]:
        """Embeddings (n, D) float32 of masks start..stop by batches: all, or as many batches as end before `until`.

        until: time.perf_counter() at which the caller wants them; the batch from mask 0 is run in any case
        total: passes in all, as told to `progress`, which a GPU is up to two batches behind
        """
        with self._stage as stage:
            for first in range(start, stop, self._batch):
                began = time.perf_counter()
                if until is not None and first > 0 and began + self._slowest > until:
                    break
                count = min(self._batch, stop - first)
                stage.embed(first, count)  # masks are drawn, and the network runs over them
                if until is not None:
                    stage.wait()
                self._slowest = max(self._slowest, time.perf_counter() - began)
                progress(first + count, total)
            return stage.embeddings()


class HostStage:
    """Masked pictures in a numpy array, for sessions that run on the CPU.

    batch: its rows; those that a run does not draw keep what they held. The rest as `MaskedPasses`
    """

    def __init__(
        self, session: Runner, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool, batch: int
    ) -> None:
        self._session, self._renderer, self._image, self._baseline = session, renderer, image, baseline
        height, width = image.shape[:2] if channels_last else image.shape[1:]
        self._masks = np.empty((batch, height, width), np.float32)
        self._rows = np.zeros((batch, *image.shape), np.float32)
        self._channels_last = channels_last
        self._embeddings: list[np.ndarray] = []

    def __enter__(self) -> "HostStage":
        self._embeddings = []
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def embed(self, first: int, count: int) -> None:
        masks = self._masks[:count]
        self._renderer.masks(first, first + count, out=masks)
        blend(self._image, self._baseline, masks, self._channels_last, out=self._rows[:count])
        self._embeddings.append(self._session.run(self._rows)[:count])

    def wait(self) -> None:
        """A CPU has nothing left to do."""

    def embeddings(self) -> list[np.ndarray]:
        return self._embeddings


def whole_embeddings(session: Runner, preprocessing: Preprocessing, pictures: list[np.ndarray], batch: int) -> np.ndarray:
    """Network output (n, ...) float32 for whole pictures, each (H, W, 3) uint8, in runs of at most `batch`."""
    outputs = [
        session.run(preprocessing.normalised(np.stack(pictures[start : start + batch])))
        for start in range(0, len(pictures), batch)
    ]
    return np.concatenate(outputs)
