"""Find prior, calibrated confidences and phi of a bundle's attributes on labelled pictures; write them beside the model."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from engine.attributes.probability import logits
from engine.attributes.table import AttributeTable
from engine.attributes.vectors import AttributeVectors
from engine.bundle import CALIBRATION, Bundle
from engine.errors import OptionError
from engine.evaluate.bootstrap import CONFIDENCE, RESAMPLES, json_ready
from engine.evaluate.labels import Labelled, read_labels
from engine.evaluate.matching import draw_pairs, halves, joined_groups, matching_pairs, split_directions
from engine.evaluate.network_outputs import NetworkOutputs, map_matches, require_attributes, run_networks, similarities
from engine.evaluate.recognition import Reliability, reliability
from engine.evaluate.removal import removal_drops
from engine.explainer import Explainer
from engine.methods import Method
from engine.methods.rise import Rise
from engine.pictures.reading import AS_USUAL, Reading
from engine.protocol import require_seed, require_whole
from engine.terminal import Bar
from export import phi, platt, tcav
from export.joint import JOINT_METHOD, JointFit, fit_joint
from export.logistic import log_loss
from export.phi import Search
from export.platt import Scaling
from export.tcav import Prior
from export.write import check_free, copy_without, finish, replacing

CALIBRATION_VERSION = 1
MOST_PAIRS = 300
"""Most pairs that are explained to find phi; each query costs the passes of an explanation."""
MOST_PRIOR_PAIRS = 5000
MOST_JOINT_PAIRS = 5000
TCAV_METHOD = (
    "TCAV on the embeddings as they are, without a condition; concept vectors are cross-fitted over halves of the groups; "
    f"p is measured against {tcav.CONCEPTS} random concepts that as many groups carry; the prior is 0 if p > {tcav.LEVEL:g} "
    f"or if fewer than {tcav.LEAST_PAIRS} pairs carry the attribute; with squared distances a pair's two directions have "
    "opposite signs, so no attribute can pass"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """What was found. table: the bundle's attributes as they are now; record: the content of calibration.json

    before, after: reliability of the earlier and of the calibrated confidences; `after` judges each half of the groups by
    parameters fitted on the other half
    scaled: whether the confidences were calibrated: they are not where the earlier ones fit held-out pictures better
    joint: how two pictures' confidences make the probability of both
    """

    table: AttributeTable
    prior: Prior
    before: Reliability
    after: Reliability
    search: Search
    scaled: bool
    joint: JointFit
    record: dict[str, Any]


def calibrate(
    bundle: Path,
    images: Path,
    labels: Path,
    *,
    seed: int = 0,
    pairs: int = MOST_PAIRS,
    method: Method | None = None,
    quiet: bool = True,
    reading: Reading = AS_USUAL,
) -> Calibration:
    """Find prior, calibration and phi on labelled pictures, and write them into a bundle; its identity stays the same.

    images, labels: see `read_labels`; use pictures that neither network was trained on
    seed: for all random choices; pairs: most pairs to explain for phi; method: of their saliency maps, None for RISE
    quiet: show no progress bar on standard error; reading: how the pictures are read
    Raises an EngineError, and leaves the bundle as it was, if that fails.
    """
    bundle, images, labels = Path(bundle), Path(images), Path(labels)
    require_seed(seed)
    require_whole("pairs", pairs, 1, 10**6)
    check_free(bundle)
    explainer = Explainer(bundle, **vars(reading))
    table = require_attributes(explainer)
    labelled = read_labels(labels, images, table.names)
    with Bar(quiet, "running the networks", "picture") as bar:
        seen = run_networks(explainer, labelled.files, bar.show)
    similarity = similarities(explainer, seen.embeddings)
    matching = matching_pairs(labelled, similarity)
    together = joined_groups(labelled.groups, matching)
    first = halves(together, seed)
    asked, metric = draw_pairs(matching, MOST_PRIOR_PAIRS, seed), explainer.model.manifest.metric
    found = tcav.prior(seen.embeddings, labelled.truth, together, asked, metric, seed)
    scaled, scaling, confidences, held_out = _scaled(seen, labelled, first, table)
    # the joint probability is fitted to what the bundle will give for pictures that it was not calibrated on
    honest = held_out if scaled else seen.confidences
    ahead, behind = draw_pairs(split_directions(matching)[0], MOST_JOINT_PAIRS, seed).T
    both = labelled.truth[ahead] & labelled.truth[behind]
    joint = fit_joint(honest[ahead], honest[behind], both, first[ahead])
    chosen = draw_pairs(matching, pairs, seed)
    with Bar(quiet, "explaining", "query") as bar:
        agreement = map_matches(explainer, labelled.files, seen.embeddings, chosen, method or Rise(seed=seed), bar.show)
    queries = chosen[:, 0]
    searched = phi.search(
        confidences[queries],
        agreement,
        found.value,
        _drops(labelled, similarity, chosen),
        table.threshold,
        together[queries],
        first[queries],
    )
    made = _calibrated(table, scaling, found, searched, joint, explainer.model.attributes is None)
    before, after = reliability(labelled.truth, seen.confidences), reliability(labelled.truth, held_out)
    calibration = Calibration(made, found, before, after, searched, scaled, joint, {})
    settings = _settings(explainer.model.bundle, labels, labelled, seed, len(chosen), explainer.precision)
    record = json_ready(settings | _record(calibration, scaling, labelled))
    vectors = None if explainer.model.attributes is not None else _rescaled(explainer.model.bundle.vectors, scaling)
    _write(explainer.model.bundle, made, record, vectors)
    return dataclasses.replace(calibration, record=record)


def _calibrated(
    table: AttributeTable, scaling: Scaling, prior: Prior, search: Search, joint: JointFit, by_vector: bool
) -> AttributeTable:
    """Return the table with what was found in it. by_vector: whether the vectors keep scale and bias, not the table"""
    scale, bias, value = (v.astype(np.float32) for v in (scaling.scale, scaling.bias, prior.value))
    made = dataclasses.replace(table, confidence="sigmoid", prior=value, phi=search.phi, joint=joint.joint)
    return made if by_vector else dataclasses.replace(made, scale=scale, bias=bias)


def _rescaled(vectors: AttributeVectors | None, scaling: Scaling) -> AttributeVectors | None:
    """Return the vectors of a bundle without an attribute network, with the calibration of their scores in them."""
    if vectors is None:
        return None
    scale, bias = (scaling.scale * vectors.scale, scaling.scale * vectors.bias + scaling.bias)
    return dataclasses.replace(vectors, confidence="sigmoid", scale=scale.astype(np.float32), bias=bias.astype(np.float32))


def _scaled(
    seen: NetworkOutputs, labelled: Labelled, first: np.ndarray, table: AttributeTable
) -> tuple[bool, Scaling, np.ndarray, np.ndarray]:
    """Return whether to calibrate the confidences, how, the confidences (n, A) after it, and those held out (n, A)."""
    held_out = held_out_confidences(seen, labelled.truth, first, table)
    if table.confidence == "sigmoid" and not _fits_better(held_out, seen.confidences, labelled.truth):
        return False, _unchanged(table), seen.confidences, held_out
    scaling = _rounded(platt.fit(seen.scores, labelled.truth, table))
    return True, scaling, scaling.confidences(seen.scores), held_out


def _unchanged(table: AttributeTable) -> Scaling:
    count = len(table.names)
    return Scaling(table.slopes.astype(np.float64), table.bias.astype(np.float64), np.full(count, "unchanged"))


def _fits_better(confidences: np.ndarray, others: np.ndarray, truth: np.ndarray) -> bool:
    """Whether confidences (n, A) have less log loss against the truth (n, A) bool than others have."""
    return log_loss(logits(confidences), truth) < log_loss(logits(others), truth)


def _rounded(scaling: Scaling) -> Scaling:
    """Return the scaling as the bundle keeps it, in float32."""
    scale, bias = (values.astype(np.float32).astype(np.float64) for values in (scaling.scale, scaling.bias))
    return dataclasses.replace(scaling, scale=scale, bias=bias)


def held_out_confidences(seen: NetworkOutputs, truth: np.ndarray, first: np.ndarray, table: AttributeTable) -> np.ndarray:
    """Return the confidences (n, A) float64 of each half of the pictures by parameters fitted on the other half.

    truth: (n, A) bool; first: (n,) bool, which pictures are in the first half
    """
    found = np.empty(seen.scores.shape)
    for half in (first, ~first):
        found[half] = platt.fit(seen.scores[~half], truth[~half], table).confidences(seen.scores[half])
    return found


def _drops(labelled: Labelled, similarity: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    drops = removal_drops(similarity, labelled.truth, labelled.groups, pairs)
    if not np.isfinite(drops).any():
        raise OptionError(
            "phi cannot be found on these labels: every picture of another group has every attribute; label more pictures"
        )
    return drops


def _settings(bundle: Bundle, labels: Path, labelled: Labelled, seed: int, explained: int, precision: str) -> dict[str, Any]:
    return {
        "version": CALIBRATION_VERSION,
        "identity": bundle.identity,
        "labels_sha256": hashlib.sha256(labels.read_bytes()).hexdigest(),
        "pictures": len(labelled.files),
        "groups": len(np.unique(labelled.groups)),
        "pairing": "groups" if labelled.grouped else "most similar",
        "explained_pairs": explained,
        "unknown_attributes": labelled.unknown,
        "seed": seed,
        "precision": precision,
        "interval": CONFIDENCE,
        "resamples": RESAMPLES,
    }


def _record(found: Calibration, scaling: Scaling, labelled: Labelled) -> dict[str, Any]:
    columns: dict[str, np.ndarray] = {
        "positives": labelled.truth.sum(0),
        "pairs": found.prior.pairs,
        "share": found.prior.share,
        "p_value": found.prior.p_values,
        "prior": found.prior.value,
        "scale": scaling.scale,
        "bias": scaling.bias,
        "confidence": scaling.how,
    }
    named = enumerate(found.table.names)
    return {
        "attributes": [{"name": name} | {key: column[i] for key, column in columns.items()} for i, name in named],
        "prior": {"method": TCAV_METHOD, "concepts": tcav.CONCEPTS, "level": tcav.LEVEL},
        "confidence": {
            "method": platt.PLATT_METHOD,
            "judged_on": "each half of the groups, by parameters fitted on the other half",
            "before": found.before.to_dict(),
            "after": found.after.to_dict(),
            "applied": found.scaled,
        },
        "joint": {"method": JOINT_METHOD, **vars(found.joint)},
        "phi": {
            "method": phi.PHI_METHOD,
            **vars(found.search),
            "grid": [{"phi": weights, "drop": drop} for weights, drop in found.search.grid],
        },
    }


def _write(before: Bundle, table: AttributeTable, record: dict[str, Any], vectors: AttributeVectors | None) -> None:
    with replacing(before.folder) as folder:
        copy_without(before, [], folder)
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        (folder / CALIBRATION).write_text(text, encoding="utf-8")
        finish(folder, before.manifest, table, before.canonical, vectors)
