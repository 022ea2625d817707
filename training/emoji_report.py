"""What the demo networks reach on emoji they were not trained on, as numbers and as a model card."""

from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from training.emoji_data import EmojiPair

FLAGS = "Flags"
RELIABILITY_BINS = 10


def measure(
    data: EmojiPair,
    embeddings: dict[str, np.ndarray],
    confidences: dict[str, np.ndarray],
    shown: np.ndarray,
    threshold: float,
) -> dict[str, Any]:
    """Every figure of the model card.

    embeddings, confidences: by vendor, (B, D) and (B, A); shown: (A,) bool, the attributes the demo names
    """
    results: dict[str, Any] = {"retrieval": retrieval(data, embeddings["google"], embeddings["twitter"])}
    for vendor, c in confidences.items():
        named = precision_above(data.truth[data.held_out][:, shown], c[data.held_out][:, shown], threshold)
        results[vendor] = recognition(data, c) | named
    return results


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


def precision_above(truth: np.ndarray, confidences: np.ndarray, threshold: float) -> dict[str, float]:
    """Of the attributes named (n, A), the share that is true; and the share of pictures that get a name."""
    named = confidences >= threshold
    return {"named_true": float(truth[named].mean()), "pictures_with_a_name": float(named.any(1).mean())}


def model_card(results: dict[str, Any], data: EmojiPair, seconds: float, seed: int, threshold: float) -> str:
    """Markdown that ships inside the bundle."""
    found, noto, twemoji = results["retrieval"], results["google"], results["twitter"]

    def row(name: str, *values: float) -> str:
        return f"| {name} | " + " | ".join(f"{v:.3f}" for v in values) + " |"

    return "\n".join(
        [
            "# The emoji demo networks",
            "",
            "Made by `python -m training.emoji`, whose run folder holds these figures as `results.json`; "
            f"seed {seed}, {seconds / 60:.0f} minutes of training on a CPU.",
            "",
            "- **Similarity**: ResNet-18 to its third stage at width 32, mean over space, 64-d; 64 x 64 pixels,",
            "  ImageNet mean and std; cosine. Trained so that Google's (Noto) and Twitter's (Twemoji) drawings of one",
            "  emoji are alike.",
            f"- **Attributes**: the same trunk with SANE's head, {len(data.attributes)} words: tags, groups and subgroups",
            "  with at least 30 emoji. The demo names those it learned well. Scores are calibrated by subtracting the",
            f"  log of the loss's weight for positives; a word is named from confidence {threshold:g}.",
            "- **Data**: npm `emoji-datasource-google` 16.0.0 (Apache-2.0), `emoji-datasource-twitter` 16.0.0 (CC-BY 4.0),",
            f"  `emojibase-data` 17.0.0 (MIT). Of {len(data.base)} base emoji {len(data.held_out)}, drawn at random, were",
            "  held out with all their skin tones; every figure is on those.",
            "- **Meant for** showing the engine at work. It knows emoji and nothing else.",
            "",
            f"## Retrieval: a held-out Noto picture against all {len(data.base)} Twemoji",
            "",
            "Emoji that share the query's very drawing are not counted against it.",
            "",
            "| | all | without flags |",
            "| --- | --- | --- |",
            row("R@1", found["recall_at_1_all"], found["recall_at_1_without_flags"]),
            row("R@5", found["recall_at_5_all"], found["recall_at_5_without_flags"]),
            "",
            "## Attributes on held-out pictures",
            "",
            "| | Noto | Twemoji |",
            "| --- | --- | --- |",
            row(f"mAP, {len(data.attributes)} attributes", noto["map_all"], twemoji["map_all"]),
            row("mAP without flags", noto["map_without_flags"], twemoji["map_without_flags"]),
            row("expected calibration error", noto["calibration_error"], twemoji["calibration_error"]),
            row(f"named (confidence >= {threshold:g}): share true", noto["named_true"], twemoji["named_true"]),
            row("pictures with a name", noto["pictures_with_a_name"], twemoji["pictures_with_a_name"]),
            "",
        ]
    )


def _flags(data: EmojiPair) -> np.ndarray:
    flags: np.ndarray = data.truth[:, data.attributes.index(FLAGS)]
    return flags


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
