"""The hot loop's buffers in numpy arrays, for sessions that run on the CPU."""

from collections.abc import Sequence

import numpy as np

from engine.protocol import Renderer, Runner
from kernels.blend import blend


class HostStage:
    """Draw masked pictures with numpy and run them through a session. See `engine.protocol.Stage`.

    session: runs the graph; renderer, image, baseline, channels_last: see `engine.protocol.Runner.stage`
    batch: rows of every run
    """

    waited = 0.0

    def __init__(
        self, session: Runner, renderer: Renderer, image: np.ndarray, baseline: np.ndarray, channels_last: bool, batch: int
    ) -> None:
        self._session, self._renderer, self._image, self._baseline = session, renderer, image, baseline
        height, width = image.shape[:2] if channels_last else image.shape[1:]
        self.batch = batch
        self._masks = np.empty((batch, height, width), np.float32)
        self._rows = np.empty((batch, *image.shape), np.float32)
        self._channels_last = channels_last
        self._embeddings: list[np.ndarray] = []

    def __enter__(self) -> "HostStage":
        self._embeddings = []
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to do."""

    def embed(self, first: int, count: int, until: float | None = None) -> bool:
        """Draw masks first..first + count and run the network over them."""
        masks, rows = self._masks[:count], self._rows[:count]
        self._renderer.masks(first, first + count, out=masks)
        blend(self._image, self._baseline, masks, self._channels_last, out=rows)
        found = self.run_rows(rows, until)
        if found is not None:
            self._embeddings.append(found)
        return found is not None

    def run_rows(self, rows: np.ndarray, until: float | None) -> np.ndarray | None:
        """Run rows (n, ...) float32, at most `batch`; returns (n, D) float32. Here no others have to be waited for."""
        return self._session.run(full_batch([rows], self.batch))[: len(rows)]

    def wait(self) -> None:
        """Return at once: `embed` has finished its work when it returns."""

    def embeddings(self) -> list[np.ndarray]:
        """(n, D) float32 for each batch."""
        return self._embeddings


def full_batch(parts: Sequence[np.ndarray], batch: int) -> np.ndarray:
    """Join rows, parts of (n, ...) float32, and fill up to `batch` with copies of the first: (batch, ...) float32.

    Every run has as many rows, since results may depend on it in the last bit; and no row is empty, since a network may
    divide by what is 0 in an empty picture.
    """
    if len(parts[0]) == batch:
        return parts[0]
    left = batch - sum(map(len, parts))
    return np.concatenate([*parts, np.repeat(parts[0][:1], left, axis=0)])
