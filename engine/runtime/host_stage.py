"""The hot loop's buffers in numpy arrays, for sessions that run on the CPU."""

import numpy as np

from engine.protocol import Renderer, Runner
from kernels.blend import blend


class HostStage:
    """Draw masked pictures with numpy and run them through a session. See `engine.protocol.Stage`.

    session: runs the graph; renderer, image, baseline, channels_last: see `engine.protocol.Runner.stage`
    batch: rows of the buffer; a shorter batch leaves the remaining rows as they were
    """

    def __init__(
        self, session: Runner, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool, batch: int
    ) -> None:
        self._session, self._renderer, self._image, self._baseline = session, renderer, image, baseline
        height, width = image.shape[:2] if channels_last else image.shape[1:]
        self.batch = batch
        self._masks = np.empty((batch, height, width), np.float32)
        self._rows = np.empty((batch, *image.shape), np.float32)
        self._empty = True
        self._channels_last = channels_last
        self._embeddings: list[np.ndarray] = []

    def __enter__(self) -> "HostStage":
        self._embeddings = []
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to do."""

    def embed(self, first: int, count: int) -> None:
        """Draw masks first..first + count and run the network over them."""
        masks = self._masks[:count]
        self._renderer.masks(first, first + count, out=masks)
        blend(self._image, self._baseline, masks, self._channels_last, out=self._rows[:count])
        if self._empty:  # the rows that a first, shorter batch leaves: a network may divide by what is 0 in an empty picture
            self._rows[count:] = self._image
            self._empty = False
        self._embeddings.append(self._session.run(self._rows)[:count])

    def wait(self) -> None:
        """Return at once: `embed` has finished its work when it returns."""

    def embeddings(self) -> list[np.ndarray]:
        """(n, D) float32 for each batch."""
        return self._embeddings
