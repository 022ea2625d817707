"""RISE: random masks (Petsiuk et al. 2018; SANE.md, Saliency methods)."""

import dataclasses
from typing import ClassVar

import numpy as np

from engine.errors import OptionError
from engine.protocol import LARGEST_PLAN, random_words, require_seed, require_whole
from kernels.rise import RiseRenderer, cell_size

LARGEST_GRID = 64


@dataclasses.dataclass(frozen=True, eq=False)
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

    def maps(self, scores: np.ndarray, height: int, width: int) -> np.ndarray:
        """`S = sum_i y_i m_i / mean_i(m_i)`, division per pixel: (N, R) -> (R, H, W) float32.

        A pixel that no mask shows has saliency 0.
        """
        sums = self.renderer(height, width).transpose(np.concatenate([np.ones((len(self), 1)), scores], axis=1))
        shown = sums[0] / len(self)
        return np.divide(sums[1:], shown, out=np.zeros_like(sums[1:]), where=shown > 0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Rise:
    """masks: passes over the picture; grid: cells a side; p: probability that a cell is shown
    estimator: "sane", the paper's sum of masks weighted by similarity over the mean mask
    seed: 0..2^64-1; equal seeds draw equal masks

    Raises OptionError for values out of range.
    """

    masks: int = 2000
    grid: int = 8
    p: float = 0.5
    estimator: str = "sane"
    seed: int = 0

    name: ClassVar[str] = "rise"
    baseline: ClassVar[str] = "mean"

    def __post_init__(self) -> None:
        require_whole("masks", self.masks, 1, LARGEST_PLAN)
        require_whole("grid", self.grid, 1, LARGEST_GRID)
        require_seed(self.seed)
        if not isinstance(self.p, (int, float)) or not 0 < self.p <= 1:
            raise OptionError(f"p must lie above 0 and at most 1, got {self.p!r}")
        if self.estimator != "sane":
            raise OptionError(f"estimator must be 'sane', got {self.estimator!r}")

    def plan(self, pixels: np.ndarray) -> RisePlan:
        return draw(self, *pixels.shape[:2])


def draw(options: Rise, height: int, width: int) -> RisePlan:
    """Grids of independent cells, each shown with probability p, and uniform shifts.

    Drawn from raw 64-bit Philox words (key = seed), cut into 32-bit halves, low half first: per mask one half per cell
    (row-major, shown if below p * 2^32), then one each for dy and dx (half * cell >> 32), padded to whole words. So mask i
    is the same for every number of masks, and in every version of numpy and on every device.
    """
    cells = options.grid**2
    words = (cells + 2 + 1) // 2
    halves = random_words(options.seed, options.masks, words).view("<u4").astype(np.uint64)  # (masks, 2 * words)
    grids = halves[:, :cells] < np.uint64(round(options.p * 2**32))
    size = np.array([cell_size(height, options.grid), cell_size(width, options.grid)], np.uint64)
    shifts = (halves[:, cells : cells + 2] * size) >> np.uint64(32)
    return RisePlan(grids.reshape(options.masks, options.grid, options.grid), shifts.astype(np.int32))
