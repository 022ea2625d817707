"""Which region of one picture matches which region of the other (SANE.md, Region-to-region correspondence; ours)."""

import numpy as np

SMALLEST_HALF = 2
"""Masks in each half, on each side, below which a half says nothing."""


def correspondence(
    query_tiles: np.ndarray, query_features: np.ndarray, reference_tiles: np.ndarray, reference_features: np.ndarray
) -> np.ndarray:
    """`C = J Phi_q^T E_q E_r^T Phi_r J`: (Tq, Tr) float32, larger where showing both tiles raises the similarity more.

    query_tiles (N, Tq), reference_tiles (K, Tr): each mask averaged over tiles; query_features (N, F),
    reference_features (K, F) float64: linear forms whose product is the similarity. Columns of the tiles are centred here;
    J removes row and column means, so that a tile that matters to everything does not win everywhere.
    """
    query = (query_tiles - query_tiles.mean(0)).T @ query_features  # (Tq, F)
    reference = (reference_tiles - reference_tiles.mean(0)).T @ reference_features  # (Tr, F)
    raw = query @ reference.T
    return (raw - raw.mean(0) - raw.mean(1, keepdims=True) + raw.mean()).astype(np.float32)


def reliability(
    query_tiles: np.ndarray, query_features: np.ndarray, reference_tiles: np.ndarray, reference_features: np.ndarray
) -> float | None:
    """Split-half reliability: correlation of the correspondence of even masks with that of odd ones.

    None where there are too few masks for two halves. Pictures masked with one seed, as mode "both" does, share their masks,
    which flatters it where there are few.
    """
    if min(len(query_tiles), len(reference_tiles)) < 2 * SMALLEST_HALF:
        return None
    even, odd = (
        correspondence(query_tiles[i::2], query_features[i::2], reference_tiles[i::2], reference_features[i::2]).ravel()
        for i in (0, 1)
    )
    norms = float(np.linalg.norm(even) * np.linalg.norm(odd))  # both have mean 0 already
    return float(even @ odd) / norms if norms > 0 else 0.0
