"""Bring the map of what a network saw back to the original picture."""

import math

import numpy as np


def map_on_original(saliency: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """Return a map over the original picture, (H0, W0) float32, bilinear from the network's grid; NaN outside the box.

    saliency: (H, W) float32; box: what it shows of the original, (left, top, right, bottom) in pixels, may reach outside
    size: (width, height) of the original
    """
    left, top, right, bottom = seen_part(box, size)
    rows, down = _taps(box[1], box[3], saliency.shape[0], top, bottom)  # (h,)
    columns, across = _taps(box[0], box[2], saliency.shape[1], left, right)  # (w,)
    narrow = _between(saliency[:, columns], saliency[:, _after(columns, saliency.shape[1])], across)  # (H, w)
    found = np.full((size[1], size[0]), np.nan, np.float32)
    found[top:bottom, left:right] = _between(narrow[rows], narrow[_after(rows, saliency.shape[0])], down[:, None])
    return found


def seen_part(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the pixels whose centres are in the box, at least one: (left, top, right, bottom), the last two excluded."""
    (left, right), (top, bottom) = (_pixels(*side) for side in ((box[0], box[2], size[0]), (box[1], box[3], size[1])))
    return left, top, right, bottom


def _pixels(start: float, end: float, count: int) -> tuple[int, int]:
    """Return the same along one side of `count` pixels."""
    first, stop = (min(max(math.ceil(edge - 0.5), 0), count) for edge in (start, end))
    if first < stop:
        return first, stop
    first = min(max(math.floor((start + end) / 2), 0), count - 1)  # a box between two centres
    return first, first + 1


def _taps(start: float, end: float, cells: int, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for pixels first..stop which of `cells` comes before each, and the weight of the next one, float32.

    start, end: the edges of all cells together, in the same pixels
    """
    centres = (np.arange(first, stop) + 0.5 - start) * (cells / (end - start)) - 0.5
    centres = np.clip(centres, 0, cells - 1)
    before = centres.astype(np.int64)
    return before, (centres - before).astype(np.float32)


def _after(indices: np.ndarray, count: int) -> np.ndarray:
    return np.minimum(indices + 1, count - 1)


def _between(low: np.ndarray, high: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return low + weight * (high - low): exactly `low` where both are equal."""
    return low + weight * (high - low)
