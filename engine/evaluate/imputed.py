"""Pictures without some of their pixels: in one colour, or imputed from their neighbours (docs/method.md, Sanity checks)."""

import numpy as np

IMPUTED_NOISE = 0.01
"""Standard deviation of the noise on imputed pixels, as a share of the range 0..255."""
WHOLE = 12
"""A pixel's four neighbours beside it weigh 2 twelfths, the four at its corners 1; at a border some are missing."""
RESIDUAL = 0.003
"""Levels, root mean square: with it, mean errors are below a level up to 224 x 224 pixels, where float32 is enough."""


def imputed(pixels: np.ndarray, removed: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the picture with each removed pixel at the weighted mean of its neighbours, removed ones among them, and noise.

    pixels: (H, W, 3) uint8; removed: (H, W) bool, not all True; noise: (H, W, 3) float, in levels, added where removed
    The result is (H, W, 3) uint8. The equations of all removed pixels together are solved by conjugate gradients.
    """
    gone = removed[..., None]
    shown = pixels.astype(np.float32)
    weights = _neighbours(np.ones((*removed.shape, 1), np.float32))
    found = np.where(gone, shown[~removed].mean(0), shown)
    residual = np.where(gone, _neighbours(found) - weights * found, 0)
    step, length = residual, float((residual**2).sum())
    enough = RESIDUAL**2 * 3 * int(removed.sum())
    for _ in range(residual.size):  # where conjugate gradients end at the latest; far fewer are needed
        if length <= enough:
            break
        image = np.where(gone, weights * step - _neighbours(step), 0)
        share = length / float((step * image).sum())
        found, residual = found + share * step, residual - share * image
        length, before = float((residual**2).sum()), length
        step = residual + length / before * step
    return np.clip(np.rint(np.where(gone, found + noise, shown)), 0, 255).astype(np.uint8)


def painted(pixels: np.ndarray, removed: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return the picture (H, W, 3) uint8 with removed pixels in one colour. removed: (H, W) bool; colour: (3,) uint8"""
    return np.where(removed[..., None], colour, pixels)


def _neighbours(values: np.ndarray) -> np.ndarray:
    """(H, W, C) -> the same: for each pixel the weighted sum of its neighbours; outside the picture is nothing."""
    rows = np.pad(values, ((1, 1), (1, 1), (0, 0)))
    rows = rows[:-2] + 2 * rows[1:-1] + rows[2:]
    return (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] - 4 * values) / WHOLE
