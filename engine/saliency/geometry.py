"""From the coefficients of tiles to a map: the covariance of masks and tiles, known in closed form (docs/estimator.md)."""

import dataclasses
import functools

import numpy as np

from kernels.areas import areas
from kernels.rise import upsampling

TILES = 16
"""Tiles per side. With 8 the limit is visibly biased (correlation .998 with the published one), with 16 not (.9997)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Geometry:
    """What depends only on the picture's size and the grid: the covariance of a mask's pixel (y, x) and tile (i, j) is
    `1/4 rows[y, i] columns[x, j]`.

    rows: (H, T), columns: (W, T) float64; tile_rows, tile_columns: (T, T), their means over tiles
    centred: whether only differences of coefficients are known: then these and the maps have mean 0
    """

    rows: np.ndarray
    columns: np.ndarray
    tile_rows: np.ndarray
    tile_columns: np.ndarray
    centred: bool = False

    @property
    def parts(self) -> int:
        """How many coefficients make a map: tiles, or tokens."""
        return self.rows.shape[1] * self.columns.shape[1]

    @classmethod
    def of(cls, height: int, width: int, grid: int) -> "Geometry":
        """Return the geometry of masks of grid x grid cells over height x width pixels."""
        rows, columns = _covariance(height, grid, TILES), _covariance(width, grid, TILES)
        return cls(rows, columns, areas(height, TILES) @ rows, areas(width, TILES) @ columns)

    @classmethod
    def of_tokens(cls, height: int, width: int, grid: int, tokens: tuple[int, int]) -> "Geometry":
        """Return the geometry of rows x columns of tokens: their coefficients, less their mean, give the map that masks of
        grid x grid cells would have if the similarity were linear in the tokens that they show.
        """
        rows, columns = _covariance(height, grid, tokens[0]), _covariance(width, grid, tokens[1])
        return cls(rows, columns, areas(height, TILES) @ rows, areas(width, TILES) @ columns, centred=True)

    def maps(self, coefficients: np.ndarray) -> np.ndarray:
        """(R, T*T) coefficients -> (R, H, W) float32 maps: Cov(y, m) / E[m], in similarity units."""
        return self._drawn(coefficients, self.rows, self.columns).astype(np.float32)

    def tiles(self, coefficients: np.ndarray) -> np.ndarray:
        """(R, T*T) coefficients -> (R, T*T) float64: the maps' means over tiles."""
        return self._drawn(coefficients, self.tile_rows, self.tile_columns).reshape(len(coefficients), -1)

    def coarse_tiles(self, coefficients: np.ndarray, side: int) -> np.ndarray:
        """(R, T*T) coefficients -> (R, side * side) float64: the maps' means over side x side tiles."""
        rows, columns = (areas(len(m), side) @ m for m in (self.rows, self.columns))
        return self._drawn(coefficients, rows, columns).reshape(len(coefficients), -1)

    def _drawn(self, coefficients: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        if not self.centred:
            return _covariance_over_mean(coefficients, rows, columns)
        maps = _covariance_over_mean(coefficients - coefficients.mean(1, keepdims=True), rows, columns)
        return maps - maps.mean((1, 2), keepdims=True)


@functools.lru_cache(maxsize=64)
def _covariance(length: int, grid: int, parts: int) -> np.ndarray:
    """Return the mean over shifts a of U_a (P U_a)^T: (length, parts). U_a: upsampling at shift a; P: means of parts."""
    ups = upsampling(length, grid).astype(np.float64)  # (cell, length, grid)
    mean: np.ndarray = np.mean(ups @ (areas(length, parts) @ ups).transpose(0, 2, 1), axis=0)
    mean.setflags(write=False)  # callers share it
    return mean


def _covariance_over_mean(coefficients: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return Cov / E[m] = (1/4 rows W columns^T) / (1/2): (R, h, w).

    coefficients: W (R, T*T); rows: (h, T); columns: (w, T)
    """
    return 0.5 * (rows @ coefficients.reshape(-1, rows.shape[1], columns.shape[1]) @ columns.T)
