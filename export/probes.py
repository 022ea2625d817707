"""Attributes from labels alone: linear probes on the similarity network's own activations (docs/method.md, Probes)."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from engine.attributes.probability import sigmoid
from engine.attributes.table import AttributeTable
from engine.attributes.vectors import AttributeVectors, mean_of_units, unit_rows
from engine.bundle import Bundle, load_bundle
from engine.bundle.manifest import Graph, Manifest
from engine.errors import OptionError
from engine.evaluate.bootstrap import json_ready
from engine.evaluate.labels import Labelled, names_in, read_labels
from engine.evaluate.recognition import mean_average_precision, reliability
from engine.explainer import Explainer
from engine.methods.rise import Rise
from engine.pictures.loading import load_picture
from engine.pictures.reading import AS_USUAL, Reading
from engine.protocol import Progress, require_seed
from engine.runtime.batch_size import largest_batch
from engine.terminal import Bar
from export import onnx_files
from export.attribute_files import ATTRIBUTES_FILE, write_attributes
from export.demo_pictures import demo_pictures
from export.logistic import FOLDS, LOGISTIC_METHOD, CrossFitted, cross_fit
from export.probe_graph import grid_of, probe_graph
from export.taps import Tap, find_taps, pooling_runner, similarity_model
from export.write import check_free

FEWEST_POSITIVES = 10
"""Pictures with an attribute, and without it, that a probe needs."""
FEWEST_GROUPS = FOLDS
"""Groups of matching pictures that these must come from: with fewer, a fold has none."""
PROBE_THRESHOLD = 0.5
PROBES_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Probes:
    """Attributes that were fitted to labels.

    table: of those that were fitted; left_out: the others, with the number of pictures that have them
    taps: what the attribute graph is made of; none: there is no such graph, and the embedding alone says what is likely
    record: what `probes.json` holds, plain data
    """

    table: AttributeTable
    left_out: dict[str, int]
    taps: tuple[Tap, ...]
    record: dict[str, Any]


def export_probes(
    bundle: Path,
    images: Path,
    labels: Path,
    *,
    seed: int = 0,
    passes: bool = False,
    threshold: float = PROBE_THRESHOLD,
    quiet: bool = True,
    reading: Reading = AS_USUAL,
) -> Probes:
    """Fit attributes to labelled pictures, and write them into a bundle in place of those it has.

    images, labels: see `engine.evaluate.labels.read_labels`; pictures of one group are held out together
    seed: of the cross-validation; passes: also look at every picture through the 256 masks of an explanation, for a network
    without taps; threshold: lowest probability of an attribute that is named; quiet: show no progress bar
    reading: how the pictures are read

    Raises an EngineError, and leaves the bundle as it was, if that fails.
    """
    bundle, images, labels = Path(bundle), Path(images), Path(labels)
    require_seed(seed)
    check_free(bundle)
    before = load_bundle(bundle)
    model = similarity_model(before.folder, before.manifest.base.file)
    every = read_labels(labels, images, names_in(labels))
    names, labelled, left_out = _enough(every, names_in(labels))
    preprocessing = before.manifest.preprocessing
    taps = find_taps(model, preprocessing.normalised(demo_pictures(preprocessing)[:2]))
    if passes and taps:
        raise OptionError(f"--passes is for networks without taps, and {bundle} has {len(taps)} of them: leave it out")
    with Bar(quiet, "looking", "picture") as bar:
        embeddings, features = _look(model, taps, before.manifest, labelled, reading, bar.show)
    units = unit_rows(embeddings)
    on_embedding = cross_fit(units, labelled.truth, labelled.groups, seed)
    on_taps = cross_fit(features, labelled.truth, labelled.groups, seed) if taps else None
    on_passes = _with_passes(before.folder, labelled, reading, units, seed, quiet) if passes else None
    best = on_taps or on_passes or on_embedding
    table = AttributeTable(names, "sigmoid", np.zeros(len(names), np.float32), threshold)
    record = json_ready(
        _settings(before, labels, labelled, seed, taps, passes, left_out)
        | _judged(names, labelled, {"taps": on_taps, "passes": on_passes, "embedding": on_embedding}, best)
    )
    graph = None if on_taps is None else probe_graph(model, taps, on_taps.probe.weights, on_taps.probe.bias)
    made = None if graph is None else (graph, _entry(before, graph), (len(names), *grid_of(taps)))
    write_attributes(before, table, made, _vectors(on_embedding, on_passes), record)
    return Probes(table, left_out, tuple(taps), record)


def _enough(labelled: Labelled, names: tuple[str, ...]) -> tuple[tuple[str, ...], Labelled, dict[str, int]]:
    """Return the attributes with enough pictures, the labels about these alone, and the others with their counts."""
    kept, left_out = [], {}
    for i, name in enumerate(names):
        have = labelled.truth[:, i]
        sides = [(int(side.sum()), len(np.unique(labelled.groups[side]))) for side in (have, ~have)]
        if min(count for count, _ in sides) >= FEWEST_POSITIVES and min(groups for _, groups in sides) >= FEWEST_GROUPS:
            kept.append(i)
        else:
            left_out[name] = sides[0][0]
    if not kept:
        raise OptionError(
            f"no attribute has {FEWEST_POSITIVES} pictures with it and as many without it, in {FEWEST_GROUPS} groups each; "
            f"the most frequent is {names[int(labelled.truth.sum(0).argmax())]!r}: label more pictures"
        )
    return tuple(names[i] for i in kept), dataclasses.replace(labelled, truth=labelled.truth[:, kept]), left_out


def _look(
    model: onnx.ModelProto, taps: list[Tap], manifest: Manifest, labelled: Labelled, reading: Reading, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings (n, D) float32 and the taps' spatial means (n, F) float32 of all pictures."""
    runner, preprocessing = pooling_runner(model, taps), manifest.preprocessing
    batch = largest_batch(preprocessing)
    embeddings, features = [], []
    for start in range(0, len(labelled.files), batch):
        files = labelled.files[start : start + batch]
        pixels = np.stack([preprocessing.fitted(load_picture(file, reading))[0] for file in files])
        embedded, *means = runner.run(preprocessing.normalised(pixels))
        embeddings.append(embedded)
        rows = [np.empty((len(pixels), 0), np.float32), *(mean.reshape(len(pixels), -1) for mean in means)]
        features.append(np.concatenate(rows, axis=1))
        progress(start + len(pixels), len(labelled.files))
    return np.concatenate(embeddings), np.concatenate(features)


def _with_passes(
    folder: Path, labelled: Labelled, reading: Reading, units: np.ndarray, seed: int, quiet: bool
) -> CrossFitted:
    """Fit a probe to [unit embedding, mean of the masked pictures' unit embeddings]."""
    explainer = Explainer(folder, **vars(reading))
    means = []
    with Bar(quiet, "passes over", "picture") as bar:
        for done, file in enumerate(labelled.files, 1):
            means.append(mean_of_units(explainer.prepare(file, Rise(masks=256)).embeddings))
            bar.show(done, len(labelled.files))
    return cross_fit(np.concatenate([units, np.array(means)], axis=1), labelled.truth, labelled.groups, seed)


def _vectors(on_embedding: CrossFitted, on_passes: CrossFitted | None) -> AttributeVectors:
    probe = on_embedding.probe
    ones = np.ones(len(probe.bias), np.float32)
    vectors = AttributeVectors(probe.weights.astype(np.float32), ones, probe.bias.astype(np.float32))
    if on_passes is None:
        return vectors
    own, mean = np.split(on_passes.probe.weights.astype(np.float32), 2, axis=1)
    return dataclasses.replace(vectors, pass_own=own, pass_mean=mean, pass_bias=on_passes.probe.bias.astype(np.float32))


def _settings(
    before: Bundle, labels: Path, labelled: Labelled, seed: int, taps: list[Tap], passes: bool, left_out: dict[str, int]
) -> dict[str, Any]:
    return {
        "version": PROBES_VERSION,
        "identity": before.identity,
        "labels_sha256": hashlib.sha256(labels.read_bytes()).hexdigest(),
        "pictures": len(labelled.files),
        "groups": len(np.unique(labelled.groups)),
        "grouped": labelled.grouped,
        "seed": seed,
        "method": LOGISTIC_METHOD,
        "taps": [vars(tap) for tap in taps],
        "passes": passes,
        "left_out": left_out,
    }


def _judged(
    names: tuple[str, ...], labelled: Labelled, fitted: dict[str, CrossFitted | None], best: CrossFitted
) -> dict[str, Any]:
    """Judge every probe on pictures of groups that it was not fitted to."""
    judged: dict[str, Any] = {}
    for kind, found in fitted.items():
        if found is not None:
            mean, single = mean_average_precision(labelled.truth, found.logits, labelled.groups)
            judged[kind] = {
                "penalty": found.probe.penalty,
                "mean_average_precision": mean,
                "calibration_error": reliability(labelled.truth, sigmoid(found.logits)).error,
            }
            if found is best:
                precisions = single
    positives = labelled.truth.sum(0).tolist()
    each = zip(names, positives, precisions.tolist(), strict=True)
    return {
        "judged_on": f"pictures of groups that the probe was not fitted to, {FOLDS} folds",
        "probes": judged,
        "attributes": [{"name": name, "positives": count, "average_precision": value} for name, count, value in each],
    }


def _entry(before: Bundle, graph: onnx.ModelProto) -> Graph:
    return Graph(ATTRIBUTES_FILE, "attributes", "fp32", "any", onnx_files.opset(graph), before.manifest.base.input, "maps")
