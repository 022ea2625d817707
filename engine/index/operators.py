"""A prepared picture in few bytes: the linear operator from a reference to the map, in modes of maps x a basis of them.

A map is `1/2 rows C columns^T` (docs/method.md, An operator in few bytes). The singular values of rows and columns fall
fast, so few products of their singular vectors, the modes, carry every map of a size: that basis costs no picture a byte.
"""

import dataclasses
from typing import Any

import numpy as np

from engine.errors import OptionError
from engine.saliency.geometry import TILES, Geometry
from kernels.areas import areas

STORED_BITS = (4, 8)


@dataclasses.dataclass(frozen=True, eq=False)
class MapModes:
    """M orthonormal modes of the maps of one size: products of a singular vector of the rows and one of the columns.

    down: (H, p), across: (W, p) float64, singular vectors; row, column: (M,) int, those of each mode
    to_rows, to_columns: (p, T) float64, from the coefficients of tiles, or of tokens, to the singular vectors
    centred: see `Geometry`
    """

    down: np.ndarray
    across: np.ndarray
    row: np.ndarray
    column: np.ndarray
    to_rows: np.ndarray
    to_columns: np.ndarray
    centred: bool

    @classmethod
    def largest(cls, geometry: Geometry, count: int) -> "MapModes":
        """Return the `count` modes with the largest singular values. Raises OptionError for more than there are."""
        (down, s, rows), (across, t, columns) = (
            np.linalg.svd(m, full_matrices=False) for m in (geometry.rows, geometry.columns)
        )
        if not 1 <= count <= len(s) * len(t):
            raise OptionError(f"maps of this size have {len(s) * len(t)} modes, got {count}: keep 1 or more of them")
        kept = np.sort(np.argsort(-np.outer(s, t), axis=None, kind="stable")[:count])
        row, column = np.divmod(kept, len(t))
        p, q = row.max() + 1, column.max() + 1
        to_rows, to_columns = (s[:, None] * rows)[:p], (t[:, None] * columns)[:q]
        return cls(down[:, :p], across[:, :q], row, column, to_rows, to_columns, geometry.centred)

    def __len__(self) -> int:
        return len(self.row)

    def of_weights(self, weights: np.ndarray) -> np.ndarray:
        """(T*T, F) coefficients of tiles or tokens, per feature -> (M, F) float64 coefficients of the modes."""
        if self.centred:
            weights = weights - weights.mean(0)
        tiles = weights.reshape(self.to_rows.shape[1], self.to_columns.shape[1], -1)
        rows = np.tensordot(self.to_rows, tiles, 1)  # (p, T, F)
        return 0.5 * np.matmul(self.to_columns, rows)[self.row, self.column]

    def tile_form(self) -> np.ndarray:
        """Return the form (M, M) float64: `c^T form c` is the variance of the tile means of the map with coefficients c."""
        modes = self.shown_at(TILES, TILES)
        tiles = (modes.down[:, None, modes.row] * modes.across[None, :, modes.column]).reshape(TILES**2, -1)
        tiles -= tiles.mean(0)
        return tiles.T @ tiles / TILES**2

    def shown_at(self, height: int, width: int) -> "MapModes":
        """Return the modes averaged over height x width equal areas: their maps are so many numbers."""
        down, across = areas(len(self.down), height) @ self.down, areas(len(self.across), width) @ self.across
        return dataclasses.replace(self, down=down, across=across)

    def correlations(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the Pearson correlations (R,) float64 of two sets of maps given by their coefficients (R, M); 0 for a
        constant map. The modes are orthonormal over the pixels, so no map is drawn.
        """
        pixels = len(self.down) * len(self.across)
        means = self.down.mean(0)[self.row] * self.across.mean(0)[self.column]

        def covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return (a * b).sum(1, dtype=np.float64) - pixels * (a @ means) * (b @ means)

        size = np.sqrt(np.maximum(covariance(first, first) * covariance(second, second), 0))
        return np.divide(covariance(first, second), size, out=np.zeros(len(first)), where=size > 0)

    def maps(self, coefficients: np.ndarray) -> np.ndarray:
        """(R, M) coefficients of the modes -> (R, H, W) float32 maps."""
        full = np.zeros((len(coefficients), self.down.shape[1], self.across.shape[1]), np.float32)
        full[:, self.row, self.column] = coefficients
        down, across = self.down.astype(np.float32), self.across.astype(np.float32)
        maps: np.ndarray = np.matmul(np.matmul(down, full), across.T)
        return maps - maps.mean((1, 2), keepdims=True) if self.centred else maps


@dataclasses.dataclass(frozen=True)
class OperatorFormat:
    """How operators are stored.

    modes: M of the maps; basis: columns r of the references' basis, 0: none, the features themselves
    bits: of a number, 4 or 8; rest: rank of what the basis leaves out, 0: it is dropped

    Raises OptionError for numbers that mean nothing.
    """

    modes: int
    basis: int
    bits: int
    rest: int = 0

    def __post_init__(self) -> None:
        if (
            not 1 <= self.modes <= TILES**2
            or self.basis < 0
            or not 0 <= self.rest <= self.modes
            or self.bits not in STORED_BITS
        ):
            raise OptionError(f"a format needs 1 to {TILES**2} modes, a rest of 0 to as many, and 4 or 8 bits; got {self}")

    def columns(self, features: int) -> int:
        """Return the columns of the stored matrix, for operators on so many features."""
        return self.basis or features

    def dtype(self, features: int) -> np.dtype[np.void]:
        """Return the record of one operator on so many features."""
        m, r, k = self.modes, self.columns(features), self.rest
        numbers = (np.int8, (m, r)) if self.bits == 8 else (np.uint8, ((m * r + 1) // 2,))
        fields: list[Any] = [("unit", "<f4"), ("scales", "<f2", (m,)), ("numbers", *numbers)]
        if k:
            fields += [("left", np.int8, (m, k)), ("right", np.int8, (k, features)), ("rest_scales", "<f2", (2, k))]
        return np.dtype(fields)


def encoded(matrix: np.ndarray, basis: np.ndarray | None, kept: OperatorFormat) -> np.ndarray:
    """Return an operator as one record, () of `OperatorFormat.dtype`.

    matrix: (M, F) float; basis: (F, r) float with orthonormal columns, None where the format has none
    """
    features = matrix.shape[1]
    record = np.zeros((), kept.dtype(features))
    inside = matrix if basis is None else matrix @ basis
    unit = np.float32(np.abs(inside).max(initial=0) or 1.0)
    levels = 2 ** (kept.bits - 1) - 1
    scales = _scales(inside / unit, levels)
    numbers = np.clip(np.rint(inside / (unit * scales[:, None])), -levels, levels).astype(np.int8)
    record["unit"], record["scales"] = unit, scales
    record["numbers"] = numbers if kept.bits == 8 else _packed(numbers)
    if kept.rest:
        restored = numbers * (scales[:, None] * unit)
        # what the rounding left out is part of the rest
        left, s, right = np.linalg.svd(matrix - (restored if basis is None else restored @ basis.T), full_matrices=False)
        roots = np.sqrt(s[: kept.rest] / unit)
        for i, part in enumerate((left[:, : kept.rest].T * roots[:, None], right[: kept.rest] * roots[:, None])):
            own = _scales(part, 127)
            record["rest_scales"][i] = own
            rounded = np.clip(np.rint(part / own[:, None]), -127, 127).astype(np.int8)
            record[("left", "right")[i]] = rounded if i else rounded.T
    return record


@dataclasses.dataclass(frozen=True, eq=False)
class Operators:
    """n operators as they were read back.

    inside: (n, M, r) float32, in the basis; left: (n, M, k), right: (n, k, F) float32, the rest; None: it was dropped
    """

    inside: np.ndarray
    left: np.ndarray | None
    right: np.ndarray | None

    @classmethod
    def decoded(cls, records: np.ndarray, kept: OperatorFormat, features: int) -> "Operators":
        """Make from records (n,), `encoded` in this format, of operators on so many features."""
        unit, shape = records["unit"][:, None, None], (len(records), kept.modes, kept.columns(features))
        numbers = records["numbers"] if kept.bits == 8 else _unpacked(records["numbers"], shape)
        inside = numbers * (records["scales"].astype(np.float32)[:, :, None] * unit)
        if not kept.rest:
            return cls(inside, None, None)
        left_scales, right_scales = np.moveaxis(records["rest_scales"].astype(np.float32), 1, 0)
        left = records["left"] * (left_scales[:, None, :] * unit)
        return cls(inside, left, records["right"] * right_scales[:, :, None])

    def coefficients(self, features: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Return the modes' coefficients, (n, M) or (R, M) float32, of operator i against reference i; one of either side
        goes with all of the other.

        features: (n, F) float32; inside: (n, r), the same in the basis
        """
        found = np.matmul(self.inside, inside[:, :, None])
        if self.left is not None and self.right is not None:
            found = found + np.matmul(self.left, np.matmul(self.right, features[:, :, None]))
        return found[:, :, 0]

    def matrices(self, basis: np.ndarray | None) -> np.ndarray:
        """Return the operators on the features themselves, (n, M, F) float32. basis: (F, r) or None, as they were encoded"""
        whole = self.inside if basis is None else self.inside @ basis.T
        return whole if self.left is None or self.right is None else whole + self.left @ self.right


def _scales(rows: np.ndarray, levels: int) -> np.ndarray:
    """Return the float16 step of each row (n,), rounded up a little so that no number exceeds the levels."""
    steps = np.abs(rows).max(1) / levels * 1.001
    return np.maximum(steps, np.finfo(np.float16).tiny).astype(np.float16).astype(np.float32)


def _packed(numbers: np.ndarray) -> np.ndarray:
    """(M, r) int8 in -7..7 -> two to a byte, (ceil(M r / 2),) uint8, the first one low."""
    flat = (numbers.ravel() + 8).astype(np.uint8)
    flat = np.append(flat, np.uint8(8)) if len(flat) % 2 else flat
    return flat[::2] | flat[1::2] << 4


def _unpacked(packed: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """(n, bytes) uint8 -> (n, M, r) int8, the reverse of `_packed`."""
    both = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
    return both[:, : shape[1] * shape[2]].reshape(shape).astype(np.int8) - np.int8(8)
