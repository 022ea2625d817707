"""Pictures of a catalogue that are embedded and prepared before its index is made: what its format is chosen on."""

from collections.abc import Sequence

import numpy as np

from engine.errors import ImageError
from engine.explainer import Explainer
from engine.failing import PICTURE_ERRORS, picture_failure
from engine.index.listing import Listed
from engine.methods import Refinable
from engine.pictures.fetching import fetched
from engine.prepared import Prepared
from engine.protocol import Progress

CHOSEN_ON = 32
"""Pictures that are prepared."""
EMBEDDED_AT_ONCE = 32
"""Pictures that are embedded at a time."""

PreparedById = dict[str, tuple[Prepared, bytes]]
"""Pictures that were prepared already, with the sha256 of their files."""


def prepared_picture(explainer: Explainer, one: Listed, passes: Refinable) -> tuple[Prepared, bytes]:
    """Return a picture prepared, and the sha256 of its file. Raises PICTURE_ERRORS."""
    with fetched(one.source) as (file, digest):
        return explainer.prepare(file, passes), digest


def some_prepared(explainer: Explainer, pictures: Sequence[Listed], passes: Refinable, progress: Progress) -> PreparedById:
    """Prepare up to CHOSEN_ON pictures, passing over those that fail. Raises ImageError if all do."""
    found: PreparedById = {}
    why = ""
    for one in pictures:
        progress(len(found), min(CHOSEN_ON, len(pictures)))
        try:
            found[one.id] = prepared_picture(explainer, one, passes)
        except PICTURE_ERRORS as error:  # it goes to the failed ones when its turn comes
            why = picture_failure(error, explainer.model)
        if len(found) == CHOSEN_ON:
            break
    if not found:
        raise ImageError(f"none of {len(pictures)} pictures can be prepared; of the last, {why}")
    return found


def embedded_pictures(explainer: Explainer, pictures: Sequence[Listed]) -> np.ndarray:
    """Return the embeddings (n, D) float32 of those pictures that have one. Raises ImageError if none has."""
    model, found, why = explainer.model, [], ""
    for start in range(0, len(pictures), EMBEDDED_AT_ONCE):
        loaded = []
        for one in pictures[start : start + EMBEDDED_AT_ONCE]:
            try:
                with fetched(one.source) as (file, _):
                    loaded.append(model.picture(file))
            except ImageError as error:
                why = str(error)
        try:
            found.append(model.embed(loaded))
        except PICTURE_ERRORS:  # it does not say whose
            for picture in loaded:
                try:
                    found.append(model.embed([picture]))
                except PICTURE_ERRORS as error:
                    why = picture_failure(error, model)
    embeddings = np.concatenate(found) if found else np.empty(0)
    if not len(embeddings):
        raise ImageError(f"none of {len(pictures)} pictures can be read; of the last, {why}")
    return embeddings
