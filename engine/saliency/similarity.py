"""Similarities as products of a query's and a reference's features, so that one query's passes serve every reference.

The metrics (docs/method.md, Similarity): cosine (a zero vector has similarity 0), dot product, negative squared Euclidean
distance. Under condition c, embeddings are first multiplied by relu(w_c).
"""

import numpy as np

METRICS = ("cosine", "dot", "euclidean")
EPSILON = 1e-12


def query_features(embeddings: np.ndarray, metric: str, weights: np.ndarray | None) -> np.ndarray:
    """(N, D) embeddings -> (N, F) float64 features, such that `features @ reference_features(r).T` is the similarity to r.

    metric: one of METRICS; weights: (D,), the condition's, before relu, or None
    float64, because the squared distance subtracts large numbers.
    """
    e = _conditioned(embeddings, weights)
    if metric == "cosine":
        return _unit(e)
    if metric == "dot":
        return e
    # -|a - b|^2 = 2 <a, b> - |b|^2 - |a|^2
    return np.concatenate([e, np.ones_like(e[:, :1]), _squared(e)], axis=1)


def reference_features(embeddings: np.ndarray, metric: str, weights: np.ndarray | None) -> np.ndarray:
    """(R, D) embeddings -> (R, F) float64 features, the other factor of the similarity. See `query_features`."""
    e = _conditioned(embeddings, weights)
    if metric == "cosine":
        return _unit(e)
    if metric == "dot":
        return e
    return np.concatenate([2 * e, -_squared(e), -np.ones_like(e[:, :1])], axis=1)


def _conditioned(embeddings: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    e = embeddings.astype(np.float64)
    return e if weights is None else e * np.maximum(weights, 0)


def _squared(vectors: np.ndarray) -> np.ndarray:
    return np.sum(np.square(vectors), axis=1, keepdims=True)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.sqrt(_squared(vectors)), EPSILON)
