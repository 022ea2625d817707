"""Means over equal parts of a picture."""

import functools

import numpy as np


@functools.lru_cache(maxsize=64)
def areas(length: int, parts: int) -> np.ndarray:
    """Return each pixel's share in the mean of each of `parts` equal parts of an axis: (parts, length) float64, read-only.

    A pixel that lies in two parts is divided in proportion.
    """
    edges = np.arange(parts + 1) * (length / parts)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares = np.clip(overlap, 0, None) * (parts / length)
    shares.flags.writeable = False
    return shares
