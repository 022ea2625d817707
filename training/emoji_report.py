"""How well the demo networks do on emoji that they were not trained on: the figures, and a model card."""

from typing import Any

import numpy as np

from engine import Explainer
from engine.evaluate.recognition import mean_average_precision, reliability
from training.datasets.emoji import VENDORS, Emoji
from training.emoji_attributes import of_both

FLAGS = "Flags"


def measure(data: Emoji, explainer: Explainer) -> dict[str, Any]:
    """Measure every figure of the model card on the bundle, as the engine runs it."""
    count = len(data.pair.base)
    vectors = explainer.embed([data.picture(i) for i in range(2 * count)])
    results: dict[str, Any] = {"retrieval": retrieval(data, vectors[:count], vectors[count:])}
    table = explainer.model.bundle.attributes
    assert table is not None  # it was just written
    truth = data.truth[:, [data.attributes.index(name) for name in table.names]]
    test = data.bases("test")
    for i, vendor in enumerate(VENDORS):
        pictures = test + i * count
        confidences = explainer.confidences([data.picture(p) for p in pictures])
        results[vendor] = recognition(truth[pictures], confidences, _flags(data)[test])
    results |= {"attributes": len(table.names), "threshold": table.threshold, "test": len(test), "phi": table.phi}
    return results | {"joint": table.joint, "of_both": of_both(data, explainer, "test")}


def retrieval(data: Emoji, noto: np.ndarray, twemoji: np.ndarray) -> dict[str, float]:
    """Return recall at 1 and 5 of each held-out Noto picture against the Twemoji pictures of all base emoji.

    noto, twemoji: (B, D) embeddings, compared by cosine. Emoji that are drawn exactly like the query do not count as errors.
    """
    held = np.sort(np.concatenate([data.bases("valid"), data.bases("test")]))
    similarity = _unit(noto[held]) @ _unit(twemoji).T  # (held, B)
    positive = similarity[np.arange(len(held)), held]
    twins = data.pair.same[held][:, None] == data.pair.same[None]
    better = ((similarity > positive[:, None]) & ~twins).sum(1)
    result = {}
    for name, chosen in (("all", np.full(len(better), True)), ("without_flags", ~_flags(data)[held])):
        result |= {f"recall_at_{k}_{name}": float((better[chosen] < k).mean()) for k in (1, 5)}
    return result


def recognition(truth: np.ndarray, confidences: np.ndarray, flags: np.ndarray) -> dict[str, float]:
    """Return the mean average precision over the attributes, and the calibration error of the confidences.

    truth: (n, A) bool; confidences: (n, A); flags: (n,) bool, which pictures are flags
    """
    result = {"map_all": mean_average_precision(truth, confidences)[0].mean}
    result["map_without_flags"] = mean_average_precision(truth[~flags], confidences[~flags])[0].mean
    return result | {"calibration_error": reliability(truth, confidences).error}


def model_card(results: dict[str, Any], data: Emoji, seconds: float | None, seed: int, attributes_only: bool) -> str:
    """Return the model card of the bundle, in Markdown.

    seconds: of training, None for none; attributes_only: whether the similarity network stayed
    """
    found, noto, twemoji = results["retrieval"], results["google"], results["twitter"]
    bases, threshold, named = len(data.pair.base), results["threshold"], results["attributes"]
    made, trunk = "Made by `python -m training.emoji`", "the same trunk"
    if attributes_only:
        made = f"Attributes made by `python -m training.emoji --{'settle' if seconds is None else 'attributes'}`"
        trunk = "the trunk of a similarity network that was trained in the same way"
    both, settled = results["of_both"], results["settled"]
    shares = {name: judged["first_true"] for name, judged in settled["valid"].items()}
    how = f"{trunk}, with SANE's head, trained on the truth and on saliency maps"
    if settled["chosen"] == "probes":
        how = "linear probes on layers of the similarity network, fitted to the training emoji"
    phi = ", ".join(f"{weight:g}" for weight in results["phi"])

    def row(name: str, *values: float) -> str:
        return f"| {name} | " + " | ".join(f"{v:.3f}" for v in values) + " |"

    return "\n".join(
        [
            "# The emoji demo networks",
            "",
            f"{made}, which keeps these figures as `results.json` in the folder of the run; seed {seed},",
            "nothing was trained anew." if seconds is None else f"{seconds / 60:.0f} minutes of training on a CPU.",
            "",
            "- **Similarity**: the first three stages of ResNet-18 at width 32, mean over space, 64-d; 64 x 64 pixels,",
            "  ImageNet mean and std; cosine. Trained so that Google's (Noto) and Twitter's (Twemoji) drawings of one",
            "  emoji are similar.",
            f"- **Attributes**: {how}; {named} attributes",
            "  that it learned well: tags, groups and subgroups with at least 30 emoji, and visible parts (colours,",
            "  outline, faces, hands: `training/datasets/parts.py`). The calibration is from the validation emoji, as",
            f"  `calibration.json` says; an attribute is named from probability {threshold:g} of being true of both,",
            f"  from where on nine of ten are so on the validation pairs. phi, for ranking sane, is {phi}.",
            f"  Of the attribute network and probes, {settled['chosen']} named better on those pairs: first named true of",
            f"  both {shares['network']:.3f} (network), {shares['probes']:.3f} (probes).",
            "- **Data**: npm `emoji-datasource-google` 16.0.0 (Apache-2.0), `emoji-datasource-twitter` 16.0.0 (CC-BY 4.0),",
            f"  `emojibase-data` 17.0.0 (MIT). Of {bases} base emoji, {len(data.pair.held_out)} chosen at random were held",
            "  out with all their skin tones: half for validation, half for the test, without the few that are drawn",
            "  exactly like a training emoji.",
            "- **Purpose**: to show the engine at work. The networks know emoji and nothing else.",
            "",
            f"## Retrieval: a held-out Noto picture against all {bases} Twemoji",
            "",
            "Emoji that are drawn exactly like the query do not count as errors.",
            "",
            "| | all | without flags |",
            "| --- | --- | --- |",
            row("R@1", found["recall_at_1_all"], found["recall_at_1_without_flags"]),
            row("R@5", found["recall_at_5_all"], found["recall_at_5_without_flags"]),
            "",
            "## Attributes on the test pictures",
            "",
            "| | Noto | Twemoji |",
            "| --- | --- | --- |",
            row(f"mAP, {named} attributes", noto["map_all"], twemoji["map_all"]),
            row("mAP without flags", noto["map_without_flags"], twemoji["map_without_flags"]),
            row("expected calibration error", noto["calibration_error"], twemoji["calibration_error"]),
            "",
            f"## Attributes of both drawings of a test emoji, {results['test']} pairs",
            "",
            "| | |",
            "| --- | --- |",
            row("first attribute is true of both", both["first_true"]),
            row(f"named attributes (probability >= {threshold:g}) that are true of both", both["named_true"]),
            row("named per pair", both["named_per_pair"]),
            row("pairs with a named attribute", both["pairs_with_a_name"]),
            "",
        ]
    )


def _flags(data: Emoji) -> np.ndarray:
    """Return which base emoji are flags: (B,) bool."""
    flags: np.ndarray = data.truth[: len(data.pair.base), data.attributes.index(FLAGS)]
    return flags


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
