"""Masks by rank: only the most salient pixels are shown, or only they are hidden."""

import numpy as np

from kernels.plan import KernelPlan, whole


class RankRenderer:
    """The masks of one plan.

    ranks: (H, W) int, 0 for the most salient pixel; counts: (N,) int, how many pixels each mask shows or hides
    inserted: (N,) bool, True if the mask shows them
    """

    def __init__(self, ranks: np.ndarray, counts: np.ndarray, inserted: np.ndarray) -> None:
        self._ranks, self._counts, self._inserted = ranks, counts, inserted

    def masks(self, start: int, stop: int, out: np.ndarray) -> None:
        """Write masks start..stop into `out` (stop - start, H, W) float32: 1 where the picture is shown, else 0."""
        top = self._ranks < self._counts[start:stop, None, None]
        np.equal(top, self._inserted[start:stop, None, None], out=out, casting="unsafe")

    def kernel_plan(self) -> KernelPlan:
        """Return the same masks for the CUDA kernel."""
        arguments = whole(self._ranks), whole(self._counts), self._inserted.astype("u1")
        return KernelPlan("rank", len(self._counts), arguments)
