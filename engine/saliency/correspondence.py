"""Which region of one picture matches which region of the other (SANE.md, Region-to-region correspondence; ours)."""

from collections.abc import Sequence

import numpy as np


def tile_features(tiles: np.ndarray, features: np.ndarray) -> np.ndarray:
    """`(Phi - mean)^T E`: (T, F).

    tiles (N, T): means of each mask over tiles; features (N, F): one factor of the similarity
    """
    return (tiles - tiles.mean(0)).T @ features


def correspondence(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`C = J Phi_q^T E_q E_r^T Phi_r J`: (Tq, Tr) float32, larger where showing both tiles raises the similarity more.

    query (Tq, F), reference (Tr, F): what showing each tile does to the two factors of the similarity, as `tile_features`
    sums it or a regression estimates it. J removes row and column means, so that a tile that matters to everything does not
    win everywhere.
    """
    raw = query @ reference.T
    return (raw - raw.mean(0) - raw.mean(1, keepdims=True) + raw.mean()).astype(np.float32)


def split_half_reliability(queries: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> float | None:
    """Split-half reliability: correlation of the correspondence from one half of the masks with that from the other.

    queries, references: the halves' (T, F) each; None where either has none. Pictures masked with one seed, as mode "both"
    does, share their masks, which flatters it where there are few.
    """
    if not queries or not references:
        return None
    one, other = (correspondence(q, r).ravel() for q, r in zip(queries, references, strict=True))
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))  # both have mean 0 already
    return float(one @ other) / norms if norms > 0 else 0.0
