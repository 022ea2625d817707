"""Masks of a sliding window: each hides one rectangle, on a lattice that may start outside the picture."""

import numpy as np

from kernels.plan import KernelPlan, whole


class WindowRenderer:
    """The masks of one plan, row-major over the lattice.

    tops, lefts: (A,) and (B,) int, first rows and columns of the lattice's windows; size: (height, width) of a window
    height, width: of the picture. All in pixels.
    """

    def __init__(self, tops: np.ndarray, lefts: np.ndarray, size: tuple[int, int], height: int, width: int) -> None:
        self._tops, self._lefts, self._size = tops, lefts, size
        rows, columns = np.arange(height), np.arange(width)
        self._rows = (rows >= tops[:, None]) & (rows < tops[:, None] + size[0])  # (A, H) hidden
        self._columns = (columns >= lefts[:, None]) & (columns < lefts[:, None] + size[1])  # (B, W) hidden

    def masks(self, start: int, stop: int, out: np.ndarray) -> None:
        """Write masks start..stop into `out` (stop - start, H, W) float32: 0 inside the window, else 1."""
        row, column = np.divmod(np.arange(start, stop), len(self._columns))
        hidden = self._rows[row][:, :, None] & self._columns[column][:, None, :]
        np.logical_not(hidden, out=out, casting="unsafe")

    def kernel_plan(self) -> KernelPlan:
        """Return the same masks for the CUDA kernel."""
        tops, lefts = whole(self._tops), whole(self._lefts)
        return KernelPlan("window", len(tops) * len(lefts), (tops, len(tops), lefts, len(lefts), *self._size))
