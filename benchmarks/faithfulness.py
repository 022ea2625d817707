"""Insertion, deletion and pointing (SANE.md, Evaluation; pointing: the map's peak lies on the object)."""

from collections.abc import Callable

import numpy as np

STEPS = 101
BATCH = 64


def curves(pixels: np.ndarray, saliency: np.ndarray, similarity: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """Areas under insertion and deletion, on white, scores scaled by the lowest and the highest of each curve.

    pixels: (S, S, 3) uint8; saliency: (S, S); similarity: (n, S, S, 3) uint8 -> (n,)
    """
    count = saliency.size
    order = np.argsort(-saliency.ravel(), kind="stable")
    rank = np.empty(count, int)
    rank[order] = np.arange(count)
    shown = np.maximum(np.round(np.linspace(0, 1, STEPS) * count), 1).astype(int)
    top = rank.reshape(saliency.shape)[None] < shown[:, None, None]  # (STEPS, S, S)
    inserted = np.where(top[..., None], pixels, np.uint8(255))
    deleted = np.where(top[..., None], np.uint8(255), pixels)
    return _area(_scores(inserted, similarity)), _area(_scores(deleted, similarity))


def pointed(saliency: np.ndarray, truth: np.ndarray) -> bool:
    """Whether the most salient pixel lies on the object: saliency (S, S), truth (S, S) bool."""
    return bool(truth.ravel()[np.argmax(saliency)])


def _scores(rows: np.ndarray, similarity: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([similarity(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)])


def _area(scores: np.ndarray) -> float:
    shifted = scores - scores.min()
    highest = shifted.max()
    return float(np.trapezoid(shifted / highest, dx=1 / (len(scores) - 1))) if highest > 0 else 0.0
