"""The linear forms against similarities written out pair by pair."""

import numpy as np
import pytest

from engine.saliency.similarity import METRICS, query_features, reference_features


def slow(a: np.ndarray, b: np.ndarray, metric: str, weights: np.ndarray | None) -> float:
    if weights is not None:
        a, b = a * np.maximum(weights, 0), b * np.maximum(weights, 0)
    if metric == "cosine":
        return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-8))
    return float(a @ b) if metric == "dot" else -float(np.sum((a - b) ** 2))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("conditioned", [False, True])
def test_linear_forms_equal_the_pairwise_similarity(metric: str, conditioned: bool) -> None:
    random = np.random.default_rng(3)
    # far from the origin, so that the squared distance is a small difference of large numbers
    a, b = (random.normal(100, 1, (n, 8)) for n in (5, 3))
    weights = random.normal(size=8) if conditioned else None
    got = query_features(a, metric, weights) @ reference_features(b, metric, weights).T
    expected = [[slow(x, y, metric, weights) for y in b] for x in a]
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_a_zero_vector_has_cosine_zero() -> None:
    zero, other = np.zeros((1, 4)), np.ones((1, 4))
    assert (query_features(zero, "cosine", None) @ reference_features(other, "cosine", None).T).item() == 0
    assert (query_features(other, "cosine", None) @ reference_features(zero, "cosine", None).T).item() == 0
    assert (query_features(other, "cosine", -np.ones(4)) @ reference_features(other, "cosine", None).T).item() == 0
