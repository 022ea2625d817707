"""The networks' outputs for labelled pictures: embeddings, attribute scores, and how attributes match saliency maps."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.attributes.ranking import Activations, match
from engine.attributes.table import AttributeTable
from engine.errors import OptionError
from engine.explainer import Explainer
from engine.methods import Method
from engine.passes import whole_embeddings
from engine.protocol import Progress
from engine.runtime.batch_size import largest_batch


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkOutputs:
    """The outputs for n pictures.

    embeddings: (n, D) float32; scores: (n, A) float64, spatial means of the activation maps, or the scores by vector
    confidences: (n, A) float64 in [0, 1], computed from the scores by the bundle's attribute table or vectors
    """

    embeddings: np.ndarray
    scores: np.ndarray
    confidences: np.ndarray


def require_attributes(explainer: Explainer) -> AttributeTable:
    """Return the bundle's attribute table. Raises OptionError if it has none, or no embedding to judge it by."""
    explainer.model.require_embeddings("judge attributes on pairs")
    table = explainer.model.bundle.attributes
    if table is None:
        raise OptionError("this bundle has no attributes: `python -m export attributes` adds them")
    return table


def run_networks(explainer: Explainer, files: Sequence[Path], progress: Progress) -> NetworkOutputs:
    """Run both networks over whole pictures. progress: called with (pictures done, pictures in all)

    Raises ImageError if a file is not a picture, OptionError if the bundle has no attributes.
    """
    table, model = require_attributes(explainer), explainer.model
    network, vectors = model.attributes, model.bundle.vectors
    batch = largest_batch(model.preprocessing)
    embeddings, scores, confidences = [], [], []
    for start in range(0, len(files), batch):
        pictures = [model.picture(file) for file in files[start : start + batch]]
        embeddings.append(model.embed(pictures))
        if network is None and vectors is not None:
            scores += list(vectors.scores(embeddings[-1]))
            confidences += list(vectors.confidences(embeddings[-1]))
        elif network is not None:
            for maps in whole_embeddings(network, model.preprocessing, [p.pixels for p in pictures], batch):
                scores.append(maps.mean((1, 2), dtype=np.float64))
                confidences.append(Activations.of(table, maps).confidences)
        progress(start + len(pictures), len(files))
    return NetworkOutputs(np.concatenate(embeddings), np.array(scores), np.array(confidences))


def similarities(explainer: Explainer, embeddings: np.ndarray) -> np.ndarray:
    """Return the similarities of embeddings (n, D) without a condition: (n, n) float64, s[query, reference]."""
    model = explainer.model
    return model.query_features(embeddings, None) @ model.reference_features(embeddings, None).T


def map_matches(
    explainer: Explainer,
    files: Sequence[Path],
    embeddings: np.ndarray,
    pairs: np.ndarray,
    method: str | Method,
    progress: Progress,
) -> np.ndarray:
    """Return how each attribute of the query matches the saliency map against the reference: (P, A) float64 correlations.

    embeddings: (n, D) float32, of the files; pairs: (P, 2) int, query and reference
    progress: called with (queries done, queries in all); each query is prepared once
    Raises ImageError if a file is not a picture, OptionError if the bundle has no attributes.
    """
    require_attributes(explainer)
    queries = np.unique(pairs[:, 0])
    found: dict[int, np.ndarray] = {}
    for done, query in enumerate(queries, 1):
        rows = np.flatnonzero(pairs[:, 0] == query)
        prepared = explainer.prepare(files[query], method)
        explained = prepared.explain_many([embeddings[r] for r in pairs[rows, 1]], top=0)
        if prepared.seen is not None:  # always so: `require_attributes` has passed
            agreement = match(prepared.seen, np.stack([e.saliency for e in explained]))
            found |= dict(zip(rows.tolist(), agreement, strict=True))
        progress(done, len(queries))
    return np.array([found[i] for i in range(len(pairs))])
