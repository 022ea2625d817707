"""Why this reference rather than that one: maps and attributes of a difference (docs/method.md, Rather than)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.errors import OptionError
from engine.methods import Method
from engine.methods.learned_mask import LearnedMask
from engine.model import LoadedModel
from engine.protocol import FIXED
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
    if mode != FIXED:
        raise OptionError(MASKED_REFERENCE)


def told_apart(features: np.ndarray, rival: np.ndarray) -> np.ndarray:
    """Return the references' factors of the similarity (R, F) less the rival's (1, F) (docs/method.md, Rather than).

    Raises OptionError if the rival's factor equals one of theirs: nothing tells the two apart.
    """
    differences: np.ndarray = features - rival
    if not np.abs(differences).max(1, initial=0).all():
        raise OptionError("rather_than is the same as the reference to this model: give another picture")
    return differences


def known_references(
    model: LoadedModel, references: References, conditions: Sequence[int | None], rival: References | None = None
) -> dict[int | None, KnownReferences]:
    """Return the factors of references, each under its condition, by condition; with a rival, `told_apart` from its own."""
    found = {}
    for chosen in dict.fromkeys(conditions):
        rows = [i for i, own in enumerate(conditions) if own == chosen]
        features = model.reference_features(references.embeddings[rows], chosen)
        if rival is not None:
            features = told_apart(features, model.reference_features(rival.embeddings, chosen))
        found[chosen] = KnownReferences(features)
    return found


def rival_fields(rival: References, similarity: float | None) -> dict[str, Any]:
    """The fields of an explanation about the reference of "rather than". similarity: of the query to it"""
    picture = rival.pictures[0]
    return {
        "rather_than_similarity": similarity,
        "rather_than_image": None if picture is None else picture.pixels,
        "rather_than_box": None if picture is None else picture.box,
        "rather_than_size": None if picture is None else picture.original_size,
        "rather_than_profile": None if picture is None else picture.profile,
    }
