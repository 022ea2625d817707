"""From what was sent for a picture to the picture, the embedding or the prepared picture that it stands for."""

import dataclasses

import numpy as np
from PIL import Image

from engine.errors import ImageError
from engine.explainer import Explainer
from engine.index import Index
from engine.prepared import Prepared
from engine.reference_vectors import as_vector
from engine.service.kept import Kept
from engine.service.limits import Refused
from engine.service.pictures import PixelBudget, from_base64, read_upload
from engine.service.schemas import PictureGiven

Given = PictureGiven | bytes
"""A picture as it was sent: in JSON, or a file in a form."""


@dataclasses.dataclass(frozen=True)
class NamedRow:
    """A row of the index. id: its name there"""

    id: str


Unnamed = Image.Image | np.ndarray
"""An upright RGB picture, or an embedding (D,) float32."""
Resolved = Unnamed | Prepared | NamedRow
"""Or what an id stands for: a prepared picture, or a row of the index."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A bundle in service, the pictures that were prepared with it, and the index of its model, if there is one.

    shares_runs: whether rows of several explanations share runs of its network
    """

    explainer: Explainer
    prepared: Kept[Prepared]
    index: Index | None
    shares_runs: bool

    def named(self, key: str) -> Prepared | NamedRow:
        """Return what an id stands for: a row before a prepared picture. Raises Refused if it is neither."""
        if self.index is None:
            return self.prepared.get(key)
        if key in self.index:
            return NamedRow(key)
        try:
            return self.prepared.get(key)
        except Refused as refused:
            sentence = "there is no row with this id, nor a prepared picture any longer: name a row, or send the picture"
            raise Refused(404, sentence) from refused


def resolve(loaded: Loaded, budget: PixelBudget, given: Given, name: str) -> Resolved:
    """Return what was sent for a picture. name: for messages; budget: of the request. Raises ImageError, Refused."""
    apply_profiles = loaded.explainer.model.reading.apply_profiles
    if isinstance(given, bytes):
        return read_upload(given, name, budget, apply_profiles)
    if given.b64 is not None:
        return read_upload(from_base64(given.b64, name), name, budget, apply_profiles)
    if given.id is not None:
        return loaded.named(given.id)
    size = loaded.explainer.model.manifest.embedding
    if len(given.embedding or []) != size:
        raise ImageError(f"{name}.embedding must have this model's {size} numbers, got {len(given.embedding or [])}")
    vector = as_vector(np.array(given.embedding, np.float64), size)
    if vector is None:
        raise ImageError(f"{name}.embedding is not {size} numbers")
    return vector
