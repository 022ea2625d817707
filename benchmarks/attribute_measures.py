"""Measure an attribute network of the experiment on emoji that no network was trained on."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine import Explainer, Rise
from engine.attributes.ranking import Activations, match
from engine.attributes.table import AttributeTable
from engine.evaluate.bootstrap import bootstrap, json_ready
from engine.evaluate.recognition import mean_average_precision, reliability
from engine.evaluate.removal import direction_agreement, first_named, removal, removal_drops, top_true
from engine.files import write_npz
from engine.npz import read_npz
from export import phi, platt, tcav
from export.progress import progress_bar
from training.datasets.emoji import Emoji
from training.loop import digest

BATCH = 128


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out pictures, with a saliency map of each against the other vendor's drawing of it, by the similarity network.

    pictures: (n,) int64, indices into the data set, Google's first; vectors: (n, D) float32; saliency: (n, H, W) float32
    """

    pictures: np.ndarray
    vectors: np.ndarray
    saliency: np.ndarray


def held_out(data: Emoji, bundle: Path, folder: Path, masks: int) -> HeldOut:
    """Explain the held-out pictures, or read what an earlier call kept in a file in `folder`."""
    pictures = np.sort(np.concatenate([data.split("valid"), data.split("test")]))
    explainer = Explainer(bundle, threads=1)
    path = folder / f"held-out-{explainer.model.graph_digest[:16]}-{digest(pictures)}-{masks}.npz"
    if not path.exists():
        shown = [data.picture(i) for i in pictures]
        vectors = explainer.embed(shown)
        others = _others(len(pictures))
        with progress_bar(list(zip(shown, others, strict=True)), "held-out maps", leave=True) as pairs:
            saliency = [
                explainer.explain(picture, vectors[other], Rise(masks=masks), top=0).saliency for picture, other in pairs
            ]
        write_npz(path, {"vectors": vectors, "saliency": np.stack(saliency)})
    kept = read_npz(path)
    return HeldOut(pictures, kept["vectors"], kept["saliency"])


def _others(count: int) -> np.ndarray:
    """Return (n,) int64: the picture that each of n pictures is paired with, the other vendor's drawing of it."""
    return np.roll(np.arange(count), count // 2)


def measure_network(data: Emoji, network: nn.Module, table: AttributeTable, held: HeldOut, seed: int) -> dict[str, Any]:
    """Return all figures of one network, ready for JSON. Prior, phi and calibration are from the validation emoji.

    table: of the data that the network was trained on
    """
    count = len(held.pictures)
    truth, others = data.truth[held.pictures], _others(count)
    emoji = np.tile(np.arange(count // 2), 2)  # both drawings of one
    activations = _activations(data, network, held.pictures)
    seen = [Activations.of(table, maps) for maps in activations]
    agreement = np.stack([match(s, one[None])[0] for s, one in zip(seen, held.saliency, strict=True)])  # (n, A)
    google = np.arange(count) < count // 2
    found: dict[str, Any] = {"attributes": len(data.attributes), "held_out_pictures": count}
    for vendor, chosen in (("noto", google), ("twemoji", ~google)):
        precision, _ = mean_average_precision(truth[chosen], np.stack([s.confidences for s in seen])[chosen])
        found[f"map_{vendor}"] = precision
    found |= _agreement(agreement, truth, emoji)
    found["map_entropy"] = float(np.mean([_entropy(s) for s in seen]))
    valid = np.isin(held.pictures, data.split("valid"))
    scores = activations.mean((2, 3), dtype=np.float64)
    confidences = platt.fit(scores[valid], truth[valid], table).confidences(scores)
    found["calibration_error"] = reliability(truth[~valid], confidences[~valid]).error
    found |= _rankings(held.vectors, truth, others, emoji, valid, confidences, agreement, seed)
    return json_ready(found)


def _activations(data: Emoji, network: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """Return activation maps (n, A, h, w) float32."""
    network.eval()
    with torch.inference_mode():
        parts = [network(data.plain(pictures[i : i + BATCH])).numpy() for i in range(0, len(pictures), BATCH)]
    return np.concatenate(parts)


def _agreement(agreement: np.ndarray, truth: np.ndarray, emoji: np.ndarray) -> dict[str, Any]:
    """Return the mean agreement of the maps of true attributes with the saliency, and of false ones, resampled by emoji."""
    means = {}
    for name, chosen in (("true", truth), ("false", ~truth)):
        kept = np.where(chosen, agreement, 0).sum(1) / np.maximum(chosen.sum(1), 1)
        means[f"agreement_{name}"] = bootstrap(np.where(chosen.any(1), kept, np.nan), emoji)
    return means


def _entropy(seen: Activations) -> float:
    """Return the mean entropy of the activation maps in nats: 2.77 for a uniform 4 x 4 map, 0 for a single peak."""
    maps = seen.maps.astype(np.float64)
    return float(-(maps * np.log(maps + 1e-12)).sum((1, 2)).mean())


def _rankings(
    vectors: np.ndarray,
    truth: np.ndarray,
    others: np.ndarray,
    emoji: np.ndarray,
    valid: np.ndarray,
    confidences: np.ndarray,
    agreement: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """Judge rankings by confidence, + match and + prior on test pairs, with weights that validation pairs chose."""
    pairs = np.column_stack([np.arange(len(others)), others])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = (unit @ unit.T).astype(np.float64)
    chosen, test = pairs[valid], pairs[~valid]
    place = np.cumsum(valid) - 1
    prior = tcav.prior(vectors[valid], truth[valid], emoji[valid], place[chosen], "cosine", seed)
    drops = removal_drops(similarity[np.ix_(valid, valid)], truth[valid], emoji[valid], place[chosen])
    half = np.random.default_rng(seed).permutation(len(others) // 2)[emoji[valid]] % 2 == 0
    priors = {"confidence": np.zeros_like(prior.value), "+match": np.zeros_like(prior.value), "+prior": prior.value}
    weights = {"confidence": (1.0, 0.0, 0.0)}
    for name in ("+match", "+prior"):
        chosen_by = (confidences[valid], agreement[valid], priors[name], drops, 0.0, emoji[valid], half)
        weights[name] = phi.search(*chosen_by).phi
    on_test = removal_drops(similarity[np.ix_(~valid, ~valid)], truth[~valid], emoji[~valid], (np.cumsum(~valid) - 1)[test])
    rankings, agree, true = {}, {}, {}
    back = np.roll(np.arange(len(test)), len(test) // 2)  # the same pairs in the other direction
    for name, (a, b, c) in weights.items():
        first = first_named(a * confidences + b * agreement + c * priors[name], confidences)[~valid]
        rankings[name] = first
        agree[name] = direction_agreement(first, first[back], emoji[~valid])
        true[name] = top_true(first, truth, test, emoji[~valid])
    return {
        "phi": weights,
        "prior_significant": int((prior.value > 0).sum()),
        "removal": {k: vars(v) for k, v in removal(on_test, truth[~valid], rankings, emoji[~valid]).items()},
        "top_true": true,
        "directions_agree": agree,
        "test_pairs": len(test),
    }
