"""The hot loop: plan -> masks drawn onto a reused buffer -> network -> embeddings. Every method goes through here."""

import time
from collections.abc import Callable

import numpy as np

from engine.preprocessing import Preprocessing
from engine.protocol import Renderer, Runner
from kernels.blend import blend

Progress = Callable[[int, int], None]
"""Called with (network rows done, network rows in all)."""


def silent(done: int, total: int) -> None:
    """No progress is shown unless a caller asks for it."""


class MaskedPasses:
    """The passes over one picture behind masks; the buffers are reused for every batch.

    renderer: draws the masks of a plan at the network's size
    image, baseline: float32, one picture as the network takes it; batch: rows of every network run, the last one padded
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
        self._session, self._renderer, self._image, self._baseline = session, renderer, image, baseline
        self._masks = np.empty((batch, preprocessing.height, preprocessing.width), np.float32)
        self._rows = np.zeros((batch, *image.shape), np.float32)
        self._channels_last = preprocessing.layout == "nhwc"
        self._slowest = 0.0

    def run(self, start: int, stop: int, until: float | None, progress: Progress, total: int) -> list[np.ndarray]:
        """Embeddings (n, D) float32 of masks start..stop by batches: all, or as many batches as end before `until`.

        until: time.perf_counter() at which the caller wants them; the batch from mask 0 is run in any case
        total: passes in all, as told to `progress`
        """
        batch, embeddings = len(self._rows), []
        for first in range(start, stop, batch):
            began = time.perf_counter()
            if until is not None and first > 0 and began + self._slowest > until:
                break
            count = min(batch, stop - first)
            masks, rows = self._masks[:count], self._rows[:count]
            self._renderer.masks(first, first + count, out=masks)  # a mask is drawn
            blend(self._image, self._baseline, masks, self._channels_last, out=rows)
            embeddings.append(self._session.run(self._rows)[:count])  # the network runs
            self._slowest = max(self._slowest, time.perf_counter() - began)
            progress(first + count, total)
        return embeddings


def whole_embeddings(session: Runner, preprocessing: Preprocessing, pictures: list[np.ndarray], batch: int) -> np.ndarray:
    """Network output (n, ...) float32 for whole pictures, each (H, W, 3) uint8, in runs of at most `batch`."""
    outputs = [
        session.run(preprocessing.normalised(np.stack(pictures[start : start + batch])))
        for start in range(0, len(pictures), batch)
    ]
    return np.concatenate(outputs)
