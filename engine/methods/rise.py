"""RISE: random masks (Petsiuk et al. 2018; docs/method.md, RISE)."""

import dataclasses
from typing import ClassVar

import numpy as np

from engine.errors import OptionError
from engine.protocol import LARGEST_PLAN, random_words, require_arrays, require_seed, require_whole
from engine.saliency.designs import RiseDesign
from engine.saliency.geometry import TILES
from engine.saliency.stopping import AUTO, BLOCK, PUBLISHED
from kernels.rise import RiseRenderer, cell_size

LARGEST_GRID = 64
ESTIMATORS = ("regression", "sane")
LEAST_MASKS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class RisePlan:
    """Random masks: coarse grids, upsampled and shifted.

    grids: (N, s, s) bool, True if the cell is shown; shifts: (N, 2) int, (dy, dx) in pixels, each in [0, cell)
    Raises OptionError for other shapes or dtypes.
    """

    grids: np.ndarray
    shifts: np.ndarray

    def __post_init__(self) -> None:
        grids, shifts = self.grids, self.shifts
        require_arrays(grids=grids, shifts=shifts)
        if grids.dtype != bool or grids.ndim != 3 or grids.shape[1] != grids.shape[2] or not len(grids):
            raise OptionError(f"a plan's grids must be bool (N, s, s) with N >= 1, got {grids.dtype} {grids.shape}")
        if not 1 <= grids.shape[1] <= LARGEST_GRID:
            raise OptionError(f"a plan's grid must have 1..{LARGEST_GRID} cells a side, got {grids.shape[1]}")
        if shifts.dtype.kind not in "iu" or shifts.shape != (len(grids), 2):
            raise OptionError(f"a plan's shifts must be integers ({len(grids)}, 2), got {shifts.dtype} {shifts.shape}")

    def __len__(self) -> int:
        return len(self.grids)

    def first(self, count: int) -> "RisePlan":
        """Return the plan of the first `count` masks."""
        return RisePlan(self.grids[:count], self.shifts[:count])

    def design(self, size: tuple[int, int]) -> RiseDesign:
        """Return what the regression knows of the masks. size: (H, W) of the picture"""
        return RiseDesign(self.grids, self.shifts, size)

    def renderer(self, height: int, width: int) -> RiseRenderer:
        """Return what draws the plan's masks at this size. Raises OptionError if a shift lies outside [0, cell)."""
        cells = (cell_size(height, self.grids.shape[1]), cell_size(width, self.grids.shape[2]))
        if (self.shifts < 0).any() or (self.shifts >= cells).any():
            raise OptionError(f"at {height} x {width} a plan's shifts (dy, dx) must be at least 0 and below {cells}")
        return RiseRenderer(self.grids, self.shifts, height, width)

    def maps(self, scores: np.ndarray, height: int, width: int) -> np.ndarray:
        """(N, R) scores y -> (R, H, W) float32 maps `S = sum_i y_i m_i / mean_i(m_i)`, divided pixel by pixel.

        A pixel that no mask shows has saliency 0.
        """
        sums = self.renderer(height, width).transpose(np.concatenate([np.ones((len(self), 1)), scores], axis=1))
        shown = sums[0] / len(self)
        return np.divide(sums[1:], shown, out=np.zeros_like(sums[1:]), where=shown > 0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Rise:
    """RISE (docs/method.md, RISE).

    masks: passes over the picture; "auto" means with estimator "regression" as many as the stopping rule needs, from 256 to
        1024 (see `Explainer.prepare`), and with "sane" the published 2000
    grid: cells per side; p: probability that a cell is shown
    estimator: "regression" takes masks in balanced pairs and makes maps by ridge regression on their tile means
        (docs/estimator.md), in similarity units and with error bars; it needs p = 0.5, a grid of at most 16, and two masks
        or more (an odd last mask is ignored). "sane" takes independent masks; its map is the paper's: the sum of the masks,
        weighted by similarity, divided by the mean mask
    seed: 0..2^64-1; the same seed draws the same masks, and fewer masks are the first of more

    Raises OptionError for values out of range.
    """

    masks: int | str = "auto"
    grid: int = 8
    p: float = 0.5
    estimator: str = "regression"
    seed: int = 0

    name: ClassVar[str] = "rise"
    baseline: ClassVar[str] = "mean"
    ends_early: ClassVar[bool] = True
    enough: ClassVar[float | None] = None
    first_look: ClassVar[int] = AUTO[0]
    step: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise OptionError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {self.estimator!r}")
        if self.masks != "auto":
            require_whole("masks", self.masks, 1, LARGEST_PLAN)
        require_whole("grid", self.grid, 1, LARGEST_GRID)
        require_seed(self.seed)
        if isinstance(self.p, bool) or not isinstance(self.p, (int, float)) or not 0 < self.p <= 1:
            raise OptionError(f"p must be above 0 and at most 1, got {self.p!r}")
        if self.estimator == "regression":
            self._require_regression()

    def _require_regression(self) -> None:
        if self.p != 0.5 or self.grid > TILES:
            raise OptionError(
                f"estimator 'regression' needs p = 0.5 and a grid of at most {TILES}, got p = {self.p:g} and grid = "
                f"{self.grid}; estimator 'sane' allows other values"
            )
        if isinstance(self.masks, int) and self.masks < LEAST_MASKS:
            raise OptionError(
                f"estimator 'regression' needs two masks or more, got masks = {self.masks}; estimator 'sane' needs only one"
            )

    @property
    def automatic(self) -> bool:
        """Whether the stopping rule decides how many masks are enough."""
        return self.masks == "auto" and self.estimator == "regression"

    @property
    def most_masks(self) -> int:
        """The number of masks of the plan: at most so many are run."""
        if isinstance(self.masks, int):
            return self.masks
        return AUTO[1] if self.estimator == "regression" else PUBLISHED

    def plan(self, pixels: np.ndarray) -> RisePlan:
        """Return the plan for a picture (H, W, 3) uint8."""
        draw = draw_balanced if self.estimator == "regression" else draw_independent
        return draw(self, self.most_masks, *pixels.shape[:2])


def draw_independent(options: Rise, count: int, height: int, width: int) -> RisePlan:
    """Draw `count` grids of independent cells, each shown with probability p, and uniform shifts.

    The randomness is raw 64-bit Philox words (key = seed), cut into 32-bit halves, low half first. Each mask takes one half
    per cell (row-major, shown if below p * 2^32), then one each for dy and dx (half * cell >> 32), padded to whole words. So
    mask i is the same for every number of masks, in every version of numpy and on every device.
    """
    cells = options.grid**2
    words = (cells + 2 + 1) // 2
    halves = _halves(options.seed, count, words)  # (count, 2 * words)
    grids = halves[:, :cells] < np.uint64(round(options.p * 2**32))
    shifts = _shifts(halves[:, cells : cells + 2], options.grid, height, width)
    return RisePlan(grids.reshape(count, options.grid, options.grid), shifts)


def draw_balanced(options: Rise, count: int, height: int, width: int) -> RisePlan:
    """Draw `count` grids in blocks that show every cell, and every two cells together, equally often (docs/estimator.md).

    Each grid is followed by its complement under the same shift. A block is a Hadamard matrix of order h (64 for 8 x 8
    cells: 128 masks): its columns are permuted, one is kept for each cell, some are flipped, and its rows are permuted.

    The randomness is raw Philox words as in `draw_independent`. Each block takes h halves whose order permutes the columns,
    h halves that flip a column if they are below 2^31, h halves whose order permutes the rows, and 2 h halves for dy and dx
    of each pair.
    """
    cells = options.grid**2
    order = max(1 << (cells - 1).bit_length(), BLOCK // 2)
    blocks = -(-count // (2 * order))
    halves = _halves(options.seed, blocks, 5 * order // 2)
    matrix = hadamard(order)
    grids = []
    for row in halves:
        columns, flips, rows = row[: 3 * order].reshape(3, order)
        chosen = matrix[np.ix_(np.argsort(rows, kind="stable"), np.argsort(columns, kind="stable")[:cells])]
        shown = chosen ^ (flips[:cells] < 2**31)
        grids.append(np.stack([shown, ~shown], axis=1))
    shifts = _shifts(halves[:, 3 * order :].reshape(-1, 2), options.grid, height, width)
    all_grids = np.concatenate(grids).reshape(-1, options.grid, options.grid)
    return RisePlan(all_grids, np.repeat(shifts, 2, axis=0)).first(count)


def _halves(seed: int, rows: int, words: int) -> np.ndarray:
    """Return 32-bit halves of random words: (rows, 2 * words) uint64 below 2^32."""
    return random_words(seed, rows, words).view("<u4").astype(np.uint64)


def _shifts(halves: np.ndarray, grid: int, height: int, width: int) -> np.ndarray:
    """(n, 2) halves -> (n, 2) int32 shifts (dy, dx), uniform within the cells."""
    size = np.array([cell_size(height, grid), cell_size(width, grid)], np.uint64)
    return ((halves * size) >> np.uint64(32)).astype(np.int32)


def hadamard(order: int) -> np.ndarray:
    """Return Sylvester's Hadamard matrix, (order, order) bool; `order` must be a power of two."""
    matrix = np.ones((1, 1), bool)
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, ~matrix]])
    return matrix
