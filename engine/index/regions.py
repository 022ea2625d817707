"""Where maps lie: regions of pictures that are aligned with each other, and the plain background of one picture."""

import functools

import numpy as np

from kernels.areas import areas

REGION_SIDE = 32
"""Sides of the maps whose regions are compared."""
FINE = 64
"""Sides of the reduced pictures in which a background is looked for."""
BORDER, CENTRE, BACKGROUND = "border", "centre", "background"
PLAIN_LEVELS, PLAIN_EDGE = 24, 0.6
"""A pixel is plain within so many levels of the edge's median colour; a background is one where so much of the edge
is."""


@functools.cache
def regions() -> dict[str, np.ndarray]:
    """Return the regions by name, (S, S) bool with S = REGION_SIDE: edges an eighth, corners a quarter, the centre half."""
    y, x = np.mgrid[:REGION_SIDE, :REGION_SIDE]
    edge, corner, inner = REGION_SIDE // 8, REGION_SIDE // 4, REGION_SIDE // 4
    sides = {
        "top": y < edge,
        "bottom": y >= REGION_SIDE - edge,
        "left": x < edge,
        "right": x >= REGION_SIDE - edge,
    }
    found = {BORDER: np.logical_or.reduce(list(sides.values()))}
    found |= {f"{name} edge": cells for name, cells in sides.items()}
    for down, rows in (("top", y < corner), ("bottom", y >= REGION_SIDE - corner)):
        for across, columns in (("left", x < corner), ("right", x >= REGION_SIDE - corner)):
            found[f"{down} {across} corner"] = rows & columns
    found[CENTRE] = (y >= inner) & (y < REGION_SIDE - inner) & (x >= inner) & (x < REGION_SIDE - inner)
    return found


def reduced(pixels: np.ndarray) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 averaged over FINE x FINE equal areas, float64 in [0, 255]."""
    down, across = areas(pixels.shape[0], FINE), areas(pixels.shape[1], FINE)
    rows = np.tensordot(down, pixels, 1)  # (FINE, W, 3)
    return np.einsum("pwc,qw->pqc", rows, across, optimize=True)


def background(small: np.ndarray) -> np.ndarray | None:
    """Return how much of each cell is plain background that reaches the edge, (REGION_SIDE, REGION_SIDE) float64 in [0, 1].

    small: as `reduced` returned it; None for a picture whose edge is not of one colour
    """
    edge = np.ones((FINE, FINE), bool)
    edge[1:-1, 1:-1] = False
    plain = np.abs(small - np.median(small[edge], axis=0)).max(2) <= PLAIN_LEVELS
    if plain[edge].mean() < PLAIN_EDGE:
        return None
    reached = plain & edge
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= plain
        if (grown == reached).all():
            return areas(FINE, REGION_SIDE) @ grown @ areas(FINE, REGION_SIDE).T
        reached = grown


def density(maps: np.ndarray) -> np.ndarray | None:
    """Return how much what raises the similarity lies at each place, the mean over maps: (S, S) float64, mean 1.

    maps: (n, REGION_SIDE, REGION_SIDE) float; None where nothing raises it
    """
    raising = np.maximum(maps.astype(np.float64), 0)
    sums = raising.mean((1, 2))
    return (raising[sums > 0] / sums[sums > 0, None, None]).mean(0) if (sums > 0).any() else None
