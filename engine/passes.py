"""The hot loop: plan -> masks drawn onto a reused buffer -> network -> embeddings. Every method goes through here.

Devices differ only in the stage that their session gives: `engine.runtime.host_stage` draws with numpy into a numpy array,
`engine.runtime.gpu_stage` with a CUDA kernel into the GPU's memory.
"""

import time

import numpy as np

from engine.pictures.preprocessing import Preprocessing
from engine.protocol import Progress, Runner, Stage

FEWEST = 4
"""The largest group of masks that belong together: quarters of a picture's tokens. No map is fitted to less than a group."""


class MaskedPasses:
    """The passes over one masked picture; the buffers are reused for every batch.

    stage: where the picture is shown through the masks of a plan, see `engine.protocol.Runner.stage`
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._slowest = 0.0

    def run(self, start: int, stop: int, until: float | None, progress: Progress, total: int) -> list[np.ndarray]:
        """Embeddings (n, D) float32 of masks start..stop, in batches: all, or as many batches as end before `until`.

        until: time.perf_counter() at which the caller wants them; at least FEWEST masks are run in any case
        total: passes in all, as told to `progress`; a GPU may be up to two batches behind what is told
        """
        with self._stage as stage:
            for first in range(start, stop, stage.batch):
                began = time.perf_counter()
                if until is not None and first >= FEWEST and began + self._slowest > until:
                    break
                count = min(stage.batch, stop - first)
                if not stage.embed(first, count, until if first >= FEWEST else None):  # draws masks, and runs the network
                    break
                if until is not None:
                    stage.wait()
                self._slowest = max(self._slowest, time.perf_counter() - began - stage.waited)
                progress(first + count, total)
            return stage.embeddings()


def whole_embeddings(session: Runner, preprocessing: Preprocessing, pictures: list[np.ndarray], batch: int) -> np.ndarray:
    """Network output (n, ...) float32 for whole pictures, each (H, W, 3) uint8, in runs of at most `batch`."""
    outputs = [
        session.run(preprocessing.normalised(np.stack(pictures[start : start + batch])))
        for start in range(0, len(pictures), batch)
    ]
    return np.concatenate(outputs)
