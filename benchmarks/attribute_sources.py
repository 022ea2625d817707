"""Bundles with attributes of several sources, and how good their first attributes are."""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine import Explainer
from engine.attributes.probability import joint_probability, sigmoid
from engine.attributes.vectors import mean_of_units, unit_rows
from engine.bundle import demo_bundle, load_bundle
from engine.evaluate.bootstrap import bootstrap
from engine.evaluate.labels import Labelled, read_labels
from engine.evaluate.matching import matching_pairs, split_directions
from engine.evaluate.network_outputs import run_networks, similarities
from engine.evaluate.recognition import mean_average_precision, reliability
from engine.methods.rise import Rise
from engine.protocol import silent
from export.attribute_files import write_attributes
from export.joint import most_likely
from export.logistic import cross_fit
from export.probes import export_probes

SEEDS = (0, 1, 2)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8)


def demo_copy(folder: Path) -> Path:
    """Copy the demo bundle, whose attributes will be replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(demo_bundle(), folder)
    return folder


def with_probes(bundle: Path, labels: Path) -> Path:
    """Fit probes to labelled pictures, and return the bundle."""
    export_probes(bundle, labels.parent, labels)
    return bundle


def with_embedding_only(probed: Path, folder: Path) -> Path:
    """Return a copy of a probed bundle without its attribute graph: the probe on the embedding is left."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(probed, folder)
    before = load_bundle(folder)
    if before.attributes is not None and before.vectors is not None:
        write_attributes(before, before.attributes, None, before.vectors)
    return folder


def judged(bundle: Path, labels: dict[str, Path]) -> dict[str, Any]:
    """Judge a bundle's attributes on the test pairs. labels: by split; the joint probability is fitted to `valid`"""
    explainer = Explainer(bundle, precision="fp32")
    seen = {split: _seen(explainer, labels[split]) for split in ("valid", "test")}
    labelled, confidences, pairs = seen["test"]
    fitted = most_likely(*_of_pairs(*seen["valid"]))
    ours, theirs, both = _of_pairs(labelled, confidences, pairs)
    clusters = labelled.groups[pairs[:, 0]]
    product, joint = joint_probability(ours, theirs, None), joint_probability(ours, theirs, fitted)
    rows = np.arange(len(pairs))
    right = {name: both[rows, s.argmax(1)] for name, s in (("confidence", ours), ("product", product), ("joint", joint))}
    # in the other direction the query's confidence may name another attribute
    back = both[rows, theirs.argmax(1)]
    shares = {name: np.stack([value, back if name == "confidence" else value]).mean(0) for name, value in right.items()}
    found: dict[str, Any] = {
        "attributes": confidences.shape[1],
        "test_pictures": len(labelled.files),
        "pairs": len(pairs),
        "pairs_with_a_true_one": float(both.any(1).mean()),
        "pairing": "groups" if labelled.grouped else "most similar",
        "mean_average_precision": mean_average_precision(labelled.truth, confidences, labelled.groups)[0],
        "calibration_error": reliability(labelled.truth, confidences).error,
        "joint": fitted,
        "joint_error": reliability(both, joint).error,
        "product_error": reliability(both, product).error,
        "first_true": {name: bootstrap(value, clusters) for name, value in shares.items()},
        "gain": {name: bootstrap(value - shares["confidence"], clusters) for name, value in shares.items()},
    }
    found["named"] = [
        {
            "threshold": threshold,
            "per_pair": float((joint >= threshold).sum(1).mean()),
            "true_of_both": float(both[joint >= threshold].mean()) if (joint >= threshold).any() else None,
        }
        for threshold in THRESHOLDS
    ]
    return found


def by_passes(bundle: Path, labels: dict[str, Path], pictures: int, fitted: int, masks: int) -> list[dict[str, Any]]:
    """Compare a probe on the unit embedding with one that has the mean of the masked unit embeddings too.

    pictures: of the training pictures that are run through the masks; fitted: of those, drawn for each split
    """
    explainer = Explainer(bundle)
    names = tuple(sorted({n for line in _lines(labels["train"]) for n in line[2].split(";") if n}))
    train, test = (read_labels(labels[s], labels[s].parent, names) for s in ("train", "test"))
    chosen = np.sort(np.random.default_rng(0).permutation(len(train.files))[:pictures])
    began = time.process_time()
    seen = {"train": _through_masks(explainer, [train.files[i] for i in chosen], masks)}
    seen["test"] = _through_masks(explainer, list(test.files), masks)
    took = time.process_time() - began
    pairs = split_directions(matching_pairs(test, np.zeros((len(test.files),) * 2)))[0]
    both = test.truth[pairs[:, 0]] & test.truth[pairs[:, 1]]
    clusters, rows = test.groups[pairs[:, 0]], np.arange(len(pairs))
    found = []
    for seed in SEEDS:
        part = np.random.default_rng(seed).permutation(len(chosen))[:fitted]
        truth, groups = train.truth[chosen[part]], train.groups[chosen[part]]
        enough = truth.sum(0) >= 10
        first, precision = {}, {}
        for name, columns in (("embedding", 1), ("passes", 2)):
            features = [np.concatenate(seen[s][:columns], axis=1) for s in ("train", "test")]
            probe = cross_fit(features[0][part], truth[:, enough], groups, seed).probe
            confidences = sigmoid(probe.logits(features[1]))
            precision[name] = mean_average_precision(test.truth[:, enough], confidences, test.groups)[0]
            best = joint_probability(confidences[pairs[:, 0]], confidences[pairs[:, 1]], None).argmax(1)
            first[name] = both[:, enough][rows, best].astype(np.float64)
        found.append(
            {
                "seed": seed,
                "masks": masks,
                "fitted_pictures": fitted,
                "attributes": int(enough.sum()),
                "mean_average_precision": precision,
                "first_true": {name: bootstrap(value, clusters) for name, value in first.items()},
                "first_true_gain": bootstrap(first["passes"] - first["embedding"], clusters),
                "passes_cpu_s": round(took, 1),
            }
        )
    return found


def _through_masks(explainer: Explainer, files: list[Path], masks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit embeddings (n, D) float64, and the means of the masked pictures' unit embeddings, (n, D) float64."""
    units, means = [], []
    for file in files:
        prepared = explainer.prepare(file, Rise(masks=masks))
        units.append(unit_rows(prepared.whole[None])[0])
        means.append(mean_of_units(prepared.embeddings))
    return np.array(units), np.array(means)


def _seen(explainer: Explainer, labels: Path) -> tuple[Labelled, np.ndarray, np.ndarray]:
    """Return the labels, the confidences (n, A), and the pairs (P, 2) in one direction."""
    table = explainer.model.bundle.attributes
    labelled = read_labels(labels, labels.parent, () if table is None else table.names)
    outputs = run_networks(explainer, labelled.files, silent)
    pairs = split_directions(matching_pairs(labelled, similarities(explainer, outputs.embeddings)))[0]
    return labelled, outputs.confidences, pairs


def _of_pairs(labelled: Labelled, confidences: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the confidences of query and reference, and the truth of both, (P, A) each."""
    query, reference = pairs.T
    return confidences[query], confidences[reference], labelled.truth[query] & labelled.truth[reference]


def _lines(labels: Path) -> list[list[str]]:
    return [line.split(",") for line in labels.read_text().splitlines()[1:]]
