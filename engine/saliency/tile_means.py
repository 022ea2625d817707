"""A map in few numbers: its means over tiles."""

import numpy as np

from engine.saliency.geometry import TILES
from kernels.areas import areas


def tile_means(saliency: np.ndarray) -> np.ndarray:
    """Means (16, 16) float64 of a map (H, W) over equal tiles."""
    height, width = saliency.shape
    means: np.ndarray = areas(height, TILES) @ saliency @ areas(width, TILES).T
    return means
