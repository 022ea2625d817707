"""RISE masks: a coarse random grid, upsampled bilinearly and cropped at a random shift (docs/method.md, RISE).

The masks are those of Petsiuk et al. 2018. Upsampling is separable, so a mask is `A G B^T` with one matrix for each axis
and shift. This gives the masks batch by batch, and the transpose (sums of masks weighted by scores) without N masks at once.
"""

import numpy as np

from kernels.areas import areas
from kernels.plan import KernelPlan, packed, whole

GROUP = 16
"""Columns of weights summed at once. Limits the memory of `RiseRenderer.transpose` for any number of references."""
KERNEL_GRID = 64
"""Most cells a side that the CUDA kernel takes, because it keeps a row of cells in 64 bits."""


def cell_size(length: int, grid: int) -> int:
    """Return the pixels per grid cell on an axis of `length` pixels; shifts lie in [0, cell)."""
    return -(-length // grid)


def upsampling(length: int, grid: int) -> np.ndarray:
    """Return the matrix that upsamples one axis at each shift: (cell, length, grid) float32.

    Half-pixel centres on (grid + 1) * cell pixels. Borders are mirrored about the centre of the border cell, so index -1
    reads cell 1 (scipy's `mirror`).
    """
    cell = cell_size(length, grid)
    total = (grid + 1) * cell
    position = (np.arange(total) + 0.5) * grid / total - 0.5
    low = np.floor(position).astype(int)
    fraction = position - low
    full = np.zeros((total, grid))
    rows = np.arange(total)
    np.add.at(full, (rows, _mirrored(low, grid)), 1 - fraction)
    np.add.at(full, (rows, _mirrored(low + 1, grid)), fraction)
    return np.stack([full[shift : shift + length] for shift in range(cell)]).astype(np.float32)


def _mirrored(index: np.ndarray, count: int) -> np.ndarray:
    if count == 1:
        return np.zeros_like(index)
    index = np.abs(index)
    return np.where(index >= count, 2 * (count - 1) - index, index)


class RiseRenderer:
    """The masks of one plan at one size.

    grids: (N, s, s) bool; shifts: (N, 2) int as (dy, dx), each in [0, cell) of its axis; height, width: in pixels
    """

    def __init__(self, grids: np.ndarray, shifts: np.ndarray, height: int, width: int) -> None:
        self.grids = grids
        self.shifts = shifts
        self.height = height
        self.width = width
        self._rows = upsampling(height, grids.shape[1])  # (cy, H, s)
        self._columns = upsampling(width, grids.shape[2]).transpose(0, 2, 1).copy()  # (cx, s, W)

    def __len__(self) -> int:
        return len(self.grids)

    def masks(self, start: int, stop: int, out: np.ndarray) -> None:
        """Write masks start..stop into `out` (stop - start, H, W) float32, values in [0, 1]."""
        dy, dx = self.shifts[start:stop].T
        tall = np.matmul(self._rows[dy], self.grids[start:stop].astype(np.float32))  # (n, H, s)
        np.matmul(tall, self._columns[dx], out=out)

    def kernel_plan(self) -> KernelPlan:
        """Return the same masks for the CUDA kernel. Raises ValueError if the grid has more cells than it takes."""
        count, grid = self.grids.shape[:2]
        if not 1 <= grid <= KERNEL_GRID:
            raise ValueError(f"the CUDA kernel takes grids of 1 to {KERNEL_GRID} cells a side, got {grid}")
        words = packed(self.grids)
        return KernelPlan("rise", count, (words, words.shape[1], grid, whole(self.shifts)))

    def tiles(self, parts: int) -> np.ndarray:
        """Return each mask's mean over parts x parts equal tiles of the picture, row-major: (N, parts * parts) float64."""
        rows = areas(self.height, parts) @ self._rows  # (cy, parts, s)
        columns = self._columns @ areas(self.width, parts).T  # (cx, s, parts)
        means = rows[self.shifts[:, 0]] @ self.grids.astype(np.float64) @ columns[self.shifts[:, 1]]
        return means.reshape(len(self), -1)

    def transpose(self, weights: np.ndarray) -> np.ndarray:
        """Return weighted sums of all masks: (N, R) -> (R, H, W) float64. Masks of one shift are summed as grids first."""
        parts = [self._transpose(weights[:, i : i + GROUP]) for i in range(0, weights.shape[1], GROUP)]
        return np.concatenate(parts) if parts else np.empty((0, self.height, self.width))

    def _transpose(self, weights: np.ndarray) -> np.ndarray:
        count, size = weights.shape[1], self.grids.shape[1]
        tall, wide = len(self._rows), len(self._columns)
        place = self.shifts[:, 0].astype(np.intp) * wide + self.shifts[:, 1]
        order = np.argsort(place, kind="stable")
        places, first = np.unique(place[order], return_index=True)
        summed = np.zeros((tall * wide, size * size, count))
        # `order` puts masks of one shift side by side. One shift at a time: all weighted grids at once would be (N, s*s, R)
        for shift, begin, end in zip(places, first, [*first[1:], len(order)], strict=True):
            some = order[begin:end]
            summed[shift] = self.grids[some].reshape(-1, size * size).T.astype(np.float64) @ weights[some]
        by_axis = summed.reshape(tall, wide, size, size, count).transpose(0, 2, 1, 3, 4)  # (cy, s, cx, s, R)
        rows = self._rows.transpose(1, 0, 2).reshape(self.height, -1).astype(np.float64)  # (H, cy*s)
        columns = self._columns.transpose(2, 0, 1).reshape(self.width, -1).astype(np.float64)  # (W, cx*s)
        half = rows @ by_axis.reshape(tall * size, -1)  # (H, cx*s*R)
        maps = columns @ half.reshape(self.height, wide * size, count)  # (H, W, R)
        return np.ascontiguousarray(maps.transpose(2, 0, 1))
