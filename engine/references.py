"""References shown whole, as pictures or as embeddings, and what is known of their attributes."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from engine.attributes.of_both import KnownAttributes
from engine.errors import ImageError, OptionError
from engine.model import LoadedModel
from engine.picture import Picture
from engine.pictures.loading import ImageLike
from engine.reference_vectors import ReferenceLike, StoredReference, as_vector

T = TypeVar("T")

MASKED_TOO = "modes pair and both mask the references too: they must be pictures, not embeddings; or use mode fixed"


def listed(references: Iterable[T]) -> list[T]:
    """Return references as a list. Raises ImageError if one stands alone, without a list around it."""
    alone = isinstance(references, (str, bytes, Mapping)) or (isinstance(references, np.ndarray) and references.ndim != 2)
    if alone or not isinstance(references, Iterable):
        raise ImageError(f"references must be a list, as in [reference], got {type(references).__name__}")
    return list(references)


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """R references.

    pictures: None for those given as embeddings
    embeddings: (R, D) float32; the rows of pictures are 0 where the network was not run
    handed: of each, the confidences (A,) float64 of its attributes that were handed in; None: none were
    """

    pictures: Sequence[Picture | None]
    embeddings: np.ndarray
    handed: Sequence[np.ndarray | None]

    @classmethod
    def loaded(cls, model: LoadedModel, others: Sequence[ReferenceLike]) -> "References":
        """Load pictures and read embeddings; the network is not run. Raises ImageError, OptionError."""
        size = model.manifest.embedding
        embeddings = np.zeros((len(others), size), np.float32)
        pictures: list[Picture | None] = [None] * len(others)
        handed: list[np.ndarray | None] = [None] * len(others)
        for i, other in enumerate(others):
            given = other.embedding if isinstance(other, StoredReference) else other
            vector = as_vector(given, size)
            if vector is not None:
                embeddings[i] = vector
            elif isinstance(other, StoredReference):
                raise ImageError(
                    "a StoredReference has an embedding, not a picture: give the picture itself as the reference"
                )
            else:
                pictures[i] = model.picture(typing.cast(ImageLike, other))
            if isinstance(other, StoredReference):
                handed[i] = _handed_confidences(model, other)
        return cls(pictures, embeddings, handed)

    @classmethod
    def embedded(cls, model: LoadedModel, others: Sequence[ReferenceLike]) -> "References":
        """The same with an embedding of every picture. Raises ImageError, OptionError."""
        model.require_embeddings("compare embeddings")
        found = cls.loaded(model, others)
        shown = [picture is not None for picture in found.pictures]
        found.embeddings[shown] = model.embed([picture for picture in found.pictures if picture is not None])
        return found

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, part: slice) -> "References":
        return References(self.pictures[part], self.embeddings[part], self.handed[part])

    def all_pictures(self, why: str = MASKED_TOO) -> list[Picture]:
        """Return the pictures. Raises ImageError, which says why, if a reference is an embedding."""
        found = [picture for picture in self.pictures if picture is not None]
        if len(found) < len(self.pictures):
            raise ImageError(why)
        return found

    def known_attributes(self, model: LoadedModel) -> KnownAttributes:
        """Return what is known of their attributes: handed in, else by the attribute network, else by attribute vectors.

        model: must have attributes; its attribute network runs once for each picture
        """
        table, vectors = model.bundle.attributes, model.bundle.vectors
        confidences = np.full((len(self), 0 if table is None else len(table.names)), np.nan)
        if vectors is not None:
            confidences[:] = vectors.confidences(self.embeddings)
        maps: list[np.ndarray | None] = [None] * len(self)
        for i, (picture, handed) in enumerate(zip(self.pictures, self.handed, strict=True)):
            seen = None if picture is None else model.activations(picture)
            if handed is not None:
                confidences[i] = handed
            elif seen is not None:
                confidences[i], maps[i] = seen.confidences, seen.maps
        return KnownAttributes(confidences, maps)


def _handed_confidences(model: LoadedModel, reference: StoredReference) -> np.ndarray | None:
    if reference.confidences is None:
        return None
    table = model.bundle.attributes
    if table is None:
        raise OptionError("a reference has confidences of attributes, but this bundle has no attributes: leave them out")
    wanted = f"the confidences of a StoredReference must be {len(table.names)} numbers in [0, 1], one per attribute"
    try:
        handed = np.asarray(reference.confidences, np.float64)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{wanted}; got {type(reference.confidences).__name__}") from error
    if handed.shape != (len(table.names),):
        raise OptionError(f"{wanted}; got shape {handed.shape}")
    if not ((handed >= 0) & (handed <= 1)).all():
        odd = int(np.flatnonzero(~((handed >= 0) & (handed <= 1)))[0])
        raise OptionError(f"{wanted}; number {odd} of them is {handed[odd]:g}")
    return handed
