"""Work on a large picture a band of rows at a time, so that intermediate results stay small."""

from collections.abc import Callable

import numpy as np
from PIL import Image

BAND = 2**16
"""Pixels of a band, if one row has no more."""


def in_bands(picture: Image.Image, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return a picture as RGB. change: makes RGB of each band, pixel by pixel"""
    changed, rows = Image.new("RGB", picture.size), max(BAND // picture.width, 1)
    for top in range(0, picture.height, rows):
        box = (0, top, picture.width, min(top + rows, picture.height))
        changed.paste(change(picture.crop(box)), box)
    return changed


def rows_of(picture: Image.Image, wanted: np.ndarray) -> np.ndarray:
    """Return some rows of an RGB picture, (n, W, 3) uint8. wanted: (n,) whole numbers, rising"""
    found, rows = np.empty((len(wanted), picture.width, 3), np.uint8), max(BAND // picture.width, 1)
    for top in range(0, picture.height, rows):
        first, end = np.searchsorted(wanted, (top, top + rows))
        if first < end:
            band = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
            found[first:end] = np.asarray(band)[wanted[first:end] - top]
    return found
