"""What the demo networks reach on emoji they were not trained on, as numbers and as a model card."""

from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from training.emoji_data import EmojiPair

FLAGS = "Flags"
RELIABILITY_BINS = 10


def retrieval(data: EmojiPair, noto: np.ndarray, twemoji: np.ndarray) -> dict[str, float]:
    """Recall at 1 and 5: each held-out Noto picture against the Twemoji of all base emoji.

    noto, twemoji: (B, D) embeddings, compared by cosine. Emoji that share the query's very drawing are not counted
    against it.
    """
    similarity = _unit(noto[data.held_out]) @ _unit(twemoji).T  # (held, B)
    positive = similarity[np.arange(len(data.held_out)), data.held_out]
    twins = data.same[data.held_out][:, None] == data.same[None]
    better = ((similarity > positive[:, None]) & ~twins).sum(1)
    result = {}
    for name, chosen in (("all", np.full(len(better), True)), ("without_flags", ~_flags(data)[data.held_out])):
        result |= {f"recall_at_{k}_{name}": float((better[chosen] < k).mean()) for k in (1, 5)}
    return result


def recognition(data: EmojiPair, confidences: np.ndarray) -> dict[str, Any]:
    """Mean average precision over the attributes, and how far confidences (B, A) are from probabilities, held out."""
    held = data.held_out
    result = {"map_all": mean_average_precision(data.truth[held], confidences[held])}
    rest = held[~_flags(data)[held]]
    result["map_without_flags"] = mean_average_precision(data.truth[rest], confidences[rest])
    return result | {"calibration_error": calibration_error(data.truth[held], confidences[held])}


def mean_average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Over the attributes that have a positive. truth (n, A) bool, scores (n, A)."""
    present = truth.any(0)
    return float(np.mean([average_precision_score(truth[:, j], scores[:, j]) for j in np.flatnonzero(present)]))


def calibration_error(truth: np.ndarray, confidences: np.ndarray) -> float:
    """Expected calibration error over ten equal bins (Guo et al. 2017, equation 3)."""
    bins = np.minimum((confidences * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    gaps = [
        abs(truth[bins == b].mean() - confidences[bins == b].mean()) * (bins == b).mean()
        for b in range(RELIABILITY_BINS)
        if (bins == b).any()
    ]
    return float(sum(gaps))


def precision_above(data: EmojiPair, confidences: np.ndarray, threshold: float) -> dict[str, float]:
    """Of the attributes named on held-out pictures the share that is true, and the share of pictures that get one."""
    truth, named = data.truth[data.held_out], confidences[data.held_out] >= threshold
    return {"named_true": float(truth[named].mean()), "pictures_with_a_name": float(named.any(1).mean())}


def _flags(data: EmojiPair) -> np.ndarray:
    flags: np.ndarray = data.truth[:, data.attributes.index(FLAGS)]
    return flags


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
