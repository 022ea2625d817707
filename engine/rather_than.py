"""Why this reference rather than that one: maps and attributes of a difference (docs/method.md, Rather than)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.errors import OptionError
from engine.methods import Method
from engine.methods.learned_mask import LearnedMask
from engine.model import LoadedModel
from engine.references import References
from engine.saliency.map_fits import KnownReferences

MASKED_REFERENCE = "rather_than compares references shown whole: use mode fixed, and no prepared references"


def require_rather_than(model: LoadedModel, method: Method, mode: str) -> None:
    """Raise OptionError where "rather than" has no answer."""
    wanted = "rather_than needs passes that serve every reference, but"
    if model.takes_pairs:
        raise OptionError(f"{wanted} this model takes both pictures at once: explain each reference alone")
    if isinstance(method, LearnedMask):
        raise OptionError(f"{wanted} method mask learns a map for each reference: use method rise, window or lime")
    if mode == "both":
        raise OptionError(MASKED_REFERENCE)


def factors(
    model: LoadedModel, embeddings: np.ndarray, condition: int | None, rival: References | None = None
) -> np.ndarray:
    """Return the references' factors of the similarity, (R, F) float64; with a rival, less the rival's factor.

    embeddings: (R, D) float32; rival: one reference, the one of "rather than" (docs/method.md, Rather than)
    Raises OptionError if the rival's factor equals one of theirs: nothing tells the two apart.
    """
    features = model.reference_features(embeddings, condition)
    if rival is None:
        return features
    differences = features - model.reference_features(rival.embeddings, condition)
    if not np.abs(differences).max(1, initial=0).all():
        raise OptionError("rather_than is the same as the reference to this model: give another picture")
    return differences


def known_references(
    model: LoadedModel, references: References, conditions: Sequence[int | None], rival: References | None = None
) -> dict[int | None, KnownReferences]:
    """Return the factors of references, each under its condition, by condition; rival: see `factors`."""
    which = {c: [i for i, own in enumerate(conditions) if own == c] for c in conditions}
    return {c: KnownReferences(factors(model, references.embeddings[rows], c, rival)) for c, rows in which.items()}


def rival_fields(rival: References, similarity: float | None) -> dict[str, Any]:
    """The fields of an explanation about the reference of "rather than". similarity: of the query to it"""
    picture = rival.pictures[0]
    return {
        "rather_than_similarity": similarity,
        "rather_than_image": None if picture is None else picture.pixels,
        "rather_than_box": None if picture is None else picture.box,
        "rather_than_size": None if picture is None else picture.original_size,
    }
