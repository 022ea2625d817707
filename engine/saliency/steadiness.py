"""How far a map can be trusted, in words."""

import numpy as np

from kernels.areas import areas

STEADY, FAIRLY_STEADY = 0.95, 0.85
"""Least reliability of a map that is called so."""
STANDS_OUT = 4.0
"""Least ratio of the largest tile to its standard error: of 256 tiles of pure noise, one reaches 3."""
FAINT_BELOW = 0.5
"""A map is faint if its largest value is below this share of its partner's: what matters there is large, or there twice."""
NOTHING_STANDS_OUT = "flat: no part stands out from its error"
FLAT_MAP = "flat: 0 everywhere"
FAINT = "faint: no part matters alone"


def steadiness(
    saliency: np.ndarray, error: np.ndarray | None, reliability: float | None, partner: np.ndarray | None = None
) -> str | None:
    """Return how far a map can be trusted; None where nothing tells. A map of zeros says nothing.

    saliency: (H, W) float32; error: (T, T) float32, standard errors of its tile means; reliability: see `Estimate`
    partner: (H, W) float32, the map of the other picture if there is one
    """
    if not saliency.any():
        return FLAT_MAP
    if error is None or reliability is None:
        return None
    down, across = (areas(length, len(error)) for length in saliency.shape)
    tiles = np.abs(down @ saliency @ across.T)
    if not (tiles >= STANDS_OUT * error).any():
        return NOTHING_STANDS_OUT
    if partner is not None and np.abs(saliency).max() < FAINT_BELOW * np.abs(partner).max():
        return f"{FAINT} ({reliability:.2f})"
    if reliability >= STEADY:
        return f"steady ({reliability:.2f})"
    if reliability >= FAIRLY_STEADY:
        return f"fairly steady ({reliability:.2f})"
    return f"rough ({reliability:.2f}): more passes would change it"
