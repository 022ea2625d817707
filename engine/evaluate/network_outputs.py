"""What the engine sees in labelled pictures: embeddings, scores of attributes, and how those match saliency maps."""

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
from engine.protocol import Progress, Runner
from engine.runtime.batch_size import largest_batch


@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
    """Of n pictures: embeddings (n, D) float32; scores (n, A) float64, spatial means of the activation maps; confidences
    (n, A) float64, what the bundle's table makes of those
    """

    embeddings: np.ndarray
    scores: np.ndarray
    confidences: np.ndarray


def words_of(explainer: Explainer) -> tuple[AttributeTable, Runner]:
    """The table and the network behind it; raises OptionError where the bundle has none."""
    table, network = explainer.model.bundle.attributes, explainer.model.attributes
    if table is None or network is None:
        raise OptionError("this bundle has no attribute network: `python -m export attributes` adds one")
    return table, network


def observe(explainer: Explainer, files: Sequence[Path], progress: Progress) -> Observed:
    """Both networks over whole pictures. Raises ImageError for a file that is no picture, OptionError without attributes."""
    table, network = words_of(explainer)
    model = explainer.model
    batch = largest_batch(model.preprocessing)
    embeddings, scores, confidences = [], [], []
    for start in range(0, len(files), batch):
        pictures = [model.picture(file) for file in files[start : start + batch]]
        embeddings.append(model.embed(pictures))
        for maps in whole_embeddings(network, model.preprocessing, [p.pixels for p in pictures], batch):
            scores.append(maps.mean((1, 2), dtype=np.float64))
            confidences.append(Activations.of(table, maps).confidences)
        progress(start + len(pictures), len(files))
    return Observed(np.concatenate(embeddings), np.array(scores), np.array(confidences))


def similarities(explainer: Explainer, embeddings: np.ndarray) -> np.ndarray:
    """(n, n) float64, s[query, reference], of embeddings (n, D) as they are, under no condition."""
    model = explainer.model
    return model.query_features(embeddings, None) @ model.reference_features(embeddings, None).T


def matches(
    explainer: Explainer,
    files: Sequence[Path],
    embeddings: np.ndarray,
    pairs: np.ndarray,
    method: str | Method,
    progress: Progress,
) -> np.ndarray:
    """(P, A) float64: agreement of the query's activation maps with its saliency map against the reference.

    embeddings: (n, D) float32 of the files; pairs: (P, 2) int. Each query is prepared once; progress counts queries.
    """
    words_of(explainer)
    queries = np.unique(pairs[:, 0])
    found: dict[int, np.ndarray] = {}
    for done, query in enumerate(queries, 1):
        rows = np.flatnonzero(pairs[:, 0] == query)
        prepared = explainer.prepare(files[query], method)
        explained = prepared.explain_many([embeddings[r] for r in pairs[rows, 1]], top=0)
        if prepared.activations is not None:  # there is a network: it was asked for above
            agreement = match(prepared.activations, np.stack([e.saliency for e in explained]))
            found |= dict(zip(rows.tolist(), agreement, strict=True))
        progress(done, len(queries))
    return np.array([found[i] for i in range(len(pairs))])
