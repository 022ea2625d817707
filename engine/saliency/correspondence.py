"""Which region of one picture matches which region of the other (docs/method.md, Correspondence; our own method)."""

from collections.abc import Sequence

import numpy as np


def tile_features(tiles: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return `(Phi - mean)^T E`: (T, F).

    tiles: (N, T), means of each mask over tiles; features: (N, F), one factor of the similarity
    """
    return (tiles - tiles.mean(0)).T @ features


def correspondence(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return `C = J Phi_q^T E_q E_r^T Phi_r J`: (Tq, Tr) float32, larger if showing both tiles raises the similarity more.

    query: (Tq, F), reference: (Tr, F): the effect of showing each tile on the two factors of the similarity, from
    `tile_features` or a regression. J removes the means of rows and columns: otherwise a tile that matters to everything
    would be the best match everywhere.
    """
    return double_centred(query @ reference.T).astype(np.float32)


def double_centred(matrix: np.ndarray) -> np.ndarray:
    """Return `J C J`: a matrix (Tq, Tr) less the means of its rows and columns."""
    return np.asarray(matrix - matrix.mean(0) - matrix.mean(1, keepdims=True) + matrix.mean())


def split_half_reliability(queries: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> float | None:
    """Return the correlation between the correspondences of the two halves of the masks; None if there are no halves.

    queries, references: (T, F) of each half, as `correspondence` takes them
    In mode "both" the two pictures share one seed and so their masks; with few masks, this makes the value too high.
    """
    if not queries or not references:
        return None
    first, second = (correspondence(q, r) for q, r in zip(queries, references, strict=True))
    return correlation_of_centred(first, second)


def correlation_of_centred(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two matrices (Tq, Tr) whose means are 0 already; 0 where one has no variation."""
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first.ravel() @ second.ravel()) / norms if norms > 0 else 0.0
