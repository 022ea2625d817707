"""What the regression knows of the masks that were run: of RISE's over pixels, and of a transformer's tokens."""

import dataclasses
import functools

import numpy as np

from engine.saliency.geometry import TILES, Geometry
from engine.saliency.operator import MaskRows
from engine.saliency.regression import contrasts
from engine.saliency.stopping import AUTO
from kernels.rise import RiseRenderer

TOKEN_SIDE = 8
"""Tiles a side of the correspondence of tokens, and cells a side of the masks whose smoothness their maps have."""
EVERY_PAIR = slice(None)
KEPT_ROWS = 12
"""MaskRows of so many sets of masks are kept, at most 1 MB each: seven numbers of masks, and halves."""


@dataclasses.dataclass(frozen=True, eq=False)
class RiseDesign:
    """Masks of RISE, each followed by its complement.

    grids: (N, s, s) bool, shifts: (N, 2) int; size: (H, W) of the picture
    """

    grids: np.ndarray
    shifts: np.ndarray
    size: tuple[int, int]

    parts = 2

    @property
    def side(self) -> int:
        """Tiles a side of the correspondence."""
        return int(self.grids.shape[1])

    @property
    def geometry(self) -> Geometry:
        """The covariance of pixels and tiles."""
        return Geometry.of(*self.size, self.side)

    def matrix(self, which: slice = EVERY_PAIR) -> np.ndarray:
        """Return the design matrix (P, T*T) of some of the pairs: tile means minus 1/2 of the first mask of each."""
        return _matrix(*self._first_masks(which), self.size)

    def rows(self, which: slice = EVERY_PAIR) -> MaskRows:
        """Return the same as the regression takes it. Pictures are mostly shown through the same masks, those of one seed:
        what the stopping rule looks at is kept for the next.
        """
        grids, shifts = self._first_masks(which)
        if len(self.grids) > AUTO[1]:
            return MaskRows.of(_matrix(grids, shifts, self.size))
        return kept_rows(grids.tobytes(), shifts.astype(np.int64).tobytes(), self.side, self.size)

    def _first_masks(self, which: slice) -> tuple[np.ndarray, np.ndarray]:
        first = slice(0, len(self.grids) // 2 * 2, 2)
        return self.grids[first][which], self.shifts[first][which]


def _matrix(grids: np.ndarray, shifts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    tiles = RiseRenderer(grids, shifts, *size).tiles(TILES)
    tiles -= 0.5
    return tiles


@functools.lru_cache(maxsize=KEPT_ROWS)
def kept_rows(grids: bytes, shifts: bytes, side: int, size: tuple[int, int]) -> MaskRows:
    """Return the rows of masks given as bytes: bool (P, side, side) and int64 (P, 2)."""
    shown = np.frombuffer(grids, bool).reshape(-1, side, side)
    return MaskRows.of(_matrix(shown, np.frombuffer(shifts, np.int64).reshape(-1, 2), size))


@dataclasses.dataclass(frozen=True, eq=False)
class TokenDesign:
    """Tokens that were kept. kept: (N, rows, columns) bool; parts: passes in a group; size: (H, W) of the picture"""

    kept: np.ndarray
    parts: int
    size: tuple[int, int]

    side = TOKEN_SIDE

    @functools.cached_property
    def geometry(self) -> Geometry:
        """How tokens' coefficients become a map."""
        return Geometry.of_tokens(*self.size, TOKEN_SIDE, (self.kept.shape[1], self.kept.shape[2]))

    def matrix(self, which: slice = EVERY_PAIR) -> np.ndarray:
        """Return the design matrix (P, rows * columns) of some groups' contrasts: of which tokens were kept."""
        return contrasts(self.kept.reshape(len(self.kept), -1).astype(np.float64), self.parts)[which]

    def rows(self, which: slice = EVERY_PAIR) -> MaskRows:
        """Return the same as the regression takes it."""
        return MaskRows.of(self.matrix(which))


Design = RiseDesign | TokenDesign
