"""Perturbation plans: which parts of a picture are shown in which pass. A few kilobytes, made from a seed or handed in."""

import dataclasses

import numpy as np

from engine.errors import OptionError
from kernels.rise import RiseRenderer, cell_size

LARGEST_GRID = 64


@dataclasses.dataclass(frozen=True)
class RisePlan:
    """grids: (N, s, s) bool, True where the picture shows; shifts: (N, 2) int as (dy, dx), pixels, within [0, cell).

    Raises OptionError for other shapes or types.
    """

    grids: np.ndarray
    shifts: np.ndarray

    def __post_init__(self) -> None:
        grids, shifts = np.asarray(self.grids), np.asarray(self.shifts)
        if grids.dtype != bool or grids.ndim != 3 or grids.shape[1] != grids.shape[2] or not len(grids):
            raise OptionError(f"a plan's grids must be bool (N, s, s) with N >= 1, got {grids.dtype} {grids.shape}")
        if not 1 <= grids.shape[1] <= LARGEST_GRID:
            raise OptionError(f"a plan's grid must have 1..{LARGEST_GRID} cells a side, got {grids.shape[1]}")
        if shifts.dtype.kind not in "iu" or shifts.shape != (len(grids), 2):
            raise OptionError(f"a plan's shifts must be integers ({len(grids)}, 2), got {shifts.dtype} {shifts.shape}")
        object.__setattr__(self, "grids", grids)
        object.__setattr__(self, "shifts", shifts)

    def __len__(self) -> int:
        return len(self.grids)

    def renderer(self, height: int, width: int) -> RiseRenderer:
        """The plan's masks at this size; raises OptionError where a shift lies outside [0, cell)."""
        cells = (cell_size(height, self.grids.shape[1]), cell_size(width, self.grids.shape[2]))
        if (self.shifts < 0).any() or (self.shifts >= cells).any():
            raise OptionError(f"at {height} x {width} a plan's shifts (dy, dx) must be at least 0 and below {cells}")
        return RiseRenderer(self.grids, self.shifts, height, width)


def draw_rise(masks: int, grid: int, p: float, seed: int, height: int, width: int) -> RisePlan:
    """`masks` grids of independent cells, each shown with probability p, and uniform shifts.

    Drawn from raw 64-bit Philox words (key = seed), cut into 32-bit halves, low half first: per mask one half per cell
    (row-major, shown if below p * 2^32), then one each for dy and dx (half * cell >> 32), padded to whole words. So mask i
    is the same for every number of masks, and in every version of numpy and on every device.
    """
    cells = grid * grid
    words = (cells + 2 + 1) // 2
    raw = np.random.Philox(key=seed).random_raw(masks * words).reshape(masks, words)
    halves = raw.astype("<u8").view("<u4").astype(np.uint64)  # (masks, 2 * words)
    grids = halves[:, :cells] < np.uint64(round(p * 2**32))
    size = np.array([cell_size(height, grid), cell_size(width, grid)], np.uint64)
    shifts = (halves[:, cells : cells + 2] * size) >> np.uint64(32)
    return RisePlan(grids.reshape(masks, grid, grid), shifts.astype(np.int32))
