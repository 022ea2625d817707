"""Which regions match: a few links between the two pictures, each with its own reliability (docs/method.md, Links)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from engine.saliency.correspondence import correlation_of_centred, double_centred

Region = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""

MOST_LINKS = 4
"""More links than these are not read."""
LEAST_AGREEMENT = 0.35
"""Least cosine of what two linked tiles do to the embedding."""
TIMES_CHANCE = 2.0
"""Least cosine of two linked tiles, in multiples of that of tiles far apart in the same picture."""
LEAST_GAIN = -0.1
"""Least cosine-like gain of showing both pictures: below it they do not match, and so their regions do not either."""
LEAST_RELIABILITY = 0.3
"""Least reliability of a link."""
WEAKEST = 0.4
"""Least strength of a link, as a share of the strongest entry."""
REGION_SHARE = 0.85
"""A tile next to a linked one belongs to the region if its entry is at least this share of the linked one's."""
FAR = 3
"""Tiles are far apart if 1 / FAR of the picture lies between them."""
CARRIED = 0.5
"""Least split-half reliability of a finer grid of tiles."""
NO_VARIATION = 1e-9
"""A column that varies by less than this share of the largest is constant but for rounding."""


@dataclasses.dataclass(frozen=True)
class Link:
    """A region of the query and a region of the reference that match.

    query_box, reference_box: (left, top, right, bottom) in pixels of the pictures as the network saw them
    strength: by how much more showing both raises the similarity than either does with the rest, in the correspondence's
        units; reliability: agreement of two halves of the masks about it, 0 to 1
    """

    query_box: Region
    reference_box: Region
    strength: float
    reliability: float


@dataclasses.dataclass(frozen=True, eq=False)
class Effects:
    """What showing a picture, and each of its tiles, does to its factor of the similarity.

    tiles: (T, F) from all masks, then from each half of them; whole: (F,), of the whole picture
    masked: (F,), the mean over its masks
    """

    tiles: Sequence[np.ndarray]
    whole: np.ndarray
    masked: np.ndarray


def find_links(query: Sequence[Effects], reference: Sequence[Effects], size: tuple[int, int]) -> tuple[Link, ...]:
    """Return up to MOST_LINKS links, the strongest first; none where nothing matches reliably, or without halves.

    query, reference: by grids of tiles, the finest first: the first is taken whose halves agree, else the last
    size: (H, W) of both pictures in pixels
    """
    found: _Matches | None = None
    for own, other in zip(query, reference, strict=True):
        found = _Matches.of(own, other)
        if found is None or correlation_of_centred(*found.halves) >= CARRIED:
            break
    return () if found is None else found.links(size)


@dataclasses.dataclass(frozen=True, eq=False)
class _Matches:
    """All pairs of tiles (Tq, Tr). strength: the correspondence; halves: the same of a half of the query's masks with the
    other half of the reference's, so that masks that both pictures share say nothing; allowed: which may be links
    """

    strength: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]
    allowed: np.ndarray

    @classmethod
    def of(cls, query: Effects, reference: Effects) -> "_Matches | None":
        if len(query.tiles) < 3 or len(reference.tiles) < 3:
            return None
        (q, first_q, second_q), (r, first_r, second_r) = query.tiles, reference.tiles
        strength = double_centred(q @ r.T)
        halves = double_centred(first_q @ second_r.T), double_centred(second_q @ first_r.T)
        noise = np.sqrt(np.square(halves[0] - halves[1]).mean()) / 2
        allowed = strength > noise * np.sqrt(2 * np.log(strength.size))  # the largest of so many normal errors
        allowed &= _reliabilities(halves) >= LEAST_RELIABILITY
        allowed &= _agree(query, reference, strength)
        return cls(strength, halves, allowed)

    def links(self, size: tuple[int, int]) -> tuple[Link, ...]:
        """Return the strongest entries; each takes its regions out of both pictures."""
        sides = [round(np.sqrt(count)) for count in self.strength.shape]
        free_q, free_r = (np.ones(count, bool) for count in self.strength.shape)
        reliabilities, least = _reliabilities(self.halves), WEAKEST * self.strength.max()
        found: list[Link] = []
        while len(found) < MOST_LINKS:
            left = np.where(self.allowed & free_q[:, None] & free_r, self.strength, -np.inf)
            i, j = np.unravel_index(left.argmax(), left.shape)
            if left[i, j] < least:  # as -inf is
                break
            region_q = _region(np.where(free_q, self.strength[:, j], -np.inf), int(i), sides[0])
            region_r = _region(np.where(free_r, self.strength[i], -np.inf), int(j), sides[1])
            boxes = _box(region_q, size), _box(region_r, size)
            found.append(Link(*boxes, float(self.strength[i, j]), float(reliabilities[i, j])))
            free_q &= ~region_q.ravel()
            free_r &= ~region_r.ravel()
        return tuple(found)


def _reliabilities(halves: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return twice the smaller half over the sum of both, 0 where one is not positive: (Tq, Tr)."""
    small, large = np.minimum(*halves), np.maximum(*halves)
    return np.divide(2 * small, small + large, out=np.zeros_like(small), where=small > 0)


def _agree(query: Effects, reference: Effects, strength: np.ndarray) -> np.ndarray:
    """Return which tiles do alike to the embedding, more than by chance: (Tq, Tr) bool; none if the pictures do not match.

    A large entry may be the product of two large effects that share little. Unrelated pictures have many of those.
    """
    columns = _shared(query.tiles[0], reference.tiles[0])
    q, r = (effects.tiles[0][:, columns] - effects.tiles[0][:, columns].mean(0) for effects in (query, reference))
    shown_q, shown_r = ((effects.whole - effects.masked)[columns] for effects in (query, reference))
    gain = query.whole @ reference.whole - query.masked @ reference.masked
    if gain < LEAST_GAIN * np.linalg.norm(shown_q) * np.linalg.norm(shown_r):
        return np.zeros(strength.shape, bool)
    norms = np.outer(np.linalg.norm(q, axis=1), np.linalg.norm(r, axis=1))
    least = max(LEAST_AGREEMENT, TIMES_CHANCE * np.sqrt(_chance(q) * _chance(r)))
    return np.asarray((norms > 0) & (strength >= least * norms))


def _shared(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the columns (F,) bool that vary in both pictures: distances add columns that are constant in one of them."""
    varied = [np.ptp(effects, axis=0) for effects in (query, reference)]
    return np.logical_and(*(v > NO_VARIATION * v.max(initial=0) for v in varied))


def _chance(effects: np.ndarray) -> float:
    """Return the root mean square cosine of tiles (T, F) far apart in one picture, each pair weighted by its size."""
    side = round(np.sqrt(len(effects)))
    row, column = np.divmod(np.arange(len(effects)), side)
    apart = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column)) >= side / FAR
    products, norms = effects @ effects.T, np.linalg.norm(effects, axis=1)
    largest = np.square(np.outer(norms, norms)[apart]).sum()
    return float(np.sqrt(np.square(products[apart]).sum() / largest)) if largest > 0 else 1.0


def _region(values: np.ndarray, peak: int, side: int) -> np.ndarray:
    """Return the rectangle of a tile and of those beside it that belong to its region: (side, side) bool.

    values: (side * side,), -inf for tiles of other regions
    """
    grid, (row, column) = values.reshape(side, side), divmod(peak, side)
    rows, columns = [row, row + 1], [column, column + 1]
    for step in (-1, 1):
        if 0 <= row + step < side and grid[row + step, column] >= REGION_SHARE * values[peak]:
            rows = [min(rows[0], row + step), max(rows[1], row + step + 1)]
    for step in (-1, 1):
        beside = grid[rows[0] : rows[1], column + step] if 0 <= column + step < side else np.array([-np.inf])
        if grid[row, (column + step) % side] >= REGION_SHARE * values[peak] and np.isfinite(beside).all():
            columns = [min(columns[0], column + step), max(columns[1], column + step + 1)]
    region = np.zeros((side, side), bool)
    region[rows[0] : rows[1], columns[0] : columns[1]] = True
    return region


def _box(region: np.ndarray, size: tuple[int, int]) -> Region:
    """Return the box around a region (side, side) bool, in pixels."""
    (down, across), (rows, columns) = (length / len(region) for length in size), np.nonzero(region)
    edges = columns.min() * across, rows.min() * down, (columns.max() + 1) * across, (rows.max() + 1) * down
    left, top, right, bottom = (float(edge) for edge in edges)
    return left, top, right, bottom
